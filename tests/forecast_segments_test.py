"""Metrics by segment, curves and bins, and what the report says of tasks."""

import json

import jax
import numpy as np
import optax
import pytest
from fake_evals import PARAMS, build, evaluator
from sklearn import metrics as sk

from lumos_jax import evaluate, report
from lumos_jax import state as state_lib
from lumos_jax.evaluators import metrics, segments
from lumos_jax.report import bins, questions, rank_charts

RNG = np.random.default_rng(0)


def test_segments_are_values_quartiles_and_history(tmp_path):
  e = evaluator(
    "forecast",
    tmp_path=tmp_path,
    segments=("region", "age", "history"),
    min_positives=2,
  )
  out = dict(e.run(PARAMS))
  found, records = e.predictions, e.records
  # Users 0, 4, ... miss their region, 1, 5, ... have one that is not known.
  regions = ("(missing)", "(unknown)", "north", "south")
  keys = segments.predict.hash_keys(f"user{i}" for i in range(24))
  user = {k: i for i, k in enumerate(keys.tolist())}
  who = np.asarray([user[k] for k in found.key.tolist()])
  for i, region in enumerate(regions):
    mine = who % 4 == i
    where = f"segments/region={region}/active"
    y = found.y[mine, 0]
    assert out[f"{where}/users"] == 6 == mine.sum()
    assert out[f"{where}/positives"] == (y != 0).sum()
    expected = metrics.metric("auc", y, found.p["active"][mine])
    if min((y == 0).sum(), (y != 0).sum()) < 2:
      expected = np.nan
    np.testing.assert_equal(out[f"{where}/auc"], expected)
  # Ages are 20 to 43: quartiles of six users.
  ages = [k for k in out if "/age=" in k and k.endswith("spend/users")]
  assert ages[0] == "segments/age=20 to 25/spend/users" and len(ages) == 4
  mine = who < 6
  expected = metrics.metric("wape", found.y[mine, 2], found.p["spend"][mine])
  assert out["segments/age=20 to 25/spend/wape"] == expected
  rows = [int((r["day"] < 112).sum()) for r in records.users]
  history = [k.split("=")[1].split("/")[0] for k in out if "/history=" in k]
  assert history[0].startswith(f"{min(rows)}")
  assert history[-1].endswith(f"{max(rows)}")


def test_few_positives_give_no_value():
  tasks = build()[2][:1]
  y, mask = np.asarray([[1.0], [0], [0], [1], [1], [0]]), np.ones((6, 1), bool)
  p = {"active": np.asarray([0.9, 0.1, 0.2, 0.8, 0.7, 0.3])}
  of_user = {"kind": np.asarray(["a", "a", "a", "b", "b", "b"])}
  out = dict(segments.of_tasks(of_user, tasks, y, mask, p, 1))
  assert out["segments/kind=a/active/auc"] == 1.0
  out = dict(segments.of_tasks(of_user, tasks, y, mask, p, 2))
  assert np.isnan(out["segments/kind=a/active/auc"])  # One positive.
  assert np.isnan(out["segments/kind=b/active/auc"])  # One negative.
  assert out["segments/kind=b/active/base_rate"] == pytest.approx(2 / 3)
  assert out["segments/kind=b/active/positives"] == 2


def test_an_unknown_segment_is_named():
  with pytest.raises(ValueError, match="forecast.segments: no profile field"):
    evaluator("forecast", segments=("salary",))


def test_a_real_evaluation_is_shown_whole(tmp_path):
  """Ablation's intervals, segments and tasks, from evaluators to the page."""
  config, records, tasks, recipe = build()
  with config.unlocked():
    config.evals = dict(
      forecast=dict(type="forecast", segments=("region",), min_positives=2),
      ablation=dict(type="ablation", ablations=["no_future"], n_resamples=50),
    )
  ran = evaluate.Session(config, tmp_path, records, recipe, tasks)
  init = jax.jit(lambda: state_lib.init(recipe, optax.identity(), 0, False))
  ran.evaluate(1, init()["params"], True)
  (tmp_path / "config.json").write_text(config.to_json_best_effort())
  data = tmp_path / "data"
  data.mkdir()
  (data / "stats.json").write_text("{}")
  (data / "schema.json").write_text(records.schema.to_json())
  text = report.build(tmp_path, data).read_text().split("<script>")[0]
  found = json.loads((tmp_path / "eval.json").read_text())["ablation"]
  minus = "\N{MINUS SIGN}"
  for task, metric in (("churn", "auc"), ("spend", "wape")):
    ends = [found[f"no_future/{task}/{metric}/{e}"] for e in ("low", "high")]
    shown = f"[{ends[0]:+.4f}, {ends[1]:+.4f}]".replace("-", minus)
    assert shown in text
  assert "By region" in text and "(unknown)" in text
  # Day 112 of 2020.
  assert "any visits in the 7 days from 2020-04-22 to 2020-04-28" in text
  assert "no visits in the 14 days from 2020-04-22 to 2020-05-05" in text
  assert "sum of sales over the 14 days" in text
  y = ran.evaluators["forecast"].predictions.y
  assert f">{int((y[:, 0] != 0).sum())}<" in text
  assert "Error:" not in text


@pytest.mark.parametrize(
  "task,words",
  [
    (dict(label="grade", equals="pass", reduce="static"), "grade is pass, "),
    (
      dict(label="churned", reduce="any"),
      "any churned in the 28 days from day",
    ),
    (
      dict(field="sales", horizon_days=7),
      "over the 7 days from day 9 to day 15",
    ),
  ],
)
def test_tasks_in_words(task, words):
  assert words in questions.meaning(task, {}, 9)


def test_curves_equal_scikit_learn():
  y = (RNG.random(400) < 0.2) * 1.0
  p = np.round(y * 0.3 + RNG.random(400) * 0.7, 2)  # Ties.
  x, true = rank_charts.roc_points(y, p)
  np.testing.assert_allclose(sk.auc(x, true), sk.roc_auc_score(y, p))
  recall, precision = rank_charts.precision_recall_points(y, p)
  area = np.sum(np.diff(np.append(0, recall)) * precision)
  np.testing.assert_allclose(area, sk.average_precision_score(y, p))
  spec = rank_charts.hit_rate({"model": np.asarray([1, 3, 200])})
  line = spec["data"][0]
  assert line["y"][0] == pytest.approx(1 / 3, abs=1e-6)
  assert line["x"][-1] == 100 and line["y"][-1] == pytest.approx(2 / 3, 1e-5)


def test_rare_outcomes_have_halved_bins_and_logarithmic_axes():
  p = np.arange(1000) / 1e4
  y = (np.arange(1000) >= 980) * 1.0
  b = bins.halving(y, p)
  assert b["users"][:3].tolist() == [500, 250, 125]
  assert b["users"].sum() == 1000 and b["users"].min() >= 15
  assert b["outcome"][0] == 0.0 < b["outcome"][-1]
  spec = bins.reliability({"model": (y, p)})
  assert spec["layout"]["xaxis"]["type"] == "log"
  marks, values = (spec["data"][0][k] for k in ("marker", "y"))
  assert marks["symbol"][0].endswith("-open") and min(values) > 0
  often = bins.reliability({"model": (1 - y, 1 - p)})
  assert "type" not in often["layout"]["xaxis"]
