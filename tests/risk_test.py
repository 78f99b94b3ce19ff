"""Ranking, money and calibration of scores, against plain formulas."""

import numpy as np
import pytest
from scipy import optimize
from sklearn import isotonic

from lumos_jax.evaluators import bootstrap, calibration, metrics, ranking


def points(n=400, seed=0):
  rng = np.random.default_rng(seed)
  p = rng.random(n)
  return (rng.random(n) < p**2).astype(float), p, rng


def one(statistic, n):
  return float(statistic(np.ones((1, n)))[0])


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_recall_at_the_top_counts_positives_and_money(share):
  y, p, rng = points()
  money = rng.lognormal(size=len(y))
  top = np.argsort(-p)[: round(share * len(y))]
  found = one(ranking.recall_at_top(y, p, share), len(y))
  assert found == pytest.approx(y[top].sum() / y.sum())
  found = one(ranking.recall_at_top(y, p, share, money), len(y))
  expected = (y * money)[top].sum() / (y * money).sum()
  assert found == pytest.approx(expected)


def test_recall_at_a_false_positive_rate():
  y, p, _ = points()
  order = np.argsort(-p)
  flagged = np.cumsum(y[order] == 0)
  for rate in (0.01, 0.05, 0.3):
    allowed = int(rate * (y == 0).sum())
    # All positives that stand before the next negative.
    last = np.searchsorted(flagged, allowed, side="right")
    expected = y[order][:last].sum() / y.sum()
    found = one(ranking.recall_at_false_positives(y, p, rate), len(y))
    room = 1 / y.sum()
    assert expected - 1e-9 <= found <= expected + room


def test_equal_scores_are_taken_in_equal_shares():
  y = np.asarray([1.0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
  p = np.full(10, 0.3)
  assert one(ranking.recall_at_top(y, p, 0.2), 10) == pytest.approx(0.2)
  found = one(ranking.recall_at_false_positives(y, p, 0.5), 10)
  assert found == pytest.approx(0.5)
  assert np.isnan(one(ranking.recall_at_top(0 * y, p, 0.2), 10))


def test_weights_are_copies_of_points():
  y, p, rng = points(60)
  count = rng.integers(0, 4, 60)
  many = np.repeat(np.arange(60), count)
  for make in (
    lambda y, p: ranking.recall_at_top(y, p, 0.1),
    lambda y, p: ranking.recall_at_false_positives(y, p, 0.1),
  ):
    weighted = make(y, p)(count[None].astype(float))[0]
    copied = one(make(y[many], p[many]), len(many))
    assert weighted == pytest.approx(copied)


def test_a_users_points_are_drawn_together():
  key = np.asarray([b"a", b"b", b"a", b"c", b"b"])
  drawn = np.concatenate(list(bootstrap.draws_by_user(key, 50, 0)))
  assert drawn.shape == (50, 5)
  np.testing.assert_array_equal(drawn[:, 0], drawn[:, 2])
  np.testing.assert_array_equal(drawn[:, 1], drawn[:, 4])
  assert (drawn[:, [0, 1, 3]].sum(1) == 3).all()
  # With a user a row it is the plain bootstrap.
  plain = np.concatenate(list(bootstrap.draws(5, 20, 1)))
  own = np.concatenate(list(bootstrap.draws_by_user(np.arange(5), 20, 1)))
  np.testing.assert_array_equal(plain, own)


def test_isotonic_is_scikit_learns():
  y, p, _ = points()
  p = np.round(p, 2)  # Ties.
  found = calibration.fit("isotonic", y, p)
  model = isotonic.IsotonicRegression(out_of_bounds="clip").fit(p, y)
  new = np.linspace(-0.1, 1.1, 50)
  np.testing.assert_allclose(found(new), model.predict(new), atol=1e-9)


def test_temperature_has_the_least_log_loss():
  y, p, _ = points()
  found = calibration.fit("temperature", y, p)
  z = np.log(p / (1 - p))
  loss = lambda a: np.mean(
    np.logaddexp(0, a[0] * z + a[1]) - y * (a[0] * z + a[1])
  )
  best = optimize.minimize(loss, [1.0, 0.0]).x
  np.testing.assert_allclose(found.x, best, atol=1e-3)
  # An increasing map keeps the order, and with it every ranking metric.
  assert (np.argsort(found(p)) == np.argsort(p)).all()


def test_calibration_mends_what_is_not_calibrated(tmp_path):
  y, p, _ = points(4000)
  half = np.arange(len(y)) % 2 == 0
  before = metrics.metric("calibration_error", y[~half], p[~half])
  maps = {}
  for kind in calibration.KINDS:
    maps[kind] = calibration.fit(kind, y[half], p[half])
    after = maps[kind](p[~half])
    assert metrics.metric("calibration_error", y[~half], after) < before / 2
  calibration.save(tmp_path, maps, {"model_hash": "1" * 16})
  assert calibration.load(tmp_path, "2" * 16) == {}  # Of another checkpoint.
  found = calibration.load(tmp_path, "1" * 16)
  for kind, own in maps.items():
    np.testing.assert_array_equal(found[kind](p), own(p))
  (tmp_path / "calibration.json").write_text("{}")
  with pytest.raises(ValueError, match="calibration.json cannot be read"):
    calibration.load(tmp_path, "")
  assert calibration.load(tmp_path / "elsewhere", "") == {}


def test_labels_of_one_class_calibrate_nothing():
  p = np.linspace(0.1, 0.9, 5)
  found = calibration.fit("isotonic", np.zeros(5), p)
  assert found.kind == "none"
  np.testing.assert_array_equal(found(p), p)
  with pytest.raises(ValueError, match="'beta'"):
    calibration.fit("beta", np.zeros(5), p)
