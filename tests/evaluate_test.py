"""Evaluation in the loop and as a program: cadence, eval.json, mistakes."""

import json
import subprocess
import sys

import fake
import jax
import numpy as np
import optax
import pytest
from fake_evals import EVALS, assert_same, build, simple

from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import evaluate, evaluators, identity
from lumos_jax import state as state_lib
from lumos_jax.evaluators import predict


def session(tmp_path, only=()):
  c, records, tasks, recipe = build()
  s = evaluate.Session(c, tmp_path, records, recipe, tasks, only)
  init = jax.jit(lambda: state_lib.init(recipe, optax.identity(), 0, False))
  return c, records, recipe, s, init()


def test_whole_evaluation_in_the_loop_and_as_a_program(tmp_path, monkeypatch):
  c, records, recipe, s, state = session(tmp_path)
  params = state["params"]
  assert s.evaluate(0, params, False) == {} == s.evaluate(1, params, False)
  some = s.evaluate(2, params, False)
  assert some and all(k.startswith("validation/") for k in some)
  assert not (tmp_path / "eval.json").exists()
  evaluate.write(tmp_path, {"gone": {"x": 1.0}, "steps": {"gone": 4}})
  logged = s.evaluate(6, params, True)
  found = json.loads((tmp_path / "eval.json").read_text())
  assert set(found) == {
    *EVALS,
    "steps",
    "forecast_vs_baseline_lightgbm",
    "forecast_vs_baseline_naive",
  }
  assert logged["forecast/active/auc"] == found["forecast"]["active/auc"]
  pair = found["forecast_vs_baseline_naive"]
  difference = (
    found["forecast"]["mean_wape"] - found["baseline_naive"]["mean_wape"]
  )
  np.testing.assert_allclose(pair["mean_wape/difference"], difference)
  assert pair["mean_wape/low"] <= difference <= pair["mean_wape/high"]
  assert found["steps"]["ablation"] == 6 and "gone" not in found["steps"]
  whole = found["ablation"]["no_future/active/auc"]
  change = found["ablation"]["no_future/active/auc/difference"]
  np.testing.assert_allclose(whole - change, found["forecast"]["active/auc"])

  one = evaluate.Session(
    c, tmp_path / "b", records, recipe, s.tasks, ["forecast"], jax.devices()[:1]
  )
  one.evaluate(6, params, True)
  assert_same(
    s.evaluators["forecast"].predictions, one.evaluators["forecast"].predictions
  )

  # The program reads the checkpoint and comes to the same numbers.
  store = checkpoint_lib.Checkpoints(tmp_path)
  meta = identity.make_meta(c, records.schema, records.calendar.columns)
  store.save(6, state, "{}", meta)
  store.close()
  (tmp_path / "config.json").write_text(c.to_json_best_effort())
  monkeypatch.setattr(
    evaluate.records_lib.Records, "open", lambda path: fake.Records()
  )
  evaluate.run(tmp_path, only=["forecast", "what_if"])
  again = json.loads((tmp_path / "eval.json").read_text())
  assert again == found
  with pytest.raises(checkpoint_lib.CheckpointError, match="no step 5"):
    evaluate.run(tmp_path, 5)
  with pytest.raises(ValueError, match="config.evals has no .*typo"):
    evaluate.run(tmp_path, only=["typo"])


def test_program_names_what_is_wrong(tmp_path):
  command = [sys.executable, "-m", "lumos_jax.evaluate"]
  done = subprocess.run(
    [*command, f"--workdir={tmp_path}"], capture_output=True, text=True
  )
  assert done.returncode == 1
  assert done.stderr.strip().endswith("there is no config.json")
  assert "Traceback" not in done.stderr


def test_values_are_printed_by_evaluator():
  values = {
    "next_page/mrr": 0.25,
    "conversion/sessions": 4580.0,
    "conversion/counts/logistic/auc": 0.6,
    "conversion/counts/logistic/log_loss": 0.47,
    "conversion/both_vs_counts/logistic/auc/difference": 0.01,
    "conversion/both_vs_counts/logistic/auc/low": -0.02,
    "conversion/both_vs_counts/logistic/auc/high": 0.03,
    **{f"many/g{i}/auc": 0.5 for i in range(50)},
  }
  lines = evaluate.text(values).splitlines()
  assert lines[:4] == [
    "next_page",
    "    mrr 0.25",
    "conversion",
    f"  {'':23s}  sessions 4580",
  ]
  assert f"  {'counts/logistic':23s}  auc 0.6  log_loss 0.47" in lines
  assert "  both_vs_counts/logistic  auc +0.0100 [-0.0200, +0.0300]" in lines
  assert lines[-1] == "  and 10 lines more in eval.json"


def test_stored_config_comes_back(tmp_path):
  c, *_ = build()
  (tmp_path / "config.json").write_text(c.to_json_best_effort())
  again = evaluate.load_config(tmp_path)
  assert (
    again.to_dict() == json.loads(json.dumps(c.to_dict())) | again.to_dict()
  )
  assert again.model.ablate == () and again.evals.forecast.type == "forecast"
  with pytest.raises(FileNotFoundError, match="holds no run"):
    evaluate.load_config(tmp_path / "elsewhere")


@pytest.mark.parametrize(
  "evals,words",
  [
    (dict(a=dict(type="forcast")), "config.evals.a.type = 'forcast'"),
    (dict(a=dict(type="forecast", spilt="test")), "config.evals.a.spilt"),
    (dict(a=dict(type="forecast", split="dev")), "config.evals.a.split"),
    (
      dict(a=dict(type="forecast", mean_tasks=["x"])),
      "config.evals.a.mean_tasks",
    ),
    (
      dict(a=dict(type="ablation", ablations=["no_x"])),
      "config.evals.a.ablations",
    ),
    (dict(a=dict(type="what_if")), "config.evals.a.edits"),
    (
      dict(a=dict(type="what_if", edits=[dict(op="move", by=7)])),
      "config.evals.a.edits: no .*by",
    ),
  ],
)
def test_bad_settings_are_named(evals, words, tmp_path):
  c, records, tasks, _ = build()
  predictor = predict.Predictor(simple)
  with pytest.raises(ValueError, match=words):
    evaluators.build(evals, predictor, records, tasks, c.data, tmp_path)
