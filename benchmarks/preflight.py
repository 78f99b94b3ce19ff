r"""Preflight of every size preset on every kind of chip.

  python benchmarks/preflight.py [--only=panther] [--chips=v5e]

Each is a run of `python -m lumos_jax.preflight`. Writes
benchmarks/results/preflight.json after every one; with --add what is in it stays,
and only what it lacks is run.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import results

# Topologies by kind of chip: a host for batches of 32, a slice for more.
HOST = {"v5e": "2x2", "v4": "2x2x1", "v5p": "2x2x1", "v6e": "2x2"}
SLICE = {"v5e": "16x16", "v4": "4x4x8", "v5p": "4x4x8", "v6e": "16x16"}
# Preset: where, and its command line. The large ones:
# LUMOS 360 + 28 days, batch 4,096; PANTHER V 60 k, 2,048 tokens a row.
PRESETS = {
  "LUMOS tiny": (HOST, "--config=configs/pretrain.py:size=tiny"),
  "LUMOS base": (HOST, "--config=configs/pretrain.py:size=base"),
  "LUMOS paper": (SLICE, "--config=configs/paper.py"),
  "LUMOS large": (SLICE, "--config=configs/paper.py:size=large"),
  "PANTHER small": (HOST, "--config=configs/panther.py"),
  "PANTHER large": (
    SLICE,
    "--config=configs/panther.py:size=large",
    "--vocabulary=60000",
  ),
}


def examine(preset, topology, arguments, root):
  """A result row; raises RuntimeError with what preflight printed."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "out.json"
    command = [sys.executable, "-m", "lumos_jax.preflight", *arguments]
    command += [f"--topology={topology}", f"--json={path}"]
    command += [f"--config.data.root={root}"] if root else []
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if not path.exists():
      raise RuntimeError(done.stderr[-2000:])
    found = json.loads(path.read_text())
  gib = 2.0**30
  metrics = {
    "parameters_million": found["parameters"] / 1e6,
    "batch": found["batch_size"],
    "peak_gib": found["peak_bytes"] / gib,
    "spare_percent": 100 * found["spare"],
    "fits": float(found["fits"]),
    "compile_seconds": found["compile_seconds"],
  }
  if found["eval_peak_bytes"]:
    metrics["evaluation_gib"] = found["eval_peak_bytes"] / gib
  if "step_seconds" in found:
    low, high = found["step_seconds"]
    metrics["step_ms_at_least"] = 1e3 * low
    metrics["step_ms_without_overlap"] = 1e3 * high
    metrics["use_percent_at_most"] = 100 * found["model_flops_use"][1]
  mesh = " x ".join(f"{k} {v}" for k, v in found["mesh"].items() if v > 1)
  return dict(
    dataset=topology,
    protocol="compiled by libtpu; times are arithmetic on datasheet rates",
    model=preset,
    config=mesh or "one device",
    wall_seconds=time.monotonic() - start,
    metrics=metrics,
  )


def main():
  """Runs all that is asked for."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--only", default="", help="presets whose name has this")
  parser.add_argument("--chips", default=",".join(SLICE))
  parser.add_argument("--root", default="", help="data.root, if another")
  parser.add_argument("--add", action="store_true", help="to what is there")
  args = parser.parse_args()
  old = results.rows("preflight") if args.add else []
  have, rows = {(r["model"], r["dataset"]) for r in old}, []
  for preset, (where, *arguments) in PRESETS.items():
    for chip in args.chips.split(","):
      topology = f"{chip}:{where[chip]}"
      if (preset, topology) in have or args.only.lower() not in preset.lower():
        continue
      rows.append(examine(preset, topology, arguments, args.root))
      print(preset, topology, rows[-1]["metrics"], flush=True)
      results.write("preflight", rows, add=args.add)


if __name__ == "__main__":
  main()
