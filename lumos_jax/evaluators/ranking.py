"""How well a score ranks what is rare: shares of positives found at the top.

Each is a statistic of the points' weights, as of metrics.py. Points with equal
scores are taken in equal shares: what an order of them by chance finds on average.
N points, R weightings, G groups of equal scores.
"""

from collections.abc import Callable

import numpy as np

from lumos_jax.evaluators import metrics


def _groups(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Descending order of scores, and where groups of equal ones begin."""
  order = np.argsort(-p, kind="stable")
  ranked = p[order]
  return order, np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))


def _found(
  y: np.ndarray,
  p: np.ndarray,
  worth: np.ndarray,
  taken: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> metrics.Statistic:
  """Share of the positives' worth that is found.

  Args:
    y, p: [N].
    worth: [N], of a positive.
    taken: (all weights, negatives' weights) [R, G] -> what is counted of each
      group [R, G], and how much of it may be taken [R].
  """
  order, starts = _groups(p)
  positive = (y > 0)[order]
  worth = np.where(positive, worth[order], 0.0)

  def statistic(w):
    w = w[:, order]
    sums = lambda x: np.add.reduceat(x, starts, axis=1)
    counted, most = taken(sums(w), sums(np.where(positive, 0.0, w)))
    before = np.cumsum(counted, 1) - counted
    room = most[:, None] - before
    part = np.divide(
      room, counted, out=(room >= 0).astype(np.float64), where=counted > 0
    )
    got = sums(w * worth)
    total = got.sum(1)
    return np.divide(
      (np.clip(part, 0.0, 1.0) * got).sum(1),
      total,
      out=np.full(len(w), np.nan),
      where=total > 0,
    )

  return statistic


def recall_at_top(
  y: np.ndarray, p: np.ndarray, share: float, worth: np.ndarray | None = None
) -> metrics.Statistic:
  """Share of positives, or of their worth, among the highest scores.

  Args:
    y, p: [N] labels and scores.
    share: Of all points that are looked at: .01 for the top 1 %.
    worth: [N] amounts of money; None counts positives.
  """
  worth = np.ones(len(y)) if worth is None else worth
  return _found(
    y, p, worth, lambda every, negative: (every, share * every.sum(1))
  )


def recall_at_false_positives(
  y: np.ndarray, p: np.ndarray, rate: float
) -> metrics.Statistic:
  """Share of positives found before a share of the negatives is flagged.

  Args:
    y, p: [N] labels and scores.
    rate: Of negatives: .01 flags one of a hundred.
  """
  return _found(
    y,
    p,
    np.ones(len(y)),
    lambda every, negative: (negative, rate * negative.sum(1)),
  )
