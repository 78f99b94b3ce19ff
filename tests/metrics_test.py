"""Own metrics equal scikit-learn's; the bootstrap is paired and quick."""

import logging

import numpy as np
import pytest
from sklearn import metrics as sk

from lumos_jax.data.tasks import Task
from lumos_jax.evaluators import bootstrap, metrics

RNG = np.random.default_rng(0)
TASKS = (
  Task("churn", "binary", field="visits", reduce="none"),
  Task("redeem", "binary", field="sales", reduce="any"),
  Task("spend", "regression", field="sales"),
)


def binary(n=300, ties=False, rate=0.3):
  y = (RNG.random(n) < rate).astype(float)
  p = 1 / (1 + np.exp(-(y - 0.5) - RNG.normal(size=n)))
  return y, np.round(p, 1) if ties else p


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
  "name,reference",
  [
    ("auc", sk.roc_auc_score),
    ("average_precision", sk.average_precision_score),
    ("log_loss", sk.log_loss),
  ],
)
def test_binary_metrics_equal_scikit_learn(name, reference, ties):
  y, p = binary(ties=ties)
  p = np.clip(p, 0.01, 0.99)
  np.testing.assert_allclose(metrics.metric(name, y, p), reference(y, p))
  w = RNG.integers(0, 4, (3, len(y)))
  values = metrics.statistic(name, y, p, y >= 0)(w.astype(float))
  for row, value in zip(w, values):
    rows = np.repeat(np.arange(len(y)), row)
    np.testing.assert_allclose(value, reference(y[rows], p[rows]))


def test_regression_metrics():
  y = np.asarray([0.0, 2.0, 4.0, -2.0])
  p = np.asarray([1.0, 1.0, 5.0, -2.0])
  assert metrics.metric("mae", y, p) == sk.mean_absolute_error(y, p) == 0.75
  np.testing.assert_allclose(metrics.metric("mape_nonzero", y, p), 0.75 / 3)
  np.testing.assert_allclose(metrics.metric("wape", y, p), 3 / 8)


def test_calibration_error():
  p = np.repeat([0.1, 0.6], 50)
  y = np.concatenate([np.arange(50) % 10 == 0, np.arange(50) % 5 < 3]) * 1.0
  assert metrics.metric("calibration_error", y, p) < 1e-12
  off = metrics.metric("calibration_error", y, p + 0.2)
  np.testing.assert_allclose(off, 0.2)


def test_saturated_forecasts_have_a_finite_loss():
  y, p = np.asarray([1.0, 0.0]), np.asarray([0.0, 0.0])
  assert 7 < metrics.metric("log_loss", y, p) < 9


def test_masked_users_do_not_count():
  y, p = binary()
  mask = RNG.random(len(y)) < 0.5
  for name in metrics.BINARY:
    whole = metrics.metric(name, y[mask], p[mask])
    assert metrics.metric(name, y, p, mask) == pytest.approx(whole, abs=1e-12)


def forecasts(n=200):
  y = np.stack([binary(n)[0], binary(n)[0], RNG.gamma(1.0, 9.0, n)], 1)
  p = {
    "churn": np.clip(y[:, 0] * 0.3 + RNG.random(n) * 0.7, 0, 1),
    "redeem": np.clip(y[:, 1] * 0.3 + RNG.random(n) * 0.7, 0, 1),
    "spend": y[:, 2] * RNG.random(n),
  }
  return y, np.ones(y.shape, bool), p


def test_one_class_gives_nan_and_says_why(caplog):
  y, mask, p = forecasts()
  y[:, 0] = 0.0
  with caplog.at_level(logging.WARNING, logger="absl"):
    out = metrics.of_tasks(TASKS, y, mask, p)
  assert np.isnan(out["churn/auc"])
  assert "churn/auc is undefined: all 200 labels are 0" in caplog.text
  assert out["churn/base_rate"] == 0.0
  assert out["mean_auc"] == out["redeem/auc"]
  mask[:, 2] = False
  out = metrics.of_tasks(TASKS, y, mask, p)
  assert np.isnan(out["spend/wape"]) and "mean_wape" not in out


def test_means_go_over_named_tasks():
  y, mask, p = forecasts()
  out = metrics.of_tasks(TASKS, y, mask, p)
  assert out["mean_auc"] == np.mean([out["churn/auc"], out["redeem/auc"]])
  assert out["mean_wape"] == out["spend/wape"]
  some = metrics.of_tasks(TASKS, y, mask, p, ["redeem"])
  assert some["mean_auc"] == out["redeem/auc"] and "mean_wape" not in some


def test_bootstrap_is_paired():
  y, p = binary()
  mask = np.ones(len(y), bool)
  for name in metrics.BINARY:
    assert bootstrap.compare(y, mask, p, p, name, n=50) == (0.0, 0.0, 0.0)
  worse = p + RNG.normal(size=len(p)) * 0.5
  d = bootstrap.compare(y, mask, p, worse, "auc", n=400)
  a, b = metrics.metric("auc", y, p), metrics.metric("auc", y, worse)
  assert d.value == a - b and d.low < d.value < d.high
  assert d == bootstrap.compare(y, mask, p, worse, "auc", n=400)
  # Masked users change nothing but the draw.
  mask[::2] = False
  half = bootstrap.compare(y, mask, p, worse, "auc", n=400)
  assert half.high - half.low > d.high - d.low


def test_bootstrap_of_all_tasks_equals_each_alone():
  y, mask, a = forecasts()
  b = {k: v + RNG.normal(size=len(v)) * 0.1 for k, v in a.items()}
  b["churn"] = np.clip(b["churn"], 0, 1)
  found = bootstrap.compare_tasks(TASKS, y, mask, a, b, n=60, seed=3)
  for m, task in enumerate(TASKS):
    for name in metrics.names(task):
      if name in metrics.NOT_COMPARED:
        continue
      args = (y[:, m], mask[:, m], a[task.name], b[task.name], name)
      alone = bootstrap.compare(*args, n=60, seed=3)
      np.testing.assert_allclose(found[f"{task.name}/{name}"], alone)
  both = [found[f"{t}/auc"].value for t in ("churn", "redeem")]
  np.testing.assert_allclose(found["mean_auc"].value, np.mean(both))
  only = bootstrap.compare_tasks(TASKS, y, mask, a, b, only=("auc",), n=20)
  assert set(only) == {"churn/auc", "redeem/auc", "mean_auc", "mean_wape"}


def test_interval_covers_the_mean(monkeypatch):
  x = RNG.normal(size=500) + 1.0
  d = bootstrap.mean(x, 500)
  assert d.low < 1.0 < d.high
  half_width = 1.96 * x.std() / np.sqrt(len(x))
  np.testing.assert_allclose(d.high - d.low, 2 * half_width, rtol=0.15)
  # However few draws fit into memory at a time, they are the same.
  monkeypatch.setattr(bootstrap, "_CHUNK", 1700)
  np.testing.assert_allclose(bootstrap.mean(x, 500), d)
