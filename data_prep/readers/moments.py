"""Time columns of raw tables: text and numbers -> Datetime, Date or day numbers.

A declared format or unit is followed. Without one, ISO 8601 text is read, and
text like 31/12/2024 where it can be read in one way only; what can be read in two
ways, or hardly at all, is an error that names the ways out.
"""

import dataclasses

import polars as pl

from ..inputs import InputError

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# Beyond it, a whole number is no day number: 2,700 years.
_MAX_DAYS = 1_000_000
_OFFSET = r"(?:[zZ]|[+-]\d\d:?\d\d)$"
_DATE = r"^\s*(\d{1,4})([./-])(\d{1,2})[./-](\d{1,4})"
_CLOCKS = ("", " %H:%M", " %H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p")
# Of a description: without fractions of a second where there are none.
_WRITTEN = (*_CLOCKS[:2], " %H:%M:%S", *_CLOCKS[2:])


class AmbiguousError(InputError):
  """Text dates of which day first and month first are both possible."""


@dataclasses.dataclass(frozen=True)
class Declared:
  """What a description says of a time column.

  Attributes:
    column: In the file.
    format: As of strftime, such as "%m/%d/%Y".
    unit: Of numbers: "s", "ms", "us", "ns" since 1970, or "day".
  """

  column: str
  format: str = ""
  unit: str = ""


def resolve(
  frame: pl.LazyFrame,
  name: str,
  where: str,
  zone: str = "",
  declared: Declared | None = None,
) -> tuple[pl.LazyFrame, dict[str, int]]:
  """The frame with a time column as Datetime, Date or integer days.

  Args:
    frame: Holds the column.
    name: Of the column.
    where: Table and file, for messages.
    zone: Of times without one, where some have an offset.
    declared: What the description says; None: nothing.

  Returns:
    The frame; what was guessed, {text: rows}.

  Raises:
    InputError: Names column, first bad value and row, and the way out.
  """
  dtype = frame.collect_schema()[name]
  where = f"{where}: column {name!r}"
  spelled = (declared and declared.format) or ""
  unit = (declared and declared.unit) or ""
  if dtype.is_temporal() or dtype == pl.Null:
    return frame, {}
  if dtype.is_numeric() and not spelled:
    return frame.with_columns(_number(frame, name, where, unit)), {}
  column = pl.col(name)
  if dtype.is_numeric():
    column = column.cast(pl.Int64, strict=False).cast(pl.String)
  elif dtype != pl.String:
    return frame, {}  # No time: the engine says so.
  if spelled:
    expr = _formatted(column, spelled)
    _nearly_all(frame, column, expr, where, f"format={spelled!r}")
    return frame.with_columns(expr.alias(name)), {}
  return _text(frame, name, where, zone, unit)


def _number(frame, name, where, unit) -> pl.Expr:
  column = pl.col(name)
  if unit in UNITS:
    return _instant(column, frame.collect_schema()[name], unit).alias(name)
  low, high, count = _one(
    frame, column.min(), column.max().alias("high"), column.count().alias("n")
  )
  if unit == "day" or not count or max(abs(low), abs(high)) < _MAX_DAYS:
    return column
  raise InputError(
    f"{where} holds numbers from {low} to {high}, too large for day numbers: "
    f"say what they are with {_ways(low, high)}"
  )


def _ways(low, high) -> str:
  if 18_000_101 <= low <= high <= 22_001_231:
    return '"format": "%Y%m%d"'
  scale = max(abs(low), abs(high))
  likely = "s" if scale < 1e11 else "ms" if scale < 1e14 else "us"
  likely = likely if scale < 1e17 else "ns"
  return (
    f'"unit": "{likely}" (likely), or "s", "ms", "us", "ns" since 1970, or '
    '"day"; or a "format" such as "%Y%m%d"'
  )


def _instant(column: pl.Expr, dtype, unit: str) -> pl.Expr:
  """Numbers since 1970 as zoned times, at microseconds (nanoseconds for ns)."""
  if dtype.is_float():
    scaled = (column * (10**6 / UNITS[unit])).round().cast(pl.Int64)
    return scaled.cast(pl.Datetime("us", "UTC"))
  column = column.cast(pl.Int64)
  if unit == "s":
    column = column * 1000
  kept = {"s": "ms"}.get(unit, unit)
  expr = column.cast(pl.Datetime(kept, "UTC"))
  return expr if unit == "ns" else expr.cast(pl.Datetime("us", "UTC"))


def _formatted(column: pl.Expr, spelled: str) -> pl.Expr:
  zoned = "%z" in spelled or "%:z" in spelled
  fine = any(f in spelled for f in ("%9f", "%.9f", "%f", "%.f"))
  return column.str.strip_chars().str.to_datetime(
    spelled,
    time_unit="ns" if fine else "us",
    time_zone="UTC" if zoned else None,
    strict=False,
  )


def iso(column: pl.Expr, unit: str = "us") -> tuple[pl.Expr, pl.Expr]:
  """ISO 8601 text -> (times without zone, times with one in UTC); else null."""
  text = column.str.strip_chars().str.replace(r"^(\d{4}-\d\d-\d\d)[tT]", "$1 ")
  text = text.str.replace(r"[zZ]$", "+00:00")
  text = text.str.replace(r"(:\d\d) ([+-]\d\d:?\d\d)$", "$1$2")
  read = lambda spelled, zone: text.str.to_datetime(
    spelled, time_unit=unit, time_zone=zone, strict=False
  )
  whole, minute = "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"
  naive = pl.coalesce(*(read(f, None) for f in (whole, minute, "%Y-%m-%d")))
  zoned = pl.coalesce(*(read(f + "%z", "UTC") for f in (whole, minute)))
  return naive, zoned


def _text(frame, name, where, zone, unit):
  column = pl.col(name)
  naive, zoned = iso(column)
  digits = column.str.contains(r"^\s*-?\d+(\.0+)?\s*$")
  clock = column.str.contains(r"\d[T ]\d")
  first = lambda e, label: e.arg_true().first().alias(label)
  count, numbers, ok, offset, without, clocks, slashed, fine = _one(
    frame,
    column.count(),
    digits.sum().alias("digits"),
    pl.coalesce(naive.is_not_null(), False).sum().alias("naive")
    + zoned.is_not_null().sum(),
    first(zoned.is_not_null(), "offset"),
    first(naive.is_not_null() & clock, "without"),
    clock.sum().alias("clocks"),
    column.str.contains(_DATE).sum().alias("slashed"),
    column.str.contains(r"\.\d{7}").any().alias("fine"),
  )
  if not count:
    return frame.with_columns(pl.lit(None).alias(name)), {}
  if fine:  # Nanoseconds end in the year 2262: only where they are written.
    naive, zoned = iso(column, "ns")
  if numbers == count:
    whole = column.str.strip_chars().str.replace(r"\.0+$", "")
    numeric = frame.with_columns(whole.cast(pl.Int64).alias(name))
    return numeric.with_columns(_number(numeric, name, where, unit)), {}
  told = {}
  if ok * 2 < count and slashed * 2 >= count:
    expr, spelled = _guess(frame, column, where)
    told = {f"{name} read as {spelled} (guessed)": count}
  elif offset is None:
    expr = naive if clocks else naive.cast(pl.Date)
  elif without is None:
    local = naive.dt.replace_time_zone("UTC")  # Dates alone.
    expr = pl.coalesce(zoned, local) if ok else zoned
  elif zone:
    local = naive.dt.replace_time_zone(
      zone, ambiguous="earliest", non_existent="null"
    )
    expr = pl.coalesce(zoned, local.dt.convert_time_zone("UTC"))
  else:
    raise InputError(
      f"{where} has times with a zone (row {offset}) and without (row "
      f"{without}): say how to read the latter with "
      'time_zone="Europe/Paris" or "UTC"'
    )
  _nearly_all(frame, column, expr, where, "ISO 8601" if not told else spelled)
  return frame.with_columns(expr.alias(name)), told


def formats(frame: pl.LazyFrame, name: str) -> list[str]:
  """Formats, with their clock, that read all dates like 31/12/2024 of a column.

  Two where days and months cannot be told apart; none where it is ISO 8601 text,
  or rows are written in several ways.
  """
  if frame.collect_schema()[name] != pl.String:
    return []
  column = pl.col(name)
  naive, zoned = iso(column)
  count, slashed, read = _one(
    frame,
    column.count(),
    column.str.contains(_DATE).sum().alias("slashed"),
    (naive.is_not_null() | zoned.is_not_null()).sum().alias("iso"),
  )
  if not count or slashed * 2 < count or read * 2 >= count:
    return []
  found = []
  for way in _candidates(frame, column)[0]:
    for clock in _WRITTEN:
      unread = _formatted(column, way + clock).is_null() & column.is_not_null()
      if not _one(frame, unread.any())[0]:
        found.append(way + clock)
        break
  return found


def _candidates(frame, column) -> tuple[list[str], list[str], str]:
  """Dates' formats that fit; day first and month first; the first value."""
  parts = column.str.extract_groups(_DATE).struct
  a, mark, b, c = (parts.field(str(i)) for i in range(1, 5))
  number = lambda e: e.cast(pl.Int64, strict=False)
  count, year_first, day_month, month_day, long, sign, value = _one(
    frame.filter(column.is_not_null()),
    column.count(),
    (a.str.len_chars() == 4).sum().alias("y"),
    ((number(a) <= 31) & (number(b) <= 12)).sum().alias("dm"),
    ((number(a) <= 12) & (number(b) <= 31)).sum().alias("md"),
    (c.str.len_chars() == 4).sum().alias("long"),
    mark.drop_nulls().first().alias("mark"),
    column.first().alias("value"),
  )
  allowed = count - _spare(count)
  year = "%Y" if long * 2 >= count else "%y"
  both = [f"%d{sign}%m{sign}{year}", f"%m{sign}%d{sign}{year}"]
  if year_first >= allowed:
    ways = [f"%Y{sign}%m{sign}%d"]
  else:
    # Of two that fit nearly all rows, one that fits all: of a few rows, a single
    # 31st tells.
    best = max(day_month, month_day)
    allowed = count if best == count else allowed
    fits = (day_month >= allowed, month_day >= allowed)
    ways = [w for w, fit in zip(both, fits, strict=True) if fit]
  return ways, both, value


def _guess(frame, column, where):
  """Format of text like 31/12/2024, which must be the only one."""
  ways, both, value = _candidates(frame, column)
  if len(ways) == 2:
    raise AmbiguousError(
      f"{where} can be read in two ways, such as {value!r}: declare "
      f'"format": "{both[0]}" (day first) or "{both[1]}" (month first)'
    )
  if not ways:
    bad = f"neither {both[0]!r} nor {both[1]!r} reads nearly all its rows"
    raise InputError(
      f'{where}: {bad}; the first value is {value!r}: declare its "format"'
    )
  expr = pl.coalesce(
    *(
      column.str.strip_chars().str.to_datetime(
        ways[0] + clock, time_unit="us", strict=False
      )
      for clock in _CLOCKS
    )
  )
  return expr, ways[0]


def _spare(count: int) -> int:
  """Rows of `count` that may be unreadable: 1 %, or two of a few."""
  return min(max(2, count // 100), count // 2)


def _nearly_all(frame, column, expr, where, how) -> None:
  bad = expr.is_null() & column.is_not_null()
  count, wrong, row, value = _one(
    frame,
    column.count(),
    bad.sum().alias("wrong"),
    bad.arg_true().first().alias("row"),
    column.filter(bad).first().alias("value"),
  )
  if wrong > _spare(count):
    raise InputError(
      f"{where}: {how} does not read {wrong:,} of {count:,} values; the first "
      f"is {value!r} in row {row} (from 0, without a header): declare it, as in "
      'columns={"time": {"from": ..., "format": "%d/%m/%Y %H:%M"}}'
    )


def _one(frame: pl.LazyFrame, *exprs: pl.Expr) -> tuple:
  """One row of aggregates."""
  return frame.select(*exprs).collect(engine="streaming").row(0)


def local_day(frame: pl.LazyFrame, zone: str, where: str) -> pl.Expr:
  """Column time as a Date in `zone`, or as the integer day that it is.

  Raises:
    InputError: It is no time.
  """
  dtype = frame.collect_schema()["time"]
  column = pl.col("time")
  if dtype.is_integer():
    return column
  if dtype.is_float():
    return column.cast(pl.Int64, strict=False)
  if isinstance(dtype, pl.Datetime) and dtype.time_zone:
    column = column.dt.convert_time_zone(zone or "UTC")
    column = column.dt.replace_time_zone(None)
  elif not (isinstance(dtype, pl.Datetime) or dtype in (pl.Date, pl.Null)):
    raise InputError(
      f"{where}: column 'time' is {dtype}, a time is expected: Datetime, Date, "
      "text with or without a declared format, or integers with a unit"
    )
  return column.cast(pl.Date)
