"""How well labels agree: student with teacher, labels with known categories."""

from collections.abc import Sequence

import numpy as np


def f1(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
  """Micro and macro F1 of label sets.

  Args:
    truth, found: Bool [S, L].

  Returns:
    micro_f1, and macro_f1: the mean over labels that either side uses; 0 where
    there are none.
  """
  hit = (truth & found).sum(0).astype(float)
  size = truth.sum(0) + found.sum(0)
  used = size > 0
  micro = 2 * hit.sum() / size.sum() if used.any() else 0.0
  macro = (2 * hit[used] / size[used]).mean() if used.any() else 0.0
  return {"micro_f1": float(micro), "macro_f1": float(macro)}


def agreement(found: Sequence, known: Sequence[str]) -> dict[str, float]:
  """Of one label a session with known categories, over sessions that have one.

  Returns:
    nmi (arithmetic mean), ari, and sessions, how many they stand on; only
    sessions = 0 where no category is known.
  """
  from sklearn import metrics

  rows = [i for i, x in enumerate(known) if x]
  if not rows:
    return {"sessions": 0.0}
  truth = [known[i] for i in rows]
  mine = [str(found[i]) for i in rows]
  return {
    "nmi": float(metrics.normalized_mutual_info_score(truth, mine)),
    "ari": float(metrics.adjusted_rand_score(truth, mine)),
    "sessions": float(len(rows)),
  }


def stability(runs: Sequence[Sequence]) -> tuple[float, float]:
  """Mean and least adjusted Rand index over all pairs of labelings.

  Raises:
    ValueError: There are fewer than two.
  """
  from sklearn import metrics

  if len(runs) < 2:
    raise ValueError("stability needs two labelings or more")
  found = [
    metrics.adjusted_rand_score(a, b)
    for i, a in enumerate(runs)
    for b in runs[:i]
  ]
  return float(np.mean(found)), float(np.min(found))
