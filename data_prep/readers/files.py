"""Files of one table -> one lazy frame, whatever their format.

Each file is opened on its own, so that a difference between two can be named.
"""

import dataclasses
import io
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence, Set
from typing import Any

import polars as pl

from lumos_jax.names import near

from ..inputs import InputError
from ..readers import database, moments, problems

FORMATS = {
  "parquet": (".parquet", ".pq"),
  "csv": (".csv", ".tsv", ".tab", ".txt"),
  "ipc": (".arrow", ".feather", ".ipc"),
  "ndjson": (".jsonl", ".ndjson"),
  "duckdb": (".duckdb", ".ddb"),
}
_TYPES = {"text": pl.String, "number": pl.Float64, "integer": pl.Int64}
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclasses.dataclass
class Read:
  """One table as read.

  Attributes:
    frame: Its rows.
    files: That it was read from; of an address, none.
    name: For messages.
    pieces: {file: bytes}, to notice changed inputs.
    notes: Counts to tell.
  """

  frame: pl.LazyFrame
  files: list[pathlib.Path]
  name: str
  pieces: dict[str, int]
  notes: dict[str, int] = dataclasses.field(default_factory=dict)


def read(
  root: pathlib.Path,
  table: str,
  options: Mapping[str, Any],
  text: Set[str],
  numbers: Set[str] = frozenset(),
) -> Read:
  """Reads a table.

  Args:
    root: Where its files lie.
    table: Its name, for messages.
    options: Its entry in the description, with "file", or "uri" and "query".
    text: Columns of the files that are ids and categories: text as it stands.
    numbers: Columns that the schema declares as numbers.

  Raises:
    InputError: Names file, line and the option that helps.
  """
  if "uri" in options:
    uri = options["uri"]
    frame = database.query(options["query"], uri, f"table {table}").lazy()
    name = f"a query (table {table})"
    return Read(_typed(frame, options), [], name, {f"query of {table}": 0})
  patterns = options["file"]
  patterns = [patterns] if isinstance(patterns, str) else list(patterns)
  shown = ", ".join(patterns)
  where = f"{shown} (table {table})"
  if "://" in shown:
    frames = [_scan(p, _format(p, options), options, text) for p in patterns]
    frame = _typed(join(frames, patterns, options, where, text), options)
    return Read(frame, [], where, dict.fromkeys(patterns, 0))
  files, twice = _find(root, table, patterns, options)
  notes = {}
  if twice:
    notes[f"files of {table} that two patterns match (read once)"] = twice
  frames, marks = [], set()
  with problems.named(table, files, options):
    for file in files:
      kind = _format(file.name, options)
      if kind == "duckdb":
        sql = options.get("query")
        if not sql:
          raise InputError(f"{where}: a DuckDB file needs 'query', its SQL")
        frame = database.duckdb(str(file), sql, where).lazy()
      elif kind == "csv":
        frame, mark = _csv(file, options, text, numbers)
        if mark != ("\t" if ".tsv" in file.name else ","):
          marks.add(mark)
      else:
        frame = _scan(file, kind, options, text)
      frames.append(_hive(frame, file, root))
    frame = join(frames, [f.name for f in files], options, where, text)
  if marks and "separator" not in options:
    for mark in sorted(marks):
      notes[f"files of {table} read with separator {mark!r} (found)"] = len(
        files
      )
  pieces = {f.name: f.stat().st_size for f in files}
  return Read(_typed(frame, options), files, where, pieces, notes)


def _find(root, table, patterns, options):
  """Files of all patterns, each once; and how many were found twice."""
  files, twice = {}, 0
  for pattern in patterns:
    path = pathlib.Path(pattern)
    if path.is_absolute():
      found = sorted(pathlib.Path("/").glob(str(path.relative_to("/"))))
    else:
      found = sorted(root.glob(pattern))
    inside = []
    for f in found:
      inside += sorted(f.rglob("*")) if f.is_dir() else [f]
    whole = [
      f
      for f in inside
      if f.is_file()
      and not f.name.startswith((".", "_"))
      and (f in found or kind_of(f.name))
    ]
    if not whole:
      there = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
      raise InputError(
        f"table {table!r}: no file {pattern!r} in {root}{near(pattern, there)} "
        f"It has {there[:20]}; correct 'file', or give --set path=DIR"
      )
    for f in whole:
      twice += f.resolve() in files
      files.setdefault(f.resolve(), f)
  return list(files.values()), twice


def kind_of(name: str) -> str:
  """Format of a file by its name, "" where it says none."""
  bare = name.lower()
  for packed in (".gz", ".zst"):
    bare = bare.removesuffix(packed)
  for kind, ends in FORMATS.items():
    if bare.endswith(ends):
      return kind
  return ""


def _format(name: str, options: Mapping[str, Any]) -> str:
  kind = options.get("format") or kind_of(name)
  if kind not in FORMATS:
    known = [e for ends in FORMATS.values() for e in ends]
    raise InputError(
      f"{name}: its format is {kind or 'not known by its name'}: give its table "
      f"a 'format', one of {list(FORMATS)}, or a name that ends in one of "
      f"{known} (of text, with .gz or .zst too)"
    )
  return kind


def _scan(file, kind, options, text) -> pl.LazyFrame:
  if kind == "csv":  # Of an address.
    return pl.scan_csv(
      file,
      separator=options.get("separator", ","),
      null_values=options.get("null_values"),
      schema_overrides=dict.fromkeys(text, pl.String),
      infer_schema_length=10_000,
    )
  if kind == "ndjson":
    # Numbers keep their text only where the reader is told so.
    plain = dict(infer_schema_length=None)
    names = pl.scan_ndjson(file, **plain).collect_schema().names()
    chosen = {n: pl.String for n in names if n in text}
    return pl.scan_ndjson(file, schema_overrides=chosen, **plain)
  if kind == "ipc":
    return pl.scan_ipc(file)
  return pl.scan_parquet(file, hive_partitioning=False)


def _csv(file, options, text, numbers):
  """A text file's frame, and its separator."""
  encoding = options.get("encoding") or "utf-8"
  source = file
  if encoding.lower() not in ("utf-8", "utf8"):
    start = _decode(file, encoding)
    source = io.BytesIO(start)
    start = start[: 1 << 16]
  else:
    start = problems.head(file)
    problems.check_encoding(file, start)
  if not start:
    raise pl.exceptions.NoDataError("empty")
  mark = options.get("separator") or problems.separator(start)
  settings = dict(separator=mark, null_values=options.get("null_values"))
  # All rows decide on a column's type, so that no row is lost to a guess.
  found = pl.scan_csv(source, infer_schema_length=None, **settings)
  schema = dict(found.collect_schema())
  for name, dtype in schema.items():
    if name in text:
      schema[name] = pl.String
    elif name in numbers and dtype.is_integer():
      schema[name] = pl.Float64
  if isinstance(source, io.BytesIO):
    source.seek(0)
  frame = pl.scan_csv(source, schema_overrides=schema, **settings)
  frame = _empty_as_null(frame, schema, text)
  return _iso_dates(frame, frame.collect_schema(), text), mark


def _empty_as_null(frame, schema, text) -> pl.LazyFrame:
  """Columns without any value, which the reader takes for text, as null.

  They are of the type that the schema, or another file, says.
  """
  names = [n for n, d in schema.items() if d == pl.String and n not in text]
  if not names:
    return frame
  found = (
    frame.select(pl.col(names).is_not_null().any())
    .collect(engine="streaming")
    .row(0)
  )
  empty = [
    n for n, any_value in zip(names, found, strict=True) if not any_value
  ]
  return frame.with_columns(pl.lit(None).alias(n) for n in empty)


def _decode(file: pathlib.Path, encoding: str) -> bytes:
  try:
    with problems.opened(file) as f:
      return f.read().decode(encoding).removeprefix("\ufeff").encode()
  except LookupError as e:
    raise InputError(f"{file}: there is no encoding {encoding!r}") from e
  except UnicodeError as e:
    raise InputError(f"{file} is not {encoding}: {e}") from e


def _iso_dates(frame, schema, text) -> pl.LazyFrame:
  """Text columns that begin with ISO dates, as dates or times.

  A column of a function; what the description names is read by its own rules.
  """
  names = [n for n, d in schema.items() if d == pl.String and n not in text]
  if not names:
    return frame
  begin = frame.head(100).select(pl.col(n).drop_nulls().first() for n in names)
  start = begin.collect().row(0)
  iso = r"^\d{4}-\d\d-\d\d(?:$|[T ]\d\d:\d\d)"
  value = pl.Series("value", start, dtype=pl.String).str.contains(iso)
  for name, fits in zip(names, value, strict=True):
    if fits:
      column = pl.col(name)
      naive, zoned = moments.iso(column)
      wrong, zones, clocks = (
        frame.select(
          (
            column.is_not_null() & naive.is_null()
            | column.str.contains(r"\.\d{7}")
          ).sum(),
          zoned.is_not_null().sum().alias("zones"),
          column.str.contains(r"\d[T ]\d").sum().alias("clocks"),
        )
        .collect()
        .row(0)
      )
      if not wrong and not zones:
        expr = naive if clocks else naive.cast(pl.Date)
        frame = frame.with_columns(expr.alias(name))
  return frame


def _hive(frame: pl.LazyFrame, file: pathlib.Path, root) -> pl.LazyFrame:
  """Adds the values that folders like country=FR stand for, as text."""
  parents = file.relative_to(root).parts if file.is_relative_to(root) else ()
  parents = parents[:-1] or [
    p for p in file.parts[:-1] if not file.is_relative_to(root)
  ]
  for part in parents:
    name, equals, value = part.partition("=")
    if equals and name:
      value = urllib.parse.unquote(value)
      value = None if value == _HIVE_NULL else value
      frame = frame.with_columns(pl.lit(value, pl.String).alias(name))
  return frame


def join(frames, names, options, where, text) -> pl.LazyFrame:
  """All files below each other; differences are named."""
  schemas = [f.collect_schema() for f in frames]
  first, types = schemas[0], dict(options.get("types") or {})
  for name, schema in zip(names, schemas, strict=True):
    differ = sorted(set(first) ^ set(schema))
    if differ and options.get("missing_columns") != "null":
      has = names[0] if differ[0] in first else name
      raise InputError(
        f"{where}: {names[0]} and {name} have other columns: {differ} stand in "
        f'one alone, {differ[0]!r} in {has}. Give the table "missing_columns": '
        '"null" to read them as missing, or the files the same columns'
      )
    for column in schema:
      a, b = first.get(column, schema[column]), schema[column]
      if column in types or _alike(a, b):
        continue
      kind = "id or category" if column in text else "column"
      raise InputError(
        f"{where}: {kind} {column!r} is {a} in {names[0]} and {b} in {name}: "
        f'say what it is with "types": {{{column!r}: "text"}} (or "number", '
        '"integer"), or correct a file'
      )
  casts = [
    f.with_columns(
      pl.col(c).cast(_type(types[c], where)) for c in s if c in types
    )
    for f, s in zip(frames, schemas, strict=True)
  ]
  if len(frames) == 1:
    return frames[0]
  ragged = options.get("missing_columns") == "null"
  # Columns by name: two files may have them in another order.
  casts = casts if ragged else [f.select(list(first)) for f in casts]
  return pl.concat(
    casts, how="diagonal_relaxed" if ragged else "vertical_relaxed"
  )


def _alike(a, b) -> bool:
  """Whether two files' types of a column make one, nothing being guessed."""
  null = pl.Null in (a, b)
  return (
    null
    or a == b
    or (a.is_numeric() and b.is_numeric())
    or (
      isinstance(a, pl.Datetime)
      and isinstance(b, pl.Datetime)
      and a.time_zone == b.time_zone
    )
  )


def _type(kind: str, where: str):
  if kind not in _TYPES:
    raise InputError(f"{where}: type {kind!r} is none of {list(_TYPES)}")
  return _TYPES[kind]


def _typed(frame: pl.LazyFrame, options: Mapping[str, Any]) -> pl.LazyFrame:
  """Null words and declared types, for what the reader did not do itself."""
  schema = frame.collect_schema()
  words: Sequence[str] = options.get("null_values") or ()
  exprs = []
  for name, dtype in schema.items():
    column, changed = pl.col(name), False
    if words and dtype == pl.String:
      column = pl.when(~column.is_in(list(words))).then(column)
      changed = True
    kind = (options.get("types") or {}).get(name)
    if kind:
      column = column.cast(_type(kind, f"types: {name}"))
      changed = True
    if changed:
      exprs.append(column.alias(name))
  return frame.with_columns(exprs) if exprs else frame
