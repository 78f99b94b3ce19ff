"""What a model is not shown: the same cuts for training and for evaluation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lumos_jax.data import calendar as calendar_lib

NAMES = ("no_future", "no_past", "no_context")
_PAST = (
  "history_numeric",
  "history_categorical",
  "history_calendar",
  "history_mask",
)


@dataclasses.dataclass(frozen=True)
class Columns:
  """What an ablation knows of the calendar's K columns.

  Attributes:
    date: bool [K], columns that describe the date itself.
    ahead: bool [K], columns of a day that tell of later days: days left.
  """

  date: tuple[bool, ...]
  ahead: tuple[bool, ...]

  @classmethod
  def of(cls, calendar: calendar_lib.Calendar) -> "Columns":
    """The columns of a calendar."""
    events = calendar.width - calendar.date_columns
    return cls(
      tuple(i >= events for i in range(calendar.width)),
      tuple(c.endswith(":left") for c in calendar.columns),
    )

  def kept(self, name: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Columns that an ablation leaves on past and on future days.

    Args:
      name: One of NAMES; without one, all columns stay.

    Returns:
      bool [K] of past days and bool [K] of future days.
    """
    date, ahead = np.asarray(self.date, bool), np.asarray(self.ahead, bool)
    if name == "no_future":
      return ~ahead, date
    if name == "no_context":
      return date, date
    return np.ones_like(date), np.ones_like(date)


def apply(batch: dict[str, Any], name: str, columns: Columns) -> dict[str, Any]:
  """The batch with a part taken away; shapes stay.

  - no_future: no calendar entry on any future day, nor how many days an entry
    of a past day had left (dates stay).
  - no_past: no history row (profile and calendar of the future stay).
  - no_context: no calendar entry, past or future (dates stay).

  Args:
    batch: Of the pipeline, numpy or jax arrays.
    name: One of NAMES.
    columns: Of the data's calendar.

  Raises:
    ValueError: Unknown name.
  """
  if name not in NAMES:
    raise ValueError(f"unknown ablation {name!r}; there are {NAMES}")
  out = dict(batch)
  if name == "no_past":
    for key in _PAST:
      # The barrier keeps the compiler from computing with the zeros itself,
      # which takes it longer than the model takes.
      out[key] = jax.lax.optimization_barrier(jnp.zeros_like(batch[key]))
    return out
  keep = dict(
    zip(
      ("history_calendar", "future_calendar"), columns.kept(name), strict=True
    )
  )
  for key, columns_kept in keep.items():
    wide = columns_kept.reshape((1,) * (batch[key].ndim - 1) + (-1,))
    out[key] = jnp.where(wide, batch[key], 0.0)
  return out
