"""Raw tables -> usable rows; every other row goes to the rejects with a reason.

The big activity table loses bad rows and goes on. Profile, calendar, labels and
splits are small and the user's own: what is wrong there is an error to correct,
but for rows that speak of users or groups that are not there.
"""

import dataclasses

import numpy as np
import polars as pl

from data_prep import columns as columns_lib
from data_prep import rejects as rejects_lib
from data_prep import times
from data_prep.inputs import InputError, Inputs
from lumos_jax.data import schema as schema_lib

_INT32 = np.iinfo(np.int32)


def time_expr(raw: Inputs, table: str, name: str, unit: str) -> pl.Expr:
  """A time column in int64 days or seconds (`unit`) since the epoch."""
  frame, where = getattr(raw, table), raw.where(table)
  expr = times.local(frame, name, raw.time_zone, where)
  dtype = frame.lazy().select(expr).collect_schema()[name]
  try:
    return times.since(expr, dtype, raw.schema.epoch, unit)
  except InputError as e:
    raise InputError(f"{where}: column {name!r}: {e}") from e


def check_zones(raw: Inputs) -> None:
  """Refuses times with zone beside times without, unless a zone is given."""
  if raw.time_zone:
    return
  seen = {}
  places = [("activity", "time"), ("calendar", "start"), ("labels", "time")]
  places += [
    ("activity", f.name)
    for f in raw.schema.activity
    if isinstance(f, schema_lib.Timestamp) and not f.time_zone
  ]
  for table, name in places:
    frame = getattr(raw, table)
    if frame is None or name not in frame.collect_schema():
      continue
    zoned = times.has_zone(frame, name)
    if zoned is not None:
      seen.setdefault(zoned, f"{raw.where(table)}: column {name!r}")
  if len(seen) == 2:
    raise InputError(
      f"{seen[False]} has times without zone, {seen[True]} has times with a "
      'zone: say how to read the former with time_zone="Europe/Paris" or "UTC"'
    )


def text_keys(raw: Inputs, table: str, frame: pl.DataFrame) -> pl.DataFrame:
  """The frame with text or integer keys (whole floats become integers)."""
  if frame.schema["key"].is_float():
    return frame.with_columns(columns_lib.whole(frame["key"], raw.where(table)))
  return frame


def activity(
  raw: Inputs, rejects: rejects_lib.Rejects
) -> tuple[pl.DataFrame, np.ndarray | None, schema_lib.Schema]:
  """The activity table, which of its rows are usable, and the schema.

  Returns:
    Columns key, _time (int32 days or seconds since the epoch) and the fields;
    bool [rows] (None where all rows are usable: the table is long, so that bad
    rows are left out at the end and not by a copy here); the schema, with the
    span of the data.
  """
  schema = raw.schema
  unit = "days" if schema.rows == "day" else "seconds"
  fields = [
    _activity_column(raw, f) for f in schema.activity if schema_lib.column(f)
  ]
  time = time_expr(raw, "activity", "time", unit).alias("_time")
  frame = raw.activity.select("key", time, *fields)
  # Streaming touches a third less memory: a table's worth of page faults.
  frame = frame.collect(engine="streaming")
  frame = text_keys(raw, "activity", frame)
  schema = _with_span(schema, frame["_time"], raw)
  scale = 1 if unit == "days" else times.DAY_SECONDS
  first, last = schema.first_day * scale, schema.last_day * scale
  if not _INT32.min < first <= last <= _INT32.max:
    raise InputError(
      f"{raw.where('activity')}: times span {first}..{last} {unit} since the "
      f"epoch {schema.epoch!r}, too far for 32 bits: move the epoch"
    )
  t = pl.col("_time")
  checks = [
    (pl.col("key").is_null(), "null key"),
    (t.is_null(), "null or unreadable time"),
    ((t < first) | (t >= last), "outside the days of the data"),
  ]
  for f in schema.activity:
    if not isinstance(f, schema_lib.Numeric):
      continue
    x = pl.col(f.name)
    if not f.nullable:
      checks.append((x.is_null(), f"null in {f.name}"))
    if frame[f.name].dtype.is_float():
      bad = x.is_infinite() if f.nullable else ~x.is_finite()
      checks.append((bad, f"NaN or infinite in {f.name}"))
  keep = rejects.note("activity", frame, checks)
  if not len(frame) or (keep is not None and not keep.any()):
    raise InputError(
      f"{raw.where('activity')}: no usable row; rejected: "
      f"{dict(rejects.counts['activity'])}"
    )
  time = t.cast(pl.Int32, strict=False)
  if keep is not None:
    time = time.fill_null(0)
  return frame.with_columns(time), keep, schema


def _activity_column(raw: Inputs, field) -> pl.Expr:
  if isinstance(field, schema_lib.Timestamp):
    zone = field.time_zone or raw.time_zone
    return times.local(
      raw.activity, field.name, zone, raw.where("activity")
    ).alias(field.name)
  return pl.col(schema_lib.column(field)).alias(field.name)


def _with_span(schema, time: pl.Series, raw: Inputs) -> schema_lib.Schema:
  """Takes first_day and last_day from the data where the source left them."""
  if schema.last_day > schema.first_day:
    return schema
  low, high = time.min(), time.max()
  if low is None:
    raise InputError(f"{raw.where('activity')}: no row has a readable time")
  scale = 1 if schema.rows == "day" else times.DAY_SECONDS
  return dataclasses.replace(
    schema, first_day=low // scale, last_day=high // scale + 1
  )


def profile(raw: Inputs, rejects: rejects_lib.Rejects) -> pl.DataFrame | None:
  """The profile table, checked: one row a user, finite numbers."""
  if raw.profile is None:
    return None
  frame = text_keys(raw, "profile", raw.profile)
  for f in raw.schema.profile:
    if isinstance(f, schema_lib.Numeric):
      finite(raw, "profile", frame, f)
  checks = [(pl.col("key").is_null(), "null key")]
  frame, _ = rejects.split("profile", frame, checks)
  no_duplicates(raw, "profile", frame)
  return frame


def no_duplicates(raw: Inputs, table: str, frame: pl.DataFrame) -> None:
  """Raises InputError where a user has two rows."""
  twice = frame["key"].is_duplicated()
  if not twice.any():
    return
  rows = twice.arg_true()
  some = frame["key"].gather(rows).unique(maintain_order=True).to_list()
  raise InputError(
    f"{raw.where(table)}: {len(some)} user ids stand in more than one row, for "
    f"example {some[:5]} (the first in row {rows[0]}): keep one row a user"
  )


def finite(raw: Inputs, table: str, frame: pl.DataFrame, field) -> None:
  """Raises InputError where a number of a small table cannot be used."""
  x = frame[field.name].cast(pl.Float64)
  bad = x.is_infinite()
  if not field.nullable:
    bad = bad.fill_null(True) | x.is_nan().fill_null(True)
  if bad.fill_null(False).any():
    row = int(bad.fill_null(False).arg_true()[0])
    raise InputError(
      f"{raw.where(table)}: column {field.name!r} holds {x[row]} in row {row}: "
      "correct it, or leave it empty and declare the field nullable"
    )
