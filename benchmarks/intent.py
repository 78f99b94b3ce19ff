r"""What vectors of sessions know of their outcome: conversion on Wikispeedia.

  LUMOS_WIKISPEEDIA_DIR=DIR python benchmarks/intent.py --seeds=3 --steps=1000 \
    [--forms=words,words:causal] [--out=runs/intent_table] [--name=intent]

Will a path reach its target? Its first four pages say, of paths that have more. A
form is arguments of configs/intent.py, joined by ":"; an encoder's name alone is
texts=NAME. Every form and seed is a whole run of `main`; runs that were interrupted
go on, finished ones are read. Features are compared on the same test paths: counts
of pages, titles' vectors in the mean, the session's vector, and counts with it.
Differences to counts are means over the seeds, with a paired bootstrap over the test
paths. Writes benchmarks/results/NAME.json after every run.
"""

import argparse
import pathlib

import numpy as np
import results
from absl import logging

from lumos_jax import config as config_lib
from lumos_jax import evaluate, metric_writer
from lumos_jax import main as main_lib
from lumos_jax.evaluators import bootstrap, metrics

ENCODERS = ("none", "words", "minilm")
_DRAWS = 1000  # Of the bootstrap.
_PER_FEATURE = ("auc", "log_loss", "micro_f1", "macro_f1")


def make_config(form: str, args, seed: int):
  """The config of a form, for one seed."""
  parts = [f"texts={p}" if p in ENCODERS else p for p in form.split(":")]
  c = config_lib.load(
    "intent:" + ",".join([*parts, f"steps={args.steps}", f"seed={seed}"])
  )
  with c.unlocked():
    c.data.root, c.report = args.root, False
    c.evals.conversion.models = tuple(args.models.split(","))
    c.evals.conversion.seed = seed
    del c.evals.validation
  return c


def rows_of(form: str, seed: int, config, found, seconds: float):
  """A row for each kind of features."""
  conversion, page = found["conversion"], found["next_page"]
  shared = dict(
    dataset="wikispeedia",
    split="test",
    protocol=(
      f"finished or given up, from the first {config.evals.conversion.clicks} "
      f"pages of {int(conversion['sessions']):,} paths with more; "
      f"{int(conversion['training_sessions']):,} others fit the classifier"
    ),
    config=form,
    seed=seed,
    steps=config.train.steps,
    wall_seconds=seconds,
  )
  rows = []
  for model in config.evals.conversion.models:
    features = {k.split("/")[0] for k in conversion if f"/{model}/auc" in k}
    for name in sorted(f for f in features if "_vs_" not in f):
      values = {m: conversion[f"{name}/{model}/{m}"] for m in _PER_FEATURE}
      rows.append(dict(shared, model=f"{name}, {model}", metrics=values))
  told = ("hit_rate@1", "hit_rate@10", "ndcg@10", "mrr")
  rows.append(
    dict(
      shared,
      model="session encoder",
      protocol="the last page of a path, ranked among all pages",
      metrics={m: page[m] for m in told},
    )
  )
  return rows


def differences(form: str, workdirs, config, shared):
  """A row for each kind of features: AUC less that of counts, over all seeds."""
  found = []
  for workdir in workdirs:
    with np.load(workdir / "predictions" / "conversion.npz") as z:
      found.append({k: z[k] for k in z.files})
  y = found[0]["outcome"]
  if any((f["key"] != found[0]["key"]).any() for f in found):
    raise SystemExit(f"runs of {form} have not scored the same paths")
  known, one = np.ones(len(y), bool), np.ones((1, len(y)))
  flat = lambda p: p[:, 1] if p.ndim == 2 else p
  auc = lambda p: metrics.statistic("auc", y * 1.0, flat(p), known)
  rows = []
  for model in config.evals.conversion.models:
    for name in ("embedding", "both", "text"):
      pairs = [
        (auc(f[f"{name}_{model}"]), auc(f[f"counts_{model}"]))
        for f in found
        if f"{name}_{model}" in f
      ]
      if not pairs:
        continue
      gap = lambda w, pairs=pairs: np.mean([a(w) - b(w) for a, b in pairs], 0)
      drawn = [gap(w) for w in bootstrap.draws(len(y), _DRAWS, 0)]
      low, high = np.quantile(np.concatenate(drawn), (0.025, 0.975))
      values = dict(difference=gap(one)[0], low=low, high=high)
      values = {f"auc_against_counts/{k}": v for k, v in values.items()}
      model_name = f"{name} against counts, {model}, mean of {len(pairs)} seeds"
      rows.append(dict(shared, model=model_name, metrics=values))
  return rows


def main():
  """Runs what is missing and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--forms", default="words", help="separated by commas")
  add("--seeds", type=int, default=3)
  add("--steps", type=int, default=1000)
  add("--models", default="logistic", help="logistic, lightgbm")
  add("--out", default="runs/intent_table", help="of the runs")
  add("--root", default="data", help="of prepared data")
  add("--name", default="intent", help="of the result file")
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  rows = []
  for form in args.forms.split(","):
    done = []
    for seed in range(args.seeds):
      config = make_config(form, args, seed)
      folder = f"{form.replace(':', '_').replace('=', '_')}_{seed}"
      workdir = pathlib.Path(args.out) / folder
      found = evaluate.read(workdir)
      if not {"conversion", "next_page"} <= set(found):
        main_lib.run(config, str(workdir))
      lines = metric_writer.read(workdir)
      seconds = max((x.get("elapsed", 0.0) for x in lines), default=0.0)
      found = evaluate.read(workdir)
      rows += rows_of(form, seed, config, found, seconds)
      done.append(workdir)
      results.write(args.name, rows)
    shared = {
      k: rows[-2][k] for k in ("dataset", "split", "protocol", "config")
    }
    shared |= dict(steps=args.steps)
    rows += differences(form, done, config, shared)
    print(results.write(args.name, rows))


if __name__ == "__main__":
  main()
