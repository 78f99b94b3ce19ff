"""scikit-learn's softmax regression on blocks of features, dense beside sparse.

U rows, K outcomes, W features over all blocks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Blocks = Sequence[Any]  # [U, W_i], arrays or scipy's sparse matrices.
# C: the summed log loss times C plus half the squared weights.
STRENGTHS = (3e-4, 3e-3, 0.03, 0.3, 3.0)
_MOST_STEPS = 1000
_LEAST = 1e-9  # Probability whose logarithm is taken.


class Scaler:
  """Dense features to mean 0 and deviation 1; sparse ones to at most 1."""

  def __init__(self, blocks: Blocks):
    """Fits to the training rows."""
    from scipy import sparse
    from sklearn import preprocessing

    self._scalers = [
      preprocessing.MaxAbsScaler().fit(x)
      if sparse.issparse(x)
      else preprocessing.StandardScaler().fit(x)
      for x in blocks
    ]

  def __call__(self, blocks: Blocks) -> Any:
    """The blocks, scaled, side by side: float32 [U, W]."""
    from scipy import sparse

    out = [
      scaler.transform(x).astype(np.float32)
      for x, scaler in zip(blocks, self._scalers, strict=True)
    ]
    if any(map(sparse.issparse, out)):
      return sparse.hstack(out, "csr", np.float32)
    return np.concatenate(out, 1)


def chosen(
  tables: Sequence[tuple[Blocks, np.ndarray]],
  outcomes: int,
  strengths: Sequence[float] = STRENGTHS,
) -> tuple[np.ndarray, float]:
  """Probabilities [U, K] on the last table, and the strength.

  Args:
    tables: (blocks, y) of training, perhaps validation, and what is asked; y
      int [U]. The strength is the one of the least log loss on validation, else
      the middle.
    outcomes: K.
    strengths: To choose from.
  """
  import threadpoolctl
  from sklearn import linear_model

  scaler = Scaler(tables[0][0])
  x, y = scaler(tables[0][0]), tables[0][1]
  strengths = sorted(strengths)
  held = tables[1] if len(tables) > 2 else None
  if held is None:
    strengths = [strengths[len(strengths) // 2]]
  else:
    held = scaler(held[0]), held[1]
  if len(np.unique(y)) < 2:
    shape = len(tables[-1][1]), outcomes
    return np.broadcast_to(_spread(np.ones((1, 1)), y, outcomes), shape), 0.0
  best, found = np.inf, None
  # From the strongest penalty on: each fit begins where the last one ended.
  model = linear_model.LogisticRegression(max_iter=_MOST_STEPS, warm_start=True)
  asked = scaler(tables[-1][0])
  for strength in strengths:
    model.set_params(C=strength)
    # Threads of products this thin mostly wait for each other, busily.
    with threadpoolctl.threadpool_limits(1):
      model.fit(x, y)
    told = lambda x: _spread(model.predict_proba(x), y, outcomes)
    loss = 0.0
    if held is not None:
      p = told(held[0])[np.arange(len(held[1])), held[1]]
      loss = -np.log(np.maximum(p, _LEAST)).mean()
    if loss < best:
      best, found = loss, (told(asked), strength)
  return found


def _spread(p: np.ndarray, y: np.ndarray, outcomes: int) -> np.ndarray:
  """Probabilities of all outcomes; one that never happened as if it once had."""
  seen = np.unique(y)
  out = np.ones((len(p), outcomes))
  out[:, seen] = p * len(y)
  return out / out.sum(1, keepdims=True)
