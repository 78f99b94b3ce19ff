"""Softmax regression on blocks: features' scales, strengths by validation."""

import numpy as np
import pytest
from scipy import sparse
from sklearn import linear_model

from lumos_jax.evaluators import softmax


def drawn(seed=0, rows=400, outcomes=4):
  """Dense and sparse features, and an outcome that follows from both."""
  rng = np.random.default_rng(seed)
  dense = rng.normal(1.0, 2.0, (rows, 5))
  counts = rng.poisson(0.3, (rows, 12)).astype(np.float32)
  weights = np.random.default_rng(9).normal(size=(17, outcomes)) / 4
  z = np.concatenate([dense, counts], 1) @ weights
  y = (z + rng.gumbel(size=z.shape)).argmax(1)
  return [dense, sparse.csr_matrix(counts)], y


def test_blocks_are_scaled_and_stand_side_by_side():
  blocks, y = drawn()
  x = softmax.Scaler(blocks)(blocks)
  assert sparse.issparse(x) and x.shape == (400, 17)
  whole = x.toarray()
  assert np.allclose(whole[:, :5].mean(0), 0, atol=1e-5)
  assert np.allclose(whole[:, :5].std(0), 1, atol=1e-5)
  assert np.allclose(whole[:, 5:].max(0), 1) and whole[:, 5:].min() == 0
  found, _ = softmax.chosen(((blocks, y), (blocks, y)), 4, (0.03,))
  peer = linear_model.LogisticRegression(C=0.03, max_iter=2000, tol=1e-8)
  wanted = peer.fit(whole, y).predict_proba(whole)
  np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_the_strength_is_the_one_of_the_least_validation_loss():
  train, held, test = drawn(0, 60), drawn(1, 200), drawn(2, 200)
  p, strength = softmax.chosen((train, held, test), 4)
  losses = {}
  for s in softmax.STRENGTHS:
    found, _ = softmax.chosen((train, held, held), 4, (s,))
    losses[s] = -np.log(found[np.arange(200), held[1]]).mean()
  assert strength == min(losses, key=losses.get)
  assert p.shape == (200, 4)
  # Without validation, the one in the middle.
  assert softmax.chosen((train, test), 4)[1] == softmax.STRENGTHS[2]


def test_an_outcome_that_training_has_not_is_as_one_that_happened_once():
  blocks, y = drawn()
  p, _ = softmax.chosen(((blocks, y), (blocks, y)), 6)
  assert p.shape == (400, 6)
  np.testing.assert_allclose(p[:, 4:], 1 / 402, rtol=1e-5)
  np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
  constant = [np.full((400, 1), 7.0)]
  p, _ = softmax.chosen(((constant, y), (constant, y)), 4)
  shares = np.bincount(y) / len(y)
  assert p[0] == pytest.approx(shares, abs=1e-2)
  always = np.full(400, 2)
  p, _ = softmax.chosen(((blocks, always), (blocks, always)), 3)
  np.testing.assert_allclose(
    p, np.tile([1 / 402, 1 / 402, 400 / 402], (400, 1))
  )
