"""Your own tables, described by a Python or YAML file; docs/data.md has it all.

The description says what the tables are called, which of their columns are
which, and which fields there are. In Python it is a module with

  SCHEMA       a lumos_jax.data.schema.Schema
  TABLES       {table: {"file": name, "columns": {name: column of the file}}};
               data_prep.description.OPTIONS has the other options of a table
  TRAIN_UNTIL  date (or day) from which on rows fit nothing
  TIME_ZONE    zone where days begin, for times with and without zone; optional
  TRAIN_SPLITS splits whose users are fitted on; optional, ("train",)
  HOLDOUT      "last": the last two events of each user fit nothing; optional
  TIME_RANGE   first date and the one after the last, others are rejected; optional

and functions called as a table (activity, calendar, profile, ...), which get the
table as a polars LazyFrame and return it with whatever columns it lacks. YAML has
the same entries in lower case, the schema's fields as lists, and no functions.

Tables are activity (columns key, time), profile (key), calendar (start; end, the
last day, absent for one day; group, announced), membership (key, group), labels
(key, name, time, value), span (key; any of enter, exit, observed_until) and
split (key, split); all but activity may be absent. Other columns are named as
the fields.
"""

import dataclasses
import datetime
import hashlib
import pathlib
import re
from typing import Any

import polars as pl

from lumos_jax.data import schema as schema_lib

from .. import description
from ..inputs import TIMES, InputError, Inputs, missing_column
from ..readers import files, moments, problems, splits
from ..readers import rows as rows_lib

_EVERYTHING = 2**31 - 1  # A train_until that no day reaches.
_HELD_OUT = 2  # Validation and test event of each user.
_IDS = {
  "activity": ("key",),
  "calendar": ("group",),
  "membership": ("key", "group"),
  "profile": ("key",),
  "labels": ("key", "name"),
  "span": ("key",),
  "split": ("key", "split"),
}


def load(
  *,
  schema: str = "",
  path: str = "",
  rows: str = "",
  train_until: str = "",
) -> Inputs:
  """Reads the tables.

  Args:
    schema: The description, a .py or .yaml file.
    path: Directory of the tables; default the description's.
    rows: "day" or "event", instead of the description's.
    train_until: Instead of the description's.
  """
  if not schema:
    raise InputError(
      "source 'tables' needs a description of the tables: --set schema=FILE.py "
      "or FILE.yaml; python -m data_prep describe drafts one, "
      "data_prep/examples/online_retail.py is one"
    )
  file = pathlib.Path(schema)
  if not file.is_file() and not file.is_absolute():
    # data_prep/examples/... works from any directory.
    file = pathlib.Path(__file__).parents[2] / file
  if not file.is_file():
    raise InputError(f"schema={schema}: there is no such file")
  given = description.read(file)
  if rows:
    given.schema = dataclasses.replace(given.schema, rows=rows)
  root = pathlib.Path(path) if path else file.parent
  if "activity" not in given.tables:
    raise InputError(f"{file.name}: tables lacks 'activity'")
  reader = _Reader(given, root)
  frames = {name: reader.read(name) for name in given.tables}
  if "calendar" in frames:
    frames["calendar"] = _exclusive_end(frames["calendar"], given)
  activity = frames.pop("activity")
  with reader.named("activity"):
    final = _with_days(given, reader, activity, train_until)
    same = rows_lib.duplicates(reader.raw)
  notes = reader.notes
  if same:
    notes["exact duplicate rows (kept)"] = same
  small = {}
  for name, frame in frames.items():
    with reader.named(name):
      small[name] = frame.collect()
  if reader.split is not None:
    if "split" in small:
      raise InputError(
        f"{file.name}: activity has 'files' of splits, and there is a table "
        "'split': give one of the two"
      )
    small["split"] = reader.split
  return Inputs(
    schema=final,
    activity=activity,
    **small,
    train_splits=tuple(given.train_splits),
    # Held-out users are held out whole; their last events are their own test.
    held_out_events=_HELD_OUT
    if given.holdout == "last" and "split" not in small
    else 0,
    time_zone=given.time_zone,
    files={n: reader.shown[n] for n in given.tables},
    notes=notes,
    pieces=reader.pieces,
    digests={given.file.name: _digest(given.file)},
  )


def _digest(file: pathlib.Path) -> str:
  return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


class _Reader:
  """Reads the tables of a description.

  Attributes:
    pieces: {file: bytes} of all tables.
    notes: Counts to tell.
    shown: {table: its file}, for messages.
    raw: The activity table as it stands in its files.
    split: Users by the file that they stand in; None where files say none.
    until: First day of a later file of the same users; None without.
  """

  def __init__(self, given: description.Description, root: pathlib.Path):
    self._given, self._root = given, root
    self.pieces = {given.file.name: given.file.stat().st_size}
    self.notes, self.shown, self._files = {}, {}, {}
    self.raw = self.split = self.until = None

  def named(self, table: str):
    """Context that names a table's files in a reader's errors."""
    options = self._given.tables[table]
    return problems.named(table, self._files[table], options)

  def read(self, table: str) -> pl.LazyFrame:
    """One table, with its columns named and typed, after its function."""
    given, options = self._given, dict(self._given.tables[table])
    declared = description.columns(options)
    fields = getattr(given.schema, table, ())
    if table not in schema_lib.TABLES:
      fields = ()
    of_type = lambda kind: [f.name for f in fields if isinstance(f, kind)]
    named = lambda names: {
      declared[n].column if n in declared else n for n in names
    }
    ids = [*_IDS[table], *of_type(schema_lib.Categorical)]
    times = [*TIMES.get(table, ()), *of_type(schema_lib.Timestamp)]
    spelled = {
      n: d for n, d in declared.items() if n in times and (d.format or d.unit)
    }
    # A field that is the time itself, under its name in the file.
    by_column = {d.column: d for d in spelled.values()}
    spelled |= {n: by_column[n] for n in times if n in by_column}
    text = named(ids) | {d.column for n, d in spelled.items() if d.format}
    binned = {f.of for f in fields if isinstance(f, schema_lib.Binned)}
    numbers = named([*of_type(schema_lib.Numeric), *binned]) - text
    if "files" in options:
      parts = {
        split: files.read(
          self._root, table, {**options, "file": f}, text, numbers
        )
        for split, f in options["files"].items()
      }
      found = splits.join(parts, options, table)
    else:
      parts = {}
      found = files.read(self._root, table, options, text, numbers)
    self.pieces |= found.pieces
    self.notes |= found.notes
    self.shown[table] = found.name.removesuffix(f" (table {table})")
    self._files[table] = found.files
    if table == "activity":
      self.raw = found.frame
    where = found.name
    with self.named(table):
      names = list(found.frame.collect_schema())
      frame = _rename(found.frame, declared, names, where)
      for name, declaration in spelled.items():
        frame, _ = moments.resolve(
          frame, name, where, given.time_zone, declaration
        )
      function = given.functions.get(table)
      if function:
        frame = _apply(function, table, frame, names, where, given.file)
      there = frame.collect_schema()
      for name in times:
        if name in there:
          frame, told = moments.resolve(frame, name, where, given.time_zone)
          self.notes |= {f"{table}: {k}": v for k, v in told.items()}
      words = options.get("null_values")
      words = rows_lib.NULL_IDS if words is None else ("", *words)
      frame = rows_lib.ids(frame, ["key"], words, where)
      structure = [n for n in _IDS[table] if n != "key"]
      frame = rows_lib.ids(frame, structure, ("",), where)
      # Null words of categories are gone already: the files' own.
      categories = [n for n in ids if n not in _IDS[table]]
      frame = rows_lib.ids(frame, categories, (), where)
      if parts:
        part = lambda f: _rename(f, declared, names, where)
        self.split, self.until = splits.users(
          {s: part(p.frame) for s, p in parts.items()},
          spelled.get("time"),
          words,
          given.time_zone,
          where,
        )
    return frame


def _rename(frame, declared, names, where) -> pl.LazyFrame:
  for declaration in declared.values():
    if declaration.column not in names:
      raise missing_column(where, declaration.column, names, "'columns'")
  return frame.with_columns(
    pl.col(declaration.column).alias(new)
    for new, declaration in declared.items()
  )


def _apply(function, table, frame, names, where, file) -> pl.LazyFrame:
  """The table after its function."""
  try:
    frame = function(frame)
    if isinstance(frame, pl.DataFrame):
      frame = frame.lazy()
    if not isinstance(frame, pl.LazyFrame):
      raise InputError(
        f"function {table}() returned {type(frame).__name__}, not a polars frame"
      )
    # A lazy frame meets a column that is not there only when it is resolved.
    frame.collect_schema()
  except InputError:
    raise
  except pl.exceptions.ColumnNotFoundError as e:
    found = re.search('"(.+?)"', str(e))
    if not found:
      raise
    reader = f"function {table}()"
    raise missing_column(where, found[1], names, reader) from e
  except Exception as e:  # Anything that the description's code raises.
    reason = str(e).partition("\n")[0]
    if not isinstance(e, pl.exceptions.PolarsError):
      reason = f"{type(e).__name__}: {reason}"
    line = description.line(file, e)
    raise InputError(
      f"{where}: function {table}() fails: {reason} ({line})"
    ) from e
  return frame


def _exclusive_end(
  frame: pl.LazyFrame, given: description.Description
) -> pl.LazyFrame:
  """End days as the day after the last."""
  names = frame.collect_schema()
  if "start" not in names:
    raise missing_column("table calendar", "start", list(names))
  name = "end" if "end" in names else "start"
  named = frame.select(time=name)
  last = moments.local_day(named, given.time_zone, "table calendar")
  if named.collect_schema()["time"].is_integer():
    return frame.with_columns(end=pl.col(name) + 1)
  column = frame.with_columns(time=name).with_columns(_last=last)
  column = column.with_columns(end=pl.col("_last") + pl.duration(days=1))
  keep = [*names, *([] if "end" in names else ["end"])]
  return column.select(keep)


def _with_days(given, reader, activity, until) -> schema_lib.Schema:
  """The schema with its epoch and `train_until` as a day."""
  schema, where = given.schema, given.file.name
  names = activity.collect_schema()
  for name in ("key", "time"):
    if name not in names:
      raise missing_column(
        f"{where}: table activity (say which column it is: "
        f'columns={{"{name}": ...}})',
        name,
        list(names),
      )
  place = f"{reader.shown['activity']} (table activity)"
  day = moments.local_day(activity, given.time_zone, place)
  first, last = rows_lib.span(activity, day, given.time_range, place)
  dates = isinstance(first, datetime.date)
  if not schema.epoch and dates:
    schema = dataclasses.replace(schema, epoch=first.isoformat())
  if given.time_range and schema.last_day <= schema.first_day:
    schema = dataclasses.replace(
      schema,
      first_day=_day(first, schema, where),
      last_day=_day(last, schema, where) + 1,
    )
  until = until or given.train_until or schema.train_until or reader.until
  users_split = "split" in given.tables or reader.split is not None
  if not until and (users_split or given.holdout == "last"):
    until = _EVERYTHING  # Other users, or other events, are held out.
  if not until:
    raise InputError(
      f"{where}: set train_until, the date (or day) before which rows fit "
      "vocabularies and scales: not later than the first forecast you evaluate"
    )
  return dataclasses.replace(schema, train_until=_day(until, schema, where))


def _day(value: Any, schema: schema_lib.Schema, where: str) -> int:
  if isinstance(value, int):
    return value
  try:
    if isinstance(value, str):
      value = datetime.date.fromisoformat(value)
    return (value - datetime.date.fromisoformat(schema.epoch)).days
  except (ValueError, TypeError) as e:
    raise InputError(
      f"{where}: train_until={value!r} is no date like 2020-01-31, or the days "
      "are numbers: give a day number"
    ) from e
