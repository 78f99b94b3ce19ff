r"""Kills a run at random moments and resumes it: is the end the same, to the bit?

  python benchmarks/resume.py --kills=20 [--signals=KILL,TERM] [--name=resume]

A reference trains without interruption. The same command is then killed at
random moments and started again until it is done; where kills are left over,
from an empty directory. Every final checkpoint (parameters, optimizer, moving
average, input position) is compared with the reference's. Writes
benchmarks/results/NAME.json, a row a signal. Ends with 1 where a bit differs.

A moment is drawn from the whole life of a process after its imports: opening
data, restoring, compiling, training, writing checkpoints, ending.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp

# Run as a script, Python puts benchmarks/ on the path, not the root.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import results  # noqa: E402
from lumos_jax import metric_writer  # noqa: E402

# Muon, dropout and a moving average, as the default job; nothing but training.
CONFIG = """
from lumos_jax import config


def get_config():
  c = config.load("pretrain:smoke")
  with c.unlocked():
    c.name, c.seed, c.data.root = "resume", {seed}, {data!r}
    c.evals, c.report = {{}}, False
    c.train.steps, c.train.checkpoint_every, c.train.keep = {steps}, {every}, 2
    c.train.log_every = 1
  return c
"""
_POLL_SECONDS = 0.01
_LIMIT_SECONDS = 900.0


class Runner:
  """Starts `lumos_jax.main` on one config, as a process of its own."""

  def __init__(self, folder: pathlib.Path, config: str):
    """Writes the config file to an empty folder."""
    self.folder = folder
    self._config = folder / "resume_config.py"
    self._config.write_text(config)
    paths = (str(results.ROOT), os.environ.get("PYTHONPATH"))
    self._env = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": os.pathsep.join(filter(None, paths)),
      # A restart reads what the reference compiled.
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compilations"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

  def start(self, workdir: pathlib.Path) -> subprocess.Popen:
    """Starts the program; its output is appended to the workdir's .log."""
    flags = (f"--config={self._config}", f"--workdir={workdir}")
    with open(f"{workdir}.log", "ab") as log:
      return subprocess.Popen(
        [sys.executable, "-m", "lumos_jax.main", *flags],
        cwd=results.ROOT,
        env=self._env,
        stdout=log,
        stderr=log,
      )


def opened(workdir: pathlib.Path) -> int:
  """When the workdir was last claimed: every start writes config.json anew."""
  path = workdir / "config.json"
  return path.stat().st_mtime_ns if path.exists() else 0


def wait(process, workdir, seconds: float, before: int | None) -> bool:
  """Waits for the end; True if `seconds` after the claim it still runs.

  Args:
    process: Of `Runner.start`.
    workdir: Its workdir.
    seconds: From the moment that the workdir was claimed.
    before: `opened(workdir)` as it was at the start of the process.
  """
  limit = time.monotonic() + _LIMIT_SECONDS
  moment = None
  while process.poll() is None:
    now = time.monotonic()
    if moment is None and opened(workdir) != before:
      moment = now + seconds
    if moment is not None and now >= moment:
      return True
    if now > limit:
      process.kill()
      raise RuntimeError(f"no end after {_LIMIT_SECONDS:.0f} s: {workdir}.log")
    time.sleep(_POLL_SECONDS)
  return False


def check(code: int, allowed, workdir: pathlib.Path) -> None:
  """Raises RuntimeError with the end of the log where a run failed."""
  if code not in allowed:
    log = pathlib.Path(f"{workdir}.log").read_text(errors="replace")
    raise RuntimeError(f"exit status {code} of {workdir}:\n{log[-3000:]}")


def checkpoints(workdir: pathlib.Path) -> tuple[int, bool]:
  """Newest complete step, 0 if none, and whether one lies there unfinished."""
  path = workdir / "checkpoints"
  names = [p.name for p in path.iterdir()] if path.exists() else []
  steps = [int(n) for n in names if n.isdigit()]
  return max(steps, default=0), any("tmp" in n for n in names)


def final(workdir: pathlib.Path, step: int) -> dict[str, tuple]:
  """{path: (dtype, shape, bytes)} of the checkpoint, the position with it."""
  path = workdir / "checkpoints" / str(step)
  handler = ocp.PyTreeCheckpointer()
  tree = handler.metadata(path / "state").item_metadata.tree
  numpy = ocp.checkpoint_utils.construct_restore_args(tree)
  for leaf in _leaves(numpy).values():
    leaf.restore_type = np.ndarray
  state = handler.restore(path / "state", restore_args=numpy)
  arrays = {k: np.asarray(v) for k, v in _leaves(state).items()}
  out = {k: (str(v.dtype), v.shape, v.tobytes()) for k, v in arrays.items()}
  position = (path / "position" / "metadata").read_bytes()
  return out | {"input position": ("json", (), position)}


def _leaves(tree, prefix="") -> dict:
  if isinstance(tree, dict):
    items = tree.items()
  elif isinstance(tree, list | tuple):
    items = enumerate(tree)
  else:
    return {} if tree is None else {prefix: tree}
  out = {}
  for k, v in items:
    out |= _leaves(v, f"{prefix}/{k}")
  return out


def differences(a: dict[str, tuple], b: dict[str, tuple]) -> list[str]:
  """Paths whose type, shape or bytes differ."""
  return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))


def interrupted(runner, name, kills, life, steps, reference, rng) -> dict:
  """Metrics of runs that were killed `kills` times in all by signal `name`."""
  number = signal.Signals[f"SIG{name}"]
  # 143: the state was saved first. Else the signal ended the process at once.
  stopped = (-number, 143) if name == "TERM" else (-number,)
  lost, saving, done, unequal, saved = [], 0, 0, set(), 0
  while len(lost) < kills or done == 0:
    workdir = runner.folder / f"{name.lower()}{done}"
    while True:
      left = kills - len(lost)
      seconds = rng.uniform(0.0, life) if left else _LIMIT_SECONDS
      before = opened(workdir)
      process = runner.start(workdir)
      if wait(process, workdir, seconds, before):
        process.send_signal(number)
      code = process.wait()
      check(code, (0, *stopped), workdir)
      if code == 0:
        break
      lines = metric_writer.read(workdir)
      reached = max((x["step"] for x in lines if "loss" in x), default=0)
      newest, unfinished = checkpoints(workdir)
      lost.append(max(reached - newest, 0))
      saving += unfinished
      saved += code == 143
      print(
        f"{name} {len(lost)}/{kills} after {seconds:.1f} s: step {reached}, "
        f"goes on from {newest}" + ", while saving" * unfinished,
        flush=True,
      )
    found = differences(reference, final(workdir, steps))
    done += 1
    unequal |= set(found)
    words = f"NOT EQUAL: {found[:5]}" if found else "equal to the bit"
    print(f"{workdir.name}: done, {len(reference)} arrays {words}", flush=True)
  return {
    "kills": len(lost),
    "runs": done,
    "steps_lost_mean": np.mean(lost) if lost else 0.0,
    "steps_lost_max": max(lost, default=0),
    "kills_while_saving": saving,
    "stops_that_saved": saved,
    "arrays": len(reference),
    "equal": float(not unequal),
  }


def main() -> int:
  """Runs reference and interrupted runs; 0 where all are equal."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--kills", type=int, default=20, help="a signal")
  add("--signals", default="KILL", help="of KILL and TERM, with commas")
  add("--steps", type=int, default=60, help="of a run")
  add("--checkpoint-every", type=int, default=5, help="steps")
  add("--seed", type=int, default=0, help="of the run and of the moments")
  add("--name", default="resume", help="of the result file")
  add("--workdir", default="runs/resume", help="is emptied first")
  add("--data", default="data", help="data.root; prepared where absent")
  args = parser.parse_args()
  folder = pathlib.Path(args.workdir).absolute()
  if folder.exists() and not (folder / "resume_config.py").exists():
    parser.error(f"--workdir={args.workdir} holds something else")
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  data = str(pathlib.Path(args.data).absolute())
  every = args.checkpoint_every
  text = CONFIG.format(seed=args.seed, data=data, steps=args.steps, every=every)
  runner, workdir = Runner(folder, text), folder / "reference"
  # The first start compiles, and prepares absent data; the second one, which
  # finds all that, tells how long a process lives.
  reference = None
  for _ in range(2):
    shutil.rmtree(workdir, ignore_errors=True)
    process = runner.start(workdir)
    wait(process, workdir, _LIMIT_SECONDS, 0)
    check(process.wait(), (0,), workdir)
    life = time.time() - opened(workdir) / 1e9
    state = final(workdir, args.steps)
    if reference and (found := differences(reference, state)):
      raise RuntimeError(f"two uninterrupted runs differ: {found[:5]}")
    reference = state
  print(f"reference: {args.steps} steps, {life:.1f} s from claim to end")
  rows, rng = [], np.random.default_rng(args.seed)
  for name in args.signals.split(","):
    begin = time.monotonic()
    metrics = interrupted(
      runner, name, args.kills, life, args.steps, reference, rng
    )
    rows.append(
      dict(
        dataset="complete_journey",
        protocol="final checkpoint against that of an uninterrupted run",
        model="LUMOS tiny",
        config=f"SIG{name}, a checkpoint every {every} steps",
        seed=args.seed,
        steps=args.steps,
        wall_seconds=time.monotonic() - begin,
        metrics=metrics,
      )
    )
    print(json.dumps(metrics, indent=1, default=float))
  print(results.write(args.name, rows))
  return int(any(r["metrics"]["equal"] != 1.0 for r in rows))


if __name__ == "__main__":
  sys.exit(main())
