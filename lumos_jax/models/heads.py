"""Heads: decoder queries -> raw outputs of M tasks.

"aggregated": the H x D block is flattened and a small MLP a task gives one
value for the window. "sequence": one value a future day.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.models import layers


def make(cfg, queries, patch_days, extra, shape, *, dtype, rngs):
  """The head that config.model.head names; ValueError for an unknown one.

  Args:
    cfg: config.model.
    queries: Q, decoder queries an origin.
    patch_days: Days a query stands for.
    extra: S, width of the summaries; 0 for none.
    shape: (M, Z): tasks and raw outputs of each.
    dtype: Of computation.
    rngs: Stream "params".
  """
  kw = dict(dtype=dtype, rngs=rngs)
  if cfg.head == "aggregated":
    return Aggregated(cfg, queries, extra, shape, **kw)
  if cfg.head == "sequence":
    return Sequence(cfg, patch_days, shape, **kw)
  raise ValueError(f"model.head = {cfg.head!r}; use 'aggregated' or 'sequence'")


class Aggregated(nnx.Module):
  """[B, O, Q, D] (and summaries [B, O, S]) -> [B, O, M, Z]."""

  def __init__(self, cfg, queries, extra, shape, *, dtype, rngs):
    inputs = queries * cfg.d_model + extra
    n_tasks, outputs = shape
    self.hidden = layers.linear(
      inputs, n_tasks * cfg.head_width, ("embed", "mlp"), dtype=dtype, rngs=rngs
    )
    scale = cfg.head_width**-0.5
    shape = (n_tasks, cfg.head_width, outputs)
    value = scale * jax.random.normal(rngs.params(), shape)
    self.out = nnx.Param(value, axes=(None, None, None))
    self.bias = nnx.Param(jnp.zeros((n_tasks, outputs)), axes=(None, None))
    self.shape, self.rate = shape, cfg.dropout
    self.activation = cfg.activation

  def __call__(self, queries, extra, rngs):
    x = queries.reshape(*queries.shape[:2], -1)
    x = layers.dropout(self.rate, rngs, x)
    if extra is not None:
      x = jnp.concatenate([x, extra], -1)
    x = layers.ACTIVATIONS[self.activation](self.hidden(x))
    x = layers.dropout(self.rate, rngs, x)
    x = x.reshape(*x.shape[:2], *self.shape[:2])
    y = jnp.einsum("bomk,mkz->bomz", x, self.out[...].astype(x.dtype))
    return y + self.bias[...].astype(x.dtype)[None, None]


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

  def __call__(self, queries, extra, rngs):
    del extra, rngs  # A day's value comes from its own query alone.
    y = self.out(queries)
    return y.reshape(*y.shape[:2], -1, *self.shape)
