"""Times of raw tables -> days or seconds since the epoch.

One rule: `Inputs.time_zone` says where days begin. Zoned times are converted to
it (to UTC where it is ""), times without zone are taken as local to it.
"""

import datetime

import polars as pl

from data_prep.inputs import InputError

DAY_SECONDS = 86_400
_OFFSET = r"(?:[zZ]|[+-]\d\d:?\d\d)$"
# A date alone never differs between zones: only text with an hour needs one.
_CLOCK = r"\d[T ]\d"


def local(
  frame: pl.DataFrame | pl.LazyFrame, name: str, time_zone: str, where: str
) -> pl.Expr:
  """Expression of a time column as Datetime without zone, or integer days.

  Text that is no ISO 8601 time becomes null: a rejected row.

  Raises:
    InputError: Text where some times have a zone and some have none, and no
      `time_zone` says how to read those; or a type that is no time.
  """
  dtype = frame.collect_schema()[name]
  column = pl.col(name)
  if dtype.is_integer() or dtype in (pl.Date, pl.Null):
    return column
  if dtype.is_float():
    return column.cast(pl.Int64, strict=False)
  if isinstance(dtype, pl.Datetime):
    return _unzoned(column, time_zone) if dtype.time_zone else column
  if dtype != pl.String:
    raise InputError(
      f"{where}: column {name!r} is {dtype}, a time is expected: Datetime, "
      "Date, ISO 8601 text, or integer days"
    )
  zoned = column.str.contains(_OFFSET) & column.str.contains(_CLOCK)
  found = (
    frame.lazy()
    .select(
      zoned=zoned.arg_true().first(),
      naive=(~zoned & column.str.contains(_CLOCK)).arg_true().first(),
    )
    .collect()
    .row(0)
  )
  if None not in found and not time_zone:
    raise InputError(
      f"{where}: column {name!r} has times with a zone (row {found[0]}) and "
      f"without (row {found[1]}): say how to read the latter with "
      'time_zone="Europe/Paris" or "UTC"'
    )
  # One format is inferred for all rows of an expression: parse them apart.
  naive = (
    pl.when(~zoned).then(column).str.to_datetime(time_unit="us", strict=False)
  )
  if found[0] is None:
    return naive.alias(name)
  with_zone = (
    pl.when(zoned)
    .then(column)
    .str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
  )
  return pl.coalesce(_unzoned(with_zone, time_zone), naive).alias(name)


def has_zone(frame, name: str) -> bool | None:
  """Whether a column's times carry a zone; None for dates and day numbers."""
  dtype = frame.collect_schema()[name]
  if isinstance(dtype, pl.Datetime):
    return dtype.time_zone is not None
  return None


def _unzoned(column: pl.Expr, time_zone: str) -> pl.Expr:
  zone = time_zone or "UTC"
  return column.dt.convert_time_zone(zone).dt.replace_time_zone(None)


def since(expr: pl.Expr, dtype: pl.DataType, epoch: str, unit: str) -> pl.Expr:
  """Integer days or seconds (`unit`) since the epoch; int64."""
  if dtype.is_integer() or dtype == pl.Null:
    day = expr.cast(pl.Int64)
    return day * DAY_SECONDS if unit == "seconds" else day
  if not epoch:
    raise InputError(
      "the schema has no epoch, so times must be integer days; they are "
      f"{dtype}: give the schema an epoch (the date of day 0)"
    )
  start = datetime.date.fromisoformat(epoch)
  if dtype == pl.Date:
    day = expr.cast(pl.Int64) - (start - datetime.date(1970, 1, 1)).days
    return day * DAY_SECONDS if unit == "seconds" else day
  zero = int(
    datetime.datetime.combine(start, datetime.time(), datetime.UTC).timestamp()
  )
  seconds = expr.dt.epoch("s") - zero
  # Floor division: a time before the epoch belongs to a negative day.
  return seconds if unit == "seconds" else seconds.floordiv(DAY_SECONDS)
