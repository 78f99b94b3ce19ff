r"""Kill -9 at random moments and resume: is the end the same, to the bit?

  python benchmarks/resume.py --kills=20

Trains a small config once without interruption and once killed KILLS times at
random moments (seeded; while it imports, compiles, trains or saves), and
compares all of the final state: parameters, optimizer, average, step. Writes
benchmarks/results/resume.json.
"""

import argparse
import os
import pathlib
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import results

from lumos_jax import checkpoint, main, recipes, train
from lumos_jax.data import tasks as tasks_lib

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
from configs import pretrain

def get_config(arg=None):
  c = pretrain.get_config("smoke")
  with c.unlocked():
    c.evals = {{}}
    c.report = False
    c.data.root = {data!r}
    c.train.steps = {steps}
    c.train.checkpoint_every = 5
  return c
"""


def start(config, workdir):
  """The program, as a user would start it."""
  command = [sys.executable, "-m", "lumos_jax.main"]
  command += [f"--config={config}", f"--workdir={workdir}"]
  return subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )


def finish(config, workdir):
  """Runs to the end; seconds it took."""
  begin = time.time()
  if start(config, workdir).wait():
    raise RuntimeError(f"the run in {workdir} failed: start it by hand")
  return time.time() - begin


def latest(workdir):
  """Newest complete checkpoint's step, 0 for none."""
  names = [p.name for p in (workdir / "checkpoints").glob("*")]
  return max((int(n) for n in names if n.isdigit()), default=0)


def final_state(config_file, workdir):
  """All arrays of the last checkpoint, by path."""
  scope = runpy.run_path(str(config_file))
  config = scope["get_config"]()
  tasks = tasks_lib.from_config(config.tasks)
  recipe = recipes.build(config, main.open_data(config), tasks)
  trainer = train.Trainer(config, recipe)
  store = checkpoint.Checkpoints(workdir, read_only=True)
  state, position = store.restore(trainer.abstract)
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state))
  return {jax.tree_util.keystr(k): v for k, v in leaves}, position


def run():
  """Trains, kills, compares and writes the result."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--steps", type=int, default=60)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--data", default="data", help="data.root")
  parser.add_argument("--name", default="resume")
  args = parser.parse_args()
  rng = random.Random(args.seed)
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    # Restarts read the compiled step instead of making it again.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(scratch / "compiled")
    config = scratch / "config.py"
    data = str(pathlib.Path(args.data).absolute())
    config.write_text(CONFIG.format(data=data, steps=args.steps))
    finish(config, scratch / "warm")
    seconds = finish(config, scratch / "whole")
    killed, lost = scratch / "killed", []
    for i in range(args.kills):
      process = start(config, killed)
      # Early kills are cheap to redo; the last third must not see the end.
      wait = rng.uniform(0.1, 0.9) * seconds
      try:
        process.wait(wait)
        print(f"kill {i}: the run had ended already")
        break
      except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
      lost.append(latest(killed))
      print(f"kill {i}: after {wait:.1f} s, newest step {lost[-1]}", flush=True)
    finish(config, killed)
    a, place_a = final_state(config, scratch / "whole")
    b, place_b = final_state(config, killed)
    same = [np.array_equal(a[k], b[k], equal_nan=True) for k in a]
    equal = a.keys() == b.keys() and all(same) and place_a == place_b
  print(f"{len(lost)} kills, {sum(same)} of {len(a)} arrays equal to the bit")
  row = dict(
    dataset="complete_journey",
    protocol=f"SIGKILL at {len(lost)} random moments, then to the end",
    model="LUMOS smoke",
    config="pretrain:smoke",
    seed=args.seed,
    steps=args.steps,
    wall_seconds=seconds,
    metrics=dict(
      kills=len(lost),
      arrays=len(a),
      arrays_equal=sum(same),
      all_equal=float(equal),
    ),
  )
  print(results.write(args.name, [row]))
  if not equal:
    sys.exit("the killed run ended in another state")


if __name__ == "__main__":
  run()
