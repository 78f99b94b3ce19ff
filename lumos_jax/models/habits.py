"""Habits: what a user did in windows before an origin, read off the raw rows.

Softmax attention averages and normalises; how much, how often and how long ago
are sums, counts and gaps. These are computed in the pass itself, for every
origin and any schema, as PANTHER's habit statistics are for its profile
embedding: no features are engineered, joined or stored.

B batch, T history days, O origins, N numeric columns, K calendar columns.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lumos_jax.data import schema as schema_lib


class Habits:
  """Window sums, active days, days since, calendar counts; no parameters."""

  def __init__(
    self,
    schema: schema_lib.Schema,
    windows: tuple[int, ...],
    calendar_width: int,
    date_columns: int,
    horizon: int,
  ):
    """`windows` in days, 0 for all history; schema.rows must be "day"."""
    if schema.rows != "day":
      raise ValueError(
        "model.habit_days needs rows of days; this data set's are events: set "
        "model.habit_days = ()"
      )
    self._windows = windows
    self._events = calendar_width - date_columns
    self._horizons = sorted({min(7, horizon), min(14, horizon), horizon})
    scale = []
    for f in schema.dense("activity"):
      # About what a large day comes to, in the field's own log or plain units.
      large = 1.0
      if isinstance(f, schema_lib.Numeric):
        large = abs(f.offset) + 2.0 * f.divisor
      scale += [max(large, 0.25)] * schema_lib.width(f)
    self._scale = np.asarray(scale, np.float32)
    n = len(scale)
    self.width = (len(windows) + 1) * (n + 1)
    self.width += (2 + len(self._horizons)) * self._events

  def __call__(self, batch) -> jax.Array:
    """Features of each origin: float32 [B, O, width], of order one."""
    mask = batch["history_mask"][..., None]
    x = jnp.nan_to_num(batch["history_numeric"].astype(jnp.float32))
    x = jnp.where(mask, x, 0.0)
    active = (x != 0).any(-1, keepdims=True).astype(jnp.float32)
    x = jnp.concatenate([x, active], -1)
    scale = np.concatenate([self._scale, np.ones(1, np.float32)])
    at, t = batch["origin"], x.shape[1]
    total = jnp.pad(jnp.cumsum(x, 1), ((0, 0), (1, 0), (0, 0)))
    take = lambda a, i: jnp.take_along_axis(a, i[..., None], 1)
    end, parts = take(total, at), []
    for days in self._windows:
      low = jnp.maximum(at - days, 0) if days else jnp.zeros_like(at)
      # Sums by difference: rounding must not turn nothing into something.
      y = end - take(total, low)
      y = jnp.where(jnp.abs(y) < 1e-3, 0.0, y)
      parts.append(jnp.sign(y) * jnp.log1p(jnp.abs(y)) / scale[None, None])
    step = jnp.arange(1, t + 1, dtype=jnp.float32)[None, :, None]
    last = jax.lax.cummax(jnp.where(x != 0, step, 0.0), axis=1)
    last = take(jnp.pad(last, ((0, 0), (1, 0), (0, 0))), at)
    gap = at.astype(jnp.float32)[..., None] - last
    gap = jnp.where(last > 0, jnp.log1p(gap) / np.log1p(t), 1.5)
    parts.append(gap)
    past = batch["history_calendar"][..., : self._events]
    past = jnp.pad(jnp.cumsum(past, 1), ((0, 0), (1, 0), (0, 0)))
    ends = take(past, at)
    parts.append((ends - take(past, jnp.maximum(at - 28, 0))) / 28.0)
    parts.append(ends / 28.0)  # All history: how often there was any.
    future = batch["future_calendar"][..., : self._events]
    parts += [future[:, :, :h].mean(2) for h in self._horizons]
    return jnp.concatenate(parts, -1)
