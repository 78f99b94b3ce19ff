"""The description of your own tables: a Python or YAML file, checked."""

import dataclasses
import pathlib
import runpy
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from data_prep.inputs import InputError
from data_prep.readers import moments
from lumos_jax.data import schema as schema_lib
from lumos_jax.names import near

TABLES = (
  "activity",
  "calendar",
  "membership",
  "profile",
  "labels",
  "span",
  "split",
)
_ENTRIES = (
  "schema",
  "tables",
  "train_until",
  "time_zone",
  "train_splits",
  "holdout",
  "time_range",
)
OPTIONS = (
  "file",
  "files",
  "query",
  "uri",
  "columns",
  "format",
  "separator",
  "encoding",
  "null_values",
  "types",
  "missing_columns",
)
_DECLARED = ("from", "format", "unit")
_UNITS = (*moments.UNITS, "day")
_FIELDS = tuple(schema_lib.FIELD_TYPES)


@dataclasses.dataclass
class Description:
  """What a description says; see `data_prep.sources.tables`.

  Attributes:
    file: Where it stands.
    schema: Declared.
    tables: {table: its options}.
    train_until: Date or day; None where it is not given.
    time_zone: Where days begin.
    train_splits: Splits that are fitted on.
    holdout: "last": the last two events of each user fit nothing; or "".
    time_range: First date and the one after the last; (): the data's.
    functions: {table: function}.
  """

  file: pathlib.Path
  schema: schema_lib.Schema
  tables: Mapping[str, Mapping[str, Any]]
  train_until: Any = None
  time_zone: str = ""
  train_splits: tuple[str, ...] = ("train",)
  holdout: str = ""
  time_range: tuple = ()
  functions: Mapping[str, Callable] = dataclasses.field(default_factory=dict)


def read(file: pathlib.Path) -> Description:
  """Reads a .py or .yaml file.

  Raises:
    InputError: Names file, line and what is wrong.
  """
  return _python(file) if file.suffix == ".py" else _yaml(file)


def line(file: pathlib.Path, error: BaseException) -> str:
  """ "shop.py, line 12", the description's last line before an error."""
  if isinstance(error, SyntaxError) and error.filename == str(file):
    return f"{file.name}, line {error.lineno}"
  for step in reversed(traceback.extract_tb(error.__traceback__)):
    if step.filename == str(file):
      return f"{file.name}, line {step.lineno}"
  return file.name


def _python(file: pathlib.Path) -> Description:
  try:
    found = runpy.run_path(str(file))
  except (Exception, SystemExit) as e:
    kind = "" if isinstance(e, ValueError) else f"{type(e).__name__}: "
    reason = e.msg if isinstance(e, SyntaxError) else e
    raise InputError(f"{line(file, e)}: {kind}{reason}") from e
  for name in ("SCHEMA", "TABLES"):
    if name not in found:
      raise InputError(f"{file.name}: {name} is not defined")
  known = {n.upper(): n for n in _ENTRIES}
  entries = {known[n]: found[n] for n in known if n in found}
  functions = {n: found[n] for n in TABLES if callable(found.get(n))}
  return _describe(file, entries, functions)


def _yaml(file: pathlib.Path) -> Description:
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
  return _describe(file, entries, {})


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


def _describe(file, entries, functions) -> Description:
  where = file.name
  for name in entries:
    if name not in _ENTRIES:
      raise InputError(
        f"{where}: unknown entry {name!r}{near(name, _ENTRIES)} There are "
        f"{list(_ENTRIES)}"
      )
  tables = entries.get("tables") or {}
  for name, table in tables.items():
    if name not in TABLES:
      raise InputError(
        f"{where}: unknown table {name!r}{near(name, TABLES)} There are "
        f"{list(TABLES)}"
      )
    _table(where, name, table)
  holdout = entries.get("holdout") or ""
  if holdout not in ("", "last"):
    raise InputError(f"{where}: holdout is {holdout!r}; it can be 'last'")
  limits = entries.get("time_range") or ()
  if limits and len(limits) != 2:
    raise InputError(
      f"{where}: time_range is the first date and the one after the last"
    )
  return Description(
    **{**entries, "file": file, "tables": tables, "holdout": holdout},
    functions=functions,
  )


def _table(where: str, name: str, table: Any) -> None:
  """Checks the options of one table."""
  found = set(table) if isinstance(table, Mapping) else {str(table)}
  for option in sorted(map(str, found - set(OPTIONS))):
    raise InputError(
      f"{where}: table {name!r} needs 'file', may have {list(OPTIONS[1:])}; "
      f"it has {sorted(map(str, found))}{near(option, OPTIONS)}"
    )
  if len(found & {"file", "files", "uri"}) != 1:
    raise InputError(
      f"{where}: table {name!r} needs 'file' (one or several), or 'files' of "
      f"splits, or 'query' and 'uri'; it has {sorted(map(str, found))}"
    )
  if "uri" in found and "query" not in found:
    raise InputError(f"{where}: table {name!r} has a 'uri' and no 'query'")
  if "files" in found and name != "activity":
    raise InputError(f"{where}: only activity can have 'files', not {name!r}")
  for column, value in (table.get("columns") or {}).items():
    if isinstance(value, str):
      continue
    keys = set(value) if isinstance(value, Mapping) else {str(value)}
    if "from" not in keys or not keys <= set(_DECLARED):
      raise InputError(
        f"{where}: table {name!r}: column {column!r} is the name of a column, "
        f"or has 'from' and may have 'format' or 'unit'; it has {sorted(keys)}"
      )
    if value.get("unit", "day") not in _UNITS:
      raise InputError(
        f"{where}: table {name!r}: column {column!r} has unit "
        f"{value['unit']!r}; use one of {list(_UNITS)}"
      )


def columns(table: Mapping[str, Any]) -> dict[str, moments.Declared]:
  """{name used here: its column of the file, format and unit}."""
  out = {}
  for name, value in (table.get("columns") or {}).items():
    if isinstance(value, str):
      value = {"from": value}
    out[name] = moments.Declared(
      value["from"], value.get("format", ""), value.get("unit", "")
    )
  return out
