"""Your own Parquet or CSV tables, described by a Python or YAML file.

The description says what the tables are called, which of their columns are
which, and which fields there are. In Python it is a module with

  SCHEMA       a lumos_jax.data.schema.Schema
  TABLES       {table: {"file": name, "columns": {name: column of the file}}}
  TRAIN_UNTIL  date (or day) from which on rows fit nothing
  TIME_ZONE    zone where days begin, for times with and without zone; optional
  TRAIN_SPLITS splits whose users are fitted on; optional, ("train",)

and functions called as a table (activity, calendar, profile, ...), which get the
table as a polars LazyFrame and return it with whatever columns it lacks. YAML has
the same entries in lower case, the schema's fields as lists, and no functions.

Tables are activity (columns key, time), profile (key), calendar (start; end, the
last day, absent for one day; group, announced), membership (key, group), labels
(key, name, time, value), span (key, enter, exit, observed_until) and split (key,
split); all but activity may be absent. Other columns are named as the fields.
"""

import dataclasses
import datetime
import pathlib
import re
import runpy
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from data_prep import times
from data_prep.inputs import InputError, Inputs, missing_column
from lumos_jax.data import schema as schema_lib
from lumos_jax.names import near

_TABLES = (
  "activity",
  "calendar",
  "membership",
  "profile",
  "labels",
  "span",
  "split",
)
_ENTRIES = ("schema", "tables", "train_until", "time_zone", "train_splits")
_FIELDS = tuple(schema_lib.FIELD_TYPES)


@dataclasses.dataclass
class _Description:
  schema: schema_lib.Schema
  tables: Mapping[str, Mapping[str, Any]]
  train_until: Any = None
  time_zone: str = ""
  train_splits: tuple[str, ...] = ("train",)
  functions: Mapping[str, Callable] = dataclasses.field(default_factory=dict)


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
      "or FILE.yaml; data_prep/examples/online_retail.py is one"
    )
  file = pathlib.Path(schema)
  if not file.is_file() and not file.is_absolute():
    # data_prep/examples/... works from any directory.
    file = pathlib.Path(__file__).parents[2] / file
  if not file.is_file():
    raise InputError(f"schema={schema}: there is no such file")
  given = _python(file) if file.suffix == ".py" else _yaml(file)
  if rows:
    given.schema = dataclasses.replace(given.schema, rows=rows)
  root = pathlib.Path(path) if path else file.parent
  frames, pieces = {}, {file.name: file.stat().st_size}
  for name, table in given.tables.items():
    frames[name] = _read(root, name, table, given.functions.get(name), pieces)
  if "activity" not in frames:
    raise InputError(f"{file.name}: tables lacks 'activity'")
  if "calendar" in frames:
    frames["calendar"] = _exclusive_end(frames["calendar"], given)
  final = _with_days(given, frames["activity"], train_until, file.name)
  activity = frames.pop("activity")
  return Inputs(
    schema=final,
    activity=activity,
    **{n: f.collect() for n, f in frames.items()},
    train_splits=tuple(given.train_splits),
    time_zone=given.time_zone,
    files={n: str(t["file"]) for n, t in given.tables.items()},
    pieces=pieces,
  )


def _python(file: pathlib.Path) -> _Description:
  found = runpy.run_path(str(file))
  for name in ("SCHEMA", "TABLES"):
    if name not in found:
      raise InputError(f"{file.name}: {name} is not defined")
  known = {n.upper(): n for n in _ENTRIES}
  entries = {known[n]: found[n] for n in known if n in found}
  functions = {n: found[n] for n in _TABLES if callable(found.get(n))}
  return _describe(file.name, entries, functions)


def _yaml(file: pathlib.Path) -> _Description:
  try:
    import yaml
  except ImportError as e:
    raise InputError(
      f"{file.name}: reading YAML needs pyyaml: pip install pyyaml, or write "
      "the description in Python"
    ) from e
  try:
    entries = yaml.safe_load(file.read_text())
  except yaml.YAMLError as e:
    raise InputError(f"{file.name}: {e}") from e
  if not isinstance(entries, dict) or "schema" not in entries:
    raise InputError(f"{file.name}: entries 'schema' and 'tables' are needed")
  entries["schema"] = _schema(file.name, entries["schema"])
  return _describe(file.name, entries, {})


def _schema(where: str, doc: Mapping[str, Any]) -> schema_lib.Schema:
  doc = dict(doc)
  try:
    for table in schema_lib.TABLES:
      doc[table] = tuple(_field(where, f) for f in doc.get(table) or ())
    doc["labels"] = tuple(
      schema_lib.Label(**_tuples(d)) for d in doc.get("labels") or ()
    )
    if "epoch" in doc:
      doc["epoch"] = str(doc["epoch"])
    return schema_lib.Schema(**doc)
  except TypeError as e:
    raise InputError(f"{where}: schema: {e}") from e


def _field(where: str, doc: Mapping[str, Any]) -> schema_lib.Field:
  doc = dict(doc)
  kind = doc.pop("type", "")
  if kind not in _FIELDS:
    raise InputError(
      f"{where}: field {doc.get('name')!r} has type {kind!r}; use one of "
      f"{list(_FIELDS)}"
    )
  try:
    return getattr(schema_lib, kind)(**_tuples(doc))
  except TypeError as e:
    raise InputError(f"{where}: field {doc.get('name')!r}: {e}") from e


def _tuples(doc):
  return {k: tuple(v) if isinstance(v, list) else v for k, v in doc.items()}


def _describe(where, entries, functions) -> _Description:
  for name in entries:
    if name not in _ENTRIES:
      raise InputError(
        f"{where}: unknown entry {name!r}{near(name, _ENTRIES)} There are "
        f"{list(_ENTRIES)}"
      )
  for name, table in entries.get("tables", {}).items():
    if name not in _TABLES:
      raise InputError(
        f"{where}: unknown table {name!r}{near(name, _TABLES)} There are "
        f"{list(_TABLES)}"
      )
    found = table.keys() if isinstance(table, Mapping) else {table}
    if not {"file"} <= found <= {"file", "columns"}:
      raise InputError(
        f"{where}: table {name!r} needs 'file', may have 'columns'; it has "
        f"{sorted(map(str, found))}"
      )
  return _Description(**{"tables": {}, **entries}, functions=functions)


def _read(root, name, table, function, pieces) -> pl.LazyFrame:
  pattern = str(table["file"])
  files = sorted(root.glob(pattern))
  if not files:
    there = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
    raise InputError(
      f"table {name!r}: no file {pattern!r} in {root}{near(pattern, there)} It "
      f"has {there[:20]}; correct 'file', or give --set path=DIR"
    )
  pieces |= {f.name: f.stat().st_size for f in files}
  if ".csv" in files[0].name:
    # All rows decide on a column's type, so that no row is lost to a guess.
    frame = pl.scan_csv(files, infer_schema_length=None, try_parse_dates=True)
  elif files[0].suffix == ".parquet":
    frame = pl.scan_parquet(files)
  else:
    raise InputError(f"{files[0]}: only .parquet, .csv and .csv.gz can be read")
  where = f"{pattern} (table {name})"
  try:
    names = list(frame.collect_schema())
  except pl.exceptions.NoDataError as e:
    raise InputError(f"{where}: a file is empty") from e
  columns = table.get("columns") or {}
  for column in columns.values():
    if column not in names:
      raise missing_column(where, column, names, "'columns'")
  frame = frame.with_columns(
    pl.col(column).alias(new) for new, column in columns.items()
  )
  if not function:
    return frame
  try:
    frame = function(frame)
    if isinstance(frame, pl.DataFrame):
      frame = frame.lazy()
    if not isinstance(frame, pl.LazyFrame):
      raise InputError(
        f"function {name}() returned {type(frame).__name__}, not a polars frame"
      )
    # A lazy frame meets a column that is not there only when it is resolved.
    frame.collect_schema()
  except pl.exceptions.ColumnNotFoundError as e:
    found = re.search('"(.+?)"', str(e))
    if not found:
      raise
    raise missing_column(where, found[1], names, f"function {name}()") from e
  except pl.exceptions.PolarsError as e:
    reason = str(e).partition("\n")[0]
    raise InputError(f"{where}: function {name}() fails: {reason}") from e
  return frame


def _exclusive_end(frame: pl.LazyFrame, given: _Description) -> pl.LazyFrame:
  """End days as the day after the last."""
  names = frame.collect_schema()
  if "start" not in names:
    raise missing_column("table calendar", "start", list(names))
  name = "end" if "end" in names else "start"
  last = times.local(frame, name, given.time_zone, "table calendar")
  if frame.select(last).collect_schema()[name].is_integer():
    return frame.with_columns(end=last + 1)
  return frame.with_columns(end=last.cast(pl.Date) + pl.duration(days=1))


def _with_days(given, activity, until, where) -> schema_lib.Schema:
  """The schema with its epoch and `train_until` as a day."""
  schema = given.schema
  names = activity.collect_schema()
  for name in ("key", "time"):
    if name not in names:
      raise missing_column(
        f"{where}: table activity (say which column it is: "
        f'columns={{"{name}": ...}})',
        name,
        list(names),
      )
  time = times.local(activity, "time", given.time_zone, "table activity")
  dtype = activity.select(time).collect_schema()["time"]
  if not schema.epoch and not dtype.is_integer():
    first = activity.select(time.cast(pl.Date).min()).collect().item()
    if first is None:
      raise InputError(f"{where}: no activity row has a readable time")
    schema = dataclasses.replace(schema, epoch=first.isoformat())
  until = until or given.train_until or schema.train_until
  if not until and "split" in given.tables:
    until = 2**31 - 1  # Held-out users, so all days may be learned from.
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
