r"""Preflight of every size preset on every kind of chip.

  python benchmarks/preflight.py
  python benchmarks/preflight.py --add --only="panther small" --chips=v5e,v4

Each is a run of `python -m lumos_jax.preflight`, whose config a row names. Writes
benchmarks/results/preflight.json after every one. With --add the file's rows
stay, but for those of the presets and chips that are run; with --missing only
those run that it lacks, so that an interrupted run can go on.
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
SMALL_SLICE = {"v5e": "4x4", "v6e": "2x4"}
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
  "LLM4ES 3b": (SMALL_SLICE, "--config=configs/llm4es.py:data=oulad,size=3b"),
}


def config_text(arguments):
  """What a row's config begins with: "configs/paper.py:size=large"."""
  file, *more = arguments
  return " ".join([file.removeprefix("--config="), *more])


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
    config=f"{config_text(arguments)}, batch {found['batch_size']:,}, "
    f"{mesh or 'one device'}",
    wall_seconds=time.monotonic() - start,
    metrics=metrics,
  )


def chosen(only, kinds, have=()):
  """(preset, topology, arguments) of what is to be run.

  Args:
    only: What a preset's name has, upper or lower case.
    kinds: Of chips.
    have: Result rows that need not be made again.
  """
  there = {(r["model"], r["dataset"]): r["config"] for r in have}
  for preset, (where, *arguments) in PRESETS.items():
    for kind in kinds:
      if only.lower() not in preset.lower() or kind not in where:
        continue
      topology = f"{kind}:{where[kind]}"
      old = there.get((preset, topology), "")
      if not old.startswith(config_text(arguments) + ","):
        yield preset, topology, arguments


def main():
  """Runs all that is asked for."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--only", default="", help="presets whose name has this; default all")
  add("--chips", default=",".join(SLICE), help="kinds, with commas")
  add("--root", default="", help="data.root, if another")
  add("--name", default="preflight", help="of the result file")
  add("--add", action="store_true", help="keep the file's other rows")
  add("--missing", action="store_true", help="--add, and run what it lacks")
  args = parser.parse_args()
  kinds = args.chips.split(",")
  if unknown := sorted(set(kinds) - set(SLICE)):
    parser.error(f"--chips: no {unknown}; there are {list(SLICE)}")
  have = results.rows(args.name) if args.missing else ()
  runs, rows = list(chosen(args.only, kinds, have)), []
  if not runs and not have:
    parser.error(f"--only: no {args.only!r}; there are {list(PRESETS)}")
  for preset, topology, arguments in runs:
    rows.append(examine(preset, topology, arguments, args.root))
    print(preset, topology, rows[-1]["metrics"], flush=True)
    results.write(
      args.name,
      rows,
      add=args.add or args.missing,
      # Its config may have changed, and with it the text that says so.
      same=("model", "dataset"),
    )


if __name__ == "__main__":
  main()
