r"""Scores over a pretrained backbone against LightGBM alone and a DCN alone.

  LUMOS_CREDIT_DEFAULT_DIR=DIR python benchmarks/risk.py --data=credit_default
  LUMOS_OULAD_DIR=DIR python benchmarks/risk.py --data=oulad

Pretrains PANTHER once (configs/panther.py), then for each seed trains configs/risk.py
on its states: the head alone without a backbone ("DCN alone"), and over it frozen,
LoRA-tuned and fully tuned. LightGBM on the context features, with and without the
pretrained ones, and the stack of these and the frozen hybrid stand beside them.

Writes benchmarks/results/risk_DATA.json: a row a model and seed, with bootstrap
intervals over users; then, with protocol "pooled", a row a model with means over the
seeds and, as vs_OTHER/METRIC, differences with 95 % intervals over users and seeds.
Runs that were interrupted go on; finished ones are read.
"""

import argparse
import json
import pathlib
import time

import results
from absl import logging

from lumos_jax import config as config_lib
from lumos_jax import main as main_lib
from lumos_jax import metric_writer, progress
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import hierarchical, predict

POOLED = "pooled"
_KEPT = ("auc", "average_precision", "log_loss", "calibration_error")
# {model: (form of run, evaluator)}.
MODELS = {
  "hybrid frozen": ("frozen", "risk"),
  "hybrid LoRA": ("lora", "risk"),
  "hybrid full": ("full", "risk"),
  "DCN alone": ("alone", "risk"),
  "LightGBM": ("frozen", "baseline_lightgbm"),
  "LightGBM with pretrained features": ("frozen", "baseline_lightgbm_states"),
  "stack": ("frozen", "stack"),
}
_OWN = ("validation", "risk")  # Evaluators of the head alone.
_OF_BACKBONE = ("validation",)  # No result here is of the backbone itself.
_ALONE = ("LightGBM", "DCN alone")


def kept(metric: str) -> bool:
  """Whether a metric of eval.json goes into the file."""
  name = metric.removesuffix("/low").removesuffix("/high")
  last = name.rpartition("/")[2]
  if metric.startswith(("segments/", "mean_")):
    return False
  marks = ("random_split", "balanced", "users")
  if metric in marks or metric.startswith("weight/"):
    return True
  return last in (*_KEPT, "base_rate") or last.startswith(("recall_", "money_"))


def row(config, workdir, model: str, evaluator: str, seed: int) -> dict:
  """A result row of one finished run."""
  found = json.loads((workdir / "eval.json").read_text())[evaluator]
  trained = evaluator == "risk"
  lines = metric_writer.read(workdir)
  wall = max((x.get("elapsed", 0.0) for x in lines), default=0.0)
  return dict(
    dataset=config.data.source,
    split="test",
    protocol=protocol(config),
    model=model,
    config=config.name,
    seed=seed,
    steps=config.train.steps if trained else 0,
    wall_seconds=wall if trained else 0.0,
    metrics={k: v for k, v in found.items() if kept(k) and v is not None},
  )


def finished(config, workdir) -> bool:
  """Whether a run of this config has come to its end."""
  path = workdir / "eval.json"
  if not path.exists():
    return False
  main_lib.claim_workdir(workdir, config)  # Refuses another config's run.
  found = json.loads(path.read_text())
  return all(found.get(name) for name in config.evals)


def protocol(config) -> str:
  """How the test points were held out."""
  d = config.data
  if d.cut == "random":
    return "random split" + (", balanced" if d.balanced else "")
  other = "other users" if d.test_split != d.train_split else "same users"
  return f"{d.unit}s from day {d.test_origin}, {other} than in training"


def pooled(runs, rows) -> list[dict]:
  """A row a model: means over seeds, and differences to the others.

  Args:
    runs: {(form, seed): (config, workdir)}, finished.
    rows: Of `row`.
  """
  config = next(iter(runs.values()))[0]
  tasks = tasks_lib.from_config(config.tasks)
  seeds = sorted({s for _, s in runs})
  out = []
  load = lambda model, seed: predict.Predictions.load(
    runs[MODELS[model][0], seed][1] / "predictions" / f"{MODELS[model][1]}.npz"
  )
  there = [m for m in MODELS if any(r["model"] == m for r in rows)]
  for model in there:
    mine = [r["metrics"] for r in rows if r["model"] == model]
    values = {
      k: sum(m[k] for m in mine) / len(mine)
      for k in mine[0]
      if all(k in m for m in mine) and not k.endswith(("/low", "/high"))
    }
    for other in there:
      if other == model or (model in _ALONE and other not in _ALONE):
        continue
      pairs = [
        hierarchical.Run(0, s, load(model, s), load(other, s)) for s in seeds
      ]
      found = hierarchical.flat(
        hierarchical.compare(tasks, pairs, only=_KEPT[:2]), other
      )
      values |= {
        k: v for k, v in found.items() if any(f"/{n}" in k for n in _KEPT[:2])
      }
    out.append(
      dict(
        dataset=config.data.source,
        split="test",
        protocol=POOLED,
        model=model,
        config="risk",
        metrics=values,
      )
    )
  return out


def main():
  """Runs all forms and seeds and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--data", default="credit_default", help="data set of configs/risk.py")
  add("--arg", default="", help="more arguments of configs/risk.py")
  add("--pretrain", default="", help="more arguments of configs/panther.py")
  add("--backbone", default="", help="workdir of a pretrained run")
  add("--forms", default="alone,frozen,full,lora", help="which, with commas")
  add("--seeds", type=int, default=3, help="how many")
  add("--workdir", default="runs/risk", help="of all runs")
  add("--root", default="", help="data.root, if another")
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  progress.quiet_libraries()
  top = pathlib.Path(args.workdir)

  def run(file, arguments, workdir, only=()):
    text = ",".join(a for a in arguments if a)
    config = config_lib.load(f"configs/{file}.py:{text}")
    with config.unlocked():
      config.data.root, config.report = args.root or config.data.root, False
      for name in set(config.evals) - set(only) if only else ():
        del config.evals[name]
    begin = time.time()
    if finished(config, workdir):
      return config, workdir
    main_lib.run(config, workdir)
    logging.info("%s: %.0f s", workdir, time.time() - begin)
    return config, workdir

  backbone = pathlib.Path(args.backbone or top / f"panther_{args.data}")
  if not args.backbone:
    given = [f"data={args.data}", args.pretrain]
    run("panther", given, backbone, _OF_BACKBONE)
  runs: dict[tuple[str, int], tuple] = {}
  rows: list[dict] = []
  for seed in range(args.seeds):
    for form in args.forms.split(","):
      arguments = [f"data={args.data}", f"seed={seed}", args.arg]
      if form != "alone":
        arguments += [f"backbone={backbone}", f"tune={form}"]
      workdir = top / f"{args.data}_{form}_seed{seed}"
      # Baselines and stack stand beside the frozen form.
      only = () if form == "frozen" else _OWN
      runs[form, seed] = run("risk", arguments, workdir, only)
      rows += [
        row(*runs[form, seed], model, evaluator, seed)
        for model, (own, evaluator) in MODELS.items()
        if own == form
      ]
    print(results.write(f"risk_{args.data}", rows))
  print(results.write(f"risk_{args.data}", rows + pooled(runs, rows)))


if __name__ == "__main__":
  main()
