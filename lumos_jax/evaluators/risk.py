"""Scores of rare outcomes: ranking, money, and calibration.

U users, N scored points (users, or events of users).
"""

import json
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import logging

from lumos_jax.data import scoring
from lumos_jax.evaluators import (
  base,
  bootstrap,
  calibration,
  forecast,
  metrics,
  predict,
  ranking,
  risk_examples,
)

_RANKED = ("auc", "average_precision")


class Risk(forecast.Forecast):
  """The forecast evaluator's metrics, and those of fraud and risk.

  Of raw scores: "recall_top_1%" and its like (share of positives among the highest
  scores), "recall_fpr_1%" (before so many negatives are flagged), and of an amount
  "money_top_1%". Calibration is fitted on the validation points: "calibration_error"
  and "log_loss" are before, "calibrated/..." after. "METRIC/low" and "/high" are 95 %
  bootstrap intervals over users. The map is kept in workdir/calibration.json, which
  predictors and the service apply.
  """

  slow = 1  # Behind the validation's forecasts, which it takes.

  def __init__(
    self,
    *args,
    tops: Sequence[float] = (0.0001, 0.001, 0.01),
    false_positives: Sequence[float] = (0.01,),
    amount: str = "",
    calibrate: str = "isotonic",
    resamples: int = 1000,
    examples: int = 3,
    **kw,
  ):
    """Settings beside forecast.Forecast's.

    Args:
      *args: As base.Evaluator.
      tops: Shares of all points that are looked at.
      false_positives: Shares of the negatives that may be flagged.
      amount: Context feature that says what a positive costs ("event/amount");
        "" for none.
      calibrate: isotonic (temperature where either class has few labels) or
        temperature.
      resamples: Draws of users for the intervals.
      examples: Highest scores a task that predictions/<name>.json explains, one
        a user; 0 for none. Of recipe hybrid.
      **kw: As forecast.Forecast.
    """
    super().__init__(*args, **kw)
    self._tops, self._rates = tuple(tops), tuple(false_positives)
    self._kind, self._resamples = calibrate, resamples
    self._examples = examples
    if calibrate not in calibration.KINDS:
      raise ValueError(
        f"config.evals.{self.name}.calibrate = {calibrate!r}; use one of "
        f"{calibration.KINDS}"
      )
    self._amount = None
    if amount:
      if not isinstance(self.predictor.inputs, scoring.Scoring):
        raise ValueError(
          f"config.evals.{self.name}.amount needs recipe 'hybrid', whose points "
          "have context features"
        )
      key = f"config.evals.{self.name}.amount"
      self._amount = self.predictor.inputs.context.column(amount, key)

  def run(self, params) -> base.Metrics:
    """Yields the metrics of the forecast evaluator, and those of the class."""
    yield from super().run(params)
    found, validation = self.predictions, self._on_validation(params)
    worth = self._worth()
    maps: dict[str, calibration.Map] = {}
    for m, task in enumerate(self.tasks):
      if task.kind != "binary":
        continue
      known = validation.mask[:, m].astype(bool)
      maps[task.name] = calibration.fit(
        self._kind_for(task.name, validation.y[known, m]),
        validation.y[known, m],
        validation.p[task.name][known],
      )
      if maps[task.name].kind == "none":
        logging.warning(
          "%s: the validation labels of %s are all alike: nothing to calibrate by",
          self.name,
          task.name,
        )
      use = found.mask[:, m].astype(bool)
      yield from self._of_task(
        task.name,
        found.key[use],
        found.y[use, m].astype(np.float64),
        np.asarray(found.p[task.name][use], np.float64),
        maps[task.name],
        None if worth is None else worth[use],
      )
    if self.split_name == "test" and jax.process_index() == 0:
      about = {
        "fitted_on": "validation",
        "points": len(validation.mask),
        "model_hash": predict.params_hash(params),
      }
      calibration.save(self.workdir, maps, about | scoring.marks(self.data_cfg))
    self._explain(params)

  def _kind_for(self, task: str, y: np.ndarray) -> str:
    """What calibrates a task; isotonic steps need many labels of each class."""
    rarer = int(min((y == 0).sum(), (y == 1).sum()))
    if self._kind == "isotonic" and 0 < rarer < calibration.LEAST_ISOTONIC:
      logging.warning(
        "%s: only %d validation labels of %s are of its rarer class: calibrated by "
        "temperature, since isotonic steps need %d",
        self.name,
        rarer,
        task,
        calibration.LEAST_ISOTONIC,
      )
      return "temperature"
    return self._kind

  def _explain(self, params) -> None:
    """Writes the highest scores with what moved them."""
    if not self._examples or self.predictor.explain is None:
      return
    placed = self.predictor.place(params)  # All hosts together.
    if jax.process_index():
      return
    why = self.predictor.explain(placed)
    found, points, examples = self.predictions, self._points(), []
    for m, task in enumerate(self.tasks):
      top = risk_examples.highest(
        found.p[task.name],
        points.user[found.point],
        found.mask[:, m].astype(bool),
        self._examples,
      )
      examples += risk_examples.explained(
        why, points, found.point[top], task.name, m, self.records.schema
      )
    self.save_text(json.dumps({"examples": examples}, indent=1))

  def _points(self) -> scoring.Points:
    """All points of the split."""
    return self.predictor.inputs.points(self.records, self.split_name)

  def _on_validation(self, params) -> predict.Predictions:
    for e in self.peers.values():
      if (
        type(e) is forecast.Forecast
        and e.split_name == "validation"
        and e.predictions is not None
        and e.origin == self.data_cfg.validation_origin
        and e.params_id == id(params)
      ):
        return e.predictions
    return self.predictor(params, self.validation_batches(self.predictor))

  def _worth(self) -> np.ndarray | None:
    """Amounts [N] in the order of the predictions; missing ones count 0."""
    if self._amount is None:
      return None
    amounts = self._points().context[self.predictions.point, self._amount]
    return np.abs(np.nan_to_num(amounts))

  def _of_task(self, name, key, y, p, mapped, worth) -> base.Metrics:
    if not len(y):
      return
    every = np.ones(len(y), bool)
    after = mapped(p)
    stats: dict[str, metrics.Statistic] = {
      n: metrics.statistic(n, y, p, every)
      for n in (*_RANKED, "log_loss", "calibration_error")
    }
    for share in self._tops:
      stats[f"recall_top_{_percent(share)}"] = ranking.recall_at_top(
        y, p, share
      )
      if worth is not None:
        stats[f"money_top_{_percent(share)}"] = ranking.recall_at_top(
          y, p, share, worth
        )
    for rate in self._rates:
      stats[f"recall_fpr_{_percent(rate)}"] = ranking.recall_at_false_positives(
        y, p, rate
      )
    for n in ("log_loss", "calibration_error"):
      stats[f"calibrated/{n}"] = metrics.statistic(n, y, after, every)
    whole = np.ones((1, len(y)))
    drawn: dict[str, list[np.ndarray]] = {n: [] for n in stats}
    several = len(np.unique(key)) > 1
    for w in bootstrap.draws_by_user(key, self._resamples, 0):
      for n, f in stats.items():
        drawn[n].append(f(w))
    for n, f in stats.items():
      value = float(f(whole)[0])
      # Of one user's points, draws of users say nothing of others.
      draws = np.concatenate(drawn[n]) if several else np.full(1, np.nan)
      x = bootstrap.interval(value, draws)
      yield f"{name}/{n}", x.value
      yield f"{name}/{n}/low", x.low
      yield f"{name}/{n}/high", x.high

  def compare(self, other: base.Evaluator) -> Mapping[str, bootstrap.Interval]:
    """Differences of AUC and average precision, by draws of users."""
    same = (self.split, self.origin) == (other.split, other.origin)
    one = len(np.unique(self.predictions.key)) < 2
    if not other.baseline or not same or one:
      return {}
    self.check_same_users(other)
    a, b = self.predictions, other.predictions
    return bootstrap.compare_tasks(
      self.tasks,
      a.y,
      a.mask,
      a.p,
      b.p,
      self.mean_tasks,
      only=_RANKED,
      key=a.key,
    )


def _percent(share: float) -> str:
  return f"{100 * share:g}%"
