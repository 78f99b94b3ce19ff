"""Times of raw tables -> instants and local clocks, in microseconds.

Two things are kept of a time. The instant gives order and gaps; the local clock
gives days, hours and weekdays. `Inputs.time_zone` says where days begin: zoned
times are converted to it (to UTC where it is ""), times without a zone are local
to it. In the hour that a clock shows twice, a time without a zone is the first of
the two; in the hour that it skips, it is the same hour of the clock not yet
moved.
"""

import dataclasses
import datetime

import numpy as np
import polars as pl

from .inputs import InputError

DAY_SECONDS = 86_400
SECOND = 1_000_000  # Microseconds.
DAY = DAY_SECONDS * SECOND
_OFFSET = r"(?:[zZ]|[+-]\d\d:?\d\d)$"
# A date alone never differs between zones: only text with an hour needs one.
_CLOCK = r"\d[T ]\d"
# Digits of a text below a microsecond.
_BELOW = r"\.\d{6}(\d{1,3})"
_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y/%m/%d %H:%M:%S%.f")
_PER_UNIT = {"ms": 1000, "us": 1}


@dataclasses.dataclass(frozen=True)
class Moment:
  """Expressions of a time column; null where it cannot be read.

  Attributes:
    instant: int64 microseconds since midnight UTC of the epoch's day.
    local: int64 microseconds of the local clock since midnight of that day.
    below: int64, 0 to 999 nanoseconds below a microsecond; None for none.
  """

  instant: pl.Expr
  local: pl.Expr
  below: pl.Expr | None = None

  @property
  def day(self) -> pl.Expr:
    """int64 local days since the epoch."""
    return self.local.floordiv(DAY)


def moment(
  frame: pl.DataFrame | pl.LazyFrame,
  name: str,
  time_zone: str,
  epoch: str,
  where: str,
) -> Moment:
  """Reads a time column: Datetime, Date, ISO 8601 text or integer days.

  Args:
    frame: The table.
    name: Of the column.
    time_zone: Where days begin, "" for UTC.
    epoch: ISO date of day 0; "" where times are integer days.
    where: Table and file, for messages.

  Raises:
    InputError: Text where some times have a zone and some have none, and no
      `time_zone` says how to read those; a date without an epoch; or a type that
      is no time.
  """
  dtype = frame.collect_schema()[name]
  column = pl.col(name)
  if dtype.is_integer() or dtype == pl.Null:
    at = column.cast(pl.Int64) * DAY
    return Moment(at, at)
  if dtype.is_float():
    whole = column.cast(pl.Int64, strict=False)
    at = pl.when(whole.cast(dtype) == column).then(whole) * DAY
    return Moment(at, at)
  below = None
  if dtype == pl.Date:
    instant, local = _zoned(column.cast(pl.Datetime("us")), time_zone)
  elif isinstance(dtype, pl.Datetime):
    instant, local, below = _of_datetime(column, dtype, time_zone)
  elif dtype == pl.String:
    instant, local, below = _of_text(frame, name, time_zone, where)
  else:
    raise InputError(
      f"{where}: column {name!r} is {dtype}, a time is expected: Datetime, "
      "Date, ISO 8601 text, or integer days"
    )
  if not epoch:
    raise InputError(
      f"{where}: column {name!r}: the schema has no epoch, so times must be "
      f"integer days; they are {dtype}: give the schema an epoch (the date of "
      "day 0)"
    )
  return Moment(instant - _start(epoch), local - _start(epoch), below)


def _start(epoch: str) -> int:
  """Microseconds from 1970-01-01 to midnight of the epoch's day."""
  days = (datetime.date.fromisoformat(epoch) - datetime.date(1970, 1, 1)).days
  return days * DAY


def _of_datetime(column: pl.Expr, dtype: pl.Datetime, time_zone: str):
  """Instant, local clock and what is below a microsecond."""
  number, below = column.to_physical(), None
  if dtype.time_unit == "ns":
    below = number - number.floordiv(1000) * 1000
    number = number.floordiv(1000)
  else:
    number = number * _PER_UNIT[dtype.time_unit]
  if dtype.time_zone:
    return number, _local(number, time_zone), below
  return *_zoned(number.cast(pl.Datetime("us")), time_zone), below


def _local(instant: pl.Expr, time_zone: str) -> pl.Expr:
  """The clock of a zone at instants, in microseconds."""
  if not time_zone or time_zone == "UTC":
    return instant
  at = instant.cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(time_zone)
  return at.dt.replace_time_zone(None).to_physical()


def _zoned(naive: pl.Expr, time_zone: str) -> tuple[pl.Expr, pl.Expr]:
  """Instant and local clock of Datetimes without a zone."""
  if not time_zone or time_zone == "UTC":
    return naive.to_physical(), naive.to_physical()
  read = lambda x: x.dt.replace_time_zone(
    time_zone, ambiguous="earliest", non_existent="null"
  )
  hour = pl.duration(hours=1)
  instant = pl.coalesce(read(naive), read(naive + hour)).to_physical()
  return instant, _local(instant, time_zone)


def _of_text(frame, name: str, time_zone: str, where: str):
  column = pl.col(name).str.strip_chars()
  has_clock = column.str.contains(_CLOCK)
  zoned = column.str.contains(_OFFSET) & has_clock
  found = (
    frame.lazy()
    .select(
      zoned=zoned.arg_true().first(),
      naive=(~zoned & has_clock).arg_true().first(),
      below=column.str.contains(_BELOW).any(),
    )
    .collect(engine="streaming")
    .row(0, named=True)
  )
  if (
    found["zoned"] is not None and found["naive"] is not None and not time_zone
  ):
    raise InputError(
      f"{where}: column {name!r} has times with a zone (row {found['zoned']}) "
      f"and without (row {found['naive']}): say how to read the latter with "
      'time_zone="Europe/Paris" or "UTC"'
    )
  below = None
  if found["below"]:
    digits = column.str.extract(_BELOW).str.pad_end(3, "0")
    below = digits.cast(pl.Int64).fill_null(0)
  if found["zoned"] is None:
    return *_zoned(_parsed(column), time_zone), below
  offset = column.str.extract(f"({_OFFSET})")
  clock = _parsed(column.str.replace(_OFFSET, "")).to_physical()
  instant = pl.when(zoned).then(clock - _offset_microseconds(offset))
  naive, naive_local = _zoned(_parsed(pl.when(~zoned).then(column)), time_zone)
  return (
    pl.coalesce(instant, naive),
    pl.coalesce(_local(instant, time_zone), naive_local),
    below,
  )


def _parsed(text: pl.Expr) -> pl.Expr:
  """Datetimes of text without a zone, null where it is none.

  Each row on its own: a format inferred for all rows would lose those that
  have a fraction of a second where others have none.
  """
  text = text.str.replace("T", " ", literal=True)
  moments = [
    text.str.to_datetime(f, time_unit="us", strict=False) for f in _FORMATS
  ]
  dates = [
    text.str.to_date(f, strict=False).cast(pl.Datetime("us"))
    for f in ("%Y-%m-%d", "%Y/%m/%d")
  ]
  return pl.coalesce(*moments, *dates)


def _offset_microseconds(offset: pl.Expr) -> pl.Expr:
  """ "+05:30" -> microseconds; Z is 0."""
  digits = offset.str.replace_all(r"[^0-9]", "")
  number = lambda start: (
    digits.str.slice(start, 2).cast(pl.Int64, strict=False).fill_null(0)
  )
  minutes = number(0) * 60 + number(2)
  sign = pl.when(offset.str.starts_with("-")).then(-1).otherwise(1)
  return sign * minutes * 60 * SECOND


def local(
  frame: pl.DataFrame | pl.LazyFrame, name: str, time_zone: str, where: str
) -> pl.Expr:
  """A time column as Datetime of the local clock, or as integer days.

  Raises:
    InputError: As `moment`.
  """
  dtype = frame.collect_schema()[name]
  if dtype.is_numeric() or dtype in (pl.Date, pl.Null):
    return pl.col(name)
  at = moment(frame, name, time_zone, "1970-01-01", where).local
  return at.cast(pl.Datetime("us")).alias(name)


def has_zone(frame, name: str) -> bool | None:
  """Whether a column's times carry a zone; None for dates and day numbers."""
  dtype = frame.collect_schema()[name]
  if isinstance(dtype, pl.Datetime):
    return dtype.time_zone is not None
  return None


def day_number(value: int | str | datetime.date, epoch: str) -> int:
  """Day since the epoch of a day number, an ISO date or a date.

  Raises:
    InputError: It is none of these, or days are numbers and a date is given.
  """
  if isinstance(value, (int, np.integer)):
    return int(value)
  if isinstance(value, str) and value.lstrip("-").isdecimal():
    return int(value)
  try:
    if isinstance(value, str):
      value = datetime.date.fromisoformat(value)
    return (value - datetime.date.fromisoformat(epoch)).days
  except (ValueError, TypeError) as e:
    raise InputError(
      f"{value!r} is no date like 2020-01-31, or the days are numbers: give a "
      "day number"
    ) from e
