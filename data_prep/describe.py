"""Guesses what raw tables are, for a first draft of a description.

python -m data_prep describe FILES_OR_FOLDERS --out=shop.py

Reads the first rows of each file. Every guess is a comment in the draft; what is
guessed wrong is corrected there.
"""

import argparse
import dataclasses
import datetime
import pathlib
import re
import sys
from collections.abc import Sequence

import polars as pl

from data_prep import drafts
from data_prep.inputs import InputError
from data_prep.readers import files as files_lib
from data_prep.readers import moments, problems, rows

_SAMPLE = 200_000  # Rows of a file that guesses are made on.
_PEOPLE = (
  "user", "customer", "household", "client", "student", "person", "member",
  "visitor", "account", "player", "patient", "session",
)  # fmt: skip
_TIMES = ("timestamp", "datetime", "time", "date", "day", "ts", "when")
_ID = re.compile(r"(^id_)|([a-z]Id$)|(_?(id|ID|key|code)$)|(^(id|key)$)")
_WORTH = ("sales", "amount", "revenue", "spend", "total", "price", "value")
_FIELDS, _FEW = 8, 20


@dataclasses.dataclass
class Table:
  """One file and what is guessed of it.

  Attributes:
    file: Path of the file.
    sample: Its first rows.
    rows: All of its rows.
    key: Column of user ids; "".
    time: Column of times; "".
    declared: Format or unit of the times; "" for none.
    zoned: Whether its times have a zone.
    why: Lines that say what was guessed and why.
  """

  file: pathlib.Path
  sample: pl.DataFrame
  rows: int
  key: str = ""
  time: str = ""
  declared: dict = dataclasses.field(default_factory=dict)
  zoned: bool = False
  why: list[str] = dataclasses.field(default_factory=list)


def main(argv: Sequence[str]) -> int:
  """The sub-command; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m data_prep describe",
    description="Drafts a description of raw tables, and a config.",
  )
  parser.add_argument("paths", nargs="+", help="Files, or folders of files.")
  parser.add_argument("--out", required=True, help="The description, a .py.")
  parser.add_argument("--overwrite", action="store_true")
  args = parser.parse_args(argv)
  try:
    for path in describe(args.paths, args.out, overwrite=args.overwrite):
      print(path)
  except (InputError, OSError) as e:
    print(f"error: {e}", file=sys.stderr)
    return 1
  return 0


def describe(
  paths: Sequence[str], out: str, *, overwrite: bool = False
) -> list[pathlib.Path]:
  """Writes a description and, beside it, NAME_config.py; returns both.

  Raises:
    InputError: No table of users' events is found, or a file cannot be read.
    FileExistsError: A draft stands there already.
  """
  description = pathlib.Path(out)
  if description.suffix != ".py" or not description.stem.isidentifier():
    raise InputError(f"--out={out}: give a name like shop.py")
  config = description.with_name(f"{description.stem}_config.py")
  for path in (description, config):
    if path.exists() and not overwrite:
      raise FileExistsError(f"{path} exists: give --overwrite, or another --out")
  tables, skipped = _tables(paths)
  activity = _activity(tables)
  first, last = _span(activity)
  profile = _profile(tables, activity)
  text, tasks = drafts.description(
    description.stem, activity, profile, tables, skipped, first, last
  )
  description.parent.mkdir(parents=True, exist_ok=True)
  description.write_text(text)
  days = (last - first).days + 1 if not isinstance(first, int) else (
    last - first + 1
  )
  config.write_text(
    drafts.config(description.resolve(), activity, tasks, days)
  )
  return [description, config]


def _tables(paths) -> tuple[list[Table], list[str]]:
  """Every file that can be read, and the names of the others."""
  found, skipped = [], []
  for path in map(pathlib.Path, paths):
    if not path.exists():
      raise InputError(f"{path}: there is no such file or folder")
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in inside:
      if not file.is_file():
        skipped.append(f"{file.name} (a folder: name it on its own)")
      elif not files_lib.kind_of(file.name) or (
        kind := files_lib.kind_of(file.name)
      ) == "duckdb":
        skipped.append(f"{file.name} (not a format that is sampled)")
      elif kind == "csv" and problems.separator(
        line := problems.head(file)
      ) not in line.partition(b"\n")[0].decode("utf-8", "replace"):
        skipped.append(f"{file.name} (text of one column, or no table)")
      else:
        found.append(_sampled(file.resolve()))
  return found, skipped


def _sampled(file: pathlib.Path) -> Table:
  read = files_lib.read(file.parent, "activity", {"file": file.name}, set())
  with problems.named("activity", [file], {}):
    sample = read.frame.head(_SAMPLE).collect()
    table = Table(file, sample, read.frame.select(pl.len()).collect().item())
  people = [c for c in sample.columns if _word(c, _PEOPLE)]
  exact = [c for c in people if _ID.search(c) or c.lower() in _PEOPLE]
  kinds = (pl.String, *pl.INTEGER_DTYPES) if hasattr(pl, "INTEGER_DTYPES") else ()
  for column in [*exact, *people]:
    dtype = sample[column].dtype
    whole = dtype == pl.String or dtype.is_integer() or dtype in kinds
    if dtype.is_float():
      numbers = sample[column].drop_nulls()
      whole = bool((numbers == numbers.round()).all())
    if whole:
      table.key = column
      table.why.append(f"key is {column!r}: its name speaks of users")
      break
  _find_time(table)
  return table


def _word(name: str, words: Sequence[str]) -> bool:
  return any(w in re.split(r"[^a-z]+|(?<=id)_", name.lower()) or (
    name.lower().startswith(w) or name.lower().removeprefix("id_") == w
  ) for w in words)


def _find_time(table: Table) -> None:
  """The column that reads as times, by type first, then by name."""
  columns = table.sample.columns
  typed = [c for c in columns if table.sample[c].dtype in (pl.Date, pl.Datetime)]
  named = [c for w in _TIMES for c in columns if w in c.lower()]
  for column in [*typed, *named]:
    frame = table.sample.lazy().select(pl.col(column))
    for declared in ({}, {"unit": "s"}, {"unit": "ms"}):
      dtype = table.sample[column].dtype
      if not (dtype.is_temporal() or dtype == pl.String or dtype.is_integer()):
        continue
      if dtype == pl.Time or (declared and not dtype.is_integer()):
        continue
      low = table.sample[column].min()
      if declared.get("unit") == "s" and low > 10**11:
        continue
      try:
        read, _ = moments.resolve(
          frame, column, "", "", moments.Declared(column, **declared)
        )
        dtype = read.collect_schema()[column]
        read.collect()
      except (InputError, pl.exceptions.PolarsError):
        continue
      table.time, table.declared = column, declared
      table.zoned = isinstance(dtype, pl.Datetime) and bool(dtype.time_zone)
      how = f", numbers in {declared['unit']}" if declared else ""
      table.why.append(f"time is {column!r}: it reads as {dtype}{how}")
      return


def _activity(tables: Sequence[Table]) -> Table:
  """The longest table that has users and times."""
  fits = [t for t in tables if t.key and t.time]
  if not fits:
    seen = "; ".join(f"{t.file.name}: {t.sample.columns}" for t in tables)
    raise InputError(
      "no table has both a column of users and one of times that can be read. "
      f"Found: {seen or 'no table'}. Rename a column (user_id, time), or write "
      "the description by hand: docs/data.md"
    )
  chosen = max(fits, key=lambda t: t.rows)
  chosen.why.insert(
    0, f"activity is {chosen.file.name}: {chosen.rows:,} rows of users and times"
  )
  return chosen


def _span(activity: Table) -> tuple:
  read = files_lib.read(
    activity.file.parent, "activity", {"file": activity.file.name}, set()
  )
  where = activity.file.name
  frame = read.frame.select(pl.col(activity.time).alias("time"))
  declared = moments.Declared(activity.time, **activity.declared)
  frame, _ = moments.resolve(frame, "time", where, "", declared)
  return rows.span(frame, moments.local_day(frame, "", where), (), where)


def _profile(tables: Sequence[Table], activity: Table) -> Table | None:
  """The table with one row a user, under the same key."""
  for table in tables:
    if table is activity or table.key != activity.key:
      continue
    keys = table.sample[table.key].drop_nulls()
    if len(keys) and keys.n_unique() == len(keys):
      table.why.insert(0, f"profile is {table.file.name}: one row a user")
      return table
  return None


def fields(table: Table, limit: int = _FIELDS) -> list[tuple[str, str, str]]:
  """(type, column, reason) of the columns worth having as fields."""
  out = []
  for column in table.sample.columns:
    series = table.sample[column]
    if column in (table.key, table.time) or series.null_count() == len(series):
      continue
    count = series.n_unique() if not series.dtype.is_nested() else 0
    if series.dtype.is_nested() or series.dtype.is_temporal() or count < 2:
      continue
    if series.dtype.is_numeric() and not _ID.search(column) and count > _FEW:
      out.append(("Numeric", column, f"{count:,} different numbers"))
    elif count <= 2000 or _ID.search(column):
      if series.dtype.is_float():
        continue
      out.append(("Categorical", column, f"{count:,} values"))
  # Numbers first, then what has few values: those say most in few columns.
  out.sort(key=lambda f: (f[0] != "Numeric", table.sample[f[1]].n_unique()))
  return out[:limit]


def worth(table: Table) -> str:
  """A numeric field that looks like what users spend; "" without one."""
  names = [c for k, c, _ in fields(table) if k == "Numeric"]
  for word in _WORTH:
    for name in names:
      if word in name.lower():
        return name
  return names[0] if names else ""


def day(first, offset: int):
  """The day `offset` days after the first."""
  if isinstance(first, int):
    return first + offset
  return first + datetime.timedelta(days=offset)
