"""Faults that the training loop meets within a process.

The loop, its checkpoints and its input are the real ones, on prepared data; the
step is traced once for all tries.
"""

import contextlib
import functools
import os
import pathlib
import random
import shutil
import signal
import time
from unittest import mock

import numpy as np

from benchmarks import faults_programs as programs
from benchmarks import faults_runs as runs_lib
from benchmarks.faults_programs import Fault, expect


class Loop:
  """Trains in this process with the config of the runs."""

  def __init__(self, runs: runs_lib.Runs):
    from lumos_jax import config as config_lib
    from lumos_jax import main, recipes
    from lumos_jax.data import tasks as tasks_lib

    self.runs = runs
    self.config = config_lib.load(str(runs.configs[0]))
    self.tasks = tasks_lib.from_config(self.config.tasks)
    self.open = lambda: main.open_data(self.config)
    self.recipe = recipes.build(self.config, self.open(), self.tasks)

  @functools.cached_property
  def trainer(self):
    """Whose step is traced once."""
    from lumos_jax import train

    return train.Trainer(self.config, self.recipe)

  def train(self, workdir: pathlib.Path, evaluate=None) -> list:
    """Trains to the end, or to an error; arrays of the final state."""
    import jax

    from lumos_jax import train

    trainer = self.trainer
    with mock.patch.object(train, "Trainer", lambda *_: trainer):
      state = train.train(
        self.config,
        workdir,
        self.open(),
        self.recipe,
        self.tasks,
        evaluate,
      )
    return jax.tree.leaves(jax.device_get(state))

  @functools.cached_property
  def state(self) -> list:
    """Arrays of the undisturbed run's last state."""
    folder = self.runs.world.folder / "reference_state"
    shutil.copytree(self.runs.reference, folder)
    return self.train(folder)

  @contextlib.contextmanager
  def broken(self, fault: Fault):
    """Within it, `fault` happens to this process."""
    from array_record.python import array_record_module

    from lumos_jax.data import pipeline

    kept = (
      (time, "time", time.time),
      (
        array_record_module,
        "ArrayRecordReader",
        array_record_module.ArrayRecordReader,
      ),
      (pipeline.DevicePrefetch, "__next__", pipeline.DevicePrefetch.__next__),
    )
    try:
      programs.inject(fault)
      yield
    finally:
      for owner, name, value in kept:
        setattr(owner, name, value)


def boundary(loop: Loop, rng: random.Random, folder: pathlib.Path) -> None:
  """SIGTERM at the very first batch of an epoch, or the last of the one before."""
  from lumos_jax import train

  batch = runs_lib.EPOCH * rng.randint(1, 3) + rng.randint(0, 1)
  stopped = False
  with loop.broken(Fault(batch=batch)):
    try:
      loop.train(folder)
    except train.Stopped:
      stopped = True
  expect(stopped, "the signal was lost")
  expect(runs_lib.steps_of(folder)[-1] == batch, "another step was saved")
  loop.train(folder)
  loop.runs.same(folder)


def clock(loop: Loop, rng: random.Random, folder: pathlib.Path) -> None:
  """A clock that jumps by hours to years, back and ahead."""
  from lumos_jax import metric_writer

  with loop.broken(Fault(clock=rng.randrange(2**31))):
    loop.train(folder)
  loop.runs.same(folder)
  elapsed = [x["elapsed"] for x in metric_writer.read(folder)]
  expect(
    elapsed == sorted(elapsed) and 0 <= elapsed[0] and elapsed[-1] < 600,
    f"durations follow the clock: {elapsed}",
  )


def slow_reads(loop: Loop, rng: random.Random, folder: pathlib.Path) -> None:
  """A file system that takes its time for each read."""
  del rng
  with loop.broken(Fault(reads="slow")):
    loop.train(folder)
  loop.runs.same(folder)


def failing_reads(loop: Loop, rng: random.Random, folder: pathlib.Path) -> None:
  """A shard that cannot be read any more at some moment; later it can."""
  from lumos_jax.data import records as records_lib

  failed = None
  with loop.broken(Fault(reads="fail", at=rng.randint(1, runs_lib.STEPS))):
    try:
      loop.train(folder)
    except records_lib.DataError as e:
      failed = str(e)
  if failed is not None:
    expect(".array_record-" in failed, f"no shard is named: {failed}")
  loop.train(folder)
  loop.runs.same(folder)


def cut_checkpoint(loop: Loop, rng: random.Random, folder: pathlib.Path):
  """A cut file inside the newest checkpoint."""
  from absl import logging

  workdir = shutil.copytree(loop.runs.reference, folder / "run")
  newest = workdir / "checkpoints" / str(runs_lib.STEPS)
  files = sorted(p for p in newest.rglob("*") if p.is_file())
  file = rng.choice([p for p in files if p.stat().st_size])
  content = file.read_bytes()
  file.write_bytes(content[: rng.randrange(len(content))])
  with mock.patch.object(logging, "warning", wraps=logging.warning) as warned:
    found = loop.train(workdir)
  same = map(np.array_equal, found, loop.state)
  expect(all(same), "other arrays")
  expect(runs_lib.losses(workdir) == loop.runs.losses, "other losses")
  aside = workdir / "damaged_checkpoints" / str(runs_lib.STEPS)
  said = " ".join(str(c.args[0]) for c in warned.call_args_list)
  if aside.exists():
    expect(f"{runs_lib.STEPS} cannot be read" in said, f"not told: {said}")
  else:  # A file that nothing depends on: all was read, and is as it was.
    expect("cannot be read" not in said, said)


def signal_in_evaluation(loop: Loop, rng, folder: pathlib.Path) -> None:
  """SIGTERM while a long evaluator runs: it does not wait for its end."""
  from lumos_jax import train

  at = rng.randint(1, runs_lib.STEPS - 1)

  def evaluate(step, params, last):
    del params
    if step == at and not last:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(3 * runs_lib.DEADLINE_SECONDS)
    return {}

  begin, stopped = time.monotonic(), False
  try:
    loop.train(folder, evaluate)
  except train.Stopped:
    stopped = True
  seconds = time.monotonic() - begin
  expect(stopped, "the signal was lost")
  limit = runs_lib.DEADLINE_SECONDS
  expect(seconds < limit, f"{seconds:.0f} s until the end")
  expect(runs_lib.steps_of(folder)[-1] == at, "another step was saved")
  loop.train(folder)
  loop.runs.same(folder)
