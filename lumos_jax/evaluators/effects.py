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

  With m the forecast at the propensity e, and t the model's effect of each
  user, theta minimises the sum of ((y - m) - (got - e) theta t)^2, the R-learner's
  orthogonal loss (Nie and Wager 2021, arXiv 1712.04912) with one parameter. What
  m gets wrong does not bias theta where e is right: in an experiment it is.

  Args:
    x: float [S, U], changes of forecasts.
    use: bool [U], users of the mean.
    evidence: Of earlier entries, of the same users.
    weights, level, n, seed: As in `mean`.

  Returns:
    The mean of x times theta, and theta.
  """
  w = _shares(len(x), weights)
  top, bottom = np.zeros_like(x), np.zeros_like(x)
  joint_top, joint_bottom = np.zeros(x.shape[1]), np.zeros(x.shape[1])
  for e in evidence:
    for member in [*range(len(x)), None]:
      pick = (lambda a: w @ a) if member is None else (lambda a, i=member: a[i])
      zero, one = pick(e.without), pick(e.everyone)
      move = (e.got - e.propensity) * (one - zero) * e.mask
      rest = e.y - zero - e.propensity * (one - zero)
      if member is None:
        joint_top += move * rest
        joint_bottom += move**2
      else:
        top[member] += move * rest
        bottom[member] += move**2
  each = (w @ x) * use
  ratio = lambda a, b: a / np.maximum(b, 1e-12)
  theta = float(ratio(joint_top.sum(), joint_bottom.sum()))
  drawn = []
  for d in bootstrap.draws(x.shape[1], n, seed):
    scale = ratio(d @ joint_top, d @ joint_bottom)
    drawn.append(scale * ratio(d @ each, d @ use.astype(np.float64)))
  own = (x * use).sum(1) / max(use.sum(), 1)
  own = ratio(top.sum(1), bottom.sum(1)) * own
  value = theta * each.sum() / max(use.sum(), 1)
  return combined(value, np.concatenate(drawn), own, w, level), theta
