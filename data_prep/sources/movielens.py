"""MovieLens-1M: a million ratings with time stamps, genres and demographics.

Harper & Konstan 2015, doi 10.1145/2827872; GroupLens allows research use and no
redistribution. Reads the published ratings.dat, users.dat and movies.dat from
`path` or $LUMOS_MOVIELENS_DIR. Instead of ratings.dat the folder may hold
ml1m_sequences.parquet (user_id, movie_id, rating, timestamp, ts_exact, pos: the
5-core in the order of the common benchmark file, some ratings unknown). Without a
folder the archive is fetched through tensorflow-datasets and its checksum
compared.

That file interpolates a third of its time stamps between their neighbours (ts_exact
is false), the next event's included, so such a stamp tells when a later event was:
the held-out one for a quarter of the users. They are not read. An event without an
exact stamp has the latest exact one of its user's earlier events, and before any
the first of the whole file.

- Users and movies with fewer than `min_events` ratings are left out, counted
  once before any is removed, as SASRec's authors do: 6,040 users, 3,416 movies,
  999,611 ratings. Equal time stamps keep the order of the file.
- Activity: a row a rating; `item` is the movie, with genres and the decade of
  its year as attributes, and its title and genres as its name in text. Profile:
  gender, age, occupation and the first digit of the zip code; gender and age are
  labels too, for probes.
- The catalogue is known in advance: every movie is in the vocabulary, ordered by
  ratings among those that train (all but the last two of a user).
"""

import os
import pathlib
import socket
import urllib.parse
import urllib.request

import polars as pl

from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib

from ..inputs import InputError, Inputs

ENVIRONMENT = "LUMOS_MOVIELENS_DIR"
URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
SHA256 = "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
_SEQUENCES = "ml1m_sequences.parquet"
_HELD_OUT = 2
_PROFILE = ("gender", "age", "occupation", "region")
# What the archive's README says of the codes.
_AGES = {
  "1": "under 18",
  "18": "18-24",
  "25": "25-34",
  "35": "35-44",
  "45": "45-49",
  "50": "50-55",
  "56": "56 or more",
}
_OCCUPATIONS = (
  "other",
  "academic or educator",
  "artist",
  "clerical or administrative",
  "college or graduate student",
  "customer service",
  "doctor or health care",
  "executive or managerial",
  "farmer",
  "homemaker",
  "school student",
  "lawyer",
  "programmer",
  "retired",
  "sales or marketing",
  "scientist",
  "self-employed",
  "technician or engineer",
  "tradesman or craftsman",
  "unemployed",
  "writer",
)
_NAMES = {
  "gender": {"F": "female", "M": "male"},
  "age": _AGES,
  "occupation": {str(i): name for i, name in enumerate(_OCCUPATIONS)},
}


def load(
  *, path: str = "", min_events: int = 5, attributes: bool = True
) -> Inputs:
  """Reads the tables.

  Args:
    path: Folder of the files; default $LUMOS_MOVIELENS_DIR, then the download.
    min_events: Least number of ratings of a user and of a movie.
    attributes: Genres and decade of each movie go with its id.
  """
  folder = _folder(path)
  events, notes = _events(folder, min_events)
  movies = _table(folder, "movies.dat", ("item", "title", "genres"), pl.Int64)
  users = _table(
    folder,
    "users.dat",
    ("key", "gender", "age", "occupation", "zip"),
    pl.Int64,
  )
  users = users.with_columns(region=pl.col("zip").str.slice(0, 1))
  trains = events.filter(
    pl.int_range(pl.len()).over("key") < pl.len().over("key") - _HELD_OUT
  )
  count = dict(trains["item"].value_counts().iter_rows())
  items = sorted(
    set(events["item"].to_list()), key=lambda i: (-count.get(i, 0), i)
  )
  item = schema_lib.Categorical(
    "item",
    max_values=len(items),
    values=tuple(map(str, items)),
    attributes=_attributes(movies, items) if attributes else None,
    title="movie",
    names=_names(movies, items),
  )
  schema = schema_lib.Schema(
    name="movielens_1m",
    activity=(
      item,
      schema_lib.Categorical("rating"),
      schema_lib.Clock("gap", "gap"),
      schema_lib.Clock("hour", "hour"),
      schema_lib.Clock("weekday", "weekday"),
    ),
    profile=tuple(
      schema_lib.Categorical(n, names=_NAMES.get(n)) for n in _PROFILE
    ),
    labels=(schema_lib.Label("gender"), schema_lib.Label("age")),
    rows="event",
    epoch="2000-01-01",
    # Vocabularies leave out what is held out, not what is late.
    train_until=1 << 14,
  )
  labels = pl.concat(
    users.select("key", name=pl.lit(n), value=pl.col(n).cast(pl.String))
    for n in ("gender", "age")
  )
  files = [_SEQUENCES if _sequences(folder) else "ratings.dat"]
  files += ["users.dat", "movies.dat"]
  return Inputs(
    schema=schema,
    activity=events.with_row_index("order").lazy(),
    order="order",
    held_out_events=_HELD_OUT,
    profile=users.select("key", *_PROFILE),
    labels=labels,
    files={"activity": files[0], "profile": "users.dat"},
    notes=notes
    | {
      "movies without a training event": sum(i not in count for i in items),
    },
    pieces={f: (folder / f).stat().st_size for f in files},
  )


def _folder(path: str) -> pathlib.Path:
  path = path or os.environ.get(ENVIRONMENT, "")
  if path:
    folder = pathlib.Path(path)
    absent = [
      n for n in ("users.dat", "movies.dat") if not (folder / n).exists()
    ]
    if not ((folder / "ratings.dat").exists() or _sequences(folder)):
      absent.append("ratings.dat")
    if absent:
      raise InputError(f"{folder} lacks {absent} of MovieLens-1M ({URL})")
    return folder
  return _download()


def _sequences(folder: pathlib.Path) -> bool:
  return (folder / _SEQUENCES).exists() and not (
    folder / "ratings.dat"
  ).exists()


def _download() -> pathlib.Path:
  """Fetches and unpacks the archive through tensorflow-datasets, once."""
  import tensorflow_datasets as tfds

  place = pathlib.Path(tfds.core.constants.DATA_DIR).expanduser()
  place = place / "downloads"
  try:
    _reach()  # The manager would try again for minutes.
    manager = tfds.download.DownloadManager(download_dir=place)
    archive = manager.download(URL)
    found = records_lib.checksum(archive)
    if found != SHA256:
      raise InputError(
        f"{archive} is not the published archive: its sha256 is {found}, not "
        f"{SHA256}: remove it and try again"
      )
    return pathlib.Path(manager.extract(archive)) / "ml-1m"
  except InputError:
    raise
  except Exception as e:  # Whatever a network or a proxy may answer.
    raise InputError(
      f"MovieLens-1M cannot be fetched ({type(e).__name__}: {e}): download "
      f"{URL}, unpack it, and give path=FOLDER or ${ENVIRONMENT}"
    ) from e


def _reach() -> None:
  """Raises OSError where the archive's host cannot be reached."""
  if not urllib.request.getproxies():
    host = urllib.parse.urlparse(URL).hostname
    socket.create_connection((host, 443), timeout=10).close()


def _table(folder, name, columns, key) -> pl.DataFrame:
  """A "::"-separated file in Latin-1; the first column becomes `key`."""
  text = (folder / name).read_bytes().decode("latin-1")
  rows = [line.split("::") for line in text.splitlines() if line]
  for n, row in enumerate(rows, 1):
    if len(row) != len(columns) or not row[0].isdigit():
      raise InputError(
        f"{folder / name}: line {n} has {len(row)} parts, {len(columns)} are "
        f"expected ({'::'.join(columns)})"
      )
  frame = pl.DataFrame(rows, schema=list(columns), orient="row")
  return frame.with_columns(pl.col(columns[0]).cast(key))


def _events(folder, min_events: int) -> tuple[pl.DataFrame, dict[str, int]]:
  """key, time, item, rating in each user's order; and counts to report."""
  notes = {}
  if _sequences(folder):
    frame = pl.read_parquet(folder / _SEQUENCES).sort("sas_user", "pos")
    inexact = ~frame["ts_exact"]
    frame = frame.select(
      key="user_id",
      seconds=known_times(),
      item="movie_id",
      rating="rating",
    )
    unknown = frame["seconds"].is_null()
    notes |= {
      "interpolated times, replaced by the last exact one": inexact.sum(),
      "of these, before a user's first exact one": unknown.sum(),
    }
    first = frame["seconds"].min()
    frame = frame.with_columns(pl.col("seconds").fill_null(first))
  else:
    columns = ("key", "item", "rating", "seconds")
    frame = _table(folder, "ratings.dat", columns, pl.Int64)
    frame = frame.with_columns(pl.col(columns[1:]).cast(pl.Int64))
    frame = frame.sort("key", "seconds", maintain_order=True)
  kept = frame.filter(
    (pl.len().over("key") >= min_events) & (pl.len().over("item") >= min_events)
  )
  kept = kept.with_columns(
    time=pl.from_epoch("seconds", time_unit="s"),
    rating=pl.when(pl.col("rating") > 0).then(pl.col("rating")),
  )
  notes["ratings of users or movies with too few"] = len(frame) - len(kept)
  return kept.drop("seconds"), notes


def known_times() -> pl.Expr:
  """Of rows in each user's order: the latest exact stamp until then, or null.

  No row's time depends on a later row, and times never fall.
  """
  exact = pl.when("ts_exact").then("timestamp")
  return exact.forward_fill().cum_max().over("sas_user")


def _names(movies: pl.DataFrame, items) -> dict[str, str]:
  """{movie: "Toy Story (1995) [Animation/Children's/Comedy]"}, for text."""
  out, taken = {}, set()
  known = {i: (t, g) for i, t, g in movies.iter_rows()}
  for i in sorted(set(items) & known.keys()):
    title, genres = known[i]
    name = f"{title} [{genres.replace('|', '/')}]"
    out[str(i)] = f"{name} ({i})" if name in taken else name
    taken.add(out[str(i)])
  return out


def _attributes(movies: pl.DataFrame, items) -> tuple[tuple[int, ...], ...]:
  genres = dict(zip(movies["item"], movies["genres"], strict=True))
  titles = dict(zip(movies["item"], movies["title"], strict=True))
  names = {
    i: [*genres.get(i, "").split("|"), f"decade {titles.get(i, '')[-5:-2]}"]
    for i in items
  }
  at = {
    n: k for k, n in enumerate(sorted({n for v in names.values() for n in v}))
  }
  return tuple(tuple(at[n] for n in names[i]) for i in items)
