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
from lumos_jax.serving import user_state
from lumos_jax.serving.user_state import RAW, State

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
    state: Whose, with its window.
    at: Place of the first one in the window.
    next_time: int64 [C], instants of the rows after each.
    totals: Before the first one, see State.
  """

  state: State
  at: int
  next_time: np.ndarray
  totals: np.ndarray


class Draft:
  """A user on the way to a state that has more events.

  `next` says what is to be read, at most C rows; `read` takes what was found.
  """

  def __init__(self, state: State, events: Mapping[str, Any], of: Settings):
    """Takes events, one at least, none older than the state's last one."""
    self._of, self._before = of, state
    time = np.asarray(events["time"], np.int64)
    first = int(state.held and state.start_token and not state.begin)
    more = {name: np.asarray(events[name]) for name in RAW}
    self._raw = {n: np.concatenate([state.row(n), more[n]]) for n in RAW}
    first_time = state.first_time
    if not state.count:
      first_time = int(time[0])
      self._raw["time"][:first] = first_time  # The start token's.
    self._base, self._end = state.begin, state.rows + len(time)
    # What is not read yet begins with the last row.
    self._row = max(state.rows - 1, 0)
    self._counted = self._row
    room = min(self._end - state.begin, of.length)
    seen = state.seen
    if of.keeps_seen:
      seen = np.union1d(seen, more["categorical"][:, of.column])
    if state.count or not state.rows:
      held = state.held
      window = state.window
    else:  # The start token's row has another time now.
      held, window = 0, state.window
    mine = self._rows(state.begin + held, state.begin + room)
    self.state = dataclasses.replace(
      state,
      window=window.grown(held, mine),
      first_time=first_time,
      rows=state.begin + room,
      seen=seen.astype(np.int32),
      tie=int(events["tie"][-1]) if "tie" in events else 0,
    )

  def _rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
    at = slice(start - self._base, stop - self._base)
    return {name: x[at] for name, x in self._raw.items()}

  def next(self, most: int) -> Rows | None:
    """The next rows, at most so many; None where all is read."""
    state = self.state
    stop = min(state.begin + self._of.length, self._end - 1)
    if self._row >= stop:
      if state.begin + self._of.length >= self._end:
        return None
      self._restart()
      return self.next(most)
    stop = min(stop, self._row + most)
    after = self._rows(self._row + 1, stop + 1)["time"]
    return Rows(state, self._row - state.begin, after, state.totals)

  def left(self) -> int:
    """Rows until the window ends or all is read."""
    stop = min(self.state.begin + self._of.length, self._end - 1)
    return max(stop - self._row, 0)

  def read(
    self,
    count: int,
    states: np.ndarray,
    vectors: np.ndarray,
    new: Mapping[str, np.ndarray],
  ) -> None:
    """Takes what the model found of the next rows.

    Args:
      count: C of them.
      states: float32 [C, D].
      vectors: [V, ...], of the recipe's `event_vectors`.
      new: {name: [L, C, ...]}, what they add to the past.
    """
    state, row = self.state, self._row
    at, tail = row - state.begin, state.tail
    for name, x in new.items():
      if name == held_lib.TAIL:
        both = np.concatenate([tail, x], 1)
        tail = both[:, both.shape[1] - tail.shape[1] :]
      else:
        state.window.past[name][:, at : at + count] = x
    ids = self._rows(row, row + count)["categorical"]
    # The start token counts nothing.
    skip = int(row == 0 and state.start_token)
    totals = self._added(state.totals, ids[skip:], 1.0)
    fresh = max(self._counted - row, skip)
    sums = state.sums
    if fresh < count:
      of_values = vectors[ids[fresh:, self._of.column]]
      found = states[fresh:].sum(0, dtype=np.float64)
      more = of_values.sum(0, dtype=np.float64)
      sums = sums + np.concatenate([found, more])
    self._row = row + count
    self._counted = max(self._counted, self._row)
    self.state = dataclasses.replace(state, tail=tail, totals=totals, sums=sums)

  def _added(self, totals, categorical, sign: float) -> np.ndarray:
    out = totals.copy()
    out[0] += sign * len(categorical)
    values = self._of.counts.values(categorical)
    out[running.FIRST_COUNT :] += sign * values
    return out

  def _restart(self) -> None:
    """Begins the next window, with rows of this one."""
    state, length = self.state, self._of.length
    old = state.begin
    begin = old + length - length // 2
    stop = min(begin + length, self._end)
    totals = state.totals
    if length // 2:
      again = self._rows(begin, old + length)["categorical"]
      totals = self._added(totals, again, -1.0)
    else:
      totals = totals.copy()
    mine = self._rows(begin, stop)
    totals[1] = 0.0
    if begin > state.start_token:
      totals[1] = (int(mine["time"][0]) - state.first_time) / _DAY
    window = user_state.Window.like(
      state.window.raw, state.window.past, stop - begin
    )
    tail = None if state.tail is None else np.zeros_like(state.tail)
    self._row = begin
    self.state = dataclasses.replace(
      state,
      rows=stop,
      begin=begin,
      window=window.grown(0, mine),
      tail=tail,
      totals=totals,
    )
