"""Properties of the loop: exact resume, equal meshes, clear errors."""

import contextlib
import functools
import json
import pathlib
import signal
import subprocess
import sys
import time
import types
from unittest import mock

import chex
import fake
import jax
import numpy as np
import pytest

from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import identity, partition, progress, recipes, train
from lumos_jax import state as state_lib
from lumos_jax.data import pipeline
from lumos_jax.data import tasks as tasks_lib

slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
HERE = pathlib.Path(__file__).parent
# Of all whole runs here, so that one program is compiled for all of them.
SHARED = dict(model__dropout=0.2, train__ema_decay=0.9)


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


@functools.cache
def shared_trainer():
  c, _, recipe, _ = build(**SHARED)
  return train.Trainer(c, recipe, jax.devices()[:1])


def run_shared(workdir, evaluate=None, **overrides):
  """The loop with settings SHARED, whose program is traced once a process."""
  trainer = shared_trainer()
  with mock.patch.object(train, "Trainer", lambda *_: trainer):
    return run(workdir, evaluate, **SHARED, **overrides)


def assert_equal(a, b):
  chex.assert_trees_all_equal(a, b)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(workdir, final state) of one unbroken run; do not write there."""
  workdir = tmp_path_factory.mktemp("trained")
  return workdir, run_shared(workdir)


def losses(workdir):
  """{step: loss} in the order of metrics.jsonl."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [(x["step"], x["loss"]) for x in map(json.loads, lines) if "loss" in x]


@functools.cache
def alone():
  """The state on one device that a step on any mesh begins with."""
  c, records, recipe, tasks = build()
  batch = next(pipeline.train_iterator(records, c.data, tasks, 8, 0))
  state = train.Trainer(c, recipe, jax.devices()[:1]).init([batch])
  return jax.device_get(state), batch


def gradients(devices=None, **overrides):
  """Moments, which hold the gradients, and loss after one step on a batch."""
  c, _, recipe, _ = build(**overrides)
  trainer = train.Trainer(c, recipe, devices)
  state, batch = alone()
  state = jax.device_put(state, trainer.shardings)
  state, metrics = trainer.step(state, trainer.put(batch))
  return jax.device_get(state["opt"]), float(metrics["loss"])


@functools.cache
def on_one_device():
  return gradients(jax.devices()[:1])


def assert_close(a, b, tolerance=2e-5):
  chex.assert_trees_all_close(a, b, rtol=tolerance, atol=tolerance)


def test_two_runs_are_equal_and_resume_is_exact(tmp_path, trained):
  folder, whole = trained

  def stop(step, params, last):
    if step == 4:  # Twice, as a terminal may: it is saved all the same.
      signal.raise_signal(signal.SIGTERM)
      signal.raise_signal(signal.SIGTERM)
    return {}

  with pytest.raises(train.Stopped, match="saved step 4 of 6"):
    run_shared(tmp_path, stop)
  # Up to the stop a run of its own, and the same to the bit.
  assert losses(tmp_path) == losses(folder)[:4]
  assert_equal(whole, run_shared(tmp_path))
  assert losses(tmp_path) == losses(folder)
  assert [step for step, _ in losses(folder)] == [1, 2, 3, 4, 5, 6]


def test_another_seed_is_another_run():
  """Other parameters, and other users in another order."""
  state, batch = alone()
  c, records, recipe, tasks = build(seed=1)
  other = next(pipeline.train_iterator(records, c.data, tasks, 8, 1))
  assert any(np.any(batch[k] != other[k]) for k in batch)
  params = train.Trainer(c, recipe, jax.devices()[:1]).init([batch])["params"]
  assert any(
    np.any(x != params[k]) for k, x in state["params"].items() if x.ndim > 1
  )


def test_speed_leaves_out_evaluation_and_checkpoints(tmp_path, monkeypatch):
  """By a clock that evaluation alone sets forward, by an hour."""
  ahead = 0.0
  clock = lambda: time.monotonic() + ahead
  monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=clock))

  def slow(step, params, last):
    nonlocal ahead
    if step in (2, 4):
      ahead += 3600.0
    return {}

  evals = {"slow": {"type": "forecast", "every_steps": 2}}
  run_shared(tmp_path, slow, evals=evals)
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  found = [json.loads(x) for x in lines if "steps_per_second" in x]
  assert [x["step"] for x in found] == [2, 3, 4, 5, 6]
  assert 5 / found[-1]["steps_per_second"] < 3600.0


def test_killed_run_resumes_exactly(tmp_path, trained):
  """A process that is killed as soon as a checkpoint is there."""
  script = (
    f"import sys; sys.path.insert(0, {str(HERE)!r}); import conftest\n"
    "import os, pathlib, signal, time, train_test\n"
    f"workdir = pathlib.Path({str(tmp_path)!r})\n"
    "def kill(step, params, last):\n"
    "  if step == 5:\n"
    "    while not (workdir / 'checkpoints' / '3').exists():\n"
    "      time.sleep(0.01)\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
    "  return {}\n"
    "train_test.run_shared(workdir, kill)\n"
  )
  done = subprocess.run([sys.executable, "-c", script])
  assert done.returncode == -signal.SIGKILL
  store = checkpoint_lib.Checkpoints(tmp_path, read_only=True)
  assert store.latest == 3
  folder, whole = trained
  assert_equal(whole, run_shared(tmp_path))
  # Steps after the checkpoint are told again, or for the first time.
  assert dict(losses(tmp_path)) == dict(losses(folder))


def test_accumulated_gradients_equal_the_whole_batch():
  whole, loss = on_one_device()
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
  one, loss = on_one_device()
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
  c, records, recipe, _ = build(mesh__fsdp=4, mesh__tensor=2, mesh__data=1)
  state, batch = alone()
  mine = train.Trainer(c, recipe).init([batch])
  saved = jax.device_get(mine)
  assert_close(saved, state)  # It begins alike on every mesh.
  with contextlib.closing(checkpoint_lib.Checkpoints(tmp_path)) as store:
    meta = identity.make_meta(c, records.schema, records.calendar.columns)
    store.save(6, mine, "{}", meta)
  store = checkpoint_lib.Checkpoints(tmp_path, read_only=True)
  for devices in (jax.devices()[:1], jax.devices()):
    c = fake.config(mesh__data=len(devices))
    trainer = train.Trainer(c, recipe, devices)
    state, _ = store.restore(trainer.abstract)
    assert_equal(saved, jax.device_get(state))
    params = store.restore_params(trainer.abstract["params"], None)
    assert_equal(saved["params"], jax.device_get(params))


def test_a_checkpoint_of_another_model_is_named(trained):
  c, _, recipe, _ = build()
  abstract = dict(train.Trainer(c, recipe).abstract["params"])
  abstract["model/more"] = abstract["balance"]
  store = checkpoint_lib.Checkpoints(trained[0], read_only=True)
  with pytest.raises(
    checkpoint_lib.CheckpointError, match="lacks 1 of .*'model/more'"
  ):
    store.restore_params(abstract, None)


def test_average_is_what_evaluation_reads(trained):
  workdir, state = trained
  assert_equal(state_lib.eval_params(state), state["ema"])
  assert any(np.any(x != state["params"][k]) for k, x in state["ema"].items())
  store = checkpoint_lib.Checkpoints(workdir, read_only=True)
  c, _, recipe, _ = build()
  abstract = train.Trainer(c, recipe, jax.devices()[:1]).abstract["params"]
  assert_equal(state["ema"], jax.device_get(store.restore_params(abstract, 6)))


def test_training_lowers_the_loss(tmp_path, trained):
  """AdamW on its cosine schedule, and Muon on a linear one."""
  found = [loss for _, loss in losses(trained[0])]
  assert found[-1] < found[0] - 0.2
  run(
    tmp_path,
    train__steps=30,
    optimizer__learning_rate=3e-3,
    optimizer__name="muon",
    optimizer__schedule="linear",
  )
  found = [loss for _, loss in losses(tmp_path)]
  assert np.mean(found[-5:]) < np.mean(found[:5]) - 0.05


def test_not_finite_stops_with_step_and_way_out(tmp_path, monkeypatch):
  whole = train.Trainer.init

  def init(self, batches):
    state = whole(self, batches)
    params = jax.device_get(state["params"])
    broken = jax.tree.map(lambda x: x * np.float32(np.inf), params)
    return state | {"params": jax.device_put(broken, self.shardings["params"])}

  monkeypatch.setattr(train.Trainer, "init", init)
  with pytest.raises(train.NotFinite, match="step 1.*optimizer.learning_rate"):
    run_shared(tmp_path)


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


def test_resume_refuses_other_data_and_other_input(trained):
  workdir, _ = trained
  c, records, recipe, tasks = build(**SHARED, data__workers=2)
  with pytest.raises(checkpoint_lib.CheckpointError, match="workers = 0"):
    train.train(c, workdir, records, recipe, tasks)
  meta = checkpoint_lib.Checkpoints(workdir, read_only=True).meta()
  other = fake.schema("event")
  with pytest.raises(checkpoint_lib.CheckpointError, match="rows: 'event'"):
    identity.check_meta(meta, c, other, records.calendar.columns, False)
  with pytest.raises(checkpoint_lib.CheckpointError, match="no step 5"):
    checkpoint_lib.Checkpoints(workdir, read_only=True).meta(5)


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
    f"train_test.run_shared({str(tmp_path)!r})\n"
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
