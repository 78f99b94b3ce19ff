"""Exact metrics over all users, in float64, without scikit-learn.

A metric is a weighted statistic: sorting and summing up happen once, then any
number of weightings of the users is cheap. All weights 1 give the metric, the
counts of a bootstrap's draws give a resampled metric. U users, R weightings.

Of amounts a forecast may hold the mean, as "task", and "task/median", "task/low"
and "task/high". Absolute errors are the median's, whom they are smallest for;
bias, RMSE and rank correlation are the mean's. A forecast of one number is both.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from absl import logging

from lumos_jax.data import tasks as tasks_lib

Statistic = Callable[[np.ndarray], np.ndarray]  # weights [R, U] -> [R].

BINARY = (
  "auc",
  "average_precision",
  "log_loss",
  "calibration_error",
  "base_rate",
)
REGRESSION = (
  "mae",
  "mape_nonzero",
  "wape",
  "rmse",
  "bias",
  "spearman",
  "coverage_80",
)
# Neither a larger nor a smaller value is better: they are not compared.
NOT_COMPARED = ("base_rate", "bias", "coverage_80")
_OF_MEDIAN = ("mae", "mape_nonzero", "wape")
CALIBRATION_BINS = 10
# float32 probabilities round to 0 and 1; a wrong one costs at most 16.1 nats.
_SMALLEST = 1e-7


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """a / b, NaN where b is 0."""
  return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _ratio(over: np.ndarray, under: np.ndarray) -> Statistic:
  return lambda w: _divide(w @ over, w @ under)


def _sorted(y, p, descending) -> Callable[[np.ndarray], tuple]:
  """Weights -> positive and negative weight of each group of equal forecasts."""
  order = np.argsort(-p if descending else p, kind="stable")
  positive, p = y[order] > 0, p[order]
  starts = np.flatnonzero(np.concatenate([[True], p[1:] != p[:-1]]))

  def groups(w):
    w = w[:, order]
    pos = np.where(positive, w, 0.0)
    if len(starts) == len(p):
      return pos, w - pos
    sums = [np.add.reduceat(x, starts, axis=1) for x in (pos, w - pos)]
    return sums[0], sums[1]

  return groups


def _auc(y, p):
  groups = _sorted(y, p, descending=False)

  def statistic(w):
    pos, neg = groups(w)
    below = np.cumsum(neg, 1) - 0.5 * neg  # A tie counts half.
    return _divide((pos * below).sum(1), pos.sum(1) * neg.sum(1))

  return statistic


def _average_precision(y, p):
  groups = _sorted(y, p, descending=True)

  def statistic(w):
    pos, neg = groups(w)
    found = np.cumsum(pos, 1)
    shown = found + np.cumsum(neg, 1)
    precision = found / np.maximum(shown, np.finfo(float).tiny)
    return _divide((pos * precision).sum(1), pos.sum(1))

  return statistic


def _log_loss(y, p):
  p = np.clip(p, _SMALLEST, 1 - _SMALLEST)
  loss = -np.where(y > 0, np.log(p), np.log1p(-p))
  return _ratio(loss, np.ones_like(y))


def _calibration_error(y, p):
  """Mean over equal-mass bins of |mean forecast - rate|, bins of this sample."""
  residual = np.zeros((len(y), CALIBRATION_BINS))
  order = np.argsort(p, kind="stable")
  for b, rows in enumerate(np.array_split(order, CALIBRATION_BINS)):
    residual[rows, b] = y[rows] - p[rows]
  return lambda w: _divide(np.abs(w @ residual).sum(1), w.sum(1))


def _rmse(y, p):
  mean = _ratio(np.square(y - p), np.ones_like(y))
  return lambda w: np.sqrt(mean(w))


def _ranks(x) -> Callable[[np.ndarray], np.ndarray]:
  """Weights [R, U] -> ranks [R, U] less their mean; ties have their mean rank."""
  _, group = np.unique(x, return_inverse=True)
  order = np.argsort(group, kind="stable")
  starts = np.searchsorted(group[order], np.arange(group.max() + 1))

  def ranks(w):
    own = np.add.reduceat(w[:, order], starts, axis=1)
    middle = np.cumsum(own, 1) - 0.5 * own
    return middle[:, group] - 0.5 * w.sum(1, keepdims=True)

  return ranks


def _spearman(y, p):
  of_y, of_p = _ranks(y), _ranks(p)

  def statistic(w):
    a, b = of_y(w), of_p(w)
    of_a, both = (w * a * a).sum(1), (w * a * b).sum(1)
    found = _divide(both, np.sqrt(of_a * (w * b * b).sum(1)))
    # A constant forecast ranks nothing, as its AUC of .5 says.
    return np.where((of_a > 0) & np.isnan(found), 0.0, found)

  return statistic


_STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], Statistic]] = {
  "auc": _auc,
  "average_precision": _average_precision,
  "log_loss": _log_loss,
  "calibration_error": _calibration_error,
  "base_rate": lambda y, p: _ratio(y, np.ones_like(y)),
  "mae": lambda y, p: _ratio(np.abs(y - p), np.ones_like(y)),
  "mape_nonzero": lambda y, p: _ratio(
    np.abs(y - p) / np.where(y != 0, np.abs(y), np.inf), (y != 0) * 1.0
  ),
  "wape": lambda y, p: _ratio(np.abs(y - p), np.abs(y)),
  "rmse": _rmse,
  "bias": lambda y, p: _ratio(p, y),
  "spearman": _spearman,
  "coverage_80": lambda y, p: _ratio(
    ((p[:, 0] <= y) & (y <= p[:, 1])) * 1.0, np.ones_like(y)
  ),
}


def statistic(
  name: str, y: np.ndarray, p: np.ndarray, mask: np.ndarray
) -> Statistic:
  """A metric as a function of the users' weights.

  Args:
    name: Of BINARY or REGRESSION.
    y: [U] labels.
    p: [U] forecasts, of `scored`; ends of intervals [U, 2] for coverage_80.
    mask: bool [U], users that count.

  Returns:
    weights [R, U] -> float64 [R]; NaN where the metric is undefined (no users,
    one class only).
  """
  use = np.flatnonzero(np.asarray(mask, bool))
  y = np.asarray(y, np.float64)[use]
  p = np.asarray(p, np.float64)[use]
  if not len(use) or not np.isfinite(p).all():
    return lambda w: np.full(len(w), np.nan)
  f = _STATISTICS[name](y, p)
  return (lambda w: f(w)) if len(use) == len(mask) else (lambda w: f(w[:, use]))


def metric(
  name: str, y: np.ndarray, p: np.ndarray, mask: np.ndarray | None = None
) -> float:
  """The metric over users [U] where mask is True; NaN where undefined."""
  mask = np.ones(len(y), bool) if mask is None else mask
  return float(statistic(name, y, p, mask)(np.ones((1, len(y))))[0])


def names(task: tasks_lib.Task, p: Collection[str] = ()) -> tuple[str, ...]:
  """Metrics of a task; coverage where a forecast {"task/low", ...} has it."""
  if task.kind == "binary":
    return BINARY
  whole = f"{task.name}/low" in p
  return tuple(n for n in REGRESSION if whole or n != "coverage_80")


def scored(name: str, task: str, p: Mapping[str, np.ndarray]) -> np.ndarray:
  """What a metric is of: the forecast [U], its median, or its ends [U, 2]."""
  if name == "coverage_80":
    return np.stack([p[f"{task}/low"], p[f"{task}/high"]], 1)
  if name in _OF_MEDIAN:
    return p.get(f"{task}/median", p[task])
  return p[task]


def _reason(name, y, p) -> str:
  if not len(y):
    return "no user has a label"
  if not np.isfinite(p).all():
    return f"{np.sum(~np.isfinite(p))} of {len(p)} forecasts are not finite"
  if name == "bias" and y.sum() <= 0:
    return f"the total of all {len(y)} labels is {y.sum():g}"
  return f"all {len(y)} labels are {y[0]:g}"


def of_tasks(
  tasks: Sequence[tasks_lib.Task],
  y: np.ndarray,
  mask: np.ndarray,
  p: Mapping[str, np.ndarray],
  mean_tasks: Sequence[str] | None = None,
) -> dict[str, float]:
  """All metrics of all tasks.

  Args:
    tasks: M tasks.
    y, mask: [U, M].
    p: {task: [U]}, and "task/median", "task/low", "task/high" of amounts.
    mean_tasks: Tasks that mean_auc and mean_wape go over; default all.

  Returns:
    {"task/metric": value}, then "mean_auc" and "mean_wape". A metric that is
    undefined is NaN, left out of the means, and the log says why.
  """
  out: dict[str, float] = {}
  for m, task in enumerate(tasks):
    use = mask[:, m].astype(bool)
    for name in names(task, p):
      forecast = scored(name, task.name, p)
      value = metric(name, y[:, m], forecast, use)
      out[f"{task.name}/{name}"] = value
      if np.isnan(value):
        reason = _reason(name, y[use, m], forecast[use])
        logging.warning("%s/%s is undefined: %s", task.name, name, reason)
  return out | means(out, tasks, mean_tasks)


def means(
  values: Mapping[str, float | np.ndarray],
  tasks: Sequence[tasks_lib.Task],
  mean_tasks: Sequence[str] | None = None,
) -> dict[str, float | np.ndarray]:
  """mean_auc over binary and mean_wape over regression tasks that have one."""
  chosen = [t for t in tasks if mean_tasks is None or t.name in mean_tasks]
  out = {}
  for kind, name in (("binary", "auc"), ("regression", "wape")):
    each = [values[f"{t.name}/{name}"] for t in chosen if t.kind == kind]
    each = [v for v in each if not np.all(np.isnan(v))]
    if each:
      mean = np.mean(each, 0)
      out[f"mean_{name}"] = mean if np.ndim(mean) else float(mean)
  return out
