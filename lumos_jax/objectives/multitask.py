"""Several tasks in one loss, and forecasts from raw outputs.

R rows of outputs (models/heads.py), B batch, O origins, H horizon days, M
tasks, Z outputs of the regression loss (objectives/regression.py).
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.objectives import regression

WEIGHTINGS = ("uncertainty", "sum", "learned")
# Added to each loss under "uncertainty", whose weights are about 1 / loss: a
# task without a loss left would have an infinite one.
_LEAST_LOSS = 1e-3


def _targets(batch, tasks, m, sequence):
  """Targets and mask of a task, [B, O] or [B, O, H] for daily outputs."""
  mask = batch["label_mask"][..., m]
  if not sequence:
    return batch["labels"][..., m], mask
  y = batch["daily_labels"][..., m]
  day = jnp.arange(y.shape[-1])[None, None]
  return y, mask[..., None] & (day < tasks[m].horizon_days)


def totals(
  batch: dict[str, jax.Array],
  tasks: Sequence[tasks_lib.Task],
  sequence: bool,
  amounts: type[regression.Amounts],
) -> dict[str, jax.Array]:
  """Labels of each task in a whole batch, [M]: {count, trained}.

  Losses of parts of a batch are divided by "trained", the number of labels with
  a loss, so that accumulated gradients equal the whole batch's.
  """
  count, trained = [], []
  for m, task in enumerate(tasks):
    y, mask = _targets(batch, tasks, m, sequence)
    count.append(mask.sum())
    has_loss = amounts.counts(y) if task.kind == "regression" else True
    trained.append((mask & has_loss).sum())
  return {"count": jnp.stack(count), "trained": jnp.stack(trained)}


def task_losses(
  z: jax.Array,
  batch: dict[str, jax.Array],
  tasks: Sequence[tasks_lib.Task],
  amounts: regression.Amounts,
  totals: dict[str, jax.Array],
) -> jax.Array:
  """Mean loss of each task over its unmasked labels.

  Args:
    z: float32 [R, B, O, M, Z], or [R, B, O, H, M, Z] from the sequence head,
      whose targets are the days' own values, `daily_labels` [B, O, H, M]. Each
      row has its own loss; the mean of them is trained.
    batch: With labels and label_mask [B, O, M].
    tasks: M tasks.
    amounts: Loss of regression tasks.
    totals: Of the whole batch, from the function of that name.

  Returns:
    losses [M]; a task without labels has loss 0.
  """
  losses = []
  for m, task in enumerate(tasks):
    y, mask = _targets(batch, tasks, m, z.ndim == 6)
    raw, each = z[..., m, :], y[None]  # The same target for every row.
    if task.kind == "binary":
      logits = raw[..., 0]
      loss = jax.nn.softplus(logits) - each * logits
    else:
      loss = amounts.loss(m, raw, each)
      mask = mask & amounts.counts(y)
    loss = jnp.where(mask, loss.mean(0), 0.0).sum()
    losses.append(loss / jnp.maximum(totals["trained"][m], 1))
  return jnp.stack(losses)


def combine(
  losses: jax.Array,
  counts: jax.Array,
  tasks: Sequence[tasks_lib.Task],
  weighting: str,
  balance: jax.Array | None,
  share: float = 1.0,
) -> jax.Array:
  """One number from M losses.

  - sum: weights of the tasks as declared.
  - learned: declared weights times M softmax(balance).
  - uncertainty: balance is a log-variance s a task; L exp(-s) + s / 2 (binary)
    or L exp(-s) / 2 + s / 2 (regression) (Kendall et al. 2018, eq. 7 and 10),
    with L increased by .001: no weight exceeds 500.

  Args:
    losses, counts: [M]; a task without labels in the batch does not count.
    tasks: M tasks with weights.
    weighting: One of WEIGHTINGS.
    balance: Parameters [M], or None for "sum".
    share: Part of the batch that the losses are of.
  """
  weights = jnp.asarray([t.weight for t in tasks], losses.dtype)
  weights = weights * (counts > 0)
  if weighting == "sum":
    return (weights * losses).sum()
  if weighting == "learned":
    return (weights * len(tasks) * jax.nn.softmax(balance) * losses).sum()
  half = [0.5 if t.kind == "regression" else 1.0 for t in tasks]
  losses = losses + share * _LEAST_LOSS
  scaled = jnp.asarray(half, losses.dtype) * losses * jnp.exp(-balance)
  return (weights * (scaled + 0.5 * share * balance)).sum()


def view_weights(
  views: Sequence[str],
  tasks: Sequence[tasks_lib.Task],
  chosen: Mapping[str, Sequence[str]],
) -> np.ndarray:
  """Weights [R, M] of rows in the forecasts; every view counts alike.

  Args:
    views: The view of each of R rows.
    tasks: M tasks.
    chosen: {task: its views}; a task that is not there takes all.

  Raises:
    ValueError: A task that there is not, or none of whose views has a row.
  """
  unknown = set(chosen) - {t.name for t in tasks}
  if unknown:
    raise ValueError(
      f"model.views names {sorted(unknown)}; the tasks are "
      f"{[t.name for t in tasks]}"
    )
  out = np.zeros((len(views), len(tasks)), np.float32)
  for m, task in enumerate(tasks):
    names = set(chosen.get(task.name, views)) & set(views)
    if not names:
      raise ValueError(
        f"model.views.{task.name} = {chosen[task.name]}: this head has only "
        f"{sorted(set(views))}; see model.state_members and model.sparsity"
      )
    for r, view in enumerate(views):
      if view in names:
        out[r, m] = 1.0 / (len(names) * views.count(view))
  return out


def forecasts(
  z: jax.Array,
  tasks: Sequence[tasks_lib.Task],
  amounts: regression.Amounts,
  weights: np.ndarray,
) -> dict[str, jax.Array]:
  """Forecasts of the label window.

  Args:
    z: As in `task_losses`.
    tasks: M tasks.
    amounts: Loss of regression tasks.
    weights: Of `view_weights`.

  Returns:
    {task: [B, O]}, over rows by their weights: the probability of binary tasks;
    the mean of amounts, and beside it "task/median", "task/low" and "task/high"
    (10 % and 90 % quantile) where the loss has them. A daily forecast is summed
    up: 1 - prod(1 - p) for "any", the sum of means, and no quantiles.
  """
  out, sequence = {}, z.ndim == 6
  for m, task in enumerate(tasks):
    raw = z[..., m, :]
    if sequence:
      raw = raw[:, :, :, : task.horizon_days]
    if task.kind == "regression":
      found = amounts.forecast(m, raw, weights[:, m])
      mean = found.pop("mean")
      out[task.name] = mean.sum(-1) if sequence else mean
      if not sequence:
        out |= {f"{task.name}/{k}": v for k, v in found.items()}
      continue
    p = jax.nn.sigmoid(raw[..., 0])
    if sequence:
      none = jnp.exp(-jax.nn.softplus(raw[..., 0]).sum(-1))
      p = none if task.reduce == "none" else 1.0 - none
    out[task.name] = (p * weights[:, m, None, None]).sum(0)
  return out
