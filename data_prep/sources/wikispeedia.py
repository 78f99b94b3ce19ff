"""Click paths of people who went from one Wikipedia article to another by links.

Wikispeedia (West, Pineau, Precup 2009; West, Leskovec 2012), SNAP's research data
set: articles.tsv.gz, categories.tsv.gz, finished_paths.txt.gz and
unfinished_paths.tsv.gz in one folder. A path is a session, an article a page.

- Times and players are known of unfinished paths alone: neither is an input, and
  a click's time is its place in the path, as seconds since 1970.
- Finished paths come without the clicks that were taken back; from the others
  they are taken out alike, or they would tell the outcome.
- Label `finished`: whether the path reached its target.
- Paths are split by a hash of their articles: equal paths, which are many, stand
  on one side.
"""

import gzip
import hashlib
import os
import pathlib
import urllib.parse
import zlib

import polars as pl

from lumos_jax.data import schema as schema_lib

from ..inputs import InputError, Inputs
from ..pages import Pages

ENVIRONMENT = "LUMOS_WIKISPEEDIA_DIR"
_FILES = (
  "articles.tsv.gz",
  "categories.tsv.gz",
  "finished_paths.txt.gz",
  "unfinished_paths.tsv.gz",
)
_BACK = "<"
# Of a hundred, the last ones: validation and test.
_HELD_OUT = 80, 90


def load(*, path: str = "", texts: str = "words") -> Inputs:
  """Reads the paths.

  Args:
    path: Folder of the files; default $LUMOS_WIKISPEEDIA_DIR.
    texts: Encoder of the titles, see `lumos_jax.llm.sentences.encoder`.
  """
  folder = _folder(path)
  articles = [x for x in _lines(folder, _FILES[0]) if x]
  known = set(articles)
  finished, strange = [], 0
  for n, line in enumerate(_lines(folder, _FILES[2]), 1):
    try:
      finished.append([articles[int(x)] for x in line.split()])
    except (ValueError, IndexError) as e:
      raise InputError(
        f"{_FILES[2]}: line {n} holds no numbers of articles from 0 to "
        f"{len(articles) - 1}: {line[:60]!r}"
      ) from e
  given_up, backs = [], 0
  for n, line in enumerate(_lines(folder, _FILES[3])[1:], 2):
    cells = line.split("\t")
    if len(cells) != 6:
      raise InputError(f"{_FILES[3]}: line {n} has {len(cells)} cells, not 6")
    clicks = cells[3].split(";")
    backs += clicks.count(_BACK)
    clicks = without_back(clicks)
    if known.issuperset(clicks):
      given_up.append(clicks)
    else:
      strange += 1
  paths = [(f"f{i}", p, "yes") for i, p in enumerate(finished) if p]
  paths += [(f"u{i}", p, "no") for i, p in enumerate(given_up) if p]
  activity = pl.DataFrame(
    [
      (key, i * 1000, page)
      for key, clicks, _ in paths
      for i, page in enumerate(clicks)
    ],
    schema={"key": pl.String, "time": pl.Int64, "page": pl.String},
    orient="row",
  ).with_columns(pl.col("time").cast(pl.Datetime("ms")))
  keys = [key for key, _, _ in paths]
  labels = pl.DataFrame(
    {
      "key": keys,
      "name": ["finished"] * len(keys),
      "value": [outcome for _, _, outcome in paths],
    }
  )
  split = pl.DataFrame(
    {"key": keys, "split": [_split(clicks) for _, clicks, _ in paths]}
  )
  schema = schema_lib.Schema(
    name="wikispeedia",
    activity=(schema_lib.Categorical("page", max_values=len(articles)),),
    labels=(schema_lib.Label("finished", values=("no", "yes")),),
    rows="event",
    epoch="1970-01-01",
    first_day=0,
    last_day=1,
    train_until=1,
  )
  return Inputs(
    schema=schema,
    activity=activity.lazy(),
    labels=labels,
    split=split,
    pages=Pages("page", _pages(folder, articles), texts),
    files={"activity": _FILES[2]},
    notes={
      "paths that reached their target": len(finished),
      "paths that were given up": len(given_up),
      "clicks taken back, with the page they left": backs,
      "paths with an article that is not listed, left out": strange,
    },
    pieces={f: (folder / f).stat().st_size for f in _FILES},
  )


def without_back(clicks: list[str]) -> list[str]:
  """A path without the pages that were left by a back click, "<"."""
  out: list[str] = []
  for page in clicks:
    if page != _BACK:
      out.append(page)
    elif len(out) > 1:  # From the first page no way leads back.
      out.pop()
  return out


def _split(clicks: list[str]) -> str:
  digest = hashlib.sha256("\0".join(clicks).encode()).digest()
  place = int.from_bytes(digest[:8], "big") % 100
  if place < _HELD_OUT[0]:
    return "train"
  return "validation" if place < _HELD_OUT[1] else "test"


def _pages(folder: pathlib.Path, articles: list[str]) -> pl.DataFrame:
  """Title and top category of each article; "" where it has none."""
  top: dict[str, str] = {}
  for line in _lines(folder, _FILES[1]):
    page, _, category = line.partition("\t")
    parts = category.split(".")
    if len(parts) > 1:
      # An article may stand in several: the first one in the file counts.
      top.setdefault(page, parts[1].replace("_", " "))
  title = lambda page: urllib.parse.unquote(page).replace("_", " ")
  return pl.DataFrame(
    {
      "page": articles,
      "title": [title(a) for a in articles],
      "category": [top.get(a, "") for a in articles],
    }
  )


def _folder(path: str) -> pathlib.Path:
  where = path or os.environ.get(ENVIRONMENT, "")
  if not where:
    raise InputError(
      f"source 'wikispeedia' needs path=FOLDER, or ${ENVIRONMENT}, with "
      f"{', '.join(_FILES)}"
    )
  folder = pathlib.Path(where)
  for name in _FILES:
    if not (folder / name).is_file():
      raise InputError(f"no file {folder / name}")
  return folder


def _lines(folder: pathlib.Path, name: str) -> list[str]:
  try:
    with gzip.open(folder / name, "rt", encoding="utf-8") as f:
      return f.read().splitlines()
  except (OSError, EOFError, UnicodeDecodeError, zlib.error) as e:
    raise InputError(f"{name} cannot be read as text: {e}") from e
