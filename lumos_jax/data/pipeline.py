"""Grain pipeline: records -> origins -> dense history -> batch -> device.

Dimensions: B batch, T history rows, O origins, H horizon days, K calendar
columns, N numeric columns, C categorical columns, M tasks.
"""

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import hosts as hosts_lib
from lumos_jax.data import instants
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.data.origins import check_config, horizon_days

__all__ = [
  "Batch",
  "DevicePrefetch",
  "Example",
  "batches_at",
  "check_config",
  "eval_batches",
  "horizon_days",
  "train_iterator",
]

Batch = dict[str, Any]


class Example:
  """Turns one user's record into arrays for given origins (no batch axis)."""

  def __init__(
    self,
    schema: schema_lib.Schema,
    calendar: calendar_lib.Calendar,
    tasks: Sequence[tasks_lib.Task],
    history_days: int,
    daily_labels: bool = False,
    labels: bool = True,
  ):
    """Keeps what every user shares.

    Args:
      schema: Of the data set.
      calendar: Of the data set, or an edited one.
      tasks: Declared tasks.
      history_days: T, rows of history.
      daily_labels: Also labels of each day.
      labels: False where only forecasts are wanted: none is computed.
    """
    tasks_lib.check(tasks, schema)
    self.schema, self.calendar, self.tasks = schema, calendar, tuple(tasks)
    self.history_days = history_days
    self.horizon = horizon_days(tasks)
    self.daily_labels, self.labels = daily_labels, labels

  def __call__(self, record: Batch, origins: np.ndarray) -> Batch:
    """Arrays of one user; `origins` ascending int [O], history ends at the last.

    No row at or after the last origin is read, but for the labels.
    """
    origins = np.asarray(origins, np.int64)
    end, horizon = int(origins[-1]), self.horizon
    if self.schema.rows == "day":
      out = self._days(record, end)
      out["origin"] = (origins - (end - self.history_days)).astype(np.int32)
    else:
      out = self._events(record, end)
      out["origin"] = np.searchsorted(out["history_day"], origins).astype(
        np.int32
      )
    groups = record["groups"].tolist()
    first = int(origins[0])
    if self.calendar.late:
      future = np.stack(
        [
          self.calendar.rows(o, o + horizon, groups, known_at=o)
          for o in origins.tolist()
        ]
      )
    else:
      grid = self.calendar.rows(first, end + horizon, groups)
      at = (origins - first)[:, None] + np.arange(horizon)
      future = grid[at]
    out |= {
      "origin_day": origins.astype(np.int32),
      "future_calendar": future,
      "profile_categorical": record["profile_categorical"],
      "profile_numeric": record["profile_numeric"],
    }
    if self.labels:
      labels, mask = tasks_lib.labels(self.tasks, self.schema, record, origins)
      if self.schema.rows == "event":
        mask &= self._fits(record, origins)[:, None]
      out |= {"labels": labels, "label_mask": mask}
    if self.labels and self.daily_labels:
      out["daily_labels"] = self._daily_labels(record, origins)
    return out

  def _days(self, record: Batch, end: int) -> Batch:
    """Dense days [end - T, end): days without activity are rows of zeros."""
    rows, first = self.history_days, end - self.history_days
    day = np.arange(first, end, dtype=np.int32)
    inside = (record["day"] >= first) & (record["day"] < end)
    at = record["day"][inside] - first
    shape = record["numeric"].shape[1], record["categorical"].shape[1]
    numeric = np.zeros((rows, shape[0]), np.float32)
    categorical = np.zeros((rows, shape[1]), np.int32)
    numeric[at] = record["numeric"][inside]
    categorical[at] = record["categorical"][inside]
    return {
      "history_numeric": numeric,
      "history_categorical": categorical,
      "history_calendar": self.calendar.rows(
        first, end, record["groups"].tolist()
      ),
      "history_day": day,
      "history_mask": day >= self.schema.first_day,
    }

  def _events(self, record: Batch, end: int) -> Batch:
    """The last T events before `end`, left-padded with masked rows."""
    rows, days = self.history_days, instants.days(record)
    stop = int(np.searchsorted(days, end))
    start = max(0, stop - rows)
    pad = rows - (stop - start)
    day = days[start:stop]
    first = int(day[0]) if len(day) else end
    day = np.concatenate([np.full(pad, first), day]).astype(np.int32)
    widen = lambda x: np.pad(x[start:stop], ((pad, 0), (0, 0)))
    calendar = self.calendar.rows(first, end, record["groups"].tolist())
    if not len(calendar):
      calendar = np.zeros((1, self.calendar.width), np.float32)
    return {
      "history_numeric": widen(record["numeric"]),
      "history_categorical": widen(record["categorical"]),
      "history_calendar": calendar[np.minimum(day - first, len(calendar) - 1)],
      "history_day": day,
      "history_mask": np.arange(rows) >= pad,
    }

  def _fits(self, record: Batch, origins: np.ndarray) -> np.ndarray:
    """Whether the rows hold an origin's history: bool [O].

    Rows are the last T events before the last origin. Of the events before an
    earlier one they may hold few or none, though there are some: such a history
    is like nobody's. Half of T will do, or all that there are.
    """
    before = np.searchsorted(instants.days(record), origins)
    start = max(0, int(before[-1]) - self.history_days)
    least = np.minimum(before, -(-self.history_days // 2))
    return before - start >= least

  def _daily_labels(self, record: Batch, origins: np.ndarray) -> np.ndarray:
    """Each future day's own value per task: float32 [O, H, M]."""
    first, horizon = int(origins[0]), self.horizon
    last = int(origins[-1]) + horizon
    at = (origins - first)[:, None] + np.arange(horizon)
    out = np.zeros((len(origins), horizon, len(self.tasks)), np.float32)
    for m, task in enumerate(self.tasks):
      if task.reduce == "static":
        continue
      values = tasks_lib.daily_values(task, self.schema, record, first, last)
      if task.kind == "binary":
        values = values != 0
      out[:, :, m] = values[at]
    return out


class _SampleOrigins(grain.transforms.RandomMap):
  """Draws the last origin; the others lie `stride` days before each other."""

  def __init__(self, example: Example, cfg):
    self._example = example
    self._first, self._last = cfg.train_origin_first, cfg.train_origin_last
    self._count, self._stride = cfg.origins_per_example, cfg.origin_stride_days
    self._jitter = cfg.origin_jitter_days

  def random_map(self, record: Batch, rng: np.random.Generator) -> Batch:
    low = max(self._first, self._last - self._jitter)
    last = int(rng.integers(low, self._last + 1))
    steps = np.arange(self._count - 1, -1, -1)
    origins = last - self._stride * steps
    out = self._example(record, origins)
    # An origin before the first allowed one keeps its place, without a loss.
    out["label_mask"] &= (origins >= self._first)[:, None]
    return out


def train_iterator(
  records, cfg, tasks: Sequence[tasks_lib.Task], batch_size: int, seed: int
) -> grain.DatasetIterator:
  """Endless shuffled batches of this host's users; its state can be saved.

  Args:
    records: An open `Records`.
    cfg: `config.data`.
    tasks: Declared tasks.
    batch_size: B over all hosts.
    seed: Of shuffling and of drawn origins.

  Raises:
    ValueError: B does not divide by the hosts; see `check_config`.
  """
  check_config(cfg, tasks, records.schema)
  source = records.source(cfg.train_split)
  users = hosts_lib.shuffled(source, seed)
  example = Example(
    records.schema,
    records.calendar,
    tasks,
    cfg.history_days,
    cfg.daily_labels,
  )
  examples = users.random_map(_SampleOrigins(example, cfg))
  examples, rows = hosts_lib.share(examples, batch_size)
  ahead = 2 * max(1, cfg.read_threads)  # Batches, not users.
  return iter(hosts_lib.read_ahead(examples.batch(rows), cfg, ahead))


def eval_batches(
  records,
  cfg,
  tasks: Sequence[tasks_lib.Task],
  split: str,
  origin: int,
  batch_size: int,
  calendar: calendar_lib.Calendar | None = None,
) -> Iterator[Batch]:
  """Each user of this host's slice once, at one origin; O = 1.

  A host with fewer users than others yields padding-only batches, so that all
  hosts take the same number of steps.

  Args:
    records: An open `Records`.
    cfg: `config.data`.
    tasks: Declared tasks.
    split: Users to take.
    origin: Day of the forecast.
    batch_size: B on this host.
    calendar: Another calendar than the data's (a what-if).
  """
  source = records.source(split)
  hosts, host = jax.process_count(), jax.process_index()
  mine = range(host, len(source), hosts)
  per_host = math.ceil(len(source) / hosts)
  steps = math.ceil(per_host / batch_size)
  groups = (
    [source[i] for i in mine[step * batch_size : (step + 1) * batch_size]]
    for step in range(steps)
  )
  yield from batches_at(
    records, cfg, tasks, groups, origin, batch_size, source[0], calendar
  )


def batches_at(
  records,
  cfg,
  tasks: Sequence[tasks_lib.Task],
  groups: Iterable[Sequence[Batch]],
  origin: int,
  batch_size: int,
  spare: Batch,
  calendar: calendar_lib.Calendar | None = None,
  labels: bool = True,
) -> Iterator[Batch]:
  """A batch of each group of records, at one origin; O = 1.

  Batches are padded with copies, `user_mask` False. `key` holds the user ids as a
  host array. At an origin after the data's last day there are no labels, which
  `label_mask` says.

  Args:
    records: An open `Records`: schema and calendar.
    cfg: `config.data`.
    tasks: Declared tasks.
    groups: At most B records each.
    origin: Day of the forecast.
    batch_size: B.
    spare: A record to pad an empty group with.
    calendar: Another calendar than the data's (a what-if).
    labels: Whether batches hold labels.
  """
  example = Example(
    records.schema,
    calendar or records.calendar,
    tasks,
    cfg.eval_history_days,
    cfg.daily_labels,
    labels,
  )
  origins = np.asarray([origin])
  for found in groups:
    parts = [example(r, origins) for r in found or [spare]]
    parts += parts[-1:] * (batch_size - len(parts))
    batch = {k: np.stack([p[k] for p in parts]) for k in parts[0]}
    batch["user_mask"] = np.arange(batch_size) < len(found)
    keys = [str(r["key"]) for r in found]
    batch["key"] = np.asarray(keys + [""] * (batch_size - len(keys)))
    yield batch


class DevicePrefetch:
  """Keeps `depth` batches on their way to the devices.

  `state()` is the input position after the last batch handed out, not after
  the last one read ahead: this is what a checkpoint has to keep.
  """

  def __init__(
    self,
    iterator: grain.DatasetIterator,
    put: Callable[[Batch], Batch],
    depth: int = 2,
  ):
    self._iterator, self._put = iterator, put
    self._queue = collections.deque()
    self._depth = depth
    self._state = iterator.get_state()

  def __iter__(self):
    return self

  def __next__(self) -> Batch:
    while len(self._queue) < self._depth:
      with hosts_lib.naming_lost_workers():
        batch = self._put(next(self._iterator))
      self._queue.append((batch, self._iterator.get_state()))
    batch, self._state = self._queue.popleft()
    return batch

  def state(self) -> Any:
    """Position to resume from."""
    return self._state

  def set_state(self, state: Any) -> None:
    """Goes to a position that `state` gave; what was read ahead is dropped."""
    self._queue.clear()
    self._iterator.set_state(state)
    self._state = state

  def close(self) -> None:
    """Ends worker processes, and frees what they have read ahead."""
    self._queue.clear()
    hosts_lib.close(self._iterator)
