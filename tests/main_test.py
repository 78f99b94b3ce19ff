"""The whole way of a user: raw tables, one command, outputs, and mistakes."""

import json
import os
import pathlib
import subprocess
import sys

import fake
import jax
import numpy as np
import pytest
import tiny_data

from lumos_jax import evaluate, main
from lumos_jax.data import records as records_lib

ROOT = pathlib.Path(__file__).parents[1]


def config(tmp_path, **overrides):
  """A config over raw tables that nobody has prepared yet."""
  schema = tmp_path / "raw" / "tiny.py"
  if not schema.exists():
    tiny_data.write_tables(tmp_path / "raw")
  c = fake.config(**overrides)
  with c.unlocked():
    c.data.source = "tables"
    c.data.root = str(tmp_path / "data")
    c.data.options = dict(schema=str(schema))
    c.train.steps = 4
    c.evals = dict(
      validation=dict(type="forecast", split="validation", every_steps=2),
      forecast=dict(type="forecast"),
      baseline_lightgbm=dict(type="baseline_lightgbm", rounds=5),
      baseline_naive=dict(type="baseline_naive"),
      ablation=dict(type="ablation", n_resamples=20),
      what_if=dict(
        type="what_if",
        edits=[dict(op="add", start=115, end=120, values=dict(type="sale"))],
        n_resamples=20,
      ),
    )
  return c


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run and its evaluation."""
  tmp_path = tmp_path_factory.mktemp("main")
  main.run(config(tmp_path), tmp_path / "run")
  return tmp_path


def test_run_leaves_everything_it_promises(finished):
  run = finished / "run"
  for name in ("config.json", "metrics.jsonl", "eval.json", "report.html"):
    assert (run / name).stat().st_size > 0, name
  assert any((run / "tensorboard").iterdir())
  found = json.loads((run / "eval.json").read_text())
  for name in ("forecast", "baseline_lightgbm", "baseline_naive"):
    assert 0.0 <= found[name]["mean_auc"] <= 1.0
    assert found[name]["spend/wape"] > 0.0
  # Both answer the same users and questions.
  rate = "active/base_rate"
  assert found["forecast"][rate] == found["baseline_lightgbm"][rate]
  assert "active/auc/difference" in str(found) or any(
    k.startswith("forecast_vs_") for k in found
  )
  assert found["what_if"]["unused_entry_max_abs"] == 0.0
  assert found["what_if"]["edited/users_changed"] > 0
  logged = [
    json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()
  ]
  assert {x["step"] for x in logged if "validation/mean_auc" in x} == {2, 4}


@pytest.mark.parametrize("devices", [1, 8])
def test_stored_checkpoint_evaluates_alike(finished, devices):
  run = finished / "run"
  c = evaluate.load_config(run)
  data = main.open_data(c)
  tasks = main.tasks_lib.from_config(c.tasks)
  recipe = main.recipes_lib.build(c, data, tasks)
  before = json.loads((run / "eval.json").read_text())
  session = evaluate.Session(
    c, run, data, recipe, tasks, ["forecast"], jax.devices()[:devices]
  )
  _, params = evaluate.restore(run, c, data, recipe, None)
  session.evaluate(4, params, last=True)
  after = json.loads((run / "eval.json").read_text())
  assert before.keys() == after.keys()
  for k, v in before["forecast"].items():
    np.testing.assert_allclose(after["forecast"][k], v, rtol=1e-5, err_msg=k)


def test_finished_run_goes_on_at_once_and_another_run_is_refused(finished):
  main.claim_workdir(finished / "run", config(finished))
  other = config(finished, optimizer__learning_rate=0.5, seed=3)
  with pytest.raises(ValueError, match=r"learning_rate: 0.5 against .*seed: 3"):
    main.claim_workdir(finished / "run", other)


def test_refused_config_leaves_the_workdir_free(finished, tmp_path):
  wrong = config(finished, tasks__spend__field="salse")
  with pytest.raises(ValueError, match="salse"):
    main.run(wrong, tmp_path / "run")
  assert not (tmp_path / "run" / "config.json").exists()
  main.claim_workdir(tmp_path / "run", config(finished))


def test_prepared_data_is_read_without_data_prep(finished):
  script = (
    "import sys; from lumos_jax.data import records\n"
    f"r = records.Records.open({str(finished / 'data' / 'tiny')!r})\n"
    "assert len(r.source('train')) == 40\n"
    "bad = {'polars', 'lumos_jax.data_prep', 'pandas'} & set(sys.modules)\n"
    "assert not bad, bad\n"
  )
  subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_program_names_a_mistake_in_one_line(tmp_path):
  def call(*flags):
    done = subprocess.run(
      [sys.executable, "-m", "lumos_jax.main", *flags],
      cwd=ROOT,
      capture_output=True,
      text=True,
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    return done.returncode, done.stderr

  config_file = "--config=configs/pretrain.py:smoke"
  status, error = call(config_file, "--config.train.steps_=3")
  assert status == 2 and "'train.steps'" in error
  assert error.splitlines() == [error.strip()]
  folder = f"--workdir={tmp_path}"
  status, error = call(
    config_file, folder, "--config.data.source=complete_jurney"
  )
  assert status == 1
  assert error.splitlines()[-1].startswith("error: ")
  assert "complete_journey" in error
  assert "Traceback" not in error


def test_checkpoint_of_other_data_is_refused(finished, tmp_path):
  frames = tiny_data.tiny_frames()
  frames["activity"] = frames["activity"].with_columns(
    sales=frames["activity"]["sales"] * 3
  )
  other = tiny_data.tiny_data_dir(tmp_path, frames)
  c = evaluate.load_config(finished / "run")
  data = records_lib.Records.open(other)
  tasks = main.tasks_lib.from_config(c.tasks)
  recipe = main.recipes_lib.build(c, data, tasks)
  with pytest.raises(Exception, match="sales .*--fitted=WORKDIR"):
    evaluate.restore(finished / "run", c, data, recipe, None)


def test_another_data_set_is_named_before_its_fields(
  finished, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    evaluate.records_lib.Records, "open", lambda path: fake.Records()
  )
  with pytest.raises(Exception, match="'fake' was not .* checkpoint's, 'tiny'"):
    evaluate.run(finished / "run", data_dir=tmp_path)
