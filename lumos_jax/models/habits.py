"""Habits: what a user did in windows before an origin, read off the raw rows.

Softmax attention averages and normalises; how much, how often and how long ago
are sums, counts and gaps. These are computed in the pass itself, for every
origin and any schema, as PANTHER's habit statistics are for its profile
embedding: no features are engineered, joined or stored.

B batch, T history days, O origins, N numeric columns, K calendar columns.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.data import schema as schema_lib
from lumos_jax.models import layers

_PAST_CALENDAR_DAYS = (28, 112)
_LEAST_DEVIATION = 0.1
_NEVER = 1.5  # In place of days since, of which 1 are all of training's.
_CLIP = 5.0


class Habits(nnx.Module):
  """Window sums, active days, days since, calendar counts.

  Nothing in it is trained: `fit` takes the features' mean and deviation from
  the first batch, and they stay as they are.
  """

  def __init__(
    self,
    schema: schema_lib.Schema,
    windows: tuple[int, ...],
    calendar_width: int,
    date_columns: int,
    horizon: int,
    columns: Sequence[int],
    history_days: int,
  ):
    """Layout of the features.

    Args:
      schema: Its rows must be "day".
      windows: In days, 0 for all history.
      calendar_width: K, with the date's columns at the end.
      date_columns: How many those are.
      horizon: H, in days.
      columns: Numeric columns whose active days are counted: the tasks'.
      history_days: T of training, the scale of days since, whatever T is.
    """
    if schema.rows != "day":
      raise ValueError(
        "model.habit_days needs rows of days; this data set's are events: set "
        "model.habit_days = ()"
      )
    self._windows = windows
    self._events = calendar_width - date_columns
    self._longest = history_days
    self._horizons = sorted({min(7, horizon), min(14, horizon), horizon})
    self._columns = tuple(sorted(set(columns)))
    n = schema.numeric_width("activity")
    days = len(self._columns) + 1
    self.width = len(windows) * (n + days) + n + 1
    parts = len(_PAST_CALENDAR_DAYS) + len(self._horizons)
    self.width += parts * self._events
    self.mean = layers.zeros((self.width,), (None,))
    self.deviation = nnx.Param(jnp.ones(self.width), axes=(None,))

  def fit(self, batch) -> None:
    """Takes mean and deviation of each feature over a batch and its origins."""
    x = self._features(batch)
    self.mean[...] = x.mean((0, 1))
    self.deviation[...] = jnp.maximum(x.std((0, 1)), _LEAST_DEVIATION)

  def within(self, days: int) -> np.ndarray:
    """bool [width]: features that tell nothing of days beyond so many ahead."""
    out = np.ones(self.width, bool)
    for i, horizon in enumerate(reversed(self._horizons)):
      if horizon > days:
        end = self.width - i * self._events
        out[end - self._events : end] = False
    return out

  def __call__(self, batch) -> jax.Array:
    """Features of each origin: float32 [B, O, width], of order one."""
    mean, deviation = jax.lax.stop_gradient(
      (self.mean[...], self.deviation[...])
    )
    x = (self._features(batch) - mean[None, None]) / deviation[None, None]
    return jnp.clip(x, -_CLIP, _CLIP)

  def _features(self, batch):
    mask = batch["history_mask"][..., None]
    x = jnp.nan_to_num(batch["history_numeric"].astype(jnp.float32))
    x = jnp.where(mask, x, 0.0)
    some = x != 0
    active = [
      some.any(-1, keepdims=True),
      some[..., np.asarray(self._columns, int)],
    ]
    n, active = x.shape[-1] + 1, jnp.concatenate(active, -1)
    x = jnp.concatenate([x, active.astype(jnp.float32)], -1)
    at, t = batch["origin"], x.shape[1]
    total = jnp.pad(jnp.cumsum(x, 1), ((0, 0), (1, 0), (0, 0)))
    take = lambda a, i: jnp.take_along_axis(a, i[..., None], 1)
    end, parts = take(total, at), []
    for days in self._windows:
      low = jnp.maximum(at - days, 0) if days else jnp.zeros_like(at)
      # Sums by difference: rounding must not turn nothing into something.
      y = end - take(total, low)
      y = jnp.where(jnp.abs(y) < 1e-3, 0.0, y)
      parts.append(_log(y))
    step = jnp.arange(1, t + 1, dtype=jnp.float32)[None, :, None]
    last = jax.lax.cummax(jnp.where(x[..., :n] != 0, step, 0.0), axis=1)
    last = take(jnp.pad(last, ((0, 0), (1, 0), (0, 0))), at)
    gap = at.astype(jnp.float32)[..., None] - last
    gap = jnp.log1p(gap) / np.log1p(self._longest)
    gap = jnp.where(last > 0, jnp.minimum(gap, _NEVER), _NEVER)
    parts.append(gap)
    past = batch["history_calendar"][..., : self._events]
    past = jnp.pad(jnp.cumsum(past, 1), ((0, 0), (1, 0), (0, 0)))
    for days in _PAST_CALENDAR_DAYS:
      inside = take(past, at) - take(past, jnp.maximum(at - days, 0))
      parts.append(_log(inside))
    future = batch["future_calendar"][..., : self._events]
    parts += [_log(future[:, :, :h].sum(2)) for h in self._horizons]
    return jnp.concatenate(parts, -1)


def _log(x: jax.Array) -> jax.Array:
  return jnp.sign(x) * jnp.log1p(jnp.abs(x))
