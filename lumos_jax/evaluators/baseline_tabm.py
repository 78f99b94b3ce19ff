"""TabM as a baseline: one network of k submodels for all tasks' targets.

B rows of a batch, k submodels, J targets.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lumos_jax.evaluators import tabm, tabular, targets

_PARAMS = dict(
  width=128,
  layers=2,
  pieces=8,
  dropout=0.1,
  learning_rate=2e-3,
  weight_decay=1e-2,
  batch_size=256,
)
_CHUNK = 2048  # Rows that are forecast at a time.


class BaselineTabM(tabular.Tabular):
  """TabM: k submodels, `members`, in one network that has all targets.

  A target's epochs are those with the least loss in the folds; the network that
  is fitted anew on all users is asked at that epoch. An epoch sees the origins
  of one turn. Targets are weighted alike; amounts are learned as logarithms
  (medians) and by the deviance of a Tweedie model with a log link (means).
  """

  package = "jax"

  def __init__(self, *args, epochs: int = 40, patience: int = 6, **kw):
    """Settings beside tabular.Tabular's.

    Args:
      *args: As base.Evaluator.
      epochs: At most so many.
      patience: Epochs in which no target gets better that end the search.
      **kw: As tabular.Tabular.
    """
    super().__init__(*args, **kw)
    self._epochs, self._patience = epochs, patience
    unknown = set(self._own) - set(_PARAMS)
    if unknown:
      raise ValueError(
        f"config.evals.{self.name}.params: no {sorted(unknown)}; there are "
        f"{sorted(_PARAMS)}"
      )
    self._p = {**_PARAMS, **self._own}

  def settings(self) -> list[Any]:
    """As of tabular.Tabular."""
    return [self._epochs, self._patience, self._p]

  def forecasts(self, rows, wanted, asked):
    """As of tabular.Tabular."""
    network = _Network(rows, wanted, self._members, self._p)
    fits = [
      network.fit(
        rows.fold != f,
        self._seed * 1000 + f,
        (rows.fold == f, rows.turn == f % rows.turns),
      )
      for f in range(self._folds)
    ]
    epochs, losses = _choose(fits, self._epochs, self._patience)
    everyone = np.ones(len(rows.x), bool)
    found: dict[str, Any] = {}
    fit = network.fit(everyone, self._seed * 1000, None)
    for epoch in range(1, int(epochs.max()) + 1):
      next(fit)
      due = np.flatnonzero(epochs == epoch)
      if len(due):
        parts = [network.forecast(x) for x in asked]
      for j in due:
        chosen = {"epochs": epoch, "loss": float(losses[j])}
        each = [wanted[j].bound(p[:, :, j].T) for p in parts]
        found[wanted[j].name] = chosen, each
    return {t.name: found[t.name] for t in wanted}


def _choose(fits, most: int, patience: int) -> tuple[np.ndarray, np.ndarray]:
  """Epochs [J] with the least mean loss over folds, and that loss [J]."""
  best = least = None
  for epoch, losses in enumerate(zip(*fits), 1):
    mean = np.nan_to_num(np.mean(losses, 0), nan=np.inf)
    if best is None:
      best, least = np.ones(len(mean), int), mean
    better = mean < least
    best, least = np.where(better, epoch, best), np.where(better, mean, least)
    if epoch >= most or epoch - best.max() >= patience:
      break
  return best, least


class _Network:
  """One network and its training; a fit begins it anew."""

  def __init__(
    self,
    rows: tabular.Rows,
    wanted: Sequence[targets.Target],
    k: int,
    params: dict[str, Any],
  ):
    self._rows, self._wanted, self._k, self._p = rows, wanted, k, params
    every = rows.x[:: max(1, len(rows.x) // 20_000)]
    self._encoding = tabm.Encoding.of(
      every, rows.table.categorical, params["pieces"]
    )
    self._scales = [_scale(t) for t in wanted]
    self._y = np.stack([_shown(t, s) for t, s in zip(wanted, self._scales)], 1)
    self._known = np.stack([t.known for t in wanted], 1)
    self._optimizer = optax.adamw(
      params["learning_rate"], weight_decay=params["weight_decay"]
    )
    self._step = jax.jit(self._step_fn)
    self._forecast = jax.jit(self._forecast_fn)
    self._state: Any = None

  def fit(
    self,
    mine: np.ndarray,
    seed: int,
    held: tuple[np.ndarray, np.ndarray] | None,
  ) -> Iterator[np.ndarray]:
    """Trains an epoch a turn of the iterator.

    Args:
      mine: bool [N], rows that train.
      seed: Of parameters, order and dropout.
      held: Two masks [N] of rows that are scored together, if any.

    Yields:
      The loss of each target on the rows held out [J]; without them zeros.
    """
    rows, rng = self._rows, np.random.default_rng(seed)
    key = jax.random.key(seed)
    params = tabm.init(
      key,
      self._encoding.source,
      len(self._wanted),
      self._k,
      self._p["width"],
      self._p["layers"],
    )
    state = params, self._optimizer.init(params)
    scored = np.flatnonzero(held[0] & held[1]) if held else np.zeros(0, int)
    mine = mine & self._known.any(1)
    turns = [np.flatnonzero(mine & (rows.turn == t)) for t in range(rows.turns)]
    turns = [t for t in turns if len(t)]
    size = min(self._p["batch_size"], min(map(len, turns), default=1))
    step = epoch = 0
    while True:
      order = rng.permutation(turns[epoch % len(turns)])
      for i in range(0, len(order) - size + 1, size):
        at = order[i : i + size]
        batch = rows.x[at], self._y[at], self._known[at]
        state = self._step(state, batch, jax.random.fold_in(key, step))
        step += 1
      epoch += 1
      self._state = state[0]
      yield self._losses(scored)

  def _step_fn(self, state, batch, key):
    params, optimizer = state
    x, y, known = batch

    def loss(params):
      z, p = self._encoding(x), self._p
      out = tabm.apply(params, z, p["layers"], p["dropout"], key)
      # Each submodel has its own loss: it is their mean that is forecast.
      each = jnp.stack(
        [
          _LOSSES[t.loss](out[..., j], y[:, None, j])
          for j, t in enumerate(self._wanted)
        ],
        -1,
      ).mean(1)
      total = jnp.where(known, each, 0.0).sum(0)
      return (total / jnp.maximum(known.sum(0), 1)).sum()

    grads = jax.grad(loss)(params)
    updates, optimizer = self._optimizer.update(grads, optimizer, params)
    return optax.apply_updates(params, updates), optimizer

  def _forecast_fn(self, params, x):
    out = tabm.apply(params, self._encoding(x), self._p["layers"])
    each = [
      _BACK[t.loss](out[..., j]) * s
      for j, (t, s) in enumerate(zip(self._wanted, self._scales))
    ]
    return jnp.stack(each, -1)

  def forecast(self, x: np.ndarray) -> np.ndarray:
    """float32 [n, k, J] at the epoch of the last fit."""
    out = []
    for i in range(0, len(x), _CHUNK):
      part = x[i : i + _CHUNK]
      short = np.repeat(part[-1:], _CHUNK - len(part), 0)
      whole = np.concatenate([part, short])
      found = self._forecast(self._state, whole)
      out.append(np.asarray(found)[: len(part)])
    return np.concatenate(out)

  def _losses(self, at: np.ndarray) -> np.ndarray:
    if not len(at):
      return np.zeros(len(self._wanted))
    p, out = self.forecast(self._rows.x[at]).mean(1), []
    for j, t in enumerate(self._wanted):
      known = t.known[at]
      if not known.any():
        out.append(np.nan)
        continue
      q = t.bound(p[known, j])
      out.append(targets.mean_loss(t.loss, t.y[at][known], q))
    return np.asarray(out)


def _scale(target: targets.Target) -> float:
  """Divisor of amounts whose mean is learned."""
  if target.loss not in ("tweedie", "squared"):
    return 1.0
  return max(float(np.abs(target.y[target.known]).mean()), 1e-12)


def _shown(target: targets.Target, scale: float) -> np.ndarray:
  """Labels as the network learns them: float32 [N]."""
  y = np.where(target.known, target.y, 0.0) / scale
  if target.loss == "absolute":  # The median of logarithms is that of amounts.
    y = np.sign(y) * np.log1p(np.abs(y))
  return y.astype(np.float32)


def _tweedie(out, y):
  out = jnp.clip(out, -15.0, 15.0)
  return 2.0 * (jnp.exp(out / 2.0) + y * jnp.exp(-out / 2.0))


_LOSSES = {
  "log_loss": optax.sigmoid_binary_cross_entropy,
  "absolute": lambda out, y: jnp.abs(out - y),
  "squared": lambda out, y: jnp.square(out - y),
  "tweedie": _tweedie,
}
_BACK = {
  "log_loss": jax.nn.sigmoid,
  "absolute": lambda out: (
    jnp.sign(out) * jnp.expm1(jnp.minimum(jnp.abs(out), 30))
  ),
  "squared": lambda out: out,
  "tweedie": lambda out: jnp.exp(jnp.clip(out, -15.0, 15.0)),
}
assert targets.TWEEDIE_POWER == 1.5  # _tweedie's exponents.
