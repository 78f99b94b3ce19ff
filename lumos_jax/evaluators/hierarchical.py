"""Hierarchical bootstrap over users, seeds and origins.

A difference between two models varies with the users it is scored on, the seed
both were trained with, and the day they forecast. One origin's interval over
users leaves out the latter two, which may be larger. Users are the same people
at every origin, so a draw of users holds for all; seeds are drawn within the
origins that were drawn (Davison and Hinkley 1997, section 3.8). Where one
training a seed serves all origins, a lucky seed is lucky at each of them: then
a draw of seeds holds for all origins too.

A bootstrap of n clusters has (n - 1) / n of their variance: deviations of
origins and seeds are scaled by sqrt(n / (n - 1)). The spread between origins'
means holds what users and seeds bring to it already; that part is not counted
twice. With three origins the rest stands on two degrees of freedom: read such
intervals as rough, and likely too narrow rather than too wide.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import bootstrap, predict

METRICS = ("auc", "average_precision", "log_loss", "wape", "mae")


@dataclasses.dataclass(frozen=True)
class Run:
  """Two models' forecasts of one origin by one seed.

  Attributes:
    origin, seed: Of the run.
    a, b: Forecasts of the same users.
  """

  origin: int
  seed: int
  a: predict.Predictions
  b: predict.Predictions


def compare(
  tasks: Sequence[tasks_lib.Task],
  runs: Sequence[Run],
  mean_tasks: Sequence[str] | None = None,
  only: Sequence[str] = METRICS,
  n: int = 1000,
  seed: int = 0,
  crossed: bool = False,
) -> dict[str, bootstrap.Interval]:
  """Mean difference a - b over runs, with 95 % intervals.

  Args:
    tasks: M tasks.
    runs: Every origin with the same seeds.
    mean_tasks: As in `metrics.of_tasks`.
    only: Metrics to compare.
    n: Resamples.
    seed: Of the draws.
    crossed: Whether a seed stands for the same training at all origins.

  Returns:
    {"task/metric" or "mean_auc" or "mean_wape": Interval}.

  Raises:
    ValueError: A run's forecasts have other users, or a run is missing.
  """
  origins = sorted({r.origin for r in runs})
  seeds = sorted({r.seed for r in runs})
  if len(runs) != len(origins) * len(seeds) or len(runs) != len(
    {(r.origin, r.seed) for r in runs}
  ):
    raise ValueError(
      f"{len(runs)} runs are not each of origins {origins} x seeds {seeds}"
    )
  ordered = sorted(runs, key=lambda r: (r.origin, r.seed))
  everyone = np.unique(np.concatenate([r.a.key for r in ordered]))
  functions = []
  for r in ordered:
    if not np.array_equal(r.a.key, r.b.key):
      raise ValueError(f"origin {r.origin}, seed {r.seed}: not the same users")
    at = np.searchsorted(everyone, r.a.key)
    f = bootstrap.differences(
      tasks, r.a.y, r.a.mask, r.a.p, r.b.p, mean_tasks, only
    )
    functions.append(lambda w, f=f, at=at: f(w[:, at]))
  whole = [f(np.ones((1, len(everyone)))) for f in functions]
  drawn = [[] for _ in functions]
  for w in bootstrap.draws(len(everyone), n, seed):
    for f, out in zip(functions, drawn, strict=True):
      out.append(f(w))
  out = {}
  for name in [k for k in whole[0] if all(k in x for x in whole)]:
    shape = len(origins), len(seeds)
    point = np.asarray([x[name][0] for x in whole]).reshape(shape)
    by_user = np.stack(
      [np.concatenate([c[name] for c in chunks]) for chunks in drawn], 1
    ).reshape(-1, *shape)
    out[name] = interval(point, by_user, seed, crossed)
  return out


def interval(
  point: np.ndarray, by_user: np.ndarray, seed: int = 0, crossed: bool = False
) -> bootstrap.Interval:
  """Interval of the mean of values that vary by users, seeds and origins.

  Args:
    point: [O, S] values of each origin and seed on all users.
    by_user: [R, O, S] values on R draws of users.
    seed: Of the draws of origins and seeds.
    crossed: As in `compare`.
  """
  if np.isnan(point).any():
    return bootstrap.Interval(float(np.nanmean(point)), np.nan, np.nan)
  undefined = np.isnan(by_user)
  by_user = np.where(undefined, point, by_user)
  resamples, origins, seeds = by_user.shape
  rng = np.random.default_rng(seed + 1)
  means = by_user.mean(2)  # [R, O].
  of_origin = point.mean(1) - point.mean()
  of_seed = point - point.mean(1, keepdims=True)
  # Of seeds, what is common to all origins and what is each origin's own.
  common = of_seed.mean(0) if crossed else np.zeros(seeds)
  own_seed = of_seed - common
  # What users and seeds bring to the spread of the origins' means; what a seed
  # has in common at all of them brings nothing.
  spread = _variance(point.mean(1), 0)
  noise = _variance(means - point.mean(1), 1).mean()
  within = _variance(own_seed, 1)
  if crossed and origins > 1:
    within = within * (origins / (origins - 1))
  noise += (within / seeds).mean()
  own = np.sqrt(max(0.0, 1.0 - noise / spread)) if spread > 0 else 0.0
  o = rng.integers(0, origins, (resamples, origins))
  drawn = means.mean(1) + own * _small(origins) * of_origin[o].mean(1)
  if crossed:
    by_seed = common[rng.integers(0, seeds, (resamples, seeds))].mean(1)
  else:
    s = rng.integers(0, seeds, (resamples, origins, seeds))
    by_seed = own_seed[o[:, :, None], s].mean((1, 2))
  drawn = drawn + _small(seeds) * by_seed
  return bootstrap.interval(float(point.mean()), drawn)


def _variance(x: np.ndarray, axis: int) -> np.ndarray:
  """Unbiased variance along an axis; 0 of a single value."""
  if x.shape[axis] < 2:
    return np.zeros(np.delete(x.shape, axis))
  return x.var(axis, ddof=1)


def _small(n: int) -> float:
  return np.sqrt(n / (n - 1)) if n > 1 else 0.0


def flat(
  intervals: Mapping[str, bootstrap.Interval], baseline: str
) -> dict[str, float]:
  """{"vs_<baseline>/m/difference", ...}: as a result row holds them."""
  found = bootstrap.flat(intervals)
  return {f"vs_{baseline}/{k}": v for k, v in found.items() if np.isfinite(v)}
