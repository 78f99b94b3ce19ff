"""A whole run of recipe hybrid: its table of models, its use, its report."""

import json

import fake_events
import numpy as np
import pytest
import tiny_hybrid
from hybrid_test import build

from lumos_jax import evaluate, predictor, report, train
from lumos_jax import run as run_lib
from lumos_jax.data import scoring
from lumos_jax.evaluators import calibration, predict
from lumos_jax.report import page

RECORDS = fake_events.Records(users=16)


@pytest.fixture(scope="session")
def hybrid_run(tmp_path_factory):
  """A finished run, with its evaluators: (workdir, config, eval.json)."""
  workdir = tmp_path_factory.mktemp("hybrid")
  fast = dict(rounds=5, patience=2, n_threads=1)
  c = tiny_hybrid.config(
    evals=dict(
      validation=dict(type="forecast", split="validation"),
      risk=dict(type="risk", resamples=20, segments=["gender"]),
      baseline_lightgbm=dict(type="baseline_lightgbm", **fast),
      baseline_lightgbm_states=dict(type="baseline_lightgbm_states", **fast),
      stack=dict(type="stack"),
    )
  )
  recipe, tasks = build(c)
  session = evaluate.Session(c, workdir, RECORDS, recipe, tasks)
  train.train(c, workdir, RECORDS, recipe, tasks, session.evaluate)
  return workdir, c, evaluate.read(workdir)


def test_the_table_has_all_models(hybrid_run):
  _, _, found = hybrid_run
  for name in (
    "risk",
    "baseline_lightgbm",
    "baseline_lightgbm_states",
    "stack",
  ):
    assert 0 <= found[name]["buys/auc"] <= 1
  weights = [v for k, v in found["stack"].items() if k.startswith("weight/")]
  assert len(weights) == 3 and np.isclose(sum(weights), 1)
  assert "buys/auc/low" in found["risk_vs_baseline_lightgbm"]
  assert "buys/auc/low" in found["stack_vs_baseline_lightgbm_states"]
  assert "segments/gender=f/buys/users" in found["risk"]


def test_a_run_is_opened_to_score(hybrid_run):
  workdir, c, _ = hybrid_run
  (workdir / "config.json").write_text(c.to_json_best_effort())
  run = run_lib.Run(workdir)
  run._opened[""] = RECORDS
  assert run.predictor.kinds() == (predictor.FORECASTS,)
  found = run.forecast(as_of=75)
  stored = predict.Predictions.load(workdir / "predictions" / "risk.npz")
  at = np.searchsorted(stored.key, predict.hash_keys(found["key"]))
  raw = stored.p["buys"][at]
  np.testing.assert_allclose(found["buys"], raw, rtol=1e-6)
  # Calibrated apart: the raw score ranks.
  calibrated = run.predictor.calibrated("buys", raw)
  own = calibration.load(workdir, run.predictor.model_hash)["buys"]
  np.testing.assert_array_equal(calibrated, own(raw))
  # Fitted on validation, and on nothing of the test.
  session = evaluate.Session(
    c, workdir / "again", RECORDS, *build(c), only=("risk",)
  )
  placed = session.predictor.place(run.predictor.parameters)
  known = session.evaluators["risk"]._on_validation(placed)
  points = session.predictor.inputs.points(RECORDS, "validation")
  keys = [str(points.records[u]["key"]) for u in points.user]
  at = np.searchsorted(known.key, predict.hash_keys(keys))
  np.testing.assert_array_equal(known.y[at], points.y)
  use = known.mask[:, 0].astype(bool)
  fitted = calibration.fit(own.kind, known.y[use, 0], known.p["buys"][use])
  np.testing.assert_allclose(fitted.x, own.x, atol=1e-4)
  # Isotonic was asked for, and there are too few labels for it.
  assert len(RECORDS.users) < calibration.LEAST_ISOTONIC
  assert own.kind == "temperature"
  why = run.why(found["key"][7], as_of=75)
  assert set(why["part"]) == {"event"} and why["moved"].abs().is_sorted(
    descending=True
  )
  with pytest.raises(predictor.PredictError, match="leave out event="):
    run.why("user7", event=3)
  with pytest.raises(predictor.PredictError, match="not in the data"):
    run.why("nobody", as_of=75)


def test_the_highest_scores_are_explained_in_the_report(hybrid_run):
  workdir, c, _ = hybrid_run
  (workdir / "config.json").write_text(c.to_json_best_effort())
  text = (workdir / "predictions" / "risk.json").read_text()
  found = json.loads(text)["examples"]
  stored = predict.Predictions.load(workdir / "predictions" / "risk.npz")
  top = np.sort(stored.p["buys"][stored.mask[:, 0]])[::-1][:3]
  np.testing.assert_allclose([x["score"] for x in found], top, rtol=1e-5)
  run = run_lib.Run(workdir)
  run._opened[""] = RECORDS
  keys = {u["key"]: predict.hash_keys([u["key"]])[0] for u in RECORDS.users}
  for x in found:
    (key,) = (k for k, h in keys.items() if h.decode() == x["user"])
    assert key not in text
    why = run.why(key, as_of=75).sort("event").tail(x["read"])
    why = why.sort(why["moved"].abs(), descending=True).head(6)
    moved = [e["moved"] for e in x["events"]]
    np.testing.assert_allclose(moved, why["moved"], atol=1e-5)
    assert all("item" in e["values"] for e in x["events"])
  shown = report.build(workdir).read_text()
  assert "Why these scores" in shown and found[0]["user"][:8] in shown
  assert page.signed(found[0]["events"][0]["moved"]) in shown


@pytest.mark.slow
def test_a_random_split_is_marked_in_every_result(tmp_path):
  c = tiny_hybrid.config(
    unit="event",
    over=False,
    data__cut="random",
    data__balanced=True,
    evals=dict(
      risk=dict(type="risk", resamples=5, amount="event/amount"),
      baseline_lightgbm=dict(type="baseline_lightgbm", rounds=2, n_threads=1),
    ),
    train__steps=1,
  )
  recipe, tasks = build(c)
  parts = {p: recipe.inputs.points(RECORDS, p) for p in scoring.PARTS}
  where = {p: set(zip(x.key, x.place.tolist())) for p, x in parts.items()}
  assert not where["train"] & where["test"] and where["validation"]
  for x in parts.values():
    y = x.y[:, 0][x.mask[:, 0]]
    assert abs(int((y > 0).sum()) - int((y == 0).sum())) <= 1
  session = evaluate.Session(c, tmp_path, RECORDS, recipe, tasks)
  train.train(c, tmp_path, RECORDS, recipe, tasks, session.evaluate)
  found = evaluate.read(tmp_path)
  for name in ("risk", "baseline_lightgbm"):
    assert found[name]["random_split"] == 1.0 and found[name]["balanced"] == 1.0
  assert "buys/money_top_1%" in found["risk"]
  stored = json.loads((tmp_path / "calibration.json").read_text())
  assert stored["random_split"] == 1.0
  (tmp_path / "config.json").write_text(c.to_json_best_effort())
  text = report.build(tmp_path).read_text()
  assert "split at random, not by time" in text
  doc = json.loads((tmp_path / "predictions" / "risk.json").read_text())
  assert doc["examples"][0]["event"]["values"] and ">scored<" in text
  assert "as many points without the label" in text.lower()
