"""Which rows a model must see when events are appended, piece by piece.

A window grows to T rows; the row behind it begins a new one with the T // 2 rows
before it (`data.windows.held_from`). A user's rows are read once in each window
that holds them, and count for its embedding in the first of these.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lumos_jax.data import instants, running
from lumos_jax.models import held as held_lib
from lumos_jax.serving.user_state import RAW, Arrays, State, Window

_DAY = instants.DAY_SECONDS * 1e6  # Microseconds.


@dataclasses.dataclass(frozen=True)
class Settings:
  """Of a model: what its states need.

  Attributes:
    length: T.
    column: Of the target field.
    keeps_seen: Whether values that were seen do not compete.
    counts: Of the schema.
  """

  length: int
  column: int
  keeps_seen: bool
  counts: running.Running


@dataclasses.dataclass(frozen=True)
class Rows:
  """C rows of a user's window that the model is to read next.

  Attributes:
    state: Whose; its profile is read.
    window: Holds the rows.
    begin: Row that the window begins with.
    at: Place of the first of the C rows in the window.
    next_time: int64 [C], instants of the rows after each.
    totals: Before the first one, see State.
    tail: As of State.
    look: Whether the last one is the user's last: what is found of it says what
      the user is now, and is not kept, as its next event will change it.
  """

  state: State
  window: Window
  begin: int
  at: int
  next_time: np.ndarray
  totals: np.ndarray
  tail: np.ndarray | None
  look: bool = False


class Draft:
  """A user on the way to a state that has more events.

  `next` says what is to be read, at most C rows; `read` takes what was found;
  `done` is the state at the end.

  Attributes:
    look: float32 [D], what was found of the last row, where `next` was asked for
      it and a call had room.
  """

  def __init__(self, state: State, events: Mapping[str, Any], of: Settings):
    """Takes events, one at least, none older than the state's last one."""
    self._of, self._state = of, state
    self.look: np.ndarray | None = None
    self._more = {
      name: np.asarray(events[name], x.dtype)
      for name, x in state.window.raw.items()
    }
    self._tie = int(events["tie"][-1]) if "tie" in events else 0
    time = self._more["time"]
    self._base, self._end = state.rows, state.rows + len(time)
    self._first_time = state.first_time
    window, held = state.window, state.held
    if not state.count:
      self._first_time = int(time[0])
      if state.rows:  # The start token has another time from now on.
        start = {name: state.row(name).copy() for name in RAW}
        start["time"][:] = time[0]
        window = Window(window.raw, window.past, of.length, self._end)
        window = window.grown(0, start)
    self._begin, self._totals = state.begin, state.totals
    self._tail, self._sums = state.tail, state.sums
    # Nothing is kept yet of the last row.
    self._row = self._counted = max(state.rows - 1, 0)
    self._window = window.grown(
      held, self._new(state.rows, state.begin + of.length)
    )

  def _new(self, start: int, stop: int) -> Arrays:
    """New rows [start, stop), as far as there are any."""
    at = slice(start - self._base, min(stop, self._end) - self._base)
    return {name: x[at] for name, x in self._more.items()}

  def _raw(self, name: str, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of the window."""
    return self._window.raw[name][start - self._begin : stop - self._begin]

  @property
  def _stop(self) -> int:
    """Row behind the last one that this window reads."""
    return min(self._begin + self._of.length, self._end - 1)

  def next(self, most: int, ahead: int | None = None) -> Rows | None:
    """The next rows, at most so many; None where all is read.

    With `ahead` the last of these calls has the user's last row too, as if what
    follows it came so many microseconds later.
    """
    while self._row >= self._stop:
      if self._begin + self._of.length >= self._end:
        return None
      self._restart()
    stop = min(self._stop, self._row + most)
    after = self._raw("time", self._row + 1, stop + 1)
    if len(after) < stop - self._row:  # The last one's next is not held here.
      beyond = self._more["time"][stop - self._base]
      after = np.append(after, beyond)
    # Unless the last row begins the next window.
    look = ahead is not None and stop - self._row < most
    look &= stop == self._end - 1 < self._begin + self._of.length
    if look:
      after = np.append(after, self._raw("time", stop, stop + 1) + ahead)
    return Rows(
      self._state,
      self._window,
      self._begin,
      self._row - self._begin,
      after,
      self._totals,
      self._tail,
      look,
    )

  def read(
    self,
    count: int,
    states: np.ndarray,
    vectors: np.ndarray,
    new: Arrays,
  ) -> None:
    """Takes what the model found of the next rows.

    Args:
      count: C of them.
      states: float32 [C, D].
      vectors: [V, ...], of the recipe's `event_vectors`.
      new: {name: [L, ..., C, H]}, what they add to the past.
    """
    row, at = self._row, self._row - self._begin
    for name, x in new.items():
      if name == held_lib.TAIL:
        both = np.concatenate([self._tail, x], 1)
        self._tail = both[:, both.shape[1] - self._tail.shape[1] :]
      else:
        self._window.past[name][..., at : at + count, :] = x
    ids = self._raw("categorical", row, row + count)
    # The start token counts nothing.
    skip = int(row == 0 and self._state.start_token)
    self._totals = self._added(ids[skip:], 1.0)
    fresh = max(self._counted - row, skip)
    if fresh < count:
      width, sums = states.shape[1], self._sums.copy()
      sums[:width] += states[fresh:].sum(0, dtype=np.float64)
      of_values = vectors[ids[fresh:, self._of.column]]
      sums[width:] += of_values.sum(0, dtype=np.float64)
      self._sums = sums
    self._row = row + count
    self._counted = max(self._counted, self._row)

  def _added(self, categorical: np.ndarray, sign: float) -> np.ndarray:
    """Totals with events more (or, with sign -1, fewer)."""
    out = self._totals.copy()
    out[0] += sign * len(categorical)
    values = self._of.counts.values(categorical)
    out[running.FIRST_COUNT :] += sign * values
    return out

  def _restart(self) -> None:
    """Begins the next window, with rows of this one."""
    length, old = self._of.length, self._begin
    begin = old + length - length // 2
    again = {name: self._raw(name, begin, old + length) for name in RAW}
    self._totals = self._added(again["categorical"], -1.0)
    more = self._new(old + length, begin + length)
    rows = {name: np.concatenate([again[name], more[name]]) for name in RAW}
    self._totals[1] = 0.0
    if begin > self._state.start_token:
      self._totals[1] = (int(rows["time"][0]) - self._first_time) / _DAY
    known = self._window
    window = Window(known.raw, known.past, length, len(rows["time"]))
    self._window = window.grown(0, rows)
    if self._tail is not None:
      self._tail = np.zeros_like(self._tail)
    self._begin = self._row = begin

  def done(self) -> State:
    """The state, once all is read."""
    state, seen = self._state, self._state.seen
    if self._of.keeps_seen:
      ids = self._more["categorical"][:, self._of.column]
      seen = np.union1d(seen, ids).astype(np.int32)
    return State(
      profile=state.profile,
      start_token=state.start_token,
      rows=self._end,
      begin=self._begin,
      window=self._window,
      tail=self._tail,
      first_time=self._first_time,
      totals=self._totals,
      sums=self._sums,
      seen=seen,
      tie=self._tie,
    )
