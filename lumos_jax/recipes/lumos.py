"""The LUMOS recipe: forecasts of declared tasks that know the calendar."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.data import pipeline, targets
from lumos_jax.models import heads
from lumos_jax.models import lumos as model_lib
from lumos_jax.objectives import multitask, regression

_HALF_LIFE_DAYS = 28.0


class _Trained(nnx.Module):
  """The model, the balance of its tasks, and what is known of amounts."""

  def __init__(self, model, amounts, n_tasks: int, weighting: str):
    self.model, self.amounts = model, amounts
    if weighting != "sum":
      self.balance = nnx.Param(jnp.zeros(n_tasks), axes=(None,))


class Lumos:
  """Model + loss + predict of LUMOS, as train.py and evaluators call them."""

  inputs = pipeline
  sequence_length = None  # Its rows of days stay on one device.

  def __init__(self, config, records, tasks):
    """Checks config.model against config.data; see ValueError's text."""
    self.cfg, self.tasks = config.model, tuple(tasks)
    self.schema, self.calendar = records.schema, records.calendar
    self._records, self._data_cfg = records, config.data
    pipeline.check_config(config.data, tasks)
    self.horizon = pipeline.horizon_days(tasks)
    self.history_days = config.data.history_days
    model_lib.check_config(config.model, config.data, self.horizon)
    if self.cfg.weighting not in multitask.WEIGHTINGS:
      raise ValueError(
        f"model.weighting = {self.cfg.weighting!r}; "
        f"use one of {multitask.WEIGHTINGS}"
      )
    if self.cfg.regression_loss not in regression.LOSSES:
      raise ValueError(
        f"model.regression_loss = {self.cfg.regression_loss!r}; "
        f"use one of {list(regression.LOSSES)}"
      )
    self.weights = multitask.view_weights(
      heads.views(self.cfg), self.tasks, self.cfg.views
    )
    daily = self.cfg.head == "sequence"
    if daily != config.data.daily_labels:
      raise ValueError(
        f"model.head = {self.cfg.head!r} needs data.daily_labels = {daily}"
      )
    names = {t.name for t in self.tasks}
    for task in self.tasks:
      for part in regression.QUANTILES:
        if task.kind == "regression" and f"{task.name}_{part}" in names:
          raise ValueError(
            f"config.tasks: {task.name}_{part} is how a column beside "
            f"{task.name} is called: name that task otherwise"
          )

  def init(self, rngs: nnx.Rngs, batch=None) -> nnx.Module:
    """A fresh model.

    With a batch, what is fitted has its values: scales of habits from the batch,
    bins of amounts and outputs to start from out of the training labels, which
    are read from the records (as constants, where this is traced).
    """
    amounts = regression.LOSSES[self.cfg.regression_loss](len(self.tasks))
    model = model_lib.Lumos(
      self.cfg,
      self.schema,
      self.calendar,
      amounts.outputs,
      self.tasks,
      self.horizon,
      self.history_days,
      rngs=rngs,
    )
    if batch is not None:
      model.fit(batch)
      of_amounts = [t for t in self.tasks if t.kind == "regression"]
      labels = targets.sample(self._records, self._data_cfg, of_amounts)
      model.head.start(amounts.fit(self.tasks, labels))
    return _Trained(model, amounts, len(self.tasks), self.cfg.weighting)

  def tokens(self, batch) -> int:
    """History rows that a batch reads, for tokens/s."""
    return batch["history_day"].size

  def totals(self, batch) -> dict[str, jax.Array]:
    """What a loss is divided by, of the whole batch before it is cut up."""
    amounts = regression.LOSSES[self.cfg.regression_loss]
    daily = self.cfg.head == "sequence"
    return multitask.totals(batch, self.tasks, daily, amounts)

  def loss(
    self,
    module: nnx.Module,
    batch,
    rngs: nnx.Rngs | None,
    totals: dict[str, jax.Array],
    share: float = 1.0,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of a part of a batch; the parts' losses add up to the batch's.

    Args:
      module: Of `init`.
      batch: The part.
      rngs: Stream "dropout".
      totals: Of the whole batch.
      share: The part's share of the batch, for terms without data.

    Returns:
      The loss and the numbers to log: {"loss/<task>": value}.
    """
    z = module.model(batch, rngs)
    losses = multitask.task_losses(z, batch, self.tasks, module.amounts, totals)
    weighting = self.cfg.weighting
    balance = None if weighting == "sum" else module.balance[...]
    penalty = share * module.model.head.penalty()
    total = multitask.combine(
      losses + penalty, totals["count"], self.tasks, weighting, balance, share
    )
    logs = {f"loss/{t.name}": losses[m] for m, t in enumerate(self.tasks)}
    return total, logs

  def predict(self, module: nnx.Module, batch) -> dict[str, jax.Array]:
    """Forecasts {task: float32 [B, O]}; see multitask.forecasts."""
    z = module.model(batch)
    return multitask.forecasts(z, self.tasks, module.amounts, self.weights)

  def rows(self, module: nnx.Module, batch) -> dict[str, jax.Array]:
    """As `predict`, each of the head's R rows apart: float32 [B, R]; O = 1."""
    z = module.model(batch)
    alone = np.ones((1, len(self.tasks)), np.float32)
    found = [
      multitask.forecasts(z[r : r + 1], self.tasks, module.amounts, alone)
      for r in range(z.shape[0])
    ]
    return {k: jnp.concatenate([f[k] for f in found], 1) for k in found[0]}

  def embed(self, module: nnx.Module, batch) -> dict[str, jax.Array]:
    """Pooled encoder states of each user, at the one origin of a batch.

    Args:
      module: Of `init`.
      batch: Of `data.pipeline`, O = 1.

    Returns:
      {"mean", "max", "last", "ewm": float32 [B, D]} (LUMOS, section on user
      embeddings). "ewm" weighs a token by 2^(-age / 28 days). A user without
      history has the start token's state.
    """
    states, seen, time = module.model.states(batch)
    return _pooled(states.astype(jnp.float32), seen, time)

  def summary(self, module: nnx.Module, batch) -> dict[str, jax.Array]:
    """Forecasts, and the mean and last state, of each user; O = 1.

    Returns:
      {"task" and its like: float32 [B, 1]; "mean", "last": float32 [B, D]}.
    """
    found = self.embed(module, batch)
    kept = {k: found[k] for k in ("mean", "last")}
    return self.predict(module, batch) | kept

  def states(self, module: nnx.Module, batch) -> dict[str, jax.Array]:
    """Encoder states of each token, the start token left out.

    Returns:
      {"state": float32 [B, P, D], "seen": bool [B, P], "day": float32 [B, P],
      last day of the token, from the origin on}.
    """
    states, seen, time = module.model.states(batch)
    return {
      "state": states[:, 1:].astype(jnp.float32),
      "seen": seen[:, 1:],
      "day": time[:, 1:],
    }


def _pooled(states, seen, time) -> dict[str, jax.Array]:
  # The start token counts only where nothing else is seen.
  only = jnp.concatenate([~seen[:, 1:].any(-1, keepdims=True), seen[:, 1:]], 1)
  mask = only[..., None]
  # From the latest token that counts: old ones alone do not vanish.
  latest = jnp.where(only, time, -jnp.inf).max(1, keepdims=True)
  weight = jnp.exp2((time - latest) / _HALF_LIFE_DAYS)[..., None]
  weight = jnp.where(mask, weight, 0.0)
  count = jnp.maximum(mask.sum(1), 1)
  last = only.shape[1] - 1 - jnp.argmax(only[:, ::-1], 1)
  return {
    "mean": jnp.where(mask, states, 0.0).sum(1) / count,
    "max": jnp.where(mask, states, -jnp.inf).max(1),
    "last": jnp.take_along_axis(states, last[:, None, None], 1)[:, 0],
    "ewm": (weight * states).sum(1) / weight.sum(1),
  }
