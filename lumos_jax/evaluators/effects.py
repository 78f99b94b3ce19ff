"""What a difference of forecasts is worth: its interval, and its calibration.

A model says how its forecast changes with a calendar entry. How far would
another training and other users move that number; and was it right about an
earlier entry, which some users had and others had not?

S members (trainings, or rows of an ensemble), U users.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from lumos_jax.evaluators import bootstrap


def mean(
  x: np.ndarray,
  weights: np.ndarray | None = None,
  level: float = 0.95,
  n: int = 1000,
  seed: int = 0,
) -> bootstrap.Interval:
  """Mean over users and members, with an interval that holds both.

  One member: a percentile bootstrap over users. Several: their spread is that of
  one training (all of it, not divided by S: members share data, and what the
  sample of training users got wrong they all do), added to the variance of the
  mean over users; Student's t by Satterthwaite's degrees of freedom.

  Args:
    x: float [S, U].
    weights: [S], of members; default all alike.
    level: Of the interval.
    n, seed: Of the bootstrap over users.
  """
  members, users = x.shape
  if not users:
    return bootstrap.Interval(np.nan, np.nan, np.nan)
  w = _shares(members, weights)
  each = w @ x
  drawn = np.concatenate(
    [d @ each / users for d in bootstrap.draws(users, n, seed)]
  )
  return combined(each.mean(), drawn, x.mean(1), w, level)


def combined(
  value: float,
  drawn: np.ndarray,
  members: np.ndarray,
  weights: np.ndarray,
  level: float,
) -> bootstrap.Interval:
  """The interval of a value from draws of users, and from members [S]."""
  ends = 50 * (1 - level), 50 * (1 + level)
  if len(members) == 1:
    return bootstrap.Interval(
      float(value), *map(float, np.percentile(drawn, ends))
    )
  low, high = np.percentile(drawn, (15.87, 84.13))
  of_users = ((high - low) / 2) ** 2
  s = len(members)
  center = weights @ members
  of_members = weights @ (members - center) ** 2 * s / (s - 1)
  total = of_users + of_members
  if total == 0:
    return bootstrap.Interval(float(value), float(value), float(value))
  freedom = (s - 1) * (total / max(of_members, 1e-30)) ** 2
  half = stats.t.ppf((1 + level) / 2, min(freedom, 1e6)) * np.sqrt(total)
  return bootstrap.Interval(float(value), value - half, value + half)


def _shares(members: int, weights) -> np.ndarray:
  w = np.ones(members) if weights is None else np.asarray(weights, np.float64)
  return w / w.sum()


class Evidence(NamedTuple):
  """An entry that some users had and others had not, and what came of it.

  Attributes:
    got: bool [U].
    propensity: float [U].
    y: float [U], outcomes; mask: bool [U], known ones.
    without, everyone: float [S, U], forecasts without the entry and with it.
  """

  got: np.ndarray
  propensity: np.ndarray
  y: np.ndarray
  mask: np.ndarray
  without: np.ndarray
  everyone: np.ndarray


def calibrated(
  x: np.ndarray,
  use: np.ndarray,
  evidence: Sequence[Evidence],
  weights: np.ndarray | None = None,
  level: float = 0.95,
  n: int = 1000,
  seed: int = 0,
) -> tuple[bootstrap.Interval, float]:
  """A mean effect, scaled by how right the model was about earlier entries.

  The scale is the effect of those entries by augmented inverse propensity
  weighting (Robins, Rotnitzky and Zhao 1994), over the model's: with t the
  model's effect of a user and f its forecast for what the user had, the mean of
  t + (got - e) / (e (1 - e)) (y - f). Where e is right, as in an experiment it
  is, what the model gets wrong does not bias that.

  Args:
    x: float [S, U], changes of forecasts.
    use: bool [U], users of the mean.
    evidence: Of earlier entries, of the same users.
    weights, level, n, seed: As in `mean`.

  Returns:
    The mean of x times the scale, and the scale.
  """
  w = _shares(len(x), weights)
  found, said = np.zeros_like(x), np.zeros_like(x)
  for e in evidence:
    t = e.everyone - e.without
    lean = (e.got - e.propensity) / (e.propensity * (1 - e.propensity))
    found += (t + lean * (e.y - e.without - e.got * t)) * e.mask
    said += t * e.mask
  # One user draw serves all: where both are of one entry, its luck cancels.
  ratio = lambda a, b: a / np.where(np.abs(b) < 1e-12, 1e-12, b)
  used = use.astype(np.float64)
  top, bottom, own = w @ found, w @ said, (w @ x) * used
  drawn = np.concatenate(
    [
      ratio(d @ top, d @ bottom) * ratio(d @ own, d @ used)
      for d in bootstrap.draws(x.shape[1], n, seed)
    ]
  )
  scale = float(ratio(top.sum(), bottom.sum()))
  each = ratio(found.sum(1), said.sum(1)) * ratio(x @ used, used.sum())
  value = scale * ratio(own.sum(), used.sum())
  return combined(value, drawn, each, w, level), scale
