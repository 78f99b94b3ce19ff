"""The best baseline of each task, chosen on the validation origin."""

import json
from collections.abc import Sequence

import numpy as np

from lumos_jax.evaluators import base, predict, tabular, targets


class BaselineBest(base.Evaluator):
  """Of the tabular baselines that ran, each task's best by validation loss.

  Losses are proper: log loss of probabilities, absolute error of medians,
  deviance (or squared error) of means. Test is not looked at, so that a
  difference to it is one to a baseline that could have been chosen.
  predictions/<name>.json says which one it is.
  """

  needs_params = False
  baseline = True
  slow = 1
  validation: predict.Predictions | None = None

  def run(self, params=None) -> base.Metrics:
    """Yields the metrics of the forecast evaluator.

    Raises:
      ValueError: No tabular baseline of these users ran beside it.
    """
    del params
    # What stands on the model's states is no baseline of it.
    found = {n: e for n, e in candidates(self).items() if not e.needs_params}
    if not found:
      raise ValueError(
        f"config.evals.{self.name} chooses among tabular baselines (such as "
        "baseline_lightgbm) of the same split and origin: none ran beside it"
      )
    names = list(found)
    first = found[names[0]]
    about: dict[str, dict[str, dict[str, object]]] = {}
    p: dict[str, np.ndarray] = {}
    p_validation: dict[str, np.ndarray] = {}
    for m, task in enumerate(self.tasks):
      for goal in targets.GOALS[task.kind]:
        y, known = first.validation.y[:, m], first.validation.mask[:, m]
        target = targets.Target(task, goal, y.astype(np.float64), known)
        losses = {n: _loss(target, found[n].validation) for n in names}
        best = min(losses, key=losses.get)
        key = target.name
        p[key] = found[best].predictions.p[key]
        p_validation[key] = found[best].validation.p[key]
        about.setdefault(task.name, {})[goal] = {
          "baseline": best,
          "validation_loss": {
            n: v if np.isfinite(v) else None for n, v in losses.items()
          },
        }
    merge = lambda q, p: predict.Predictions(q.key, q.y, q.mask, p)
    self.predictions = merge(first.predictions, p)
    self.validation = merge(first.validation, p_validation)
    self.save(self.predictions)
    self.save(self.validation, ".validation")
    self.save_text(json.dumps(about, indent=1))
    yield from self.score(self.predictions).items()


def candidates(e: base.Evaluator) -> dict[str, tabular.Tabular]:
  """Tabular baselines that ran beside an evaluator on its users and day."""
  found: dict[str, tabular.Tabular] = {}
  for name, other in e.peers.items():
    same = (e.split, e.origin) == (other.split, other.origin)
    if isinstance(other, tabular.Tabular) and other.predictions and same:
      found[name] = other
  same_users([x.predictions for x in found.values()])
  same_users([x.validation for x in found.values()])
  return found


def same_users(found: Sequence[predict.Predictions]) -> None:
  """Raises ValueError unless all have forecast the same users."""
  for other in found[1:]:
    same_mask = np.array_equal(found[0].mask, other.mask)
    if not np.array_equal(found[0].key, other.key) or not same_mask:
      raise ValueError("forecasts that are put together have other users")


def _loss(target: targets.Target, found: predict.Predictions) -> float:
  if not target.known.any():
    return np.inf
  p = found.p[target.name][target.known]
  return targets.mean_loss(target.loss, target.y[target.known], p)
