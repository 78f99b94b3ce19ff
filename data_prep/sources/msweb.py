"""Visits to areas of a web site, without their order (UCI "Anonymous Microsoft Web").

One week of www.microsoft.com in 1998 (Breese, Heckerman, Kadie 1998), as recommender
packages ship it: items.csv (`item,labels`: the areas' titles) and
msweb_user_items.txt.gz, a visitor a line, their areas as places in items.csv from 0. A
visitor is a session, an area a page.

Neither order nor time is recorded: all rows of a session have one time, and no model
may read their places as an order (model.positions = "none", hidden pages both ways).
Visitors are split by a hash of their number, 80 : 10 : 10.
"""

import csv
import hashlib
import os
import pathlib

import polars as pl

from lumos_jax.data import schema as schema_lib

from ..inputs import InputError, Inputs
from ..pages import Pages
from .sequences import lines

ENVIRONMENT = "LUMOS_MSWEB_DIR"
_ITEMS, _VISITS = "items.csv", "msweb_user_items.txt.gz"
_HELD_OUT = 80, 90  # Of a hundred, where validation and test begin.


def load(*, path: str = "", texts: str = "words") -> Inputs:
  """Reads the visits.

  Args:
    path: Folder of the files; default $LUMOS_MSWEB_DIR.
    texts: Encoder of the titles, see `lumos_jax.llm.sentences.encoder`.
  """
  folder = pathlib.Path(path or os.environ.get(ENVIRONMENT, ""))
  for name in (_ITEMS, _VISITS):
    if not (folder / name).is_file():
      raise InputError(
        f"no file {folder / name}: source 'msweb' needs path=FOLDER, or "
        f"{ENVIRONMENT}=FOLDER"
      )
  titles = _titles(folder)
  rows, visitors, twice = [], 0, 0
  for n, line in enumerate(lines(folder / _VISITS), 1):
    try:
      areas = [int(x) for x in line.split()]
    except ValueError as e:
      raise InputError(f"{_VISITS}: line {n} has no numbers: {e}") from e
    strange = [a for a in areas if not 0 <= a < len(titles)]
    if strange:
      raise InputError(
        f"{_VISITS}: line {n} names area {strange[0]}; {_ITEMS} has the areas 0 "
        f"to {len(titles) - 1}"
      )
    visitors += bool(areas)
    twice += len(areas) - len(set(areas))
    rows += [(f"v{n}", str(a)) for a in dict.fromkeys(areas)]
  if not rows:
    raise InputError(f"{_VISITS}: no visit in the file")
  activity = pl.DataFrame(rows, schema=["key", "page"], orient="row")
  keys = activity["key"].unique(maintain_order=True).to_list()
  schema = schema_lib.Schema(
    name="msweb",
    activity=(schema_lib.Categorical("page", max_values=len(titles)),),
    rows="event",
    first_day=0,
    last_day=1,
    train_until=1,
  )
  pages = pl.DataFrame(
    {
      "page": [str(i) for i in range(len(titles))],
      "title": titles,
      "category": [""] * len(titles),
    },
    schema_overrides={"title": pl.String},
  )
  return Inputs(
    schema=schema,
    activity=activity.with_columns(time=pl.lit(0, pl.Int32)).lazy(),
    split=pl.DataFrame({"key": keys, "split": [split_of(k) for k in keys]}),
    pages=Pages("page", pages, texts),
    files={"activity": _VISITS},
    notes={"visitors": visitors, "areas named twice by a visitor": twice},
    pieces={f: (folder / f).stat().st_size for f in (_ITEMS, _VISITS)},
  )


def split_of(key: str, held_out: tuple[int, int] = _HELD_OUT) -> str:
  """Split of a session by a hash of its key."""
  digest = hashlib.sha256(key.encode()).digest()
  place = int.from_bytes(digest[:8], "big") % 100
  if place < held_out[0]:
    return "train"
  return "validation" if place < held_out[1] else "test"


def _titles(folder: pathlib.Path) -> list[str | None]:
  """Titles of the areas by their number; None where there is none."""
  try:
    table = list(csv.reader((folder / _ITEMS).read_text("utf-8").splitlines()))
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    raise InputError(f"{_ITEMS} cannot be read: {e}") from e
  if not table or table[0] != ["item", "labels"]:
    raise InputError(f"{_ITEMS}: the first line must be item,labels")
  out = []
  for n, row in enumerate(table[1:], 2):
    if len(row) != 2 or row[0] != str(n - 2):
      raise InputError(f"{_ITEMS}: line {n} must be {n - 2},TITLE, not {row}")
    out.append(row[1].strip() or None)
  return out
