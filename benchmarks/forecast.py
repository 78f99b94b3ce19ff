r"""LUMOS, its baselines and their stack: every origin and seed a run of `main`.

  python benchmarks/forecast.py --config=configs/pretrain.py --seeds=3 \
    --origins=337,309,281 --name=forecast_complete_journey \
    --workdir=runs/forecast

An origin is a test day. Where users of the test split train, validation and
training origins are as far before it as in the config, so that no label of
training or validation reaches into the test window. Other users (OULAD) train
on the config's origins whatever is tested, so that one training a seed serves
all origins. Baselines are fitted anew for each origin and seed.

Writes benchmarks/results/NAME.json: a row a model, origin and seed, with the
paired bootstrap intervals over users, and one of the model at the validation
origin; then, with protocol "pooled", a row a model with the mean over all runs
and, as vs_OTHER/METRIC, differences with 95 % intervals over users, seeds and
origins (evaluators/hierarchical.py), seeds drawn for all origins at once where
one training serves them. Runs that were interrupted go on; finished ones are
read.
"""

import argparse
import json
import pathlib
import time

import results
from absl import logging

from lumos_jax import checkpoint, evaluate, metric_writer, progress, recipes
from lumos_jax import config as config_lib
from lumos_jax import main as main_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import hierarchical, predict

POOLED = "pooled"
_COMPARED = {
  "forecast": ("baseline_",),
  "stack": ("baseline_", "forecast"),
}


def at_origin(config, origin: int):
  """Moves a config's days so that it is tested on another origin.

  Validation and training keep their distance from it where the test split's
  users are theirs too. Other evaluators than forecasts, baselines and stack are
  left out: their days are their own.

  Raises:
    ValueError: No training origin is left, or the origin is not a whole number
      of the longest horizon away, so that windows would overlap.
  """
  d = config.data
  horizon = max(t.get("horizon_days", 28) for t in config.tasks.values())
  back = d.test_origin - origin
  if back % horizon:
    raise ValueError(
      f"origin {origin} is {back} days from data.test_origin = "
      f"{d.test_origin}: use multiples of the longest horizon, {horizon}"
    )
  with config.unlocked():
    d.test_origin -= back
    d.validation_origin -= back
    if own_training(config):
      d.train_origin_last -= back
    if d.train_origin_last < d.train_origin_first:
      raise ValueError(
        f"origin {origin} leaves no training origin: data.train_origin_first = "
        f"{d.train_origin_first}"
      )
    for name in list(config.evals):
      kind = config.evals[name].type
      if not kind.startswith(("forecast", "baseline_", "stack")):
        del config.evals[name]
  return config


def evaluate_elsewhere(config, trained, workdir) -> None:
  """Evaluates a finished run on another test day, into a workdir of its own."""
  if "stack" in evaluate.read(workdir):  # The last one, which says it is done.
    return
  data = main_lib.open_data(config)
  tasks = tasks_lib.from_config(config.tasks)
  recipe = recipes.build(config, data, tasks)
  session = evaluate.Session(config, workdir, data, recipe, tasks)
  store = checkpoint.Checkpoints(trained, read_only=True)
  step, params = evaluate.restored(store, recipe, None)
  session.evaluate(step, params, last=True)


def own_training(config) -> bool:
  """Whether each origin needs a training: its users' later days are unseen."""
  return config.data.test_split == config.data.train_split


def kinds(config, split: str = "test") -> dict[str, str]:
  """{evaluator: type} of those that forecast the split's origin."""
  return {
    name: kw["type"]
    for name, kw in config.evals.items()
    if kw.get("split", "test") == split
  }


def rows_of(config, workdir, trained, seed):
  """Result rows of an evaluation of the run `trained`, which may be its own."""
  found = json.loads((workdir / "eval.json").read_text())
  lines = metric_writer.read(trained)
  wall = max((x.get("elapsed", 0.0) for x in lines), default=0.0)
  d = config.data
  keep = lambda d: {k: v for k, v in d.items() if v is not None}
  out = []
  for split in ("test", "validation"):
    protocol = (
      f"origin day {d[f'{split}_origin']}, all users of split "
      f"{d[f'{split}_split']}; training origins up to day {d.train_origin_last}"
    )
    for name, kind in kinds(config, split).items():
      values = keep(found.get(name, {}))
      for other in config.evals:
        versus = found.get(f"{name}_vs_{other}", {})
        values |= {f"vs_{other}/{k}": v for k, v in keep(versus).items()}
      own = kind in ("forecast", "ablation", "what_if")
      if not values:
        continue
      out.append(
        dict(
          dataset=d.source,
          split=split,
          protocol=protocol,
          seed=seed,
          model=title(name, kind),
          config=config.name,
          steps=config.train.steps if own else 0,
          wall_seconds=wall if own else 0.0,
          metrics=values,
        )
      )
  return out


def title(name: str, kind: str) -> str:
  """A model's name in the result file."""
  own = kind in ("forecast", "ablation", "what_if")
  return f"LUMOS {name}" if own else name


def pooled_rows(runs) -> list[dict]:
  """A row a model over all runs: means, and differences with their intervals.

  Args:
    runs: [(config, workdir, origin, seed)], all finished.
  """
  config = runs[0][0]
  found = kinds(config)
  validation = kinds(config, "validation")
  load = lambda workdir, name: predict.Predictions.load(
    workdir / "predictions" / f"{name}.npz"
  )
  evals = [json.loads((w / "eval.json").read_text()) for _, w, *_ in runs]
  out = []
  for name, kind in (found | validation).items():
    if kind not in ("forecast", "stack") and not kind.startswith("baseline_"):
      continue
    each = [e.get(name, {}) for e in evals]
    values = {
      k: sum(e[k] for e in each) / len(each)
      for k in each[0]
      if all(e.get(k) is not None for e in each)
    }
    for other, other_kind in found.items():
      if name in found and other_kind.startswith(_COMPARED.get(kind, "-")):
        pairs = [
          hierarchical.Run(origin, seed, load(w, name), load(w, other))
          for _, w, origin, seed in runs
        ]
        by_name = {t.name: t for t in tasks_lib.from_config(config.tasks)}
        tasks = [by_name[t] for t in pairs[0].a.p if t in by_name]
        mean_tasks = config.evals[name].get("mean_tasks")
        intervals = hierarchical.compare(
          tasks, pairs, mean_tasks, crossed=not own_training(config)
        )
        values |= hierarchical.flat(intervals, other)
    out.append(
      dict(
        dataset=config.data.source,
        split="test" if name in found else "validation",
        protocol=POOLED,
        model=title(name, kind),
        config=config.name,
        metrics=values,
      )
    )
  return out


def main():
  """Runs origins and seeds and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--config", default="configs/pretrain.py", help="its file")
  add("--arg", default="", help="argument of the config file")
  add("--seeds", type=int, default=3, help="how many")
  add("--origins", default="", help="test days, with commas; default one")
  add("--name", required=True, help="of the result file")
  add("--workdir", default="runs/forecast", help="of all runs")
  add("--data", default="", help="data.root, if another")
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  progress.quiet_libraries()
  origins = [int(o) for o in args.origins.split(",") if o]
  rows, runs = [], []
  for seed in range(args.seeds):
    trained = None
    arguments = ",".join(filter(None, [args.arg, f"seed={seed}"]))
    for origin in origins or [None]:
      config = config_lib.load(f"{args.config}:{arguments}")
      with config.unlocked():
        config.data.root = args.data or config.data.root
      name = f"{config.name}_seed{seed}"
      if origin is not None:
        config = at_origin(config, origin)
        name = f"{config.name}_origin{origin}_seed{seed}"
      workdir = pathlib.Path(args.workdir) / name
      start = time.time()
      if own_training(config) or trained is None:
        main_lib.run(config, workdir)
        trained = workdir
      else:
        evaluate_elsewhere(config, trained, workdir)
      logging.info("%s: %.0f s", name, time.time() - start)
      rows += rows_of(config, workdir, trained, seed)
      runs.append((config, workdir, config.data.test_origin, seed))
      print(results.write(args.name, rows))
  print(results.write(args.name, rows + pooled_rows(runs)))


if __name__ == "__main__":
  main()
