"""Softmax regression on blocks of features, dense beside sparse, by L-BFGS.

U rows, K outcomes, W features over all blocks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Blocks = Sequence[Any]  # [U, W_i], arrays or scipy's sparse matrices.
STRENGTHS = (3e-4, 3e-3, 0.03, 0.3, 3.0)
_MOST_STEPS = 200
_LEAST = 1e-9  # Probability whose logarithm is taken.


class Scaler:
  """Dense features to mean 0 and deviation 1; sparse ones to at most 1."""

  def __init__(self, blocks: Blocks):
    """Fits to the training rows."""
    from scipy import sparse

    self._scales = []
    for x in blocks:
      if sparse.issparse(x):
        most = np.asarray(abs(x).max(0).todense()).ravel()
        self._scales.append((None, 1 / np.where(most > 0, most, 1)))
        continue
      spread = np.std(x, 0)
      wide = spread > 1e-9
      scale = np.where(wide, 1 / np.where(wide, spread, 1), 0.0)
      self._scales.append((np.mean(x, 0), scale))

  def __call__(self, blocks: Blocks) -> list[Any]:
    """The blocks, scaled: float32."""
    from scipy import sparse

    out = []
    for x, (mean, scale) in zip(blocks, self._scales, strict=True):
      if mean is None:
        scaled = x @ sparse.diags(scale)
        out.append(sparse.csr_matrix(scaled, dtype=np.float32))
      else:
        out.append(((x - mean) * scale).astype(np.float32))
    return out


def fit(
  blocks: Blocks,
  y: np.ndarray,
  outcomes: int,
  strength: float,
  start: np.ndarray | None = None,
) -> np.ndarray:
  """Weights [W + 1, K] of the least penalised loss; the last row is free.

  Args:
    blocks: Features.
    y: int [U].
    outcomes: K.
    strength: C: the summed log loss times C plus half the squared weights.
    start: Weights to begin with; default 0.
  """
  import threadpoolctl
  from scipy import optimize

  widths = [x.shape[1] for x in blocks]
  ends = np.cumsum(widths)[:-1]
  shape = sum(widths) + 1, outcomes
  turned = [x.T.tocsr() if hasattr(x, "tocsr") else x.T for x in blocks]
  own = np.arange(len(y)), y
  penalty = 1.0 / (strength * len(y))

  def value(flat):
    w = flat.reshape(shape)
    p = _softmax(_logits(blocks, w, ends))
    loss = -np.log(np.maximum(p[own], _LEAST)).mean()
    loss += 0.5 * penalty * np.square(w[:-1]).sum()
    p[own] -= 1.0
    p /= len(y)
    slope = [np.asarray(x @ p, np.float64) for x in turned]
    slope = np.concatenate([*slope, p.sum(0)[None].astype(np.float64)])
    slope[:-1] += penalty * w[:-1]
    return loss, slope.ravel()

  begin = np.zeros(shape) if start is None else start
  limits = dict(
    maxiter=_MOST_STEPS, maxfun=2 * _MOST_STEPS, gtol=1e-5, ftol=1e-7
  )
  # Threads of products this thin mostly wait for each other, busily.
  with threadpoolctl.threadpool_limits(1):
    found = optimize.minimize(
      value, begin.ravel(), jac=True, method="L-BFGS-B", options=limits
    )
  return found.x.reshape(shape)


def probabilities(blocks: Blocks, weights: np.ndarray) -> np.ndarray:
  """float64 [U, K]."""
  ends = np.cumsum([x.shape[1] for x in blocks])[:-1]
  return _softmax(_logits(blocks, weights, ends)).astype(np.float64)


def chosen(
  tables: Sequence[tuple[Blocks, np.ndarray]],
  outcomes: int,
  strengths: Sequence[float] = STRENGTHS,
) -> tuple[np.ndarray, float]:
  """Probabilities [U, K] on the last table, and the strength.

  Args:
    tables: (blocks, y) of training, perhaps validation, and what is asked. The
      strength is the one of the least log loss on validation, else the middle.
    outcomes: K.
    strengths: To choose from.
  """
  scaler = Scaler(tables[0][0])
  x, y = scaler(tables[0][0]), tables[0][1]
  asked = scaler(tables[-1][0])
  if len(tables) < 3:
    strength = sorted(strengths)[len(strengths) // 2]
    weights = fit(x, y, outcomes, strength)
    return probabilities(asked, weights), strength
  held, outcome = scaler(tables[1][0]), tables[1][1]
  best, weights, found = np.inf, None, (None, 0.0)
  # From the strongest penalty on: each fit begins where the last one ended.
  for strength in sorted(strengths):
    weights = fit(x, y, outcomes, strength, weights)
    p = probabilities(held, weights)[np.arange(len(outcome)), outcome]
    loss = -np.log(np.maximum(p, _LEAST)).mean()
    if loss < best:
      best, found = loss, (weights, strength)
  return probabilities(asked, found[0]), found[1]


def _logits(blocks: Blocks, w: np.ndarray, ends: np.ndarray) -> np.ndarray:
  w = w.astype(np.float32)
  parts = np.split(w[:-1], ends)
  return sum(x @ part for x, part in zip(blocks, parts, strict=True)) + w[-1:]


def _softmax(z: np.ndarray) -> np.ndarray:
  z = np.exp(z - z.max(1, keepdims=True))
  return z / z.sum(1, keepdims=True)
