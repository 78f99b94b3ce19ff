"""Heads: decoder queries -> raw outputs of M tasks.

"aggregated": the H x D block is flattened and a small MLP a task gives one
value for the window. "sequence": one value a future day.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.models import layers

VIEWS = ("states", "all", "linear")


def views(cfg) -> tuple[str, ...]:
  """The view of each row of outputs that config.model asks for."""
  if cfg.head == "sequence":
    return ("all",)
  seen = cfg.members - cfg.state_members
  linear = ("linear",) if cfg.sparsity else ()
  return ("states",) * cfg.state_members + ("all",) * seen + linear


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
  """[B, O, Q, D], last states, habits and profile -> [R, B, O, M, Z].

  R rows of outputs, each trained on its own; a row's view is what it sees:

  - "all": E - S members, perceptrons of states, habits and profile.
  - "states": S members of the same kind that see no habits. What is read off
    habits is learned in few steps and leaves the encoder little to learn from;
    these members keep teaching it.
  - "linear": one row, linear in habits and profile, with an L1 penalty. Rare
    outcomes hang on few habits, and a perceptron's many are noise to them.

  A perceptron is a shared layer, then a hidden layer a task. Members share both
  layers' matrices and differ in signs of the input, scales, biases and the last
  layer (BatchEnsemble, arXiv 2002.06715, in TabM's form, arXiv 2410.24210): the
  mean of their forecasts is an ensemble's for little more than one's cost.

  Dropout spares single outputs of amounts: under an exponential, noise in the
  last layers would shrink large forecasts.
  """

  # Adam moves a weight by at most its rate a step; the linear row's start at
  # zero and have further to go than others' (L1 fits reach .5). So have biases:
  # as users are told apart, that of a rare outcome falls by one or two.
  _STEP = 10.0

  def __init__(self, cfg, queries, extra, tasks, outputs, *, dtype, rngs):
    n, hidden, width = len(tasks), cfg.mix_width, cfg.head_width
    states = (queries + 1) * cfg.d_model
    inputs = states + extra
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
    amounts = np.asarray([t.kind == "regression" for t in tasks])
    # Of a distribution the start (see `start`) is good, and noise about it bad:
    # it makes what is rare likelier.
    scale = np.where(amounts & (outputs > 1), 0.0, width**-0.5)
    value = value * scale.astype(np.float32)[None, :, None, None]
    self.out = nnx.Param(value, axes=(None,) * 4)
    self.views = views(cfg)
    if cfg.sparsity:
      self.linear = layers.zeros((extra, n * outputs), (None, None))
    self.bias = layers.zeros((len(self.views), n, outputs), (None,) * 3)
    self.inputs, self.rate = (states, extra), cfg.dropout
    self.shape, self.sparsity = (n, width, outputs), cfg.sparsity
    self.activation = layers.ACTIVATIONS[cfg.activation]
    self.noisy = tuple((~amounts | (outputs > 1)).tolist())
    # A task's loss is the mean over its outputs; a binary task has one.
    self.used = tuple(np.where(amounts, outputs, 1).tolist())

  def start(self, outputs: jax.Array) -> None:
    """Outputs [M, Z] that every row starts from."""
    self.bias[...] = jnp.broadcast_to(outputs / self._STEP, self.bias.shape)

  def penalty(self) -> jax.Array:
    """L1 penalty of each task [M], on the scale of the mean loss of rows."""
    if not self.sparsity:
      return jnp.zeros(self.shape[0])
    weights = jnp.abs(self.linear[...]).reshape(
      -1, self.shape[0], self.shape[2]
    )
    scale = self.sparsity * self._STEP / len(self.views)
    return scale * weights.sum((0, 2)) / np.asarray(self.used, np.float32)

  def __call__(self, queries, last, extra, rngs):
    """Queries [B, O, Q, D], last [B, O, D], extra [B, O, X]."""
    drop = lambda x: layers.dropout(self.rate, rngs, x)
    each = lambda p: p[...].astype(extra.dtype)[:, None, None]
    states = jnp.concatenate(
      [queries.reshape(*queries.shape[:2], -1), last], -1
    )
    members = self.out.shape[0]
    if members > 1:
      x = self._mix_members(drop(states), extra) * each(self.mix_scale)
    else:
      x = self.mix(jnp.concatenate([drop(states), extra], -1)[None])
    x = self.activation(x + each(self.mix_bias))
    x = self.hidden(x)
    if members > 1:
      x = x * each(self.hidden_scale)
    x = self.activation(x + each(self.hidden_bias))
    x = x.reshape(*x.shape[:3], *self.shape[:2])
    x = jnp.where(np.asarray(self.noisy)[:, None], drop(x), x)
    y = jnp.einsum("ebomk,emkz->ebomz", x, self.out[...].astype(x.dtype))
    if self.sparsity:
      linear = extra @ (self._STEP * self.linear[...]).astype(x.dtype)
      y = jnp.concatenate([y, linear.reshape(1, *y.shape[1:])], 0)
    return y + self._STEP * each(self.bias)

  def _mix_members(self, states, extra):
    """Each member's first layer [E, B, O, hidden], signs on the inputs.

    They are put on the matrix, of which there is one for all rows. A member
    that sees less sees it larger, so that all sum up to about the same.
    """
    n, more = self.inputs
    blind = sum(v == "states" for v in self.views)
    scale = np.ones((self.signs.shape[0], 1), np.float32)
    scale[:blind] = np.sqrt((n + more) / n)
    kernel = self.mix.kernel[...]
    matrix = lambda s, rows: (s[..., None] * rows[None]).astype(extra.dtype)
    product = lambda x, m: jnp.einsum("boi,eih->eboh", x, m)
    signs = self.signs[...] * scale
    x = product(states, matrix(signs[:, :n], kernel[:n]))
    y = product(extra, matrix(signs[blind:, n:], kernel[n:]))
    return jnp.concatenate([x[:blind], x[blind:] + y], 0)


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

  def start(self, outputs: jax.Array) -> None:
    """Outputs [M, Z] that every day starts from."""
    days = self.out.bias.shape[0] // outputs.size
    self.out.bias[...] = jnp.tile(jnp.asarray(outputs).ravel(), days)

  def penalty(self) -> jax.Array:
    """None: zeros [M]."""
    return jnp.zeros(self.shape[0])

  def __call__(self, queries, last, extra, rngs):
    """Queries [B, O, Q, D] -> [1, B, O, H, M, Z]."""
    del last, extra, rngs  # A day's value comes from its own query alone.
    y = self.out(queries)
    return y.reshape(1, *y.shape[:2], -1, *self.shape)
