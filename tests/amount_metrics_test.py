"""Metrics of amounts: values by hand, whose forecast, and paired intervals."""

import numpy as np
import pytest
from scipy import stats

from lumos_jax.data.tasks import Task
from lumos_jax.evaluators import bootstrap, metrics, predict
from lumos_jax.report import load

TASKS = (
  Task("churn", "binary", field="visits", reduce="none"),
  Task("spend", "regression", field="sales"),
)
Y = np.asarray([0.0, 2.0, 4.0, -2.0])
P = {
  "spend": np.asarray([2.0, 2.0, 5.0, -3.0]),
  "spend/median": np.asarray([0.0, 1.0, 5.0, -2.0]),
  "spend/low": np.asarray([0.0, 0.0, 4.5, -5.0]),
  "spend/high": np.asarray([0.0, 3.0, 6.0, -2.0]),
}


def test_values_by_hand():
  out = metrics.of_tasks(TASKS[1:], Y[:, None], np.ones((4, 1), bool), P)
  assert out["spend/wape"] == 2 / 8  # Of the median.
  assert out["spend/mae"] == 2 / 4
  assert out["spend/mape_nonzero"] == (1 / 2 + 1 / 4) / 3
  assert out["spend/bias"] == 6 / 4  # Of the mean.
  assert out["spend/rmse"] == np.sqrt((4 + 1 + 1) / 4)
  assert out["spend/coverage_80"] == 3 / 4  # Ends are inside.
  assert out["mean_wape"] == out["spend/wape"]
  ranks = stats.spearmanr(Y, P["spend"])[0]
  np.testing.assert_allclose(out["spend/spearman"], ranks)


def test_a_forecast_of_one_number_has_all_but_coverage():
  alone = {"spend": P["spend"]}
  out = metrics.of_tasks(TASKS[1:], Y[:, None], np.ones((4, 1), bool), alone)
  assert out["spend/wape"] == 4 / 8 and out["spend/bias"] == 6 / 4
  assert "spend/coverage_80" not in out
  assert metrics.names(TASKS[1]) == metrics.REGRESSION[:-1]


def test_rank_correlation_equals_scipy_under_weights():
  rng = np.random.default_rng(0)
  y, p = np.round(rng.gamma(1.0, 3.0, 200)), np.round(rng.normal(size=200), 1)
  p += 0.1 * y
  w = rng.integers(0, 4, (3, 200))
  got = metrics.statistic("spearman", y, p, y >= 0)(w.astype(float))
  for row, value in zip(w, got):
    rows = np.repeat(np.arange(200), row)
    np.testing.assert_allclose(value, stats.spearmanr(y[rows], p[rows])[0])
  # A constant ranks nothing; without two labels nothing can be ranked.
  assert metrics.metric("spearman", y, np.full(200, 0.1)) == 0.0
  assert np.isnan(metrics.metric("spearman", np.ones(200), p))


def test_bias_of_no_total_is_undefined(caplog):
  y, mask = np.asarray([[3.0], [-3.0]]), np.ones((2, 1), bool)
  p = {"spend": np.asarray([1.0, 1.0])}
  out = metrics.of_tasks(TASKS[1:], y, mask, p)
  assert np.isnan(out["spend/bias"])
  assert "the total of all 2 labels is 0" in caplog.text


def test_differences_are_paired_and_of_the_same_parts():
  rng = np.random.default_rng(0)
  y = np.stack([rng.random(300) < 0.3, rng.gamma(1.0, 9.0, 300)], 1) * 1.0
  mask, own = np.ones(y.shape, bool), rng.random(300)
  a = {"churn": own, "spend": y[:, 1] * own, "spend/median": y[:, 1] * 0.9}
  a |= {"spend/low": y[:, 1] - 1, "spend/high": y[:, 1] + 1}
  b = {"churn": own, "spend": y[:, 1] * own}
  found = bootstrap.compare_tasks(TASKS, y, mask, a, b, n=60)
  assert not {k for k in found if k.endswith(metrics.NOT_COMPARED)}
  for name in ("rmse", "spearman"):  # The same means.
    assert found[f"spend/{name}"] == (0.0, 0.0, 0.0)
  d = found["spend/wape"]
  want = 0.1 - metrics.metric("wape", y[:, 1], b["spend"])
  np.testing.assert_allclose(d.value, want)
  assert d.low < d.value < d.high < 0


def test_predictions_keep_the_parts_of_amounts(tmp_path):
  key = predict.hash_keys("abcd")
  y, mask = np.zeros((4, 2), np.float32), np.ones((4, 2), bool)
  p = {k: v.astype(np.float32) for k, v in P.items()}
  p["churn"] = np.full(4, 0.5, np.float32)
  whole = predict.Predictions(key, y, mask, p)
  whole.save(tmp_path / "p.npz", ["churn", "spend"])
  again = predict.Predictions.load(tmp_path / "p.npz")
  assert set(again.p) == set(p)
  for name, x in p.items():
    np.testing.assert_array_equal(again.p[name], x)
  alone = predict.Predictions(key, y, mask, {"churn": p["churn"]})
  alone.save(tmp_path / "q.npz", ["churn"])
  assert set(predict.Predictions.load(tmp_path / "q.npz").p) == {"churn"}


@pytest.mark.parametrize(
  "metric,values,best",
  [
    ("spend/bias", [0.9, 1.05, 1.3], 1.05),
    ("spend/coverage_80", [0.7, 0.95], 0.7),
    ("spend/spearman", [0.2, 0.4], 0.4),
    ("spend/rmse", [3.0, 2.0], 2.0),
    ("churn/base_rate", [0.1, 0.1], None),
  ],
)
def test_the_report_knows_which_value_is_best(metric, values, best):
  assert load.best(metric, values) == best
