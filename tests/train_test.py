"""Properties of the loop: exact resume, equal meshes, clear errors."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import fake
import jax
import numpy as np
import pytest

from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import partition, recipes, train
from lumos_jax import state as state_lib
from lumos_jax.data import pipeline
from lumos_jax.data import tasks as tasks_lib

slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
HERE = pathlib.Path(__file__).parent


def build(**overrides):
  c = fake.config(**overrides)
  records, tasks = fake.Records(), tasks_lib.from_config(c.tasks)
  return c, records, recipes.build(c, records, tasks), tasks


def run(workdir, evaluate=None, **overrides):
  c, records, recipe, tasks = build(**overrides)
  # One device unless a mesh is asked for: virtual ones share two cores.
  devices = None if any("mesh" in k for k in overrides) else jax.devices()[:1]
  state = train.train(c, workdir, records, recipe, tasks, evaluate, devices)
  return jax.device_get(state)


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def gradients(devices=None, batch_size=8, **overrides):
  """Parameters and loss after one step of plain descent on one batch."""
  c, records, recipe, tasks = build(train__batch_size=batch_size, **overrides)
  trainer = train.Trainer(c, recipe, devices)
  batch = next(pipeline.train_iterator(records, c.data, tasks, batch_size, 0))
  state, metrics = trainer.step(trainer.init([batch]), trainer.put(batch))
  return jax.device_get(state["opt"]), float(metrics["loss"])


def assert_close(a, b, tolerance=2e-5):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_two_runs_are_equal_and_resume_is_exact(tmp_path):
  whole = run(tmp_path / "a", model__dropout=0.2, train__ema_decay=0.9)

  def stop(step, params, last):
    if step == 4:  # Twice, as a terminal may: it is saved all the same.
      signal.raise_signal(signal.SIGTERM)
      signal.raise_signal(signal.SIGTERM)
    return {}

  with pytest.raises(train.Stopped, match="saved step 4 of 6"):
    run(tmp_path / "b", stop, model__dropout=0.2, train__ema_decay=0.9)
  resumed = run(tmp_path / "b", model__dropout=0.2, train__ema_decay=0.9)
  assert_equal(whole, resumed)
  lines = (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()
  steps = [x["step"] for x in map(json.loads, lines) if "loss" in x]
  assert steps == [1, 2, 3, 4, 5, 6]
  other = run(tmp_path / "c", model__dropout=0.2, train__ema_decay=0.9, seed=1)
  assert any(
    np.any(x != y)
    for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True)
  )


def test_speed_leaves_out_evaluation_and_checkpoints(tmp_path):
  evals = {"slow": {"type": "forecast", "every_steps": 2}}

  def slow(step, params, last):
    if step in (2, 4):
      time.sleep(3.0)
    return {}

  run(tmp_path, slow, evals=evals, train__log_every=1)
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  found = [json.loads(x) for x in lines if "steps_per_second" in x]
  assert [x["step"] for x in found] == [2, 3, 4, 5, 6]
  took = found[-1]["time"] - found[0]["time"]
  steps = 5 / found[-1]["steps_per_second"]
  assert took > 6.0 and steps < took - 5.9


def test_killed_run_resumes_exactly(tmp_path):
  whole = run(tmp_path / "a", train__steps=12)
  script = (
    f"import sys; sys.path.insert(0, {str(HERE)!r}); import conftest\n"
    "import train_test\n"
    f"train_test.run({str(tmp_path / 'b')!r}, train__steps=12)\n"
  )
  process = subprocess.Popen([sys.executable, "-c", script])
  path = tmp_path / "b" / "checkpoints" / "3"
  deadline = time.time() + 120
  while not path.exists() and process.poll() is None:
    assert time.time() < deadline
    time.sleep(0.01)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  assert_equal(whole, run(tmp_path / "b", train__steps=12))


def test_accumulated_gradients_equal_the_whole_batch():
  whole, loss = gradients(jax.devices()[:1])
  parts, parts_loss = gradients(jax.devices()[:1], train__accumulate=4)
  assert_close(whole, parts)
  np.testing.assert_allclose(loss, parts_loss, rtol=1e-5)


@pytest.mark.parametrize(
  "mesh",
  [
    slow(dict(data=8)),
    dict(data=2, fsdp=4),
    slow(dict(data=1, fsdp=2, tensor=4)),
  ],
  ids=str,
)
def test_eight_devices_equal_one(mesh):
  one, loss = gradients(jax.devices()[:1])
  many, many_loss = gradients(**{f"mesh__{k}": v for k, v in mesh.items()})
  assert_close(one, many)
  np.testing.assert_allclose(loss, many_loss, rtol=1e-5)


def test_rows_that_the_sequence_axis_cannot_cut_are_named():
  with pytest.raises(ValueError, match="not cut over devices; set mesh.sequ"):
    gradients(mesh__data=4, mesh__sequence=2)
  mesh = partition.make_mesh(dict(data=2, fsdp=1, sequence=4, tensor=1))
  partition.check_sequence(64, mesh)
  with pytest.raises(ValueError, match="= 66 .* nearest that does is 68"):
    partition.check_sequence(66, mesh)


def test_a_row_of_the_batch_that_two_processes_share_is_refused():
  devices = [types.SimpleNamespace(process_index=i // 4) for i in range(8)]
  shape = dict(data=2, fsdp=1, sequence=2, tensor=2)
  mesh = lambda **sizes: types.SimpleNamespace(
    shape=shape | sizes,
    devices=np.asarray(devices).reshape(*(shape | sizes).values()),
  )
  partition.check_hosts(mesh())
  with pytest.raises(ValueError, match="tensor = 8 crosses 2 processes"):
    partition.check_hosts(mesh(data=1, sequence=1, tensor=8))


def test_checkpoint_restores_on_other_device_counts(tmp_path):
  c, records, recipe, tasks = build(mesh__fsdp=4, mesh__tensor=2, mesh__data=1)
  saved = run(tmp_path, mesh__fsdp=4, mesh__tensor=2, mesh__data=1)
  store = checkpoint_lib.Checkpoints(tmp_path, read_only=True)
  for devices in (jax.devices()[:1], jax.devices()):
    c = fake.config(mesh__data=len(devices))
    trainer = train.Trainer(c, recipe, devices)
    state, _ = store.restore(trainer.abstract)
    assert_equal(saved, jax.device_get(state))
    params = store.restore_params(trainer.abstract["params"], None)
    assert_equal(saved["params"], jax.device_get(params))


def test_a_checkpoint_of_another_model_is_named(tmp_path):
  run(tmp_path)
  _, _, recipe, _ = build()
  c, *_ = build()
  abstract = dict(train.Trainer(c, recipe).abstract["params"])
  abstract["model/more"] = abstract["balance"]
  store = checkpoint_lib.Checkpoints(tmp_path, read_only=True)
  with pytest.raises(
    checkpoint_lib.CheckpointError, match="lacks 1 of .*'model/more'"
  ):
    store.restore_params(abstract, None)


def test_average_is_what_evaluation_reads(tmp_path):
  state = run(tmp_path, train__ema_decay=0.9)
  assert_equal(state_lib.eval_params(state), state["ema"])
  store = checkpoint_lib.Checkpoints(tmp_path, read_only=True)
  c, _, recipe, _ = build()
  abstract = train.Trainer(c, recipe, jax.devices()[:1]).abstract["params"]
  assert_equal(state["ema"], jax.device_get(store.restore_params(abstract, 6)))


@pytest.mark.parametrize(
  "overrides",
  [dict(optimizer__name="muon"), slow(dict(optimizer__schedule="linear"))],
  ids=str,
)
def test_training_lowers_the_loss(tmp_path, overrides):
  run(tmp_path, train__steps=30, optimizer__learning_rate=3e-3, **overrides)
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  losses = [json.loads(x)["loss"] for x in lines]
  assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05


def test_not_finite_stops_with_step_and_way_out(tmp_path):
  with pytest.raises(train.NotFinite, match="step 1.*optimizer.learning_rate"):
    run(
      tmp_path,
      optimizer__learning_rate=float("inf"),
      optimizer__warmup_steps=1,
      optimizer__schedule="constant",
    )


@pytest.mark.parametrize(
  "overrides,words",
  [
    (dict(mesh__tensor=3), "8 devices"),
    (dict(mesh__fsdp=8, train__batch_size=12), "the nearest is 16"),
    (dict(mesh__fsdp=8, train__accumulate=3), "the nearest is 24"),
    (dict(mesh__fsdp=8, train__batch_size=0), "batch_size = 0 .*nearest is 8"),
    (dict(train__accumulate=0), "train.accumulate = 0 must be at least 1"),
    (dict(eval_batch_size=0), "eval_batch_size = 0 must be at least 1"),
    (dict(optimizer__name="sgd"), "optimizer.name"),
    (dict(optimizer__schedule="step"), "optimizer.schedule"),
    (dict(data__validation_origin=90), "data.validation_origin"),
    (dict(data__origins_per_example=20), "data.history_days"),
  ],
)
def test_bad_settings_are_named(tmp_path, overrides, words):
  with pytest.raises(ValueError, match=words):
    run(tmp_path, **overrides)


def test_resume_refuses_other_data_and_other_input(tmp_path):
  run(tmp_path)
  c, records, recipe, tasks = build(train__steps=8, data__workers=2)
  with pytest.raises(checkpoint_lib.CheckpointError, match="workers = 0"):
    train.train(c, tmp_path, records, recipe, tasks)
  meta = checkpoint_lib.Checkpoints(tmp_path, read_only=True).meta()
  other = fake.schema("event")
  with pytest.raises(checkpoint_lib.CheckpointError, match="rows: 'event'"):
    checkpoint_lib.check_meta(meta, c, other, records.calendar.columns, False)
  with pytest.raises(checkpoint_lib.CheckpointError, match="no step 5"):
    checkpoint_lib.Checkpoints(tmp_path, read_only=True).meta(5)


def test_full_disk_is_named(tmp_path):
  # Its own process: Orbax's other writes fail after the first one has raised,
  # in threads that would complain of a closed event loop in a later test. And
  # no compilation that the limit cuts short may stay in the tests' cache.
  script = (
    f"import sys; sys.path.insert(0, {str(HERE)!r}); import conftest\n"
    "import jax, resource, train_test\n"
    "name = 'jax_persistent_cache_min_compile_time_secs'\n"
    "jax.config.update(name, 1e9)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    f"train_test.run({str(tmp_path)!r})\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True
  )
  assert done.returncode == 1
  assert "CheckpointError: " in done.stderr and "Make room" in done.stderr


def test_moments_lie_as_their_parameters_do():
  """Where those lie: tests/shardings_test.py."""
  c, _, recipe, _ = build(mesh__fsdp=4, mesh__tensor=2, mesh__data=1)
  shardings = train.Trainer(c, recipe).shardings
  params = shardings["params"]
  moments = [
    x
    for path, x in jax.tree_util.tree_leaves_with_path(shardings["opt"])
    if getattr(path[-1], "key", "") == "model/encoder/blocks/ff_in/kernel"
  ]
  assert len(moments) == 2
  assert all(
    m.spec == params["model/encoder/blocks/ff_in/kernel"].spec for m in moments
  )


def test_a_batch_of_one_is_a_batch():
  c, records, _, tasks = build()
  iterator = pipeline.train_iterator(records, c.data, tasks, 1, 0)
  days = [next(iterator)["history_day"] for _ in range(3)]
  assert all(len(d) == 1 for d in days)
