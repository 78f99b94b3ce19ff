"""A user's state: the window of events that it holds, and what the model keeps.

R rows of a user: its events, and the start token before them where there is one.
H of them are held: the window's. Of the last row nothing is kept yet: when the
next event comes is among what the model reads of it.

L layers, C categorical and N numeric columns, W counted values (data/running.py).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
RAW = ("time", "categorical", "numeric")  # Of a row, as records have them.
_LEAST = 16  # Rows that a new window has room for.


class Window:
  """Rows of a window and what is kept of each, in arrays that grow.

  States of one user share a window as long as it only grows: who holds its
  longest state may write behind it, anyone else gets a copy. Rows never change.

  Attributes:
    raw: {name: [room, ...]} of RAW.
    past: {name: [L, room, ...]}, see models/held.py.
  """

  def __init__(self, raw: dict[str, np.ndarray], past: dict[str, np.ndarray]):
    """Takes arrays with equal room, without rows yet."""
    self.raw, self.past, self._rows = raw, past, 0

  @classmethod
  def like(cls, raw: Arrays, past: Arrays, room: int) -> "Window":
    """An empty one; the arrays say names, dtypes and shapes of rows."""
    room = max(_LEAST, 1 << max(room - 1, 0).bit_length())
    return cls(
      {n: np.empty((room, *x.shape[1:]), x.dtype) for n, x in raw.items()},
      {
        n: np.empty((x.shape[0], room, *x.shape[2:]), x.dtype)
        for n, x in past.items()
      },
    )

  def grown(self, rows: int, more: Arrays) -> "Window":
    """The first rows and more behind them: this window or a longer one."""
    count = rows + len(more["time"])
    window = self
    if self._rows != rows or count > len(self.raw["time"]):
      window = Window.like(self.raw, self.past, count)
      for name, x in self.raw.items():
        window.raw[name][:rows] = x[:rows]
      for name, x in self.past.items():
        window.past[name][:, :rows] = x[:, :rows]
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
