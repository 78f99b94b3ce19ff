"""What a model is not shown: the same cuts for training and for evaluation."""

from typing import Any

import jax
import jax.numpy as jnp

NAMES = ("no_future", "no_past", "no_context")
_PAST = (
  "history_numeric",
  "history_categorical",
  "history_calendar",
  "history_mask",
)


def apply(
  batch: dict[str, Any], name: str, date_columns: int
) -> dict[str, Any]:
  """The batch with a part taken away; shapes stay.

  - no_future: no calendar entry on any future day (dates stay).
  - no_past: no history row (profile and calendar of the future stay).
  - no_context: no calendar entry, past or future (dates stay).

  Args:
    batch: Of the pipeline, numpy or jax arrays.
    name: One of NAMES.
    date_columns: How many of the last calendar columns are the date's own.

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
  columns = batch["future_calendar"].shape[-1]
  keep = jnp.arange(columns) >= columns - date_columns
  cut = ["future_calendar"]
  if name == "no_context":
    cut.append("history_calendar")
  for key in cut:
    wide = keep.reshape((1,) * (batch[key].ndim - 1) + keep.shape)
    out[key] = jnp.where(wide, batch[key], 0.0)
  return out
