"""Context of what is scored: hand-made features, and the event's own fields.

Of a user as of a day, the aggregates of everything before it (aggregates.py).
Of an event, these as of its day, its own fields, and how it stands to the user's
earlier events. No event behind the scored one is read, nor its label.

F features, O origins, N events.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumos_jax.data import aggregates, instants
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib

UNITS = ("user", "event")
_DAY_MICROS = 86_400_000_000


class Context:
  """Makes context features, numbers and ids in one row of float32.

  Attributes:
    names: F names.
    sizes: {position: number of ids} of features that are ids.
  """

  def __init__(
    self,
    schema: schema_lib.Schema,
    calendar: Any,
    tasks: Sequence[tasks_lib.Task],
    unit: str,
    last: int = 0,
  ):
    """Of the units in `UNITS`; events need rows of events.

    Args:
      schema: Of the data set.
      calendar: Of the data set.
      tasks: Declared tasks.
      unit: Of UNITS.
      last: Fields of so many last rows before the point are features, too.
    """
    if unit == "event" and schema.rows != "event":
      raise schema_lib.SchemaError(
        f"data.unit = 'event': {schema.name!r} has a row a day: prepare it with "
        "rows=event, or score users (data.unit = 'user')"
      )
    self._maker = aggregates.Maker(schema, calendar, tasks)
    self._events = unit == "event"
    ids = [7] if schema.epoch else []
    ids += [f.size for f in schema.categorical("profile")]
    self.sizes = dict(zip(self._maker.categorical, ids, strict=True))
    names, self._last = list(self._maker.names), last
    # Bins and products say again what their parts say.
    plain = schema_lib.Categorical | schema_lib.Clock
    self._columns = [
      i
      for i, f in enumerate(schema.categorical("activity"))
      if isinstance(f, plain)
    ]
    fields = [schema.categorical("activity")[i] for i in self._columns]
    places = [f"last_{i + 1}" for i in range(last)]
    for place in [*places, *(["event"] if self._events else [])]:
      for f in fields:
        self.sizes[len(names)] = f.size
        names.append(f"{place}/{f.name}")
      for f in schema.dense("activity"):
        n = schema_lib.width(f)
        each = [f.name] if n == 1 else [f"{f.name}:{i}" for i in range(n)]
        names += [f"{place}/{e}" for e in each]
    if self._events:
      self._own = [
        i for i, f in enumerate(fields) if isinstance(f, schema_lib.Categorical)
      ]
      names += ["seconds_since_event", "events_before", "events_in_a_day"]
      names += [f"seen_before/{fields[i].name}" for i in self._own]
    self.names = tuple(names)

  def column(self, name: str, key: str) -> int:
    """Position of a feature; ValueError names the config key and what there is."""
    if name not in self.names:
      own = [n for n in self.names if n.startswith(("event/", "profile/"))]
      raise ValueError(f"{key} = {name!r}: no such feature; among others {own}")
    return self.names.index(name)

  def aggregates(
    self, record: Mapping[str, np.ndarray], days: np.ndarray
  ) -> np.ndarray:
    """What is said of the rows before ascending days [O]: float32 [O, A]."""
    return self._maker(record, days)

  def of_user(
    self,
    record: Mapping[str, np.ndarray],
    origins: np.ndarray,
    before: np.ndarray | None = None,
  ) -> np.ndarray:
    """float32 [O, F] as of ascending days [O].

    Args:
      record: Of the user.
      origins: The days.
      before: Their `aggregates`, where they are there already.
    """
    found = self.aggregates(record, origins) if before is None else before
    if not self._last:
      return found
    rows = np.searchsorted(instants.days(record), origins)
    return np.concatenate([found, self._lags(record, rows)], 1)

  def _lags(self, record, rows: np.ndarray) -> np.ndarray:
    """Fields of the last rows before each of `rows` [n]; missing where none."""
    parts = [np.zeros((len(rows), 0))]
    for i in range(1, self._last + 1):
      at = rows - i
      some = (at >= 0)[:, None]
      at = np.maximum(at, 0)
      if not len(record["day"]):
        shape = len(rows), record["numeric"].shape[1]
        parts += [
          np.zeros((len(rows), len(self._columns))),
          np.full(shape, np.nan),
        ]
        continue
      ids = record["categorical"][at][:, self._columns]
      parts.append(np.where(some, ids, schema_lib.MISSING))
      parts.append(np.where(some, record["numeric"][at], np.nan))
    return np.concatenate(parts, 1)

  def of_events(
    self,
    record: Mapping[str, np.ndarray],
    events: np.ndarray,
    before: np.ndarray | None = None,
  ) -> np.ndarray:
    """float32 [N, F] of ascending events, positions in the record.

    Args:
      record: Of the user.
      events: int [N].
      before: `aggregates` of each event's day, where they are there already.
    """
    if before is None:
      days, at = np.unique(instants.days(record)[events], return_inverse=True)
      before = self.aggregates(record, days)[at]
    ids, time = record["categorical"], record["time"]
    gap = np.full(len(events), np.nan)
    later = events > 0
    gap[later] = (time[events[later]] - time[events[later] - 1]) / 1e6
    recent = events - np.searchsorted(time, time[events] - _DAY_MICROS)
    last = int(events.max()) + 1
    seen = [_earlier(ids[:last, self._columns[i]])[events] for i in self._own]
    parts = [
      before,
      self._lags(record, events),
      ids[events][:, self._columns],
      record["numeric"][events],
      np.stack([gap, events, recent, *seen], 1),
    ]
    return np.concatenate(parts, 1).astype(np.float32)


def _earlier(ids: np.ndarray) -> np.ndarray:
  """How many earlier rows have each row's id: int [T]."""
  order = np.argsort(ids, kind="stable")
  ranked = ids[order]
  start = np.searchsorted(ranked, ranked)
  out = np.empty(len(ids), np.int64)
  out[order] = np.arange(len(ids)) - start
  return out
