"""Metrics of a ranking of tiles, against their formulas."""

import numpy as np
from sklearn import metrics as sk_metrics

from lumos_jax.evaluators import tiles


def test_metrics_are_their_formulas():
  rng = np.random.default_rng(0)
  p = rng.dirichlet(np.ones(5), 60)
  y = rng.integers(0, 4, 60)  # The fifth tile never comes.
  found = {
    k: float(f(np.ones((1, 60)))[0]) for k, f in tiles.statistics(y, p).items()
  }
  top = p.argmax(1)
  assert np.isclose(
    found["macro_recall@1"],
    sk_metrics.recall_score(y, top, average="macro", labels=range(4)),
  )
  assert np.isclose(found["recall@1"], np.mean(top == y))
  assert np.isclose(
    found["log_loss"], sk_metrics.log_loss(y, p, labels=range(5))
  )
  gain = np.eye(5)[y]
  assert np.isclose(found["ndcg"], sk_metrics.ndcg_score(gain, p))


def test_equal_scores_gain_nothing_and_weights_count():
  y, p = np.asarray([0, 1]), np.full((2, 4), 0.25)
  flat = {k: f(np.ones((1, 2)))[0] for k, f in tiles.statistics(y, p).items()}
  assert flat["recall@1"] == 0 and np.isclose(flat["ndcg"], 1 / np.log2(5))
  p = np.asarray([[0.9, 0.1], [0.9, 0.1]])
  f = tiles.statistics(y, p)
  weights = np.asarray([[3.0, 1.0], [2.0, 0.0]])
  np.testing.assert_allclose(f["recall@1"](weights), [0.75, 1.0])
  np.testing.assert_allclose(f["macro_recall@1"](weights), [0.5, 1.0])
