"""The best baseline, stacks, marks of few positives, backtests."""

import importlib.util
import json
import pathlib
import sys

import fake
import jax
import numpy as np
import optax
import pytest
from fake_evals import EVALS, build

from benchmarks import tables
from lumos_jax import config as config_lib
from lumos_jax import evaluate, positives, report
from lumos_jax import state as state_lib
from lumos_jax.evaluators import predict, stack, targets
from lumos_jax.report import baselines, load

ROOT = pathlib.Path(tables.__file__).parents[1]
sigmoid = lambda x: 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
  """A whole evaluation with two baselines, the best of them and the stack."""
  path = tmp_path_factory.mktemp("run")
  config, records, tasks, recipe = build(fake.Records(40))
  with config.unlocked():
    small = dict(n_origins=4, folds=2)
    config.evals = dict(
      stack=dict(type="stack"),
      best=dict(type="baseline_best"),
      both=dict(type="baseline_stack"),
      forecast=dict(type="forecast"),
      validation=dict(type="forecast", split="validation"),
      trees=dict(type="baseline_lightgbm", rounds=5, **small),
      line=dict(type="baseline_linear", penalties=(0.1,), **small),
      states=dict(type="baseline_lightgbm_states", rounds=5, **small),
      naive=EVALS["baseline_naive"],
    )
  session = evaluate.Session(config, path, records, recipe, tasks)
  init = jax.jit(lambda: state_lib.init(recipe, optax.identity(), 0, False))
  session.evaluate(1, init()["params"], True)
  (path / "config.json").write_text(config.to_json_best_effort())
  data = path / "data"
  data.mkdir()
  (data / "stats.json").write_text("{}")
  (data / "schema.json").write_text(records.schema.to_json())
  return path, config, session


def test_the_best_baseline_is_validations(ran):
  path, _, session = ran
  about = json.loads((path / "predictions" / "best.json").read_text())
  e = session.evaluators
  for m, (task, goal, loss) in enumerate(
    [
      ("active", "probability", "log_loss"),
      ("churn", "probability", "log_loss"),
      ("spend", "median", "absolute"),
    ]
  ):
    key = f"{task}/median" if goal == "median" else task
    losses = {
      n: targets.mean_loss(
        loss, e[n].validation.y[:, m], e[n].validation.p[key]
      )
      for n in ("trees", "line")
    }
    chosen = about[task][goal]
    assert chosen["baseline"] == min(losses, key=losses.get)
    assert chosen["validation_loss"] == pytest.approx(losses)
    np.testing.assert_array_equal(
      e["best"].predictions.p[key], e[chosen["baseline"]].predictions.p[key]
    )


def test_the_stack_is_of_the_model_and_baselines_and_is_compared(ran):
  path, _, session = ran
  found = json.loads((path / "eval.json").read_text())
  parts = ("forecast", "trees", "line", "states")
  weights = [found["stack"][f"weight/churn/{n}"] for n in parts]
  assert sum(weights) == pytest.approx(1) and min(weights) > 0
  for other in (*parts, "best", "both", "naive"):
    d = found[f"stack_vs_{other}"]["spend/wape/difference"]
    expected = found["stack"]["spend/wape"] - found[other]["spend/wape"]
    assert d == pytest.approx(expected)
  assert "forecast_vs_best" in found and "forecast_vs_stack" not in found
  # Without the model, and what stands on it.
  alone = {k for k in found["both"] if k.startswith("weight/churn/")}
  assert alone == {"weight/churn/trees", "weight/churn/line"}
  assert "forecast_vs_both" in found and "both_vs_best" not in found
  e = session.evaluators
  logits = [
    np.log(p) - np.log1p(-p)
    for p in (np.float64(e[n].predictions.p["churn"]) for n in parts)
  ]
  expected = sigmoid(np.tensordot(weights, logits, 1))
  np.testing.assert_allclose(
    e["stack"].predictions.p["churn"], expected, rtol=1e-4
  )


def test_no_outcome_of_the_test_moves_a_weight(ran):
  path, _, session = ran
  stacked = session.evaluators["stack"]
  own = json.loads((path / "predictions" / "stack.json").read_text())["weights"]
  found = stacked._forecasts()

  def weights(turned):
    """Of outcomes turned round in validation (0) or test (1)."""
    parts = {
      n: tuple(
        predict.Predictions(p.key, 1 - p.y, p.mask, p.p) if i == turned else p
        for i, p in enumerate(pair)
      )
      for n, pair in found.items()
    }
    stacked._forecasts = lambda: parts
    try:
      return {
        k.removeprefix("weight/churn/"): v
        for k, v in stacked.run()
        if k.startswith("weight/churn/")
      }
    finally:
      del stacked._forecasts

  before = (path / "predictions" / "stack.npz").read_bytes()
  try:
    assert weights(1) == pytest.approx(own["churn"], abs=1e-9)
    assert weights(0) != pytest.approx(own["churn"], abs=1e-3)
  finally:
    (path / "predictions" / "stack.npz").write_bytes(before)
    (path / "predictions" / "stack.json").write_text(
      json.dumps({"weights": own}, indent=1)
    )


def test_the_report_shows_the_best_all_and_the_stack(ran):
  path, *_ = ran
  text = report.build(path, path / "data").read_text().split("<script>")[0]
  for words in (
    "best baseline", "difference to best baseline", "LightGBM", "linear",
    "difference to stack of baselines", "Weights",
    "<h3>Stack</h3>", "few positives (",
  ):  # fmt: skip
    assert words in text
  assert "Error:" not in text
  # Means and medians have baselines of their own.
  run = load.load(path, path / "data")
  about = json.loads((path / "predictions" / "best.json").read_text())["spend"]
  run.documents["best"]["spend"]["mean"]["baseline"] = "states"
  assert run.chosen("best", "spend/wape") == about["median"]["baseline"]
  assert run.chosen("best", "spend/rmse") == "states"
  assert run.chosen("best", "mean_auc") is None
  users = baselines.with_spread(run, "forecast", "users").shown
  assert "40" in users and "." not in users


def test_without_baselines_there_is_no_stack(tmp_path):
  config, records, tasks, recipe = build()
  with config.unlocked():
    config.evals = dict(
      forecast=dict(type="forecast"),
      stack=dict(type="stack"),
      baseline_stack=dict(type="baseline_stack"),
    )
  session = evaluate.Session(config, tmp_path, records, recipe, tasks)
  with pytest.raises(ValueError, match="config.evals.stack needs, beside it"):
    list(session.evaluators["stack"].run())
  with pytest.raises(ValueError, match="config.evals.baseline_stack needs, be"):
    list(session.evaluators["baseline_stack"].run())


@pytest.mark.parametrize("true", [(0.7, 0.3, 0.0), (0.2, 0.3, 0.5)])
def test_known_weights_are_recovered(true):
  rng = np.random.default_rng(0)
  n = 40_000
  logits = rng.normal(size=(3, n)) * 2
  y = (rng.random(n) < sigmoid(true @ logits)) * 1.0
  w = stack.fit(y, sigmoid(logits), "log_loss", 1.0)
  np.testing.assert_allclose(w, true, atol=0.03)
  amounts = rng.gamma(2.0, 10.0, (3, n))
  y = true @ amounts + rng.laplace(size=n)
  w = stack.fit(y, amounts, "absolute", 1.0)
  np.testing.assert_allclose(w, true, atol=0.03)
  y = rng.gamma(4.0, (true @ amounts) / 4.0)
  w = stack.fit(y, amounts, "tweedie", 1.0)
  np.testing.assert_allclose(w, true, atol=0.05)


def test_few_outcomes_leave_weights_about_equal():
  y = np.asarray([1.0, 0, 0, 0])
  p = np.asarray([[0.6, 0.1, 0.1, 0.1], [0.5, 0.2, 0.2, 0.2]])
  w = stack.fit(y, p, "log_loss", 2.0)
  assert 0.3 < w.min() < w.max() < 0.7
  none = stack.fit(y, p, "log_loss", 0.0)
  assert none[0] > 0.9


def test_few_positives_are_counted_and_marked_in_tables():
  tasks = build()[2]
  y, mask = np.zeros((50, 3)), np.ones((50, 3), bool)
  y[:31, 0], y[:31, 1], y[:, 2] = 1, 1, 7
  mask[:2, 1] = False
  values = positives.counts(tasks, y, mask)
  assert values == {"active/positives": 31, "churn/positives": 29}
  assert positives.few(values, "active/auc") is None
  assert positives.few(values, "churn/average_precision") == 29
  assert positives.few(values, "churn/log_loss") is None
  metrics = {"active/auc": 0.8, "churn/auc": 0.7, **values}
  result = dict(name="n", command="c", rows=[dict(model="m", metrics=metrics)])
  text = tables.render(result, {"metrics": "active/auc,churn/auc"})
  assert "| 0.8000 | 0.7000 † |" in text
  assert "† Few positives: fewer than 30" in text
  text = tables.render(result, {"metrics": "active/auc"})
  assert "†" not in text


def test_a_difference_is_shown_with_its_interval():
  metrics = {
    "vs_b/mean_auc/difference": 0.002, "vs_b/mean_auc/low": -0.001,
    "vs_b/mean_auc/high": 0.005,
  }  # fmt: skip
  result = dict(name="n", command="c", rows=[dict(model="m", metrics=metrics)])
  text = tables.render(result, {"metrics": "vs_b/mean_auc"})
  assert "| +0.0020 [−0.0010, +0.0050] |" in text


@pytest.fixture(scope="module")
def backtest():
  sys.path.insert(0, str(ROOT / "benchmarks"))  # It imports its neighbour.
  try:
    path = ROOT / "benchmarks" / "forecast.py"
    spec = importlib.util.spec_from_file_location("forecast_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
  finally:
    sys.path.pop(0)


def test_an_origin_moves_validation_and_training(backtest):
  load = lambda: config_lib.load(str(ROOT / "configs" / "pretrain.py"))
  c = backtest.at_origin(load(), 281)
  d = c.data
  days = d.train_origin_last, d.validation_origin, d.test_origin
  assert days == (225, 253, 281)
  assert "what_if" not in c.evals and "ablation" not in c.evals
  assert {"forecast", "validation", "baseline_best", "stack"} <= set(c.evals)
  with pytest.raises(ValueError, match="origin 300 is 37 days from"):
    backtest.at_origin(load(), 300)
  with pytest.raises(ValueError, match="leaves no training origin"):
    backtest.at_origin(load(), 337 - 8 * 28)
  # Other students are tested: all origins of the training students stay.
  c = config_lib.load(str(ROOT / "configs" / "oulad.py"))
  d = backtest.at_origin(c, 126).data
  days = d.train_origin_last, d.validation_origin, d.test_origin
  assert days == (224, 126, 126)


def test_runs_are_pooled_over_seeds_and_origins(backtest, tmp_path):
  config = fake.config()
  with config.unlocked():
    config.evals = dict(
      forecast=dict(type="forecast"),
      validation=dict(type="forecast", split="validation"),
      baseline_best=dict(type="baseline_best"),
      stack=dict(type="stack"),
    )
  rng, found = np.random.default_rng(0), []
  key = np.sort(predict.hash_keys(range(50)))
  for origin in (84, 112):
    y = rng.gamma(1.0, 5.0, (50, 3)).astype(np.float32)
    y[:, :2] = y[:, :2] > 3
    for seed in (0, 1):
      work = tmp_path / f"{origin}_{seed}"
      evals = {}
      for i, name in enumerate(("forecast", "baseline_best", "stack")):
        p = {
          t: y[:, m] + (1 + i) * rng.normal(size=50)
          for m, t in enumerate(("active", "churn", "spend"))
        }
        mask = np.ones((50, 3), bool)
        predictions = predict.Predictions(key, y, mask, p)
        file = work / "predictions" / f"{name}.npz"
        predictions.save(file, list(p))
        evals[name] = {"mean_auc": 0.5 + 0.1 * seed}
      evals["validation"] = {"spend/bias": 1.02 + 0.02 * seed}
      (work / "eval.json").write_text(json.dumps(evals))
      found.append((config, work, origin, seed))
  rows = {r["model"]: r for r in backtest.pooled_rows(found)}
  assert set(rows) == {
    "LUMOS forecast", "LUMOS validation", "baseline_best", "stack"
  }  # fmt: skip
  # Beside the test's rows, and not compared with anything.
  told = rows["LUMOS validation"]
  assert told["split"] == "validation" and rows["stack"]["split"] == "test"
  assert told["metrics"] == pytest.approx({"spend/bias": 1.03})
  values = rows["LUMOS forecast"]["metrics"]
  assert values["mean_auc"] == pytest.approx(0.55)
  assert values["vs_baseline_best/spend/wape/difference"] < 0
  low, high = (
    values[f"vs_baseline_best/spend/wape/{e}"] for e in ("low", "high")
  )
  assert low < values["vs_baseline_best/spend/wape/difference"] < high
  versus = rows["stack"]["metrics"]
  assert "vs_forecast/mean_auc/low" in versus
  assert not any(k.startswith("vs_") for k in rows["baseline_best"]["metrics"])


@pytest.mark.parametrize(
  "arguments,words",
  [
    (["--origins=abc"], "give days, as 337,309"),
    (["--seeds=0"], "give at least 1"),
    (["--config=panther"], "has no tasks"),
    (["--origins=337,300"], "origin 300 is 37 days from"),
    (["--config=configs/pretrani.py"], "pretrani"),
  ],
)
def test_a_backtest_that_cannot_be_is_refused_before_it_begins(
  backtest, monkeypatch, capsys, arguments, words
):
  monkeypatch.setattr(sys, "argv", ["forecast.py", "--name=n", *arguments])
  with pytest.raises(SystemExit):
    backtest.main()
  assert words in capsys.readouterr().err


def test_an_origin_without_labels_is_refused(backtest, monkeypatch):
  config = fake.config()
  records = fake.Records(4)
  monkeypatch.setattr(backtest.main_lib, "open_data", lambda c: records)
  backtest.check_labels(config)
  with config.unlocked():
    config.data.test_origin = records.schema.last_day - 3
  with pytest.raises(ValueError, match="no label window from it ends within"):
    backtest.check_labels(config)
