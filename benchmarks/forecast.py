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
from typing import Any

import results
import tables
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


# What is printed at the end, as far as a run has it.
_SHOWN = (
  "mean_auc",
  "mean_wape",
  "vs_baseline_best/mean_auc",
  "vs_baseline_stack/mean_auc",
  "vs_baseline_best/mean_wape",
  "vs_baseline_stack/mean_wape",
)


def plan(args) -> list[tuple[int, int | None, Any]]:
  """[(seed, origin, config)] of all runs, checked before the first of them.

  Raises:
    ValueError: Of what was asked for, something cannot be.
  """
  try:
    origins = [int(o) for o in args.origins.split(",") if o]
  except ValueError as e:
    raise ValueError(f"--origins={args.origins}: give days, as 337,309") from e
  if args.seeds < 1:
    raise ValueError(f"--seeds={args.seeds}: give at least 1")
  found = []
  for seed in range(args.seeds):
    arguments = ",".join(filter(None, [args.arg, f"seed={seed}"]))
    for origin in origins or [None]:
      config = config_lib.load(f"{args.config}:{arguments}")
      if not config.get("tasks"):
        raise ValueError(f"{args.config} has no tasks: it forecasts nothing")
      with config.unlocked():
        config.data.root = args.data or config.data.root
      if origin is not None:
        config = at_origin(config, origin)
      found.append((seed, origin, config))
  return found


def check_labels(config) -> None:
  """Raises ValueError if no label window of a test day lies in the data."""
  schema = main_lib.open_data(config).schema
  day = config.data.test_origin
  for t in tasks_lib.from_config(config.tasks):
    end = tasks_lib.observed_until(t, schema, schema.last_day)
    if t.reduce == "static" or day + t.horizon_days <= end:
      return
  raise ValueError(
    f"origin {day}: no label window from it ends within the data, whose last day "
    f"is {schema.last_day - 1}"
  )


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
  try:
    planned = plan(args)
    for _, _, config in planned[: len(planned) // args.seeds]:
      check_labels(config)
  except (ValueError, FileNotFoundError) as e:
    parser.error(str(e))
  rows, runs, trained = [], [], {}
  for seed, origin, config in planned:
    at = "" if origin is None else f"_origin{origin}"
    name = f"{config.name}{at}_seed{seed}"
    workdir = pathlib.Path(args.workdir) / name
    start = time.time()
    if own_training(config) or seed not in trained:
      main_lib.run(config, workdir)
      trained[seed] = workdir
    else:
      evaluate_elsewhere(config, trained[seed], workdir)
    logging.info("%s: %.0f s", name, time.time() - start)
    rows += rows_of(config, workdir, trained[seed], seed)
    runs.append((config, workdir, config.data.test_origin, seed))
    results.write(args.name, rows)
  pooled = pooled_rows(runs)
  path = results.write(args.name, rows + pooled)
  told = [r for r in pooled if r["split"] == "test"]
  shown = [m for m in _SHOWN if any(_has(r, m) for r in told)]
  result = {**json.loads(path.read_text()), "rows": told}
  options = dict(metrics=",".join(shown), heads="model", seeds="no")
  print(tables.render(result, options) + f"\n{path}")


def _has(row, metric: str) -> bool:
  """Whether a row has a metric, or a difference of that name."""
  return metric in row["metrics"] or f"{metric}/difference" in row["metrics"]


if __name__ == "__main__":
  main()
