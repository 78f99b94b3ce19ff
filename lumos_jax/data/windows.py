"""Cuts a user's events: what trains, what is held out, what is predicted.

The target of a row is the next event's value of one field. Long users are cut
into windows that overlap.

Dimensions: T tokens of a row, C categorical and N numeric columns of an event,
Cp and Np of a profile.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lumos_jax.data import instants, running
from lumos_jax.data import schema as schema_lib

Batch = dict[str, Any]
HOLDOUTS = ("last", "time")
_PROFILE = ("profile_categorical", "profile_numeric")


def check_config(cfg, tasks: Sequence[Any] = ()) -> None:
  """Raises ValueError, naming the keys, where settings exclude each other."""
  if tasks:
    raise ValueError(
      "config.tasks are for recipe 'lumos'; next-event prediction has "
      "data.target"
    )
  if cfg.holdout not in HOLDOUTS:
    raise ValueError(f"data.holdout = {cfg.holdout!r}; use one of {HOLDOUTS}")
  if not 0 <= cfg.overlap < cfg.sequence_length:
    raise ValueError(
      f"data.overlap = {cfg.overlap} must be from 0 to below "
      f"data.sequence_length = {cfg.sequence_length}"
    )
  days = (cfg.train_origin_last, cfg.validation_origin, cfg.test_origin)
  # Other users may train to the end.
  same = cfg.train_split in (cfg.validation_split, cfg.test_split)
  in_order = days[1] < days[2] and (days[0] <= days[1] or not same)
  if cfg.holdout == "time" and not in_order:
    raise ValueError(
      "data.holdout = 'time' needs data.train_origin_last <= validation_origin "
      f"< test_origin; they are {days}"
    )


def held_from(rows: int, length: int) -> int:
  """First row that a user's state holds, as a function of how many there are.

  A state holds a window that grows to T rows. The row after that begins a new
  window with the T // 2 rows before it: what a state says is always said of more
  than half a window, and a user's events alone decide where its window begins.

  Args:
    rows: Of the user, the start token included; 0 or more.
    length: T, data.sequence_length.

  Returns:
    0 for all rows that fit a window, then a multiple of T - T // 2.
  """
  step = length - length // 2
  return max(0, -(-(rows - length) // step)) * step


def target_column(schema: schema_lib.Schema, cfg) -> int:
  """Column of `categorical` that is predicted.

  Raises:
    SchemaError: The data have no such field, or no rows of events.
  """
  if schema.rows != "event":
    raise schema_lib.SchemaError(
      f"{schema.name!r} has a row a day; next-event prediction needs events: "
      "prepare it with rows=event"
    )
  names = [f.name for f in schema.categorical("activity")]
  if cfg.target not in names:
    raise schema_lib.SchemaError(
      f"data.target = {cfg.target!r}: {schema.name!r} has the fields {names}"
    )
  return names.index(cfg.target)


class Sequences:
  """Cuts records into what trains, and what is held out."""

  def __init__(self, schema: schema_lib.Schema, cfg):
    """Keeps what every user shares; `cfg` is config.data."""
    check_config(cfg)
    self._column = target_column(schema, cfg)
    self._running = running.Running(schema)
    self.cfg = cfg

  def cut(self, record: Batch, split: str) -> int | None:
    """Events before the target of a split; None where there is no target.

    The events before the validation target are what trains.
    """
    n, cfg = len(record["time"]), self.cfg
    if cfg.holdout == "last":
      if n < 3:
        return None
      return n - 1 if split == "test" else n - 2
    days = instants.days(record)
    at = lambda day: int(np.searchsorted(days, day))
    first = at(cfg.test_origin if split == "test" else cfg.validation_origin)
    last = n if split == "test" else at(cfg.test_origin)
    return first if first < last else None

  def training_events(self, record: Batch) -> int:
    """Number of a user's events that train: those before what is held out."""
    if self.cfg.holdout == "time":
      days = instants.days(record)
      return int(np.searchsorted(days, self.cfg.train_origin_last))
    held_out = self.cut(record, "validation")
    return len(record["time"]) if held_out is None else held_out

  def rows(self, record: Batch, start: int, stop: int) -> Batch:
    """Input rows of events [start, stop); start -1 is the start token.

    `start` marks the start token, a row of zeros at the first event's time.
    `next_time` is the next event's (the row's own where there is none): when,
    not what, for models that are told.
    """
    out = {
      "ids": record["categorical"][max(start, 0) : stop],
      "numeric": record["numeric"][max(start, 0) : stop],
    }
    if start < 0:
      out = {k: _padded(x, before=1) for k, x in out.items()}
    out["start"] = np.arange(start, stop) < 0
    time = instants.between(record["time"], start, stop + 1)
    out["time"], out["next_time"] = time[:-1], time[1:]
    return out

  def asked(self, record: Batch) -> np.ndarray:
    """Which events [n] are like those that are held out.

    By time, these are the first of a day or later: later than all that is
    known, as no event is that has the time of the one before it.
    """
    asked = record["categorical"][:, self._column] >= schema_lib.FIRST_VALUE
    if self.cfg.holdout == "time":
      asked[1:] &= record["time"][1:] > record["time"][:-1]
    return asked

  def windows(self, record: Batch) -> list[Batch]:
    """Windows of a user's training events, each with its targets.

    Their instants are not yet split, see `instants.split_batch`.

    Every event but the first (with the start token: every event) is a target
    once: rows that a window repeats from the one before it have target 0. So
    have events whose value is missing or not in the vocabulary.
    """
    n, cfg = self.training_events(record), self.cfg
    first = -1 if cfg.start_token else 0
    out = []
    start = first
    while start < n - 1:
      stop = min(start + cfg.sequence_length, n - 1)
      window = self.rows(record, start, stop)
      target = record["categorical"][start + 1 : stop + 1, self._column].copy()
      target[target < schema_lib.FIRST_VALUE] = 0  # Nothing to predict.
      if start > first:
        target[: cfg.overlap] = 0
      window["target"] = target
      out.append(window | self._user(record, start))
      if stop == n - 1:
        break
      start = stop - cfg.overlap
    return out

  def example(self, record: Batch, split: str) -> Batch | None:
    """What is known before the target of a split; None where there is none.

    Rows are left-aligned, `last` is the one that predicts. A user without
    history has the start token, if there is one. `seen` are the values before
    the target, the latest last, and `often` how often each was `asked`.
    """
    cut, cfg = self.cut(record, split), self.cfg
    if cut is None or (cut == 0 and not cfg.start_token):
      return None
    first = -1 if cfg.start_token else 0
    start = max(first, cut - cfg.sequence_length)
    out = self._row(record, start, cut)
    out["last"] = np.int32(cut - start - 1)
    out["next"] = record["categorical"][cut, self._column]
    out["seen"], out["often"] = _counted(
      record["categorical"][:cut, self._column], self.asked(record)[:cut]
    )
    out["history"] = cut
    return out

  def before(self, record: Batch, day: int) -> Batch:
    """The record as it was known at the begin of a day: earlier events only."""
    stop = int(np.searchsorted(instants.days(record), day))
    names = ("day", "time", "categorical", "numeric")
    return {k: x[:stop] if k in names else x for k, x in record.items()}

  def upcoming(self, record: Batch, day: int) -> Batch | None:
    """What predicts a user's first event from a day on; None without history.

    As `example`, with the target unknown, and the times of `as_of`.
    """
    known = self.before(record, day)
    cut = len(known["time"])
    if cut == 0 and not self.cfg.start_token:
      return None
    out = self.as_of(record, day)
    out["next"] = np.int32(0)
    out["seen"], out["often"] = _counted(
      known["categorical"][:, self._column], self.asked(known)
    )
    out["history"] = cut
    return out

  def as_of(self, record: Batch, day: int, start: int | None = None) -> Batch:
    """The events before a day, as `history`; nothing of what is to come.

    Models that are told when the next event happens are told: as the day begins,
    in UTC.
    """
    known = self.before(record, day)
    out = self.history(known, len(known["time"]), start)
    if out["segment"].any():
      at = out["last"]
      begin = instants.split(day * instants.DAY_SECONDS * 1_000_000)
      latest = out["time"][at]
      later = out["start"][at] or tuple(begin) > tuple(latest)
      out["next_time"][at] = begin if later else latest
    return out

  def held(self, cut: int) -> int:
    """Event that the window of a kept state begins with, as of event `cut`.

    -1 is the start token; see `held_from`.
    """
    token = int(self.cfg.start_token)
    return held_from(cut + token, self.cfg.sequence_length) - token

  def history(self, record: Batch, cut: int, start: int | None = None) -> Batch:
    """The events before event `cut`, in a row; `last` is the latest one's place.

    Without history or start token, the row is padding. Models that are told when
    the next event happens are told when event `cut` does. The row begins with
    event `start`; by default it is full.
    """
    if start is None:
      first = -1 if self.cfg.start_token else 0
      start = max(first, cut - self.cfg.sequence_length)
    out = self._row(record, start, cut)
    out["last"] = np.int32(max(cut - start - 1, 0))
    return out

  def whole(self, record: Batch) -> list[Batch]:
    """Rows that hold all events of a user once, for its embedding."""
    n, length = len(record["time"]), self.cfg.sequence_length
    first = -1 if self.cfg.start_token else 0
    starts = range(first, max(n, first + 1), length)
    return [self._row(record, s, min(s + length, n)) for s in starts]

  def _row(self, record: Batch, start: int, stop: int) -> Batch:
    """Events [start, stop) as an unpacked row, left-aligned."""
    out = instants.split_batch(self.rows(record, start, stop))
    length = stop - start
    pad = self.cfg.sequence_length - length
    out = {k: _padded(x, after=pad) for k, x in out.items()}
    steps = np.arange(self.cfg.sequence_length, dtype=np.int32)
    out["segment"] = (steps < length).astype(np.int32)
    out["position"] = np.where(steps < length, steps, 0).astype(np.int32)
    return out | self._user(record, start)

  def _user(self, record: Batch, start: int) -> Batch:
    """What belongs to the user, not to a row: each [1, ...].

    The profile, who it is (`running.user_number`), and the totals of the events
    before the window.
    """
    out = {name: record[name][None] for name in _PROFILE}
    out["profile_user"] = running.user_number(record.get("key", ""))[None]
    out["profile_before"] = self._running.before(record, start)[None]
    return out


def _padded(x: np.ndarray, before: int = 0, after: int = 0) -> np.ndarray:
  """Rows of zeros around x; `np.pad` takes 30 times as long."""
  out = np.zeros((before + len(x) + after, *x.shape[1:]), x.dtype)
  out[before : before + len(x)] = x
  return out


def _counted(
  ids: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Each id once, where it stands last, and how often it was asked."""
  values, last, at = np.unique(ids[::-1], True, True)
  often = np.bincount(at[asked[::-1]], minlength=len(values))
  order = np.argsort(-last)
  return values[order], often[order].astype(np.int32)
