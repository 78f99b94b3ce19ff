r"""LUMOS against task-specific LightGBM: every seed a whole run of `main`.

  python benchmarks/forecast.py --config=configs/pretrain.py --seeds=3 \
    --name=forecast_complete_journey --workdir=runs/forecast

Writes benchmarks/results/NAME.json: a row a model and seed, with the paired
bootstrap intervals over users of each difference. Runs that were interrupted go
on; finished ones are read.
"""

import argparse
import json
import pathlib
import shutil
import time

import results
from absl import logging

from lumos_jax import config as config_lib
from lumos_jax import main as main_lib
from lumos_jax import metric_writer, progress


def rows_of(config, workdir, seed, protocol):
  """Result rows of one finished run."""
  found = json.loads((workdir / "eval.json").read_text())
  lines = metric_writer.read(workdir)
  wall = max((x.get("elapsed", 0.0) for x in lines), default=0.0)
  common = dict(
    dataset=config.data.source,
    split="test",
    protocol=protocol,
    seed=seed,
  )
  keep = lambda d: {k: v for k, v in d.items() if v is not None}
  out = []
  for name, kw in config.evals.items():
    if name == "validation" or name not in found:
      continue
    values = keep(found[name])
    if kw["type"] == "forecast":
      for other in config.evals:
        versus = found.get(f"{name}_vs_{other}", {})
        values |= {f"vs_{other}/{k}": v for k, v in keep(versus).items()}
    trained = kw["type"] in ("forecast", "ablation", "what_if")
    if not trained and seed:
      continue  # Baselines do not depend on the seed.
    out.append(
      dict(
        **common,
        model=f"LUMOS {name}" if trained else name,
        config=config.name,
        steps=config.train.steps if trained else 0,
        wall_seconds=wall if trained else 0.0,
        metrics=values,
      )
    )
  return out


def main():
  """Runs the seeds and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument(
    "--config", default="configs/pretrain.py", help="its file"
  )
  parser.add_argument("--arg", default="", help="argument of the config file")
  parser.add_argument("--seeds", type=int, default=3, help="how many")
  parser.add_argument("--name", required=True, help="of the result file")
  parser.add_argument("--workdir", default="runs/forecast", help="of all runs")
  parser.add_argument("--data", default="", help="data.root, if another")
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  progress.quiet_libraries()
  rows, first = [], None
  for seed in range(args.seeds):
    arguments = ",".join(filter(None, [args.arg, f"seed={seed}"]))
    config = config_lib.load(f"{args.config}:{arguments}")
    with config.unlocked():
      config.data.root = args.data or config.data.root
    workdir = pathlib.Path(args.workdir) / f"{config.name}_seed{seed}"
    # The baselines do not depend on the seed: later seeds read the first's.
    if first and (first / "baselines").exists():
      shutil.copytree(
        first / "baselines", workdir / "baselines", dirs_exist_ok=True
      )
    first = first or workdir
    start = time.time()
    main_lib.run(config, workdir)
    logging.info("seed %d: %.0f s", seed, time.time() - start)
    protocol = (
      f"origin day {config.data.test_origin}, all users of split "
      f"{config.data.test_split}; training origins up to day "
      f"{config.data.train_origin_last}"
    )
    rows += rows_of(config, workdir, seed, protocol)
    print(results.write(args.name, rows))


if __name__ == "__main__":
  main()
