"""Paired bootstrap over users: is a difference more than these users' luck?

Users are drawn with replacement; both forecasts are scored on the same draw.
The interval speaks about other users at this origin, not about other origins
or other seeds of training: for those see hierarchical.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import metrics

_CHUNK = 4_000_000  # Weights at a time: 32 MB.
_ENDS = (2.5, 97.5)


class Interval(NamedTuple):
  """A value on all users and its 95 % percentile interval."""

  value: float
  low: float
  high: float


def draws(users: int, n: int, seed: int) -> Iterator[np.ndarray]:
  """Chunks [r, U] of the n draws: how often each user was drawn, float64."""
  rng = np.random.default_rng(seed)
  step = max(1, _CHUNK // max(users, 1))
  for start in range(0, n, step):
    r = min(step, n - start)
    rows = rng.integers(0, users, (r, users)) + users * np.arange(r)[:, None]
    counts = np.bincount(rows.ravel(), minlength=r * users)
    yield counts.reshape(r, users).astype(np.float64)


def draws_by_user(key: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
  """As `draws`, of rows [N] that belong to users: a user's rows come together.

  Args:
    key: [N], the user of each row.
    n: Draws.
    seed: Of the draws.
  """
  users, at = np.unique(key, return_inverse=True)
  if len(users) == len(key):
    yield from draws(len(key), n, seed)
    return
  # Rows may be many more than users.
  step = max(1, _CHUNK // len(key))
  for w in draws(len(users), n, seed):
    for first in range(0, len(w), step):
      yield w[first : first + step][:, at]


def interval(value: float, drawn: np.ndarray) -> Interval:
  """Percentile interval; draws on which a metric is undefined do not count."""
  if np.isnan(value) or np.isnan(drawn).all():
    return Interval(float(value), np.nan, np.nan)
  low, high = np.nanpercentile(drawn, _ENDS)
  return Interval(float(value), float(low), float(high))


def mean(x: np.ndarray, n: int = 1000, seed: int = 0) -> Interval:
  """Interval of the mean of a value a user, float [U]."""
  if not len(x):
    return Interval(np.nan, np.nan, np.nan)
  x = np.asarray(x, np.float64)
  drawn = [w @ x / len(x) for w in draws(len(x), n, seed)]
  return interval(x.mean(), np.concatenate(drawn))


def means(
  x: np.ndarray, names: Sequence[str], n: int = 1000, seed: int = 0
) -> dict[str, Interval]:
  """Intervals of the means of M values a user, float [U, M], on the same draws.

  Args:
    x: [U, M].
    names: M names.
    n: Resamples.
    seed: Of the draws.
  """
  x = np.asarray(x, np.float64)
  drawn = np.concatenate([w @ x / len(x) for w in draws(len(x), n, seed)])
  found = zip(names, x.mean(0), drawn.T, strict=True)
  return {name: interval(value, d) for name, value, d in found}


def compare(
  y: np.ndarray,
  mask: np.ndarray,
  p_a: np.ndarray,
  p_b: np.ndarray,
  metric: str,
  n: int = 1000,
  seed: int = 0,
) -> Interval:
  """Difference of a metric between two forecasts of the same users, a - b.

  Args:
    y, mask, p_a, p_b: [U] labels, users that count, forecasts.
    metric: A name of metrics.BINARY or metrics.REGRESSION.
    n: Resamples.
    seed: Of the draws; equal seeds draw the same users.
  """
  a = metrics.statistic(metric, y, p_a, mask)
  b = metrics.statistic(metric, y, p_b, mask)
  f = lambda w: a(w) - b(w)
  drawn = np.concatenate([f(w) for w in draws(len(y), n, seed)])
  return interval(f(np.ones((1, len(y))))[0], drawn)


def differences(
  tasks: Sequence[tasks_lib.Task],
  y: np.ndarray,
  mask: np.ndarray,
  p_a: Mapping[str, np.ndarray],
  p_b: Mapping[str, np.ndarray],
  mean_tasks: Sequence[str] | None = None,
  only: Sequence[str] | None = None,
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
  """Differences a - b of metrics, as a function of the users' weights.

  Args:
    tasks: M tasks.
    y, mask: [U, M].
    p_a, p_b: {task: [U]}, and quantiles of amounts as in `metrics.of_tasks`.
    mean_tasks: As in `metrics.of_tasks`.
    only: Metric names to compare; default all but metrics.NOT_COMPARED.

  Returns:
    weights [R, U] -> {"task/metric" or "mean_auc" or "mean_wape": [R]}.
  """
  pairs: dict[str, Callable[[np.ndarray], np.ndarray]] = {}

  def add(m: int, task: tasks_lib.Task, name: str):
    a, b = (
      metrics.statistic(
        name, y[:, m], metrics.scored(name, task.name, p), mask[:, m]
      )
      for p in (p_a, p_b)
    )
    pairs[f"{task.name}/{name}"] = lambda w: a(w) - b(w)

  needed = ("auc", "wape")  # Of the means.
  for m, task in enumerate(tasks):
    for name in metrics.names(task, p_a):
      if name in metrics.NOT_COMPARED:
        continue
      if not only or name in (*only, *needed):
        add(m, task, name)

  def evaluate(w):
    values = {name: f(w) for name, f in pairs.items()}
    values |= metrics.means(values, tasks, mean_tasks)
    wanted = lambda n: "/" not in n or n.rsplit("/", 1)[-1] in only
    return {n: v for n, v in values.items() if not only or wanted(n)}

  return evaluate


def compare_tasks(
  tasks: Sequence[tasks_lib.Task],
  y: np.ndarray,
  mask: np.ndarray,
  p_a: Mapping[str, np.ndarray],
  p_b: Mapping[str, np.ndarray],
  mean_tasks: Sequence[str] | None = None,
  only: Sequence[str] | None = None,
  n: int = 1000,
  seed: int = 0,
  key: np.ndarray | None = None,
) -> dict[str, Interval]:
  """Intervals of `differences`, on one draw of users for all tasks.

  Args:
    tasks, y, mask, p_a, p_b, mean_tasks, only: As in `differences`.
    n, seed: As in `compare`.
    key: [U], whose each row is, where users have several; default one each.

  Returns:
    {"task/metric" or "mean_auc" or "mean_wape": Interval}.
  """
  evaluate = differences(tasks, y, mask, p_a, p_b, mean_tasks, only)
  whole = evaluate(np.ones((1, len(y))))
  key = np.arange(len(y)) if key is None else key
  chunks = [evaluate(w) for w in draws_by_user(key, n, seed)]
  out = {}
  for name, value in whole.items():
    drawn = np.concatenate([c[name] for c in chunks if name in c])
    out[name] = interval(float(value[0]), drawn)
  return out


def flat(intervals: Mapping[str, Interval]) -> dict[str, float]:
  """{"m/difference", "m/low", "m/high"} of each metric m, as in eval.json."""
  out = {}
  for name, x in intervals.items():
    out[f"{name}/difference"] = x.value
    out[f"{name}/low"], out[f"{name}/high"] = x.low, x.high
  return out
