"""Events as a client says them -> encoded rows, as data_prep encodes them.

One event at a time and without frames: some tens of microseconds. Known values get
the codes that `data_prep --fitted` gives them, whatever else is in the request.
"""

import bisect
import datetime
import math
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lumos_jax.data import instants
from lumos_jax.data import schema as schema_lib
from lumos_jax.names import near

_SECOND = 1_000_000  # Microseconds.
_DAY = instants.DAY_SECONDS * _SECOND
_HOUR = 3600 * _SECOND
_UTC = datetime.UTC
_ORIGIN = datetime.datetime(1970, 1, 1, tzinfo=_UTC)
_NAN = math.nan
_FLOAT32_MOST = float(np.finfo(np.float32).max)


class EventError(ValueError):
  """An event cannot be used; says which field and why."""


class Row(NamedTuple):
  """An encoded event.

  Attributes:
    day: Local day since the epoch.
    time: Instant, microseconds since midnight UTC of the epoch's day.
    categorical: int ids [C].
    numeric: floats [N].
  """

  day: int
  time: int
  categorical: list[int]
  numeric: list[float]


class Moment(NamedTuple):
  """An instant, and the local clock then; microseconds since the epoch."""

  instant: int
  local: int


class Clock:
  """Reads times by a schema's epoch and time zone (data_prep/times.py)."""

  def __init__(self, schema: schema_lib.Schema):
    self.epoch, zone = schema.epoch, schema.time_zone
    self._zone = None
    if zone and zone != "UTC":
      self._zone = zoneinfo.ZoneInfo(zone)
    self._start = 0
    if self.epoch:
      first = datetime.date.fromisoformat(self.epoch)
      self._start = (first - datetime.date(1970, 1, 1)).days * _DAY
    self.epoch_day = self._start // _DAY

  def read(self, value: Any, where: str = "time") -> Moment:
    """A time: ISO 8601 text, or a day number where days have no dates.

    Raises:
      EventError: It is neither.
    """
    if not self.epoch:
      if isinstance(value, bool) or not isinstance(value, int):
        raise EventError(
          f"{where}: the data count days without dates: give a whole number of "
          "days"
        )
      if abs(value) >= 2**31:
        raise EventError(f"{where}: the day does not fit into 32 bits")
      return Moment(value * _DAY, value * _DAY)
    if not isinstance(value, str):
      raise EventError(
        f'{where}: give ISO 8601 text, for example "2020-01-31T12:00:00Z"'
      )
    try:
      at = datetime.datetime.fromisoformat(value.strip())
      if at.tzinfo is None:
        # The first of an hour that comes twice; standard time in one skipped.
        at = at.replace(tzinfo=self._zone or _UTC, fold=0)
      instant = (at - _ORIGIN) // datetime.timedelta(microseconds=1)
      # The first and the last day of the calendar lie outside it elsewhere.
      return self._moment(instant)
    except (ValueError, OverflowError):
      raise EventError(
        f'{where}: no ISO 8601 time, for example "2020-01-31T12:00:00Z"'
      ) from None

  def _moment(self, instant: int) -> Moment:
    local = instant
    if self._zone is not None:
      at = _ORIGIN + datetime.timedelta(microseconds=instant)
      offset = at.astimezone(self._zone).utcoffset()
      local += offset // datetime.timedelta(microseconds=1)
    return Moment(instant - self._start, local - self._start)

  def now(self) -> Moment | None:
    """This moment; None where days have no dates."""
    if not self.epoch:
      return None
    now = datetime.datetime.now(_UTC)
    return self._moment((now - _ORIGIN) // datetime.timedelta(microseconds=1))

  def stamp(self, local: int) -> np.ndarray:
    """A local clock [1] as `data_prep` reads time stamps."""
    seconds = (local + self._start) // _SECOND
    return np.asarray([seconds], "datetime64[s]")

  def day_text(self, day: int) -> str | int:
    """A day as ISO date, or as it is where days have no dates."""
    if not self.epoch:
      return day
    start = datetime.date.fromisoformat(self.epoch)
    return str(start + datetime.timedelta(days=day))

  def time_text(self, instant: int) -> str | int:
    """An instant as ISO 8601 text in UTC, or a day number."""
    if not self.epoch:
      return instant // _DAY
    at = _ORIGIN + datetime.timedelta(microseconds=instant + self._start)
    return at.isoformat().replace("+00:00", "Z")


class Encoder:
  """Encodes rows of one table with its fitted fields.

  Attributes:
    columns: What an event must say: {column: field that reads it}.
  """

  def __init__(
    self,
    schema: schema_lib.Schema,
    fields: Sequence[schema_lib.Field],
    table: str = "activity",
  ):
    """Keeps lookups of each field.

    Args:
      schema: Of the run.
      fields: Of the event rows (`schema.events` where rows are days), or of the
        profile.
      table: For messages.
    """
    self.clock, self._table = Clock(schema), table
    self.fields = tuple(fields)
    self.columns: dict[str, schema_lib.Field] = {}
    self._ids: dict[str, dict[Any, int]] = {}
    for f in fields:
      if name := schema_lib.column(f):
        self.columns.setdefault(name, f)
      if isinstance(f, schema_lib.Categorical | schema_lib.Composite):
        first = schema_lib.FIRST_VALUE
        self._ids[f.name] = {
          v: i for i, v in enumerate(f.values or (), start=first)
        }
    self._known = {*self.columns, "time"}
    # The event's own time needs not be said twice.
    self._needed = set(self.columns) - {"time"}

  def encode(
    self,
    values: Mapping[str, Any],
    at: Moment,
    before: int | None = None,
    where: str = "event",
  ) -> Row:
    """Encodes an event.

    Args:
      values: {column: value}; null where it is not known. Every column of the
        fields is needed.
      at: When it happened.
      before: Instant of the user's event before, for gaps; None for none.
      where: For messages.

    Raises:
      EventError: A column is unknown, absent, or has a value of another type.
    """
    self._check_names(values, where)
    ids: dict[str, int] = {}
    numeric: list[float] = []
    for f in self.fields:
      if isinstance(f, schema_lib.Categorical):
        ids[f.name] = self._category(f, values[f.name], where)
      elif isinstance(f, schema_lib.Numeric):
        numeric.append(self._number(f, values[f.name], f.nullable, where))
      elif isinstance(f, schema_lib.Binned):
        x = self._number(f, values[f.of], True, where)
        ids[f.name] = schema_lib.MISSING
        if not math.isnan(x):
          place = bisect.bisect_right(f.edges or (), x)
          ids[f.name] = place + schema_lib.FIRST_VALUE
      elif isinstance(f, schema_lib.Clock):
        ids[f.name] = self._clock(f, at, before)
      elif isinstance(f, schema_lib.Composite):
        ids[f.name] = self._token(f, ids)
      elif isinstance(f, schema_lib.Timestamp):
        numeric += self._stamp(f, values, at, where)
      else:
        numeric += self._vector(f, values[f.name], where)
    day = at.local // _DAY
    return Row(day, at.instant, list(ids.values()), numeric)

  def _check_names(self, values, where):
    for name in values:
      if name not in self._known:
        shown = name[:40]
        raise EventError(
          f"{where}: the {self._table} has no field {shown!r}"
          f"{near(shown, self.columns)} It has {sorted(self.columns)}"
        )
    for name in self._needed:
      if name not in values:
        raise EventError(
          f"{where}: field {name!r} is absent: give its value, or null where it "
          "is not known"
        )

  def _category(self, f, value, where) -> int:
    if value is None:
      return schema_lib.MISSING
    if isinstance(value, bool):
      value = "true" if value else "false"
    elif isinstance(value, int):
      value = str(value)
    elif not isinstance(value, str):
      raise EventError(
        f"{where}: field {f.name!r} is a category: give text or a whole number"
      )
    return self._ids[f.name].get(value, schema_lib.UNKNOWN)

  def _number(self, f, value, nullable, where) -> float:
    name = schema_lib.column(f)
    if value is None:
      if nullable:
        return _NAN
      raise EventError(f"{where}: field {name!r} must not be null")
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise EventError(f"{where}: field {name!r} must be a number")
    # Also whole numbers that no float32 holds.
    if not abs(value) <= _FLOAT32_MOST:
      raise EventError(f"{where}: field {name!r} must be finite in 32 bits")
    return float(value)

  def _clock(self, f, at: Moment, before) -> int:
    first = schema_lib.FIRST_VALUE
    if f.part == "hour":
      return at.local % _DAY // _HOUR + first
    day = at.local // _DAY + self.clock.epoch_day
    if f.part == "weekday":  # 1970-01-01 was a Thursday.
      return (day + 3) % 7 + first
    if f.part == "monthday":
      date = np.datetime64(day, "D")
      return int((date - date.astype("datetime64[M]")).astype(int)) + first
    if before is None:
      return schema_lib.MISSING
    most = schema_lib.CLOCK_PARTS["gap"] - 1
    gap = max(at.instant - before, 0)
    return min(math.frexp(gap / _SECOND + 1.0)[1] - 1, most) + first

  def _token(self, f, ids) -> int:
    parts, known = tuple(ids[n] for n in f.of), self._ids[f.name]
    found = known.get(parts, schema_lib.UNKNOWN)
    if found == schema_lib.UNKNOWN and f.backoff:
      some = tuple(
        p if n in f.backoff else schema_lib.ANY for n, p in zip(f.of, parts)
      )
      found = known.get(some, schema_lib.UNKNOWN)
    return found

  def _stamp(self, f, values, at, where) -> list[float]:
    from lumos_jax.data_prep import encode  # Brings Polars; not to look up ids.

    local = at.local
    if f.name != "time":
      value = values[f.name]
      if value is None:
        return [_NAN] * schema_lib.width(f)
      local = self.clock.read(value, f"{where}: field {f.name!r}").local
    return encode.cyclic(f, self.clock.stamp(local))[0].tolist()

  def _vector(self, f, value, where) -> list[float]:
    if value is None:
      return [_NAN] * f.size
    if not isinstance(value, list) or len(value) != f.size:
      raise EventError(
        f"{where}: field {f.name!r} must be a list of {f.size} numbers"
      )
    return [self._number(f, x, False, where) for x in value]


def profile(
  encoder: Encoder, values: Mapping[str, Any] | None
) -> tuple[np.ndarray, np.ndarray]:
  """The profile's two rows; of nobody in particular without values."""
  from lumos_jax.data_prep import fit  # Brings Polars.

  if values is None:
    ids = [schema_lib.MISSING for f in encoder.fields if schema_lib.has_ids(f)]
    return np.asarray(ids, np.int32), fit.absent(encoder.fields)
  row = encoder.encode(values, Moment(0, 0), where="profile")
  return (
    np.asarray(row.categorical, np.int32),
    np.asarray(row.numeric, np.float32),
  )
