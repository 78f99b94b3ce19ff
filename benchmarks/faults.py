r"""Faults of every kind against what is promised under them.

  python benchmarks/faults.py [--tries=20] [--seed=0] [--only=killed_training,clock]
  python benchmarks/faults.py --list

A try makes one fault at a random point (drawn from the seed, the promise's name and
the try's number) on tiny generated data, and looks at what is left: errors name
their file, nothing half-made is read, and the same command again gives the bytes of
a run that nothing happened to. Prints promise, tries and kept, and writes
benchmarks/results/faults.json, after each try: rows of earlier calls stay where
--only leaves them out. Ends with 1 where a promise was not kept. What needs a small
disk mounts a tmpfs, and is skipped, and said, where this user may not.
"""

import argparse
import dataclasses
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable

# Run as a script, Python puts benchmarks/ on the path, not the root.
ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks import faults_data as data  # noqa: E402
from benchmarks import faults_loop as loop  # noqa: E402
from benchmarks import faults_runs as runs  # noqa: E402
from benchmarks import results  # noqa: E402
from benchmarks.faults_programs import Broken  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Promise:
  """What happens, and what is promised then.

  Attributes:
    fault: In words.
    promise: In words.
    check: (world, runs or loop; random; folder) -> None; raises Broken.
    needs: Which of "world", "runs", "loop" it gets.
  """

  fault: str
  promise: str
  check: Callable
  needs: str = "world"

  @property
  def name(self) -> str:
    """Of --only."""
    return self.check.__name__


_SAME = "the same command again gives the bytes of an undisturbed one"
_RESUME = "the same command ends in the same parameters and losses, to the bit"
PROMISES = (
  Promise(
    "a changed byte in a shard",
    "an error names the shard; where nothing of a record changed, it is read",
    data.corrupt_byte,
  ),
  Promise("a truncated shard", "an error names it", data.truncated),
  Promise("a missing shard", "an error names it", data.missing),
  Promise(
    "another shard in its place, of other data or of the same",
    "an error names it",
    data.foreign,
  ),
  Promise(
    "a changed byte or a cut in schema, calendar or counts",
    "an error names the file; or all is read as it was",
    data.corrupt_side_file,
  ),
  Promise(
    "kill -9 in data preparation, in memory and in pieces",
    f"nothing half-made is read; {_SAME}, and leaves nothing beside them",
    data.killed_preparation,
  ),
  Promise(
    "kill -9 while a data set is replaced",
    f"the old or the new one is read, or none; {_SAME}",
    data.killed_replacement,
  ),
  Promise(
    "kill -9 while days are appended",
    f"the old or the new data set is read, or none; {_SAME}",
    data.killed_append,
  ),
  Promise(
    "a full disk in data preparation",
    f"an error says so, nothing is left; with room, {_SAME}",
    data.full_disk_in_preparation,
  ),
  Promise(
    "a read-only folder in data preparation",
    f"an error names it; once it can be written, {_SAME}",
    data.read_only_preparation,
  ),
  Promise(
    "an input/output error at any write of a preparation",
    f"an error names the file; {_SAME}",
    data.failing_disk_in_preparation,
  ),
  Promise(
    "kill -9 in training", _RESUME, runs.killed_training, "runs"
  ),
  Promise(
    "SIGTERM in training, killed 30 s later",
    f"gone by then, each step done is saved; {_RESUME}",
    runs.terminated_training,
    "runs",
  ),
  Promise(
    "SIGTERM at the boundary of an epoch",
    f"the step is saved; {_RESUME}",
    loop.boundary,
    "loop",
  ),
  Promise(
    "SIGTERM in a long evaluator, killed 30 s later",
    f"gone by then, the step is saved; {_RESUME}",
    loop.signal_in_evaluation,
    "loop",
  ),
  Promise(
    "a cut file inside the newest checkpoint",
    f"the step before is used, and it is told; {_RESUME}",
    loop.cut_checkpoint,
    "loop",
  ),
  Promise(
    "a clock that jumps by hours to years",
    "parameters, losses and durations are those of a good clock",
    loop.clock,
    "loop",
  ),
  Promise(
    "a shard that cannot be read for a while",
    f"an error names the shard; {_RESUME}",
    loop.failing_reads,
    "loop",
  ),
  Promise(
    "an input/output error at any write of a training",
    f"an error names the file, or it is done; {_RESUME}",
    runs.failing_disk_in_training,
    "runs",
  ),
  Promise(
    "a slow file system", "the same parameters and losses", loop.slow_reads,
    "loop",
  ),
  Promise(
    "two runs on one workdir",
    "one is refused and says why, the other is undisturbed",
    runs.two_runs,
    "runs",
  ),
  Promise(
    "a worker process of the loader that dies",
    f"an error says so; {_RESUME}",
    runs.lost_worker,
    "runs",
  ),
  Promise(
    "a full disk in training",
    f"an error says so; with room, {_RESUME}",
    runs.full_disk_in_training,
    "runs",
  ),
  Promise(
    "a read-only workdir",
    "an error names it",
    runs.read_only_training,
    "runs",
  ),
  Promise(
    "kill -9 in evaluation",
    "eval.json is whole; the same command gives the same bytes",
    runs.killed_evaluation,
    "runs",
  ),
  Promise(
    "kill -9 in an export",
    "parts are whole or absent, the manifest is not complete before they are; "
    "the same command gives the same bytes",
    runs.killed_export,
    "runs",
  ),
  Promise(
    "kill -9 of the service during appends",
    "each acknowledged event is there once",
    runs.served,
    "service",
  ),
)  # fmt: skip


class Suite:
  """Makes what promises need when the first one needs it."""

  def __init__(self, folder: pathlib.Path):
    # Tries lie below the world's folder, where changes of files are counted.
    self.folder, self._made = folder / "all", {}

  def of(self, needs: str):
    """A `World`, `Runs` or `Loop`."""
    if needs not in self._made:
      if needs == "world":
        made = data.World(self.folder)
      elif needs == "runs":
        made = runs.Runs(self.of("world"))
      else:
        made = loop.Loop(self.of("runs"))
      self._made[needs] = made
    return self._made[needs]

  def tried(
    self,
    promise: Promise,
    tries: int,
    seed: int,
    note: Callable[[dict], None] = lambda metrics: None,
  ) -> dict:
    """Metrics of so many tries; what was not kept is printed.

    Args:
      promise: Of `PROMISES`.
      tries: How many.
      seed: Of random points.
      note: Gets the metrics after each try, for what is interrupted.
    """
    begin, kept = time.monotonic(), 0
    if promise.needs == "service":  # One service, killed so often.
      folder = self.folder / promise.name
      folder.mkdir(parents=True)
      kept = tries * self._kept(promise, lambda: runs.served(tries, folder))
    else:
      given = self.of(promise.needs)
      for i in range(tries):
        rng = random.Random(f"{seed} {promise.name} {i}")
        folder = self.folder / promise.name / str(i)
        folder.mkdir(parents=True)
        kept += self._kept(
          promise, lambda r=rng, f=folder: promise.check(given, r, f), i
        )
        shutil.rmtree(folder, ignore_errors=True)
        seconds = time.monotonic() - begin
        note({"tries": i + 1, "kept": kept, "seconds": seconds})
    seconds = time.monotonic() - begin
    return {"tries": tries, "kept": kept, "seconds": seconds}

  def _kept(self, promise: Promise, run: Callable[[], None], i: int = 0):
    try:
      run()
    except data.Skipped:
      raise
    except Broken as e:
      print(f"NOT KEPT: {promise.name}, try {i}: {e}", flush=True)
      return False
    except Exception:
      print(f"NOT KEPT: {promise.name}, try {i}:", flush=True)
      traceback.print_exc()
      return False
    return True


def row(promise: Promise, metrics: dict, seed: int) -> dict:
  """A row of the result file."""
  return dict(
    dataset="generated, 40 users",
    protocol=promise.promise,
    model=promise.fault,
    config=promise.name,
    seed=seed,
    wall_seconds=metrics["seconds"],
    metrics={k: metrics[k] for k in ("tries", "kept")},
  )


def main() -> int:
  """Runs the suite; 0 where every promise was kept."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--tries", type=int, default=20, help="of each promise")
  add("--seed", type=int, default=0, help="of random points")
  add("--only", default="", help="names of promises, with commas")
  add("--name", default="faults", help="of the result file")
  add("--list", action="store_true", help="print the names")
  args = parser.parse_args()
  known = {p.name: p for p in PROMISES}
  if args.list:
    for p in PROMISES:
      print(f"{p.name:30s} {p.fault}: {p.promise}")
    return 0
  data.programs.server()
  names = [n for n in args.only.split(",") if n] or list(known)
  if unknown := [n for n in names if n not in known]:
    parser.error(f"--only: no {unknown}; there are {list(known)}")
  broken = 0
  with tempfile.TemporaryDirectory(prefix="lumos_faults") as folder:
    # Kept: the next call compiles nothing.
    cache = pathlib.Path(tempfile.gettempdir(), "lumos_faults_compilations")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    suite = Suite(pathlib.Path(folder))
    print(f"{'promise':30s} tries  kept  seconds", flush=True)
    for name in names:
      write = lambda metrics, promise=known[name]: results.write(
        args.name,
        [row(promise, metrics, args.seed)],
        add=True,
        same=("config",),
      )
      try:
        metrics = suite.tried(known[name], args.tries, args.seed, write)
      except data.Skipped as e:
        print(f"{name:30s} skipped: {e}", flush=True)
        continue
      print(
        f"{name:30s} {metrics['tries']:5d} {metrics['kept']:5d} "
        f"{metrics['seconds']:8.1f}",
        flush=True,
      )
      broken += metrics["kept"] < metrics["tries"]
      write(metrics)
  return int(broken > 0)


if __name__ == "__main__":
  sys.exit(main())
