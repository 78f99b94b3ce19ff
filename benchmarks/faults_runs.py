"""Faults of whole programs: training, evaluation, export, serving.

Each is killed or disturbed, started again by the same command, and compared with
one that nothing happened to: final checkpoint, losses, evaluation, export.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from benchmarks import faults_data as data_lib
from benchmarks import faults_programs as programs
from benchmarks.faults_programs import Broken, Fault, Program, expect

STEPS, EVERY, BATCH = 16, 4, 8
EPOCH = 5  # Steps: 40 users in batches of 8.
_PART = 6  # Users in a part of an export.
DEADLINE_SECONDS = 30.0
CONFIG = """
import fake


def get_config():
  c = fake.config()
  with c.unlocked():
    c.name, c.report = "faults", False
    c.data.source, c.data.root = "tables", {root!r}
    c.data.options = dict(schema={schema!r})
    c.data.validation_origin, c.data.test_origin = 112, 126
    c.data.workers = {workers}
    c.evals = dict(forecast=dict(type="forecast"))
    c.train.steps, c.train.checkpoint_every = {steps}, {every}
    c.train.batch_size, c.train.init_batches = {batch}, 1
    c.train.log_every, c.train.ema_decay = 1, 0.9
    # Little to trace, and dropout: a resume draws as if nothing had been.
    c.tasks = dict(
      active=dict(kind="binary", field="visits", reduce="any", horizon_days=7)
    )
    m = c.model
    m.members, m.state_members, m.sparsity, m.habit_days = 1, 0, 0.0, ()
    m.weighting, m.dropout = "sum", 0.2
  return c
"""


class Runs:
  """A config, and what an undisturbed run of it leaves.

  Attributes:
    world: Raw tables and the prepared data.
    reference: Workdir of the undisturbed run.
    seconds: {program: of the undisturbed one}.
  """

  def __init__(self, world: data_lib.World):
    self.world, self.seconds = world, {}
    self.log = world.folder / "runs.log"
    self.reference = world.folder / "reference"
    self.configs = {n: self._config(n) for n in (0, 2)}
    for _ in range(2):  # The first one compiles.
      shutil.rmtree(self.reference, ignore_errors=True)
      self.seconds["main"] = self.done(self.train(self.reference))
    self.final = final(self.reference)
    self.losses = losses(self.reference)
    self.eval = (self.reference / "eval.json").read_bytes()

  def _config(self, workers: int) -> pathlib.Path:
    path = self.world.folder / f"config{workers}.py"
    path.write_text(
      CONFIG.format(
        root=str(self.world.folder / "data"),
        schema=self.world.schema,
        workers=workers,
        steps=STEPS,
        every=EVERY,
        batch=BATCH,
      )
    )
    return path

  def train(self, workdir, fault: Fault | None = None, workers: int = 0):
    """Starts training."""
    argv = [f"--config={self.configs[workers]}", f"--workdir={workdir}"]
    return Program("main", argv, self.log, fault)

  def evaluate(self, workdir, fault: Fault | None = None):
    """Starts an evaluation."""
    return Program("evaluate", [f"--workdir={workdir}"], self.log, fault)

  def export(self, out, fault: Fault | None = None):
    """Starts an export of the reference, in parts of few users."""
    argv = [f"--workdir={self.reference}", f"--out={out}"]
    fault = fault or Fault()
    return Program("export", argv, self.log, fault)

  def done(self, running: Program) -> float:
    """Waits for a good end; seconds."""
    status, said, seconds = running.end()
    expect(status == 0, f"status {status}: {said}")
    return seconds

  def same(self, workdir) -> None:
    """A run ended as the undisturbed one did, to the bit."""
    differ(self.final, final(workdir))
    expect(losses(workdir) == self.losses, "other losses in metrics.jsonl")


def final(workdir: pathlib.Path) -> dict:
  """Arrays and input position of the last checkpoint."""
  from benchmarks import resume

  return resume.final(workdir, STEPS)


def differ(a: dict, b: dict) -> None:
  """Raises Broken where two final checkpoints do."""
  from benchmarks import resume

  found = resume.differences(a, b)
  expect(not found, f"other arrays: {found[:5]}")


def losses(workdir: pathlib.Path) -> dict[int, float]:
  """{step: loss}."""
  from lumos_jax import metric_writer

  lines = metric_writer.read(workdir)
  return {x["step"]: x["loss"] for x in lines if "loss" in x}


def killed_training(runs, rng, folder) -> None:
  """kill -9 at a random moment or change of a file; the same command resumes."""
  workdir = folder / "run"
  if rng.random() < 0.5:
    changes = _changes(runs, folder)
    at, under = rng.randint(1, changes), str(runs.world.folder)
    runs.train(workdir, Fault(changes="kill", at=at, under=under)).end()
  else:
    running = runs.train(workdir)
    running.wait(rng.uniform(0.0, runs.seconds["main"]))
    running.kill()
  runs.done(runs.train(workdir))
  runs.same(workdir)


def _changes(runs: Runs, folder: pathlib.Path) -> int:
  """How often an undisturbed training changes a file."""
  make = lambda fault: runs.train(folder / "counted", fault).end()
  make.__name__ = "training"
  return runs.world.undisturbed(make)[0]


def failing_disk_in_training(runs, rng, folder) -> None:
  """An input/output error of any one change of a file."""
  workdir = folder / "run"
  at = rng.randint(1, _changes(runs, folder))
  fault = Fault(changes="fail", at=at, under=str(workdir))
  status, said, _ = runs.train(workdir, fault).end()
  if status:  # What is there for eyes alone, or is removed, may fail.
    data_lib.told(status, said, str(workdir))
    runs.done(runs.train(workdir))
  runs.same(workdir)


def terminated_training(runs, rng, folder) -> None:
  """SIGTERM at a random moment: gone within 30 s, all steps done are saved."""
  workdir = folder / "run"
  running = runs.train(workdir)
  running.wait(rng.uniform(0.0, runs.seconds["main"]))
  running.send(signal.SIGTERM)
  status = running.wait(DEADLINE_SECONDS)
  if status is None:
    running.kill()
    raise Broken(f"still there after {DEADLINE_SECONDS:.0f} s: {running.said}")
  said = running.said
  # 0: it was done. -15: before the loop, or behind it, where all is saved.
  expect(status in (0, 143, -signal.SIGTERM), f"status {status}: {said}")
  if status == 143:
    reached = max(losses(workdir), default=0)
    kept = steps_of(workdir)
    expect(kept and kept[-1] == reached, f"step {reached}, saved {kept}")
  runs.done(runs.train(workdir))
  runs.same(workdir)


def steps_of(workdir: pathlib.Path) -> list[int]:
  """Complete steps, ascending."""
  found = (workdir / "checkpoints").glob("*")
  return sorted(int(p.name) for p in found if p.name.isdigit())


def two_runs(runs, rng, folder) -> None:
  """Two runs on one workdir: one is refused, the other is as ever."""
  workdir = folder / "run"
  first = runs.train(workdir)
  first.wait(rng.uniform(0.0, 0.7) * runs.seconds["main"])
  second = runs.train(workdir)
  found = [first.end(), second.end()]
  good = [status == 0 for status, _, _ in found]
  expect(any(good), f"neither ended well: {found[0][1]}")
  if not all(good):  # Both: the second came when the first was done.
    status, said, _ = found[good.index(False)]
    expect(status == 1 and "another run trains here" in said, said)
  runs.same(workdir)


def lost_worker(runs, rng, folder) -> None:
  """A worker process of the loader is killed: an error soon, then a resume."""
  workdir = folder / "run"
  running = runs.train(workdir, workers=2)
  found: list[int] = []
  while running.runs and len(found) < 2:
    time.sleep(0.02)
    found = workers_of(running.pid)
  running.wait(rng.uniform(0.0, 0.5) * runs.seconds["main"])
  if running.runs and found:
    try:
      os.kill(rng.choice(found), signal.SIGKILL)
    except ProcessLookupError:  # It has ended by itself.
      pass
  status, said, _ = running.end()
  if status:
    data_lib.told(status, said, "worker process of the loader")
    runs.done(runs.train(workdir, workers=2))
  # Another layout of the position, the same users in the same order.
  state = {k: v for k, v in final(workdir).items() if k != "input position"}
  wanted = {k: v for k, v in runs.final.items() if k != "input position"}
  differ(wanted, state)


def workers_of(pid: int) -> list[int]:
  """Loader's processes of a program."""
  path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
  try:
    children = [int(p) for p in path.read_text().split()]
  except OSError:
    return []
  found = []
  for child in children:
    try:
      line = pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
    except OSError:
      continue
    if b"spawn_main" in line:
      found.append(child)
  return found


def full_disk_in_training(runs, rng, folder) -> None:
  """A disk that fills while checkpoints are written; room is made, it goes on."""
  workdir = folder / "disk" / "run"
  whole = sum(
    p.stat().st_size for p in runs.reference.rglob("*") if p.is_file()
  )
  size = int(whole * rng.uniform(0.1, 0.9)) // 1024
  with data_lib.mounted(workdir.parent, f"size={size}k"):
    status, said, _ = runs.train(workdir).end()
    if status:  # The tmpfs counts pages: at 0.9 all may just fit.
      data_lib.told(status, said, "No space left", "could not be written")
    data_lib.remount(workdir.parent, "size=64m")
    runs.done(runs.train(workdir))
    runs.same(workdir)


def read_only_training(runs, rng, folder) -> None:
  """A workdir that cannot be written."""
  del rng
  workdir = folder / "disk" / "run"
  with data_lib.mounted(workdir.parent, "size=64m,ro"):
    status, said, _ = runs.train(workdir).end()
    data_lib.told(status, said, str(workdir))


def killed_evaluation(runs, rng, folder) -> None:
  """kill -9 in an evaluation; eval.json is whole, and again the same."""
  workdir = shutil.copytree(runs.reference, folder / "run")
  make = lambda fault: runs.evaluate(workdir, fault).end()
  make.__name__ = "evaluation"
  runs.world.undisturbed(make)
  whole = (workdir / "eval.json").read_bytes()
  expect(whole == runs.eval, "evaluation differs from that of training")
  data_lib.disturbed(
    runs.world, rng, make, lambda fault: runs.evaluate(workdir, fault)
  )
  json.loads((workdir / "eval.json").read_text())
  runs.done(runs.evaluate(workdir))
  expect((workdir / "eval.json").read_bytes() == whole, "other results")


def _parts(out: pathlib.Path) -> dict[str, str]:
  return {
    str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
    for p in sorted(out.rglob("*"))
    if p.is_file() and not p.name.startswith(".")
  }


def killed_export(runs, rng, folder) -> None:
  """kill -9 in an export: no half part, no complete manifest; again the same."""
  import polars as pl

  whole, out = runs.world.folder / "exported", folder / "out"

  def make(fault, to=out):
    return runs.export(to, Fault(**{**vars(fault), "part": _PART})).end()

  if not whole.exists():
    first = lambda fault: make(fault, whole)
    first.__name__ = "make"
    runs.world.undisturbed(first)
  start = lambda fault: runs.export(
    out, Fault(**{**vars(fault), "part": _PART})
  )
  data_lib.disturbed(runs.world, rng, make, start)
  wanted, found = _parts(whole), _parts(out) if out.exists() else {}
  manifest = found.pop("manifest.json", None)
  for name, digest in found.items():
    pl.read_parquet(out / name)
    expect(digest == wanted[name], f"{name} has other bytes")
  if manifest and json.loads((out / "manifest.json").read_text())["complete"]:
    expect(len(found) == len(wanted) - 1, "complete, and parts are missing")
  status, said, _ = make(Fault())
  expect(status == 0, said)
  expect(_parts(out) == wanted, "another export")


def served(tries: int, folder: pathlib.Path) -> None:
  """kill -9 of the service during appends: acknowledged events are there once."""
  code = (
    "import sys, pathlib; sys.path[:0] = sys.argv[3:]; import conftest, serving;"
    "import serving_program_test as t; folder = pathlib.Path(sys.argv[1]);"
    "run = serving.made_run(folder)[0];"
    # Long enough for events to be acknowledged on a busy machine.
    "t.killed(run, folder / 'cache', int(sys.argv[2]))"
  )
  log = folder / "log"
  with log.open("wb") as f:
    running = subprocess.Popen(
      [sys.executable, "-c", code, str(folder), str(tries), *programs.PATHS],
      stdout=f,
      stderr=f,
      start_new_session=True,
    )
    status = running.wait()
  with contextlib.suppress(ProcessLookupError):
    os.killpg(running.pid, signal.SIGKILL)  # A service that was left.
  expect(status == 0, log.read_text(errors="replace"))
