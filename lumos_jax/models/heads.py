"""Heads: decoder queries -> raw outputs of M tasks.

"aggregated": the H x D block is flattened and a small MLP a task gives one
value for the window. "sequence": one value a future day.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.models import layers


def make(cfg, queries, patch_days, extra, shape, regression, *, dtype, rngs):
  """The head that config.model.head names; ValueError for an unknown one.

  Args:
    cfg: config.model.
    queries: Q, decoder queries an origin.
    patch_days: Days a query stands for.
    extra: Width of the habits; 0 for none.
    shape: (M, Z): tasks and raw outputs of each.
    regression: bool [M], which tasks are regressions.
    dtype: Of computation.
    rngs: Stream "params".
  """
  kw = dict(dtype=dtype, rngs=rngs)
  if cfg.head == "aggregated":
    return Aggregated(cfg, queries, extra, shape, regression, **kw)
  if cfg.head == "sequence":
    return Sequence(cfg, patch_days, shape, **kw)
  raise ValueError(f"model.head = {cfg.head!r}; use 'aggregated' or 'sequence'")


class Aggregated(nnx.Module):
  """[B, O, Q, D], last states and habits -> [B, O, M, Z].

  Each task has its own hidden layer. Habits also have a direct linear path, and
  dropout spares regression outputs: under an exponential, noise in the last
  layers would shrink large forecasts.
  """

  def __init__(self, cfg, queries, extra, shape, regression, *, dtype, rngs):
    inputs = (queries + 1) * cfg.d_model
    n_tasks, outputs = shape
    make = lambda n, m, axes: layers.linear(n, m, axes, dtype=dtype, rngs=rngs)
    if extra:
      self.habits = make(extra, cfg.habit_width, (None, "embed"))
      self.direct = layers.zeros((extra, n_tasks * outputs), (None, None))
      inputs += cfg.habit_width
    self.hidden = make(inputs, n_tasks * cfg.head_width, ("embed", "mlp"))
    scale = cfg.head_width**-0.5
    wide = (n_tasks, cfg.head_width, outputs)
    value = scale * jax.random.normal(rngs.params(), wide)
    self.out = nnx.Param(value, axes=(None, None, None))
    self.bias = layers.zeros((n_tasks, outputs), (None, None))
    self.shape, self.rate = wide, cfg.dropout
    self.activation = layers.ACTIVATIONS[cfg.activation]
    self.noisy = tuple(not r for r in regression)

  def __call__(self, queries, last, extra, rngs):
    """Queries [B, O, Q, D], last [B, O, D], habits -> [B, O, M, Z]."""
    x = [queries.reshape(*queries.shape[:2], -1), last]
    if extra is not None:
      x.append(self.activation(self.habits(extra)))
    x = jnp.concatenate(x, -1)
    x = self.activation(self.hidden(x))
    x = x.reshape(*x.shape[:2], *self.shape[:2])
    noisy = np.asarray(self.noisy)[None, None, :, None]
    x = jnp.where(noisy, layers.dropout(self.rate, rngs, x), x)
    y = jnp.einsum("bomk,mkz->bomz", x, self.out[...].astype(x.dtype))
    y = y + self.bias[...].astype(x.dtype)[None, None]
    if extra is not None:
      y = y + (extra @ self.direct[...].astype(x.dtype)).reshape(y.shape)
    return y


class Sequence(nnx.Module):
  """[B, O, Q, D] -> [B, O, H, M, Z], H = Q * patch days."""

  def __init__(self, cfg, patch_days, shape, *, dtype, rngs):
    n_tasks, outputs = shape
    self.out = layers.linear(
      cfg.d_model,
      patch_days * n_tasks * outputs,
      ("embed", None),
      dtype=dtype,
      rngs=rngs,
    )
    self.shape = tuple(shape)

  def __call__(self, queries, last, extra, rngs):
    """Queries [B, O, Q, D] -> [B, O, H, M, Z]."""
    del last, extra, rngs  # A day's value comes from its own query alone.
    y = self.out(queries)
    return y.reshape(*y.shape[:2], -1, *self.shape)
