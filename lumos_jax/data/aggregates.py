"""Hand-made features of a user at an origin, from any data set's records.

They are what a careful analyst would make without looking at the data set: what
happened in windows before the origin, how long ago, and what the calendar holds
on both sides. O origins, F features.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumos_jax.data import ablation, instants
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib

WINDOWS_DAYS = (7, 14, 28, 56, 112, 365)
COUNT_WINDOWS_DAYS = (28, 91, 365)
COUNTED_VALUES = 10  # Of a categorical field, the most frequent ones.
PAST_CALENDAR_DAYS = (28, 112)
FUTURE_CALENDAR_DAYS = (7, 14, 28)


class Maker:
  """Makes features of one user at a time."""

  def __init__(
    self,
    schema: schema_lib.Schema,
    calendar: Any,
    tasks: Sequence[tasks_lib.Task],
    future: bool = True,
  ):
    """With `future` False the calendar is what "no_future" leaves of it."""
    self._schema, self._calendar = schema, calendar
    horizon = max(t.horizon_days for t in tasks)
    days = {d for d in FUTURE_CALENDAR_DAYS if d < horizon} | {horizon}
    self._entries = calendar.width - calendar.date_columns
    columns = ablation.Columns.of(calendar)
    # Entries alone: dates tell the same on either side.
    self._past, self._next = (
      np.flatnonzero(kept[: self._entries])
      for kept in columns.kept("" if future else "no_future")
    )
    self._ahead = sorted(days) if len(self._next) else []
    self._names: list[str] = []
    self._mean, self._windows = [], []
    for f in schema.dense("activity"):
      n, vector = schema_lib.width(f), isinstance(f, schema_lib.Vector)
      numeric = isinstance(f, schema_lib.Numeric)
      # Means and extremes of days do not add up; embeddings are wide.
      self._mean += [not numeric or f.daily not in ("sum", "drop")] * n
      self._windows += [1 if vector else len(WINDOWS_DAYS)] * n
      self._names += [f.name] if n == 1 else [f"{f.name}:{i}" for i in range(n)]
    self._mean = np.asarray(self._mean, bool)
    # Recency and frequency of each field that a task is made of.
    fields = list(dict.fromkeys(t.field for t in tasks if t.field))
    self._fields = {f: schema.numeric_column("activity", f) for f in fields}
    # A vocabulary holds its values by descending frequency of training rows.
    self._counted = [
      (c, i, f"{f.name}={(f.values or range(f.size))[i]}")
      for c, f in enumerate(schema.categorical("activity"))
      # Bins and parts of a clock stand in the order of their values.
      if not isinstance(f, schema_lib.Binned | schema_lib.Clock)
      for i in range(min(f.size - schema_lib.FIRST_VALUE, COUNTED_VALUES))
    ]
    self.names, self.categorical = self._layout()

  def _layout(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names in the order that `__call__` makes columns in."""
    names, ids = [], []
    for k, w in enumerate(WINDOWS_DAYS):
      names.append(f"days_active/{w}")
      for name, n in zip(self._names, self._windows):
        if k >= len(WINDOWS_DAYS) - n:
          names.append(f"{name}/{w}")
      names += [f"{f}/days/{w}" for f in self._fields]
    names += ["days_since_active", "days_since_first"]
    names += [f"days_since/{f}" for f in self._fields]
    names += [f"{v}/{w}" for w in COUNT_WINDOWS_DAYS for *_, v in self._counted]
    columns = self._calendar.columns
    past, after = ([columns[i] for i in x] for x in (self._past, self._next))
    names += [f"{c}/past_{d}" for d in PAST_CALENDAR_DAYS for c in past]
    names += [f"{c}/next_{d}" for d in self._ahead for c in after]
    names.append("origin_weekday" if self._schema.epoch else "origin_day")
    if self._schema.epoch:
      ids.append(len(names) - 1)
    for f in self._schema.categorical("profile"):
      ids.append(len(names))
      names.append(f"profile/{f.name}")
    for f in self._schema.dense("profile"):
      n = schema_lib.width(f)
      each = [f.name] if n == 1 else [f"{f.name}:{i}" for i in range(n)]
      names += [f"profile/{e}" for e in each]
    return tuple(names), tuple(ids)

  def __call__(
    self, record: Mapping[str, np.ndarray], origins: np.ndarray
  ) -> np.ndarray:
    """Features of one user at ascending origins [O]: float32 [O, F].

    No activity row at or after an origin is read for it.
    """
    origins = np.asarray(origins, np.int64)
    first, last = self._schema.first_day, int(origins.max())
    first = min(first, int(origins.min()))
    day = instants.days(record).astype(np.int64)
    use = (day >= first) & (day < last)
    day, values = day[use] - first, record["numeric"][use].astype(np.float64)
    at = origins - first
    parts = [self._activity(day, values, at, last - first)]
    parts.append(self._recency(day, values, at))
    parts.append(self._counts(day, record["categorical"][use], at))
    groups = record["groups"].tolist()
    parts.append(self._calendar_sums(groups, origins, first))
    column = lambda x: np.asarray(x, np.float64).reshape(len(origins), -1)
    if self._schema.epoch:
      start = datetime.date.fromisoformat(self._schema.epoch).weekday()
      parts.append(column((origins + start) % 7))
    else:
      parts.append(column(origins))
    wide = lambda x: np.broadcast_to(x, (len(origins), len(x)))
    parts += [
      wide(record["profile_categorical"]),
      wide(record["profile_numeric"]),
    ]
    return np.concatenate(parts, 1).astype(np.float32)

  def _activity(self, day, values, at, days):
    """In each window: days active, each number's sum or mean, days non-zero."""
    known = ~np.isnan(values)
    wide = values.shape[1]
    total, count, rows = (np.zeros((days + 1, n)) for n in (wide, wide, 1))
    np.add.at(total, day + 1, np.where(known, values, 0.0))
    np.add.at(count, day + 1, known)
    rows[np.unique(day) + 1] = 1.0
    some = total[:, list(self._fields.values())] != 0
    total, count, rows, some_days = (
      np.cumsum(x, 0, dtype=np.float64) for x in (total, count, rows, some)
    )
    parts = []
    for k, w in enumerate(WINDOWS_DAYS):
      low = np.maximum(at - w, 0)
      inside = lambda x, low=low: x[at] - x[low]
      sums, n = inside(total), inside(count)
      mean = np.divide(sums, n, out=np.full_like(sums, np.nan), where=n > 0)
      keep = [k >= len(WINDOWS_DAYS) - x for x in self._windows]
      parts += [inside(rows), np.where(self._mean, mean, sums)[:, keep]]
      parts.append(inside(some_days))
    return np.concatenate(parts, 1)

  def _recency(self, day, values, at):
    """Days since the last and first active day, and per task field non-zero."""
    parts = [_since(day, at)]
    start = day[0] if len(day) else at.max()
    parts.append(np.where(at > start, at - start, np.nan))
    for c in self._fields.values():
      parts.append(_since(day[np.nan_to_num(values[:, c]) != 0], at))
    return np.stack(parts, 1)

  def _counts(self, day, ids, at):
    """In each window: rows of each frequent value of a categorical field."""
    found = []
    for c, i, _ in self._counted:
      mine = day[ids[:, c] == schema_lib.FIRST_VALUE + i]
      before = np.searchsorted(mine, at)
      found.append(
        [before - np.searchsorted(mine, at - w) for w in COUNT_WINDOWS_DAYS]
      )
    shape = len(self._counted), len(COUNT_WINDOWS_DAYS), len(at)
    counts = np.asarray(found, np.float64).reshape(shape)
    return counts.transpose(2, 1, 0).reshape(len(at), -1)

  def _calendar_sums(self, groups, origins, first):
    """Sums of the calendar's columns over days before and after."""
    calendar, n = self._calendar, self._entries
    longest = max(PAST_CALENDAR_DAYS)
    ahead = max(self._ahead, default=0)
    low, high = int(origins.min()) - longest, int(origins.max())
    # The future in one piece, unless what is known depends on the origin.
    joined = not calendar.late
    rows = calendar.rows(low, high + ahead * joined, groups)[:, :n]
    sums = np.pad(np.cumsum(rows, 0, dtype=np.float64), ((1, 0), (0, 0)))
    at = origins - low
    # As for activity, days before the data do not count.
    parts = [
      (sums[at] - sums[np.maximum(at - d, max(first - low, 0))])[:, self._past]
      for d in PAST_CALENDAR_DAYS
    ]
    if joined:
      parts += [(sums[at + d] - sums[at])[:, self._next] for d in self._ahead]
    elif self._ahead:
      future = np.stack(
        [
          calendar.rows(o, o + ahead, groups, known_at=o)[:, :n]
          for o in origins.tolist()
        ]
      )
      parts += [future[:, :d].sum(1)[:, self._next] for d in self._ahead]
    return np.concatenate(parts, 1)


def _since(days: np.ndarray, at: np.ndarray) -> np.ndarray:
  """Days from the last of ascending `days` before each of `at`; NaN if none."""
  i = np.searchsorted(days, at) - 1
  if not len(days):
    return np.full(len(at), np.nan)
  return np.where(i >= 0, at - days[np.maximum(i, 0)], np.nan)
