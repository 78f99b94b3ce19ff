"""Bins of a quantity's values, fitted on training labels."""

from typing import NamedTuple

import numpy as np

# Of a threshold that no value exceeds: it is not used.
NEVER = float(np.finfo(np.float32).max)
_LEAST = 10  # Labels of a bin, where there are as many.


class Bins(NamedTuple):
  """At most Z + 1 bins, ascending; those that are not used repeat the last one.

  Attributes:
    threshold: float32 [Z], highest value of each bin but the last; NEVER where
      there is no further bin.
    low, high, mean: float32 [Z + 1], lowest, highest and mean value of a bin.
    rate: float64 [Z], share of values above the threshold.
  """

  threshold: np.ndarray
  low: np.ndarray
  high: np.ndarray
  mean: np.ndarray
  rate: np.ndarray


def fit(y: np.ndarray, thresholds: int) -> Bins:
  """Bins whose means add up to the total of the values they were fitted on.

  Zero is a bin of its own, if it occurs; values below and above it are cut into
  bins of about equal weight. A value weighs by its number and by its amount,
  half each: equal numbers alone would put the few large amounts, on which the
  total hangs, into one bin. A bin holds at least 10 values, and equal values
  share one.

  Args:
    y: float [N], finite.
    thresholds: Z.
  """
  y = np.asarray(y, np.float32).astype(np.float64)
  if not len(y):
    zeros = np.zeros(thresholds + 1, np.float32)
    never = np.full(thresholds, NEVER, np.float32)
    return Bins(never, zeros, zeros, zeros, np.zeros(thresholds))
  value, count = np.unique(y, return_counts=True)
  weight = count / len(y)
  total = np.abs(value) @ count
  if total > 0:
    weight = 0.5 * weight + 0.5 * np.abs(value) * count / total
  parts = [np.flatnonzero(p) for p in (value < 0, value == 0, value > 0)]
  room = thresholds + 1 - bool(len(parts[1]))
  below, above = (weight[p].sum() for p in (parts[0], parts[2]))
  share = below / max(below + above, np.finfo(float).tiny)
  # A sign that occurs has a bin, whatever its weight.
  least, most = min(1, len(parts[0])), room - min(1, len(parts[2]))
  n = int(np.clip(round(room * share), least, most))
  groups = [
    *_cut(parts[0], weight, count, n),
    *([parts[1]] if len(parts[1]) else []),
    *_cut(parts[2], weight, count, room - n),
  ]
  pad = lambda x, fill, size: np.concatenate(
    [x, np.full(size - len(x), fill)]
  ).astype(np.float32)
  ends = np.asarray([[value[g[0]], value[g[-1]]] for g in groups])
  mean = np.asarray([value[g] @ count[g] / count[g].sum() for g in groups])
  share = np.asarray([count[g].sum() for g in groups]) / len(y)
  size = thresholds + 1
  rate = np.zeros(thresholds)
  rate[: len(groups) - 1] = 1.0 - np.cumsum(share)[:-1]
  return Bins(
    pad(ends[:-1, 1], NEVER, thresholds),
    pad(ends[:, 0], ends[-1, 0], size),
    pad(ends[:, 1], ends[-1, 1], size),
    pad(mean, mean[-1], size),
    rate,
  )


def _cut(at, weight, count, bins: int) -> list[np.ndarray]:
  """Positions `at`, ascending, in at most so many groups of equal weight."""
  if not len(at):
    return []
  w = weight[at]
  middle = (np.cumsum(w) - 0.5 * w) / w.sum()
  index = np.minimum((bins * middle).astype(int), bins - 1)
  groups, waiting = [], []
  for i in np.unique(index):
    waiting.append(at[index == i])
    if sum(count[g].sum() for g in waiting) >= _LEAST:
      groups.append(np.concatenate(waiting))
      waiting = []
  if waiting:  # Too few at the end join the last group.
    groups[-1:] = [np.concatenate([*groups[-1:], *waiting])]
  return groups
