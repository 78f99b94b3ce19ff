"""Generalised linear models with an L2 penalty, on transformed features."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import per_target, tabular, targets

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_WIDEST = 5.0  # Deviations; what lies farther out is clipped.


class Design:
  """Columns of a linear model, from features with gaps and ids.

  Numbers become sign(x) log(1 + |x|), with mean 0 and deviation 1 over the
  training rows; gaps become 0 beside a column that marks them; an id becomes
  a column a value. F features, D columns.

  Attributes:
    source: int [D], the feature that a column comes from.
  """

  def __init__(self, x: np.ndarray, ids: Sequence[int]):
    """Learns from training rows [N, F]; `ids` are positions of ids."""
    self._ids = list(ids)
    numbers = [i for i in range(x.shape[1]) if i not in self._ids]
    z = _log(x[:, numbers])
    known = ~np.isnan(z)
    count = np.maximum(known.sum(0), 1)
    self._mean = np.where(known, z, 0.0).sum(0, dtype=np.float64) / count
    square = np.where(known, np.square(z - self._mean), 0.0)
    deviation = np.sqrt(square.sum(0) / count)
    keep = deviation > 1e-6
    self._numbers = np.asarray(numbers, int)[keep]
    self._mean, self._deviation = self._mean[keep], deviation[keep]
    gaps = known.any(0) & ~known.all(0)
    self._gaps = np.asarray(numbers, int)[gaps]
    self._values = [np.unique(x[:, i])[1:] for i in self._ids]
    each = [np.full(len(v), i) for i, v in zip(self._ids, self._values)]
    self.source = np.concatenate([self._numbers, self._gaps, *each]).astype(int)

  def __call__(self, x: np.ndarray) -> np.ndarray:
    """Columns float32 [n, D] of rows [n, F]."""
    z = (_log(x[:, self._numbers]) - self._mean) / self._deviation
    z = np.clip(np.nan_to_num(z), -_WIDEST, _WIDEST)
    parts = [z, np.isnan(x[:, self._gaps])]
    for i, values in zip(self._ids, self._values, strict=True):
      parts.append(x[:, i : i + 1] == values)
    return np.concatenate(parts, 1).astype(np.float32)


def _log(x: np.ndarray) -> np.ndarray:
  return np.sign(x) * np.log1p(np.abs(x))


class BaselineLinear(per_target.PerTarget):
  """Logistic, Tweedie and ridge regression; the penalty is chosen in folds.

  Probabilities come from logistic regression; means from a Tweedie model with
  a log link, or from ridge regression where amounts are negative; medians from
  ridge regression of log(1 + amount), whose errors are about symmetric. The
  solution is unique, so that there is one member, of all rows.
  """

  package = "sklearn"
  whole = True

  def __init__(
    self, *args, penalties: Sequence[float] = _PENALTIES, members: int = 1, **kw
  ):
    """Settings beside tabular.Tabular's.

    Args:
      *args: As base.Evaluator.
      penalties: Weights of the L2 penalty to choose from, a row.
      members: Not used: all would be equal.
      **kw: As tabular.Tabular.
    """
    del members
    super().__init__(*args, members=1, **kw)
    self._penalties = sorted(penalties, reverse=True)
    self._fits = self._unsettled = 0  # Since they were told.

  def settings(self) -> list[Any]:
    """As of tabular.Tabular."""
    return [self._penalties]

  def columns(self, names: Sequence[str], task: tasks_lib.Task) -> np.ndarray:
    """Positions of the features that a task's model sees: all."""
    del task
    return np.arange(len(names))

  def prepare(self, rows: tabular.Rows):
    """The design, its columns, and the features' names."""
    design = Design(rows.x, rows.table.categorical)
    return design, design(rows.x), rows

  def choose(self, state, target, folds) -> dict[str, Any]:
    """The penalty with the least loss, from the largest on."""
    design, z, rows = state
    use = self._use(design, rows, target)
    best: dict[str, Any] = {}
    for penalty in self._penalties:
      losses = []
      for train, held in folds:
        fitted = self._solve(target, z[np.ix_(train, use)], train, penalty)
        p = target.bound(fitted(z[np.ix_(held, use)]))
        losses.append(targets.mean_loss(target.loss, target.y[held], p))
      loss = float(np.average(losses, weights=[len(h) for _, h in folds]))
      if not best or loss < best["loss"]:
        best = {"penalty": penalty, "loss": loss}
    return best

  def member(self, state, target, chosen, rows, seed) -> tabular.Forecast:
    """The one model."""
    del seed
    design, z, table = state
    use = self._use(design, table, target)
    fitted = self._solve(target, z[np.ix_(rows, use)], rows, chosen["penalty"])
    if self._unsettled:
      logging.warning(
        "%s: %s: %d of %d fits, in folds and of all rows, stopped before they "
        "converged",
        self.name,
        target.name,
        self._unsettled,
        self._fits,
      )
    self._fits = self._unsettled = 0
    return lambda x: fitted(design(x)[:, use])

  def _use(self, design, rows, target) -> np.ndarray:
    seen = self.columns(rows.table.names, target.task)
    return np.flatnonzero(np.isin(design.source, seen))

  def _solve(self, target, z, rows, penalty: float):
    """A fit; what the solver says of its steps is counted, not shown."""
    from scipy import linalg
    from sklearn import exceptions

    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always", exceptions.ConvergenceWarning)
      # Another solver then takes over.
      warnings.simplefilter("ignore", linalg.LinAlgWarning)
      found = self._regress(target, z, rows, penalty)
    self._fits += 1
    unsettled = False
    for w in caught:
      if issubclass(w.category, exceptions.ConvergenceWarning):
        unsettled = True
      else:
        warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    self._unsettled += unsettled
    return found

  def _regress(self, target, z, rows, penalty: float):
    from sklearn import linear_model

    y = target.y[rows]
    if target.loss == "log_loss":
      model = linear_model.LogisticRegression(
        C=1.0 / (penalty * len(y)), solver="newton-cholesky", max_iter=50
      ).fit(z, y > 0)
      return lambda z: model.predict_proba(z)[:, 1]
    if target.loss == "tweedie":
      scale = max(float(y.mean()), 1e-12)
      model = linear_model.TweedieRegressor(
        power=targets.TWEEDIE_POWER,
        alpha=penalty,
        link="log",
        solver="newton-cholesky",
        max_iter=50,
      ).fit(z, y / scale)
      return lambda z: model.predict(z) * scale
    # The median of amounts is that of their logarithms.
    log = target.loss == "absolute"
    model = linear_model.Ridge(alpha=penalty * len(y))
    model.fit(z, _log(y) if log else y)
    if not log:
      return model.predict
    back = lambda v: np.sign(v) * np.expm1(np.minimum(np.abs(v), 30.0))
    return lambda z: back(model.predict(z))
