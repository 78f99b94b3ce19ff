r"""Links sessions of unknown visitors to the users who log in later.

  lumos link --data_dir=data/clicks --vectors=sessions --out=rows.parquet \
    [--links=links.parquet] [--days=30]

--vectors is a table of `lumos sessions`. The result has a row a linked session: key
(the user), time, session and the vector, ready to stand among a user's rows as a
`Vector` field. `time` is when the row was known: the session's end or, if later,
the login that tells whose it was. A model that reads rows before its origin
therefore sees only links that were known by then.

With --events=FILE (--key=, --time= name its columns) the result is that table with two
columns more: session_vector, the mean vector of the user's sessions that were known
before the event, and session_count. Source `tables` reads it.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from absl import app
from absl.flags import argparse_flags
from etils import epath

from lumos_jax import ids, session_table
from lumos_jax import links as links_lib
from lumos_jax.data import records as records_lib

ERRORS = (ValueError, OSError, pl.exceptions.PolarsError)
VECTOR, COUNT = "session_vector", "session_count"  # Columns of events.


def rows(
  sessions: pl.DataFrame, linked: pl.DataFrame, vectors: pl.DataFrame
) -> pl.DataFrame:
  """Rows of users: key, time, session and vector, by user and time.

  Args:
    sessions: As of `links.link`.
    linked: Of `links.link`.
    vectors: Columns key and embedding.

  Raises:
    ValueError: A linked session has no vector.
  """
  found = linked.join(sessions.select("key", "end"), on="key").join(
    vectors.select("key", "embedding"), on="key", how="left"
  )
  lost = found["embedding"].null_count()
  if lost:
    raise ValueError(
      f"{lost:,} of {len(found):,} linked sessions have no vector: write the table "
      "of all sessions (lumos sessions without --first) of the same data set"
    )
  vector = pl.col("embedding")
  if isinstance(found["embedding"].dtype, pl.Array):
    vector = vector.arr.to_list()
  return found.select(
    key="user",
    time=pl.max_horizontal("end", "known_at"),
    session="key",
    vector=vector.cast(pl.List(pl.Float32)),
  ).sort("key", "time", "session")


def features(found: pl.DataFrame, moments: pl.DataFrame) -> pl.DataFrame:
  """The mean vector of each user's sessions that were known by a moment.

  Args:
    found: Of `rows`.
    moments: Columns key and as_of (exclusive); one row a question.

  Returns:
    `moments` in their order with sessions (how many), and vector; null without.
  """
  width = int(found["vector"].list.len().max() or 0)
  names = [f"_{i}" for i in range(width)]
  number = pl.int_range(1, pl.len() + 1).over("key").alias("sessions")
  total = lambda i: (
    pl.col("vector").list.get(i).cast(pl.Float64).cum_sum().over("key")
  )
  sums = found.sort("key", "time").select(
    "key",
    pl.col("time").alias("_time"),
    number,
    *(total(i).alias(n) for i, n in enumerate(names)),
  )
  asked = moments.with_row_index("_row").sort("as_of", maintain_order=True)
  out = asked.join_asof(
    sums.sort("_time", maintain_order=True),
    left_on="as_of", right_on="_time", by="key", strategy="backward",
    allow_exact_matches=False, check_sortedness=False,
  ).sort("_row")  # fmt: skip
  mean = pl.lit(None, pl.List(pl.Float32))
  if names:
    mean = pl.concat_list(pl.col(n) / pl.col("sessions") for n in names)
    mean = mean.cast(pl.List(pl.Float32))
  known = pl.col("sessions").is_not_null()
  return out.select(
    *moments.columns,
    pl.col("sessions").fill_null(0).cast(pl.UInt32),
    pl.when(known).then(mean).alias("vector"),
  )


def joined(
  events: pl.DataFrame,
  found: pl.DataFrame,
  key: str = "key",
  time: str = "time",
) -> tuple[pl.DataFrame, dict[str, int]]:
  """A user's events, each with what their sessions say by its time.

  For a description of tables (source `tables`) with the fields
  Vector("session_vector", size=E) and Numeric("session_count"). A session counts
  from the moment on at which it had ended and its user was known: an event knows
  none of a later login.

  Args:
    events: Users' rows, with columns of these names.
    found: Of `rows`.
    key, time: Columns of the user's id and of the time, a date or datetime.

  Returns:
    The events in their order with session_vector (null before the first session)
    and session_count; and counts.

  Raises:
    ValueError: A column is absent, taken or no time.
  """
  lost = [c for c in (key, time) if c not in events.columns]
  if lost:
    raise ValueError(f"the events lack {lost}; they have {events.columns}")
  taken = [c for c in (VECTOR, COUNT) if c in events.columns]
  if taken:
    raise ValueError(
      f"the events have a column {taken[0]!r} already: rename it"
    )
  at = links_lib.moment(events, time, "the events")
  asked = events.select(
    key=pl.col(key).cast(pl.String), as_of=at.cast(found["time"].dtype)
  )
  made = features(found, asked)
  out = events.with_columns(
    made["vector"].alias(VECTOR), made["sessions"].alias(COUNT)
  )
  users = asked["key"].unique()
  counts = {
    "events": len(out),
    "events of a user with a session before": int((out[COUNT] > 0).sum()),
    "linked sessions of users without an event": int(
      (~found["key"].is_in(users.implode())).sum()
    ),
  }
  return out, counts


def write(
  data_dir: epath.PathLike,
  vectors: epath.PathLike,
  out: epath.PathLike,
  links: epath.PathLike | None = None,
  days: float = 30,
  events: epath.PathLike | None = None,
  key: str = "key",
  time: str = "time",
) -> dict[str, int]:
  """Writes the users' rows, or their events; see the module's text. Returns counts.

  Raises:
    ValueError: The data set knows no visitors, or the tables do not fit.
  """
  path = epath.Path(data_dir) / records_lib.SESSIONS
  if not path.exists():
    raise ValueError(
      f"{data_dir} has no {records_lib.SESSIONS}: only source 'clicks' knows whose "
      "sessions are"
    )
  sessions = pl.read_parquet(str(path))
  stats = json.loads((epath.Path(data_dir) / records_lib.STATS).read_text())
  if links is None:
    given = links_lib.logins(sessions)
  else:
    given = _stored(_table(links), ("visitor", "user"), stats)
  given, counts = links_lib.usable(given)
  linked, more = links_lib.link(sessions, given, days)
  table = rows(sessions, linked, session_table.read(vectors))
  if events is not None:
    asked = _table(events)
    same, told = joined(_stored(asked, (key,), stats), table, key, time)
    # Under the ids that the events came with.
    table = asked.with_columns(same[VECTOR], same[COUNT])
    more |= told
  with epath.Path(out).open("wb") as f:
    table.write_parquet(f)
  return counts | more


def _table(file: epath.PathLike) -> pl.DataFrame:
  """A Parquet file; ValueError names one that is none."""
  try:
    return pl.read_parquet(str(file))
  except pl.exceptions.PolarsError as e:
    raise ValueError(f"{file} is no Parquet file: {e}") from e


def _stored(
  frame: pl.DataFrame, columns: Sequence[str], stats: Mapping[str, Any]
) -> pl.DataFrame:
  """A table with ids as the data set has them: hashed where its are.

  Raises:
    IdError: They are, and the environment has no key, or another one.
  """
  there = [c for c in columns if c in frame.columns]
  if not ids.hashed(stats) or not there:
    return frame
  key = ids.salt_of(stats["ids"]["fingerprint"])
  return frame.with_columns(
    pl.col(c)
    .cast(pl.String)
    .map_elements(lambda x: ids.hash_id(x, key), pl.String)
    for c in there
  )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse_flags.ArgumentParser(
    prog="lumos link", description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add("--data_dir", required=True, help="a data set of source clicks")
  add("--vectors", required=True, help="a table of lumos sessions")
  add("--out", required=True, help="Parquet file to write")
  add("--links", help="Parquet: visitor, user, start, until; default the log's")
  add("--events", help="Parquet of users' rows, to which vectors are joined")
  add("--key", default="key", help="column of the user's id in --events")
  add("--time", default="time", help="column of the time in --events")
  add("--days", type=float, default=30, help="from a session to the login")
  return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
  """Entry point."""
  try:
    counts = write(
      args.data_dir,
      args.vectors,
      args.out,
      args.links,
      args.days,
      args.events,
      args.key,
      args.time,
    )
  except ERRORS as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(1)
  for what, count in counts.items():
    print(f"{count:>12,} {what}", file=sys.stderr)


if __name__ == "__main__":
  app.run(main, flags_parser=_arguments)
