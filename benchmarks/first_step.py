"""Seconds from the command to the first step's numbers, on CPU.

  python benchmarks/first_step.py [--root=DIR]

Every job in its small form, as a user starts it, in a process of its own: with
no compiled program kept, then again. The data set is prepared before. Writes
benchmarks/results/first_step.json.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import results

from lumos_jax import config as config_lib
from lumos_jax import main as main_lib

# Job: config file and argument.
JOBS = {
  "LUMOS tiny": "pretrain.py:smoke",
  "LUMOS base": "pretrain.py",
  "PANTHER": "panther.py:smoke",
  "SASRec": "sasrec.py:smoke",
  "BERT4Rec": "bert4rec.py:smoke",
  "HSTU": "hstu.py:smoke",
}
_POLL_SECONDS = 0.02
_LIMIT_SECONDS = 300.0


def measure(config, root, folder, name):
  """Seconds until metrics.jsonl has its first line."""
  command = [sys.executable, "-m", "lumos_jax.main", f"--config={config}"]
  command += [f"--workdir={folder / name}", f"--config.data.root={root}"]
  command += ["--config.train.log_every=1"]
  env = os.environ | {"XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu"}
  env["PYTHONPATH"] = str(results.ROOT)
  lines = folder / name / "metrics.jsonl"
  start = time.monotonic()
  process = subprocess.Popen(
    command, env=env, cwd=results.ROOT, stderr=subprocess.DEVNULL
  )
  try:
    while not lines.exists() or not lines.stat().st_size:
      if process.poll() is not None:
        raise RuntimeError(f"{' '.join(command)}: ended without a step")
      if time.monotonic() - start > _LIMIT_SECONDS:
        raise RuntimeError(f"{config}: no step in {_LIMIT_SECONDS:.0f} s")
      time.sleep(_POLL_SECONDS)
    return time.monotonic() - start
  finally:
    process.kill()
    process.wait()


def main():
  """Measures every job."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--root", default="data", help="data.root")
  args = parser.parse_args()
  root, rows = pathlib.Path(args.root).absolute(), []
  for job, file in JOBS.items():
    name, _, arg = file.partition(":")
    config = config_lib.load(f"{results.ROOT / 'configs' / name}:{arg}")
    with config.unlocked():
      config.data.root = str(root)
    main_lib.open_data(config)
    with tempfile.TemporaryDirectory() as folder:
      found = {}
      for form in ("nothing_kept", "programs_kept"):
        path = pathlib.Path(folder)
        where = f"configs/{file}"
        found[f"{form}_seconds"] = measure(where, root, path, form)
    print(job, found, flush=True)
    row = dict(dataset="complete_journey", model=job, config=f"configs/{file}")
    row["protocol"] = "command to first step's numbers, data prepared"
    rows.append(row | dict(metrics=found))
  print(results.write("first_step", rows))


if __name__ == "__main__":
  main()
