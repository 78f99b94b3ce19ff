"""The model's forecasts and the baselines' together: does either add to it?

Weights are fitted on the validation origin and applied at the test origin. A
mean of several models often beats each of them: what the model adds is the
difference between the two stacks, with it and without. K forecasts, n users.
"""

import json
from collections.abc import Mapping

import numpy as np

from lumos_jax.evaluators import (
  base,
  baseline_best,
  bootstrap,
  forecast,
  predict,
  targets,
)

_LEAST = 1e-6


class Stack(base.Evaluator):
  """A weighted mean of the model and the tabular baselines that ran beside it.

  Of logits for binary tasks, of amounts for the others; weights are at least 0
  and add up to 1. They are compared with the model and with each baseline,
  `baseline_best` and `baseline_stack` among them. Metrics are the forecast
  evaluator's, and "weight/<task>/<evaluator>".
  """

  needs_params = False
  slow = 2

  def __init__(self, *args, prior: float = 1.0, **kw):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      prior: Of a Dirichlet prior, beyond 1: pulls towards equal weights where
        the validation origin says little. 0 for none.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    self._prior = prior

  def _forecasts(self) -> dict[str, tuple]:
    """{evaluator: (validation, test)} of the model, then of the baselines."""
    cfg = self.data_cfg
    wanted = {
      (cfg.validation_split, cfg.validation_origin): 0,
      (self.split, self.origin): 1,
    }
    model: dict[int, tuple[str, predict.Predictions]] = {}
    for name, e in self.peers.items():
      at = wanted.get((e.split, e.origin))
      if isinstance(e, forecast.Forecast) and e.predictions and at is not None:
        model.setdefault(at, (name, e.predictions))
    found = baseline_best.candidates(self)
    if len(model) < len(wanted) or not found:
      raise ValueError(
        f"config.evals.{self.name} needs, beside it, evaluators of type "
        "'forecast' of the validation and of the test split, and a tabular "
        "baseline such as baseline_lightgbm"
      )
    model_found = model[0][1], model[1][1]
    out = {model[1][0]: model_found}
    out |= {n: (e.validation, e.predictions) for n, e in found.items()}
    for i in range(2):
      baseline_best.same_users([pair[i] for pair in out.values()])
    return out

  def run(self, params=None) -> base.Metrics:
    """Yields the metrics of the forecast evaluator, and weights.

    Raises:
      ValueError: Forecasts that it is made of are not there.
    """
    del params
    found = self._forecasts()
    names = list(found)
    validation, test = found[names[0]]
    p: dict[str, np.ndarray] = {}
    weights: dict[str, dict[str, float]] = {}
    for m, task in enumerate(self.tasks):
      for goal in targets.GOALS[task.kind]:
        y, known = validation.y[:, m], validation.mask[:, m]
        target = targets.Target(task, goal, y.astype(np.float64), known)
        each = [
          np.stack([_of(pair[i], target) for pair in found.values()])
          for i in range(2)
        ]
        w = np.full(len(names), 1 / len(names))
        if known.any() and len(names) > 1:
          w = fit(y[known], each[0][:, known], target.loss, self._prior)
        p[target.name] = mix(w, each[1], target.loss).astype(np.float32)
        weights[target.name] = dict(zip(names, w.tolist(), strict=True))
    self.predictions = predict.Predictions(test.key, test.y, test.mask, p)
    self.save(self.predictions)
    self.save_text(json.dumps({"weights": weights}, indent=1))
    yield from self.score(self.predictions).items()
    for task in self.tasks:
      for name, w in weights[task.name].items():
        yield f"weight/{task.name}/{name}", w

  def compare(self, other: base.Evaluator) -> Mapping[str, bootstrap.Interval]:
    """{"task/metric": difference} to the model or a baseline."""
    alike = other.baseline or isinstance(other, forecast.Forecast)
    same = (self.split, self.origin) == (other.split, other.origin)
    if not alike or not same:
      return {}
    self.check_same_users(other)
    a, b = self.predictions, other.predictions
    return bootstrap.compare_tasks(
      self.tasks, a.y, a.mask, a.p, b.p, self.mean_tasks, key=a.key
    )


class BaselineStack(Stack):
  """The stack of the tabular baselines alone, without the model.

  Baselines on the model's states are left out, as in `baseline_best`.
  """

  baseline = True

  def _forecasts(self) -> dict[str, tuple]:
    """{evaluator: (validation, test)} of the baselines."""
    found = baseline_best.candidates(self)
    out = {
      n: (e.validation, e.predictions)
      for n, e in found.items()
      if not e.needs_params
    }
    if not out:
      raise ValueError(
        f"config.evals.{self.name} needs, beside it, a tabular baseline such "
        "as baseline_lightgbm of the same split and origin"
      )
    return out

  def compare(self, other: base.Evaluator) -> Mapping[str, bootstrap.Interval]:
    """Nothing: others are compared with it."""
    del other
    return {}


def _of(found: predict.Predictions, target: targets.Target) -> np.ndarray:
  """A target's forecasts; of a mean the point where there is none."""
  p = found.p.get(target.name, found.p[target.task.name])
  return np.asarray(p, np.float64)


def mix(w: np.ndarray, p: np.ndarray, loss: str) -> np.ndarray:
  """Forecasts [n] of weights [K] and forecasts [K, n]; logits of log_loss."""
  if loss != "log_loss":
    return w @ p
  p = np.clip(p, _LEAST, 1 - _LEAST)
  return 1.0 / (1.0 + np.exp(-(w @ (np.log(p) - np.log1p(-p)))))


def fit(y: np.ndarray, p: np.ndarray, loss: str, prior: float) -> np.ndarray:
  """Weights [K], at least 0 and adding up to 1, of the least loss.

  The loss is a negative log likelihood, whose scale is that of the best fit
  where it has one, plus `prior` times the sum of -log of the weights.

  Args:
    y: [n] outcomes.
    p: [K, n] forecasts.
    loss: As targets.mean_loss.
    prior: Weight of the prior.
  """
  from scipy import optimize

  n = len(y)
  floor = targets.mean_loss(loss, y, y) if loss == "tweedie" else 0.0
  shape = {"absolute": 1.0}.get(loss, 0.5)  # Laplace or about normal.

  def of(theta):
    theta = np.append(theta, 0.0)
    log_w = theta - np.logaddexp.reduce(theta)
    value = targets.mean_loss(loss, y, mix(np.exp(log_w), p, loss))
    if loss == "log_loss":
      value *= n
    else:
      value = shape * n * np.log(max(value - floor, 1e-12))
    return value - prior * log_w.sum()

  theta = optimize.minimize(of, np.zeros(len(p) - 1), method="L-BFGS-B").x
  w = np.exp(np.append(theta, 0.0) - theta.max(initial=0.0))
  return w / w.sum()
