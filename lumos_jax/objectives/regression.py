"""Amounts: what is trained and what is forecast for regression tasks.

M tasks, Z raw outputs of a task, R rows of outputs (models/heads.py).
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.objectives import bins as bins_lib

# What a forecast holds beside the mean: "task/median" and so on.
QUANTILES = {"median": 0.5, "low": 0.1, "high": 0.9}
_RATES = (1e-4, 1 - 1e-4)  # Between which a constant forecast starts.


def _beside(x: jax.Array, like: jax.Array) -> jax.Array:
  """x [Z] with as many axes as `like` [..., Z]."""
  return x.reshape((1,) * (like.ndim - 1) + x.shape)


class Distribution(nnx.Module):
  """The whole distribution of an amount, by its probability to exceed values.

  Output z is the logit of P(amount > threshold z), a binary task of its own:
  distribution regression (Foresi and Peracchi 1995, JASA 90; Chernozhukov,
  Fernandez-Val and Melly 2013, Econometrica 81). The loss is the mean of their
  log losses, a ranked probability score in logarithms: proper, never below 0,
  and on the scale of the binary tasks beside it.

  Between thresholds lie bins (objectives/bins.py). The mean is linear in the
  probabilities, m_0 + sum_z P(amount > threshold z) (m_(z+1) - m_z) with the
  bins' means m: the total is right as far as these are calibrated. Quantiles are
  read off the same distribution, in order by rearrangement (Chernozhukov,
  Fernandez-Val and Galichon 2010) and linear within a bin.

  Bins are fitted on training labels and stored beside the model's parameters;
  nothing here is trained.
  """

  outputs = 32

  def __init__(self, n_tasks: int):
    """Bins of no data in particular, until `fit`."""
    found = bins_lib.fit(np.expm1(np.linspace(0.0, 10.0, 1000)), self.outputs)
    make = lambda x: nnx.Param(
      jnp.tile(jnp.asarray(x)[None], (n_tasks, 1)), axes=(None, None)
    )
    self.threshold, self.low, self.high, self.mean = map(make, found[:4])

  def fit(
    self, tasks: Sequence[tasks_lib.Task], y: Mapping[str, np.ndarray]
  ) -> np.ndarray:
    """Takes bins from training labels; outputs [M, Z] to start from.

    Args:
      tasks: M tasks.
      y: {regression task: float [N]}.
    """
    start = np.zeros((len(tasks), self.outputs), np.float32)
    for m, task in enumerate(tasks):
      if task.kind != "regression":
        continue
      found = bins_lib.fit(y[task.name], self.outputs)
      for name in ("threshold", "low", "high", "mean"):
        param = getattr(self, name)
        param[...] = param[...].at[m].set(getattr(found, name))
      rate = np.clip(found.rate, *_RATES)
      start[m] = np.log(rate) - np.log1p(-rate)
    return start

  def _of(self, m: int) -> list[jax.Array]:
    params = self.threshold, self.low, self.high, self.mean
    return [jax.lax.stop_gradient(p[...][m]) for p in params]

  @staticmethod
  def counts(y: jax.Array) -> jax.Array:
    """Targets that have a loss: all of them."""
    return jnp.ones_like(y, bool)

  def loss(self, m: int, z: jax.Array, y: jax.Array) -> jax.Array:
    """Mean log loss over thresholds of task m: z [..., Z], y [...] -> [...]."""
    threshold = _beside(self._of(m)[0], z)
    used = threshold < bins_lib.NEVER
    above = y[..., None] > threshold
    each = jax.nn.softplus(z) - jnp.where(above, z, 0.0)
    return jnp.where(used, each, 0.0).sum(-1) / jnp.maximum(used.sum(), 1)

  def forecast(
    self, m: int, z: jax.Array, weights: np.ndarray
  ) -> dict[str, jax.Array]:
    """Mean, median and 80 % interval of the mixture of rows.

    Args:
      m: Of the task.
      z: [R, ..., Z].
      weights: [R], with sum 1.

    Returns:
      {"mean", "median", "low", "high": [...]}.
    """
    threshold, low, high, mean = self._of(m)
    used = _beside(threshold, z) < bins_lib.NEVER
    above = jnp.where(used, jax.nn.sigmoid(z), 0.0)
    above = (above * _column(weights, z)).sum(0)
    out = {"mean": mean[0] + (above * _beside(jnp.diff(mean), above)).sum(-1)}
    below = jnp.sort(1.0 - above, -1)
    ends = lambda before, after: jnp.pad(
      below, [(0, 0)] * (below.ndim - 1) + [(before, after)]
    )
    start, end = ends(1, 0), ends(0, 1).at[..., -1].set(1.0)
    for name, q in QUANTILES.items():
      k = (end < q).sum(-1, keepdims=True)
      a, b = (jnp.take_along_axis(x, k, -1)[..., 0] for x in (start, end))
      part = jnp.clip((q - a) / jnp.maximum(b - a, 1e-9), 0.0, 1.0)
      a, b = low[k[..., 0]], high[k[..., 0]]
      out[name] = a + part * (b - a)
    return out


class NonZero(nnx.Module):
  """Squared error of logarithms over non-zero amounts: the paper's.

  The logarithm is sign(y) log(1 + |y|), and its inverse the forecast: no mean
  and no median of amounts of which some are zero.
  """

  outputs = 1

  def __init__(self, n_tasks: int):
    """Nothing depends on the tasks."""
    del n_tasks

  def fit(
    self, tasks: Sequence[tasks_lib.Task], y: Mapping[str, np.ndarray]
  ) -> np.ndarray:
    """Outputs [M, 1] to start from: the best constant for training labels."""
    start = np.zeros((len(tasks), 1), np.float32)
    for m, task in enumerate(tasks):
      some = y[task.name][y[task.name] != 0] if task.name in y else ()
      if len(some):
        start[m] = np.mean(np.sign(some) * np.log1p(np.abs(some)))
    return start

  @staticmethod
  def counts(y: jax.Array) -> jax.Array:
    """Targets that have a loss."""
    return y != 0

  def loss(self, m: int, z: jax.Array, y: jax.Array) -> jax.Array:
    """z [..., 1], y [...] -> [...]."""
    del m
    return jnp.square(z[..., 0] - jnp.sign(y) * jnp.log1p(jnp.abs(y)))

  def forecast(
    self, m: int, z: jax.Array, weights: np.ndarray
  ) -> dict[str, jax.Array]:
    """{"mean": [...]}, the mean over rows z [R, ..., 1]."""
    del m
    # A wild early step must not overflow: exp(20) exceeds any forecast.
    size = jnp.expm1(jnp.minimum(jnp.abs(z), 20.0))
    return {"mean": (jnp.sign(z) * size * _column(weights, z)).sum(0)[..., 0]}


def _column(weights: np.ndarray, z: jax.Array) -> jax.Array:
  """weights [R] beside z [R, ...]."""
  weights = jnp.asarray(weights, z.dtype)
  return weights.reshape(weights.shape + (1,) * (z.ndim - 1))


Amounts = Distribution | NonZero
LOSSES: dict[str, type[Amounts]] = {
  "distribution": Distribution,
  "mse_nonzero": NonZero,
}
