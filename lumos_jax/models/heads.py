"""Heads: decoder queries -> raw outputs of M tasks.

"aggregated": the H x D block is flattened and a small MLP a task gives one
value for the window. "sequence": one value a future day.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.models import layers


def make(cfg, queries, patch_days, extra, tasks, outputs, *, dtype, rngs):
  """The head that config.model.head names; ValueError for an unknown one.

  Args:
    cfg: config.model.
    queries: Q, decoder queries an origin.
    patch_days: Days a query stands for.
    extra: X, width of habits and profile.
    tasks: M tasks.
    outputs: Z, raw outputs of a task.
    dtype: Of computation.
    rngs: Stream "params".
  """
  kw = dict(dtype=dtype, rngs=rngs)
  if cfg.head == "aggregated":
    return Aggregated(cfg, queries, extra, tasks, outputs, **kw)
  if cfg.head == "sequence":
    return Sequence(cfg, patch_days, (len(tasks), outputs), **kw)
  raise ValueError(f"model.head = {cfg.head!r}; use 'aggregated' or 'sequence'")


class Aggregated(nnx.Module):
  """[B, O, Q, D], last states, habits and profile -> [E, B, O, M, Z].

  A shared layer, then a hidden layer a task. E members share both layers'
  matrices and differ in signs of the input, scales, biases and the last layer
  (BatchEnsemble, arXiv 2002.06715, in TabM's form, arXiv 2410.24210): the mean
  of their forecasts is an ensemble's for little more than one model's cost.

  Habits and profile also have a direct linear path, and dropout spares
  regression outputs: under an exponential, noise in the last layers would
  shrink large forecasts.
  """

  def __init__(self, cfg, queries, extra, tasks, outputs, *, dtype, rngs):
    n, hidden, width = len(tasks), cfg.mix_width, cfg.head_width
    inputs = (queries + 1) * cfg.d_model + extra
    make = lambda n, m, axes: layers.linear(
      n, m, axes, dtype=dtype, rngs=rngs, use_bias=False
    )
    self.mix = make(inputs, hidden, (None, "embed"))
    self.hidden = make(hidden, n * width, ("embed", "mlp"))
    e = cfg.members
    if e > 1:
      signs = jax.random.rademacher(rngs.params(), (e, inputs))
      self.signs = nnx.Param(signs.astype(jnp.float32), axes=(None, None))
      ones = lambda m: nnx.Param(jnp.ones((e, m)), axes=(None, None))
      self.mix_scale, self.hidden_scale = ones(hidden), ones(n * width)
    self.mix_bias = layers.zeros((e, hidden), (None, None))
    self.hidden_bias = layers.zeros((e, n * width), (None, None))
    value = jax.random.normal(rngs.params(), (e, n, width, outputs))
    self.out = nnx.Param(value * width**-0.5, axes=(None,) * 4)
    self.bias = layers.zeros((e, n, outputs), (None, None, None))
    self.direct = layers.zeros((extra, n * outputs), (None, None))
    self.members, self.shape, self.rate = e, (n, width, outputs), cfg.dropout
    self.activation = layers.ACTIVATIONS[cfg.activation]
    self.noisy = tuple(t.kind != "regression" for t in tasks)

  def __call__(self, queries, last, extra, rngs):
    """Queries [B, O, Q, D], last [B, O, D], extra [B, O, X]."""
    drop = lambda x: layers.dropout(self.rate, rngs, x)
    each = lambda p: p[...].astype(extra.dtype)[:, None, None]
    states = jnp.concatenate(
      [queries.reshape(*queries.shape[:2], -1), last], -1
    )
    x = jnp.concatenate([drop(states), extra], -1)[None]
    if self.members > 1:
      x = self.mix(x * each(self.signs)) * each(self.mix_scale)
    else:
      x = self.mix(x)
    x = self.activation(x + each(self.mix_bias))
    x = self.hidden(x)
    if self.members > 1:
      x = x * each(self.hidden_scale)
    x = self.activation(x + each(self.hidden_bias))
    x = x.reshape(*x.shape[:3], *self.shape[:2])
    x = jnp.where(np.asarray(self.noisy)[:, None], drop(x), x)
    y = jnp.einsum("ebomk,emkz->ebomz", x, self.out[...].astype(x.dtype))
    direct = extra @ self.direct[...].astype(x.dtype)
    y = y + direct.reshape(1, *direct.shape[:2], *y.shape[3:])
    return y + each(self.bias)


class Sequence(nnx.Module):
  """[B, O, Q, D] -> [1, B, O, H, M, Z], H = Q * patch days."""

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
    """Queries [B, O, Q, D] -> [1, B, O, H, M, Z]."""
    del last, extra, rngs  # A day's value comes from its own query alone.
    y = self.out(queries)
    return y.reshape(1, *y.shape[:2], -1, *self.shape)
