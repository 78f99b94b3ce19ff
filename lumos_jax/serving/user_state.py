"""A user's state: the window of events that it holds, and what the model keeps.

R rows of a user: its events, and the start token before them where there is one.
H of them are held: the window's. Of the last row nothing is kept yet: when the
next event comes is among what the model reads of it.

L layers, C categorical and N numeric columns, W counted values (data/running.py).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
RAW = ("time", "categorical", "numeric")  # Of a row, as records have them.
_ALIGNMENT = 64  # Bytes.
_LEAST = 16  # Rows that a new window has room for.


def aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
  """Zeros that begin where XLA's arrays do on a CPU, which then copies none."""
  size = int(np.prod(shape)) * np.dtype(dtype).itemsize
  whole = np.zeros(size + _ALIGNMENT, np.uint8)
  start = -whole.ctypes.data % _ALIGNMENT
  return whole[start : start + size].view(dtype).reshape(shape)


class Window:
  """Rows of a window and what is kept of each, in arrays that grow.

  States of one user share a window as long as it only grows: who holds its
  longest state may write behind it, anyone else gets a copy. Rows never change.

  Attributes:
    raw: {name: [room, ...]} of RAW.
    past: {name: [L, ..., room, H]}, see models/held.py.
    most: T, rows that it ever has room for.
  """

  def __init__(self, raw: Arrays, past: Arrays, most: int, rows: int = 0):
    """An empty one.

    Args:
      raw, past: Arrays of any room, for names, dtypes and shapes of rows.
      most: T.
      rows: To have room for, at least.
    """
    self.most, self._rows = most, 0
    # Doubles as it grows: each row is copied once or twice in all.
    room = min(most, max(_LEAST, 1 << max(rows - 1, 0).bit_length()))
    self.raw = {
      n: np.zeros((room, *x.shape[1:]), x.dtype) for n, x in raw.items()
    }
    self.past = {
      n: aligned((*x.shape[:-2], room, x.shape[-1]), x.dtype)
      for n, x in past.items()
    }

  def grown(self, rows: int, more: Arrays) -> "Window":
    """The first rows and more behind them: this window or a longer one."""
    count = rows + len(more["time"])
    window = self
    if self._rows != rows or count > len(self.raw["time"]):
      window = Window(self.raw, self.past, self.most, count)
      for name, x in self.raw.items():
        window.raw[name][:rows] = x[:rows]
      for name, x in self.past.items():
        window.past[name][..., :rows, :] = x[..., :rows, :]
    for name in RAW:
      window.raw[name][rows:count] = more[name]
    window._rows = count
    return window


@dataclasses.dataclass(frozen=True, eq=False)
class State:
  """A user after some events; immutable.

  Attributes:
    profile: Ids int32 [Cp] and numbers float32 [Np].
    start_token: Whether row 0 is the start token.
    rows: R.
    begin: First row of the window, which holds rows [begin, R).
    window: Holds them and, but for the last, what is kept of them.
    tail: [L, reach, D], last inputs of each layer's convolutions; or None.
    first_time: Instant of the first event ever.
    totals: float32 [2 + W], as `data.running.Running.before` of the last row; its
      days are those before the window.
    sums: float64 [E], of all events' embeddings but the last one's.
    seen: int32 [S], all different values of the target field, ascending; empty
      where models do not ask for them.
    tie: Orders events of one instant (data_prep/order.py); 0 if not known.
  """

  profile: tuple[np.ndarray, np.ndarray]
  start_token: bool
  rows: int
  begin: int
  window: Window
  tail: np.ndarray | None
  first_time: int
  totals: np.ndarray
  sums: np.ndarray
  seen: np.ndarray
  tie: int = 0

  @property
  def held(self) -> int:
    """Rows of the window, H."""
    return self.rows - self.begin

  @property
  def count(self) -> int:
    """Events ever."""
    return self.rows - self.start_token

  @property
  def last_time(self) -> int | None:
    """Instant of the last event, microseconds since the epoch; None without."""
    return int(self.window.raw["time"][self.held - 1]) if self.count else None

  def row(self, name: str) -> np.ndarray:
    """RAW of all rows that are held, [H, ...]; not to be written to."""
    return self.window.raw[name][: self.held]

  def events(self) -> dict[str, np.ndarray]:
    """The latest events as in a record, more than T / 2 where there are so many."""
    first = int(self.start_token and not self.begin)
    return {name: self.row(name)[first:].copy() for name in RAW}


def without_events(
  profile: tuple[np.ndarray, np.ndarray],
  schema: Any,
  kept: Mapping[str, Any],
  tail: Any,
  most: int,
  start_token: bool,
  counted: int,
  summed: int,
) -> State:
  """The state of a user who has not done anything yet.

  Args:
    profile: Ids and numbers.
    schema: Of the data.
    kept: {name: shape and dtype [L, 1, ..., T, H]}, of a window's rows.
    tail: Shape and dtype [L, 1, reach, D]; or None.
    most: T.
    start_token: Whether rows begin with one.
    counted: Width of totals.
    summed: E.
  """
  columns = len(schema.categorical("activity"))
  numbers = schema.numeric_width("activity")
  raw = {
    "time": np.zeros(1, np.int64),
    "categorical": np.zeros((1, columns), np.int32),
    "numeric": np.zeros((1, numbers), np.float32),
  }
  past = {
    n: np.zeros((x.shape[0], *x.shape[2:-2], 0, x.shape[-1]), x.dtype)
    for n, x in kept.items()
  }
  window, rows = Window(raw, past, most, 1), 0
  if start_token:
    window, rows = window.grown(0, raw), 1
  if tail is not None:
    tail = np.zeros((tail.shape[0], *tail.shape[2:]), tail.dtype)
  ids, numeric = profile
  return State(
    profile=(np.asarray(ids, np.int32), np.asarray(numeric, np.float32)),
    start_token=start_token,
    rows=rows,
    begin=0,
    window=window,
    tail=tail,
    first_time=0,
    totals=np.zeros(counted, np.float32),
    sums=np.zeros(summed, np.float64),
    seen=np.zeros(0, np.int32),
  )
