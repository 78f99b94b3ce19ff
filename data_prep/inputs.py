"""What a source hands over: raw tables, the declared schema, a few options."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from lumos_jax.data import schema as schema_lib
from lumos_jax.names import near


class InputError(ValueError):
  """Raw data cannot be used; says file, column, row and what to do."""


@dataclasses.dataclass
class Inputs:
  """Raw tables of a source, with fixed names for their structural columns.

  Times are Datetime, Date, ISO text, or integers (days since the epoch). Keys
  are text or integers. Fields are columns named as in the schema.

  Attributes:
    schema: Declared, not fitted: vocabularies and scales are empty.
    activity: Columns key, time and the activity fields; one row an event. Beside
      them a column of each label of events, and NAME_known_at where it has one.
    calendar: Columns group (null for everyone), start, end (exclusive),
      announced (null where always known) and the calendar fields.
    membership: Columns key, group: who is in which calendar group.
    profile: Column key and the profile fields; one row a user.
    labels: Columns key, name, time (null for the user as a whole), value, and
      known_at, from when on the row is known.
    span: Columns key and some of enter, exit (exclusive), observed_until
      (exclusive). Without a day, a user enters on the day after its first event,
      and the others are the schema's last_day.
    split: Columns key, split. Without it every user is in "train".
    train_splits: Splits whose users fit vocabularies and scales.
    held_out_events: The last events of each user, which fit nothing either.
    order: Column of the activity, of integers, that orders a user's rows of
      equal times; "" where nothing does but the rule of order.py.
    until: Day or ISO date: rows and labels from it on, and calendar entries
      announced after it, are left out and counted. None for all.
    time_zone: Where days begin: zoned times are converted to it, times without
      zone are taken as local to it. "" for UTC and for no conversion.
    files: File of each table, for messages.
    notes: Counts that the source wants in stats.json: {what: rows}.
    pieces: Name and bytes of each input file, to notice changed inputs.
    digests: {file: digest} of small ones, whose size a changed word leaves.
    pages: What is known of the pages of clicks, see pages.py.
    sessions: Of clicks: key, visitor, user, start, end; beside the data, no input.
  """

  schema: schema_lib.Schema
  activity: pl.LazyFrame
  calendar: pl.DataFrame | None = None
  membership: pl.DataFrame | None = None
  profile: pl.DataFrame | None = None
  labels: pl.DataFrame | None = None
  span: pl.DataFrame | None = None
  split: pl.DataFrame | None = None
  train_splits: Sequence[str] = ("train",)
  held_out_events: int = 0
  order: str = ""
  until: int | str | None = None
  time_zone: str = ""
  files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  notes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  pieces: Mapping[str, int] = dataclasses.field(default_factory=dict)
  digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
  pages: Any = None
  sessions: pl.DataFrame | None = None

  def where(self, table: str) -> str:
    """A table and its file, for messages."""
    file = self.files.get(table, "")
    return f"{file} (table {table})" if file else f"table {table}"


_STRUCTURE = {
  "activity": ("key", "time"),
  "calendar": ("group", "start", "end", "announced"),
  "membership": ("key", "group"),
  "profile": ("key",),
  "labels": ("key", "name", "time", "value", "known_at"),
  "span": ("key", "enter", "exit", "observed_until"),
  "split": ("key", "split"),
}
TIMES = {
  "activity": ("time",),
  "calendar": ("start", "end", "announced"),
  "labels": ("time", "known_at"),
  "span": ("enter", "exit", "observed_until"),
}
_OPTIONAL = {
  ("calendar", "group"),
  ("calendar", "announced"),
  ("labels", "time"),
  ("labels", "known_at"),
  ("span", "enter"),
  ("span", "exit"),
  ("span", "observed_until"),
}


def missing_column(
  where: str, name: str, names: Sequence[str], reader: str = ""
) -> InputError:
  """The error for a column that is not there.

  Args:
    where: Table and file.
    name: Of the column.
    names: Columns that are there.
    reader: What asks for the column.
  """
  reader = reader and f", which {reader} names"
  return InputError(
    f"{where}: no column {name!r}{reader}{near(name, names)} It has "
    f"{list(names)}. Correct the name or rename the column"
  )


def check(inputs: Inputs, absent: Sequence[str] = ()) -> None:
  """Checks that all columns are there and have usable types.

  Args:
    inputs: Of a source.
    absent: Tables that may be absent though the schema has fields of them.

  Raises:
    InputError: Names file, column and the first offending row.
  """
  for table in _STRUCTURE:
    frame = getattr(inputs, table)
    if frame is None:
      if table in absent:
        continue
      if table in schema_lib.TABLES and getattr(inputs.schema, table):
        raise InputError(
          f"the schema has {table} fields, but the source has no {table} table"
        )
      continue
    dtypes = frame.collect_schema()
    where = inputs.where(table)
    for name in _STRUCTURE[table]:
      if name not in dtypes and (table, name) not in _OPTIONAL:
        raise missing_column(where, name, list(dtypes))
    if table == "span" and not set(_STRUCTURE[table][1:]) & set(dtypes):
      raise missing_column(where, "enter", list(dtypes))
    fields = getattr(inputs.schema, table, ())
    if table in schema_lib.TABLES:
      for field in fields:
        name = schema_lib.column(field)
        if not name:
          continue  # Made of the time, or of other fields.
        if name not in dtypes:
          raise missing_column(where, name, list(dtypes), "the schema")
        _check_type(where, field, name, dtypes[name], frame)


def _check_type(where, field, name, dtype, frame) -> None:
  if isinstance(field, schema_lib.Numeric | schema_lib.Binned):
    if dtype.is_numeric() or dtype in (pl.Boolean, pl.Null):
      return
    raise InputError(
      f"{where}: column {name!r} is {dtype}, the schema says a number"
      f"{_first_non_number(frame, name, dtype)}. Correct the values, or declare "
      "the field as Categorical or Timestamp"
    )
  if isinstance(field, schema_lib.Categorical):
    if dtype.is_nested() or dtype.is_temporal() or dtype == pl.Binary:
      raise InputError(
        f"{where}: column {name!r} is {dtype}, the schema says a category: "
        "text, an integer or a truth value"
      )
  elif isinstance(field, schema_lib.Timestamp):
    if not (
      isinstance(dtype, pl.Datetime) or dtype in (pl.Date, pl.String, pl.Null)
    ):
      raise InputError(
        f"{where}: column {name!r} is {dtype}, the schema says a time stamp: "
        "a Datetime, a Date or ISO 8601 text"
      )
  elif not isinstance(dtype, (pl.List, pl.Array)):
    raise InputError(
      f"{where}: column {name!r} is {dtype}, the schema says a vector: a list "
      f"of {field.size} numbers"
    )


def _first_non_number(frame, name, dtype) -> str:
  if dtype != pl.String:
    return ""
  text = pl.col(name)
  bad = (
    frame.lazy()
    .select(text)
    .with_row_index("row")
    .filter(text.is_not_null() & text.cast(pl.Float64, strict=False).is_null())
    .head(1)
    .collect()
  )
  if not len(bad):
    return " (all its text reads as numbers: cast the column)"
  row, value = bad.row(0)
  where = f"row {row} (from 0, without a header)"
  return f"; the first value that is none stands in {where}: {value!r}"
