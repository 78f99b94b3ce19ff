r"""What vectors of sessions know of their outcome, beside counts of pages.

  LUMOS_WIKISPEEDIA_DIR=DIR python benchmarks/intent.py --seeds=3 --steps=700
  LUMOS_OULAD_DIR=DIR python benchmarks/intent.py --data=oulad_clicks --seeds=3 \
    --steps=300 --name=intent_oulad

Wikispeedia: will a path reach its target? Its first four pages say, of paths that
have more. OULAD: is something handed in within 7 days of a student's day, and which
kind of page leads on the next one? --forms are arguments of configs/intent.py,
joined by ":"; an encoder's name alone is texts=NAME, and what has a point is a key of
the config. --ablate adds the forms of ABLATIONS to each. Every form and seed is a whole
run of `main`; runs that were interrupted go on, finished ones are read. Features are
compared on the same test sessions: counts of pages, the mean of titles' vectors, the
session's vector, and counts with it. Differences to counts are means over the seeds,
with a paired bootstrap over the test sessions. Writes benchmarks/results/NAME.json
after every run.
"""

import argparse
import pathlib

import numpy as np
import results
from absl import logging

from lumos_jax import config as config_lib
from lumos_jax import evaluate, metric_writer
from lumos_jax import main as main_lib
from lumos_jax.evaluators import bootstrap, metrics, tiles

# Data whose clicks are in order within a session; of others none is the last.
ORDERED = ("wikispeedia",)
ENCODERS = ("none", "words", "minilm")
# One change each: what attends to what, the objective, pooling, inputs left out.
ABLATIONS = (
  "causal",
  "contrastive=0.1",
  "objective.session_weight=0",
  "model.pool=max",
  "model.pool=last",
  "model.without=page",
  "model.without=text",
)
_DRAWS = 1000  # Of the bootstrap.
_PAGE = ("hit_rate@1", "hit_rate@10", "ndcg@10", "mrr")


def make_config(form: str, args, seed: int):
  """The config of a form, for one seed."""
  parts = [f"texts={p}" if p in ENCODERS else p for p in form.split(":")]
  keys = dict(p.split("=") for p in parts if "." in p.partition("=")[0])
  parts = [p for p in parts if "." not in p.partition("=")[0]]
  parts += [f"data={args.data}", f"steps={args.steps}", f"seed={seed}"]
  c = config_lib.load("intent:" + ",".join(parts))
  with c.unlocked():
    c.data.root, c.report = args.root, False
    for key, value in keys.items():
      owner, name = key.split(".")
      old = c[owner][name]
      c[owner][name] = (value,) if old == () else type(old)(value)
    for name in asked(c):
      c.evals[name].models = tuple(args.models.split(","))
      c.evals[name].seed = seed
    del c.evals.validation
    if args.data not in ORDERED:
      del c.evals.next_page
    if args.ablate and "intent" in c.evals:
      del c.evals.intent
  return c


def folder(form: str, seed: int) -> str:
  """Name of a run's folder."""
  return f"{form.replace(':', '_').replace('=', '_')}_{seed}"


def asked(config) -> list[str]:
  """Names of the evaluators that fit a classifier on vectors."""
  kinds = ("conversion", "tiles")
  return [k for k, v in config.evals.items() if v.type in kinds]


def protocol(config, name: str, found) -> str:
  """What is asked of whom, in words."""
  e = config.evals[name]
  clicks, count = e.get("clicks", 0), f"{int(found['sessions']):,} sessions"
  seen = f"the first {clicks} pages of {count} with more"
  seen = seen if clicks else f"all of {count}"
  others = f"{int(found['training_sessions']):,} others fit the classifier"
  return f"{e.label}, from {seen}; {others}"


def rows_of(form: str, seed: int, config, found, seconds: float):
  """A row for each question and each kind of features."""
  shared = dict(
    dataset=config.data.source,
    split="test",
    config=form,
    seed=seed,
    steps=config.train.steps,
    wall_seconds=seconds,
  )
  rows = []
  for name in asked(config):
    told = dict(shared, protocol=protocol(config, name, found[name]))
    for model in config.evals[name].models:
      kept: dict[str, dict[str, float]] = {}
      for key, value in found[name].items():
        features, _, rest = key.partition("/")
        classifier, _, metric = rest.partition("/")
        if classifier == model and "_vs_" not in features:
          kept.setdefault(features, {})[metric] = value
      for features, values in kept.items():
        rows.append(dict(told, model=f"{features} ({model})", metrics=values))
  if config.data.source in ORDERED:
    page = found["next_page"]
    rows.append(
      dict(
        shared,
        model="session encoder",
        protocol="the last page of a session, ranked among all pages",
        metrics={m: page[m] for m in _PAGE},
      )
    )
  return rows


def statistics_of(kind: str, y, p):
  """{metric: weights -> values} of outcomes and probabilities."""
  if kind == "tiles":
    found = tiles.statistics(y, p)
    return {k: found[k] for k in ("macro_recall@1", "log_loss", "ndcg")}
  p = p[:, 1] if p.ndim == 2 else p
  return {"auc": metrics.statistic("auc", y * 1.0, p, np.ones(len(y), bool))}


def read_runs(workdirs, name: str):
  """Saved scores of each run; all must be of the same sessions."""
  runs = []
  for workdir in workdirs:
    with np.load(workdir / "predictions" / f"{name}.npz") as z:
      runs.append({k: z[k] for k in z.files})
  if any((f["key"] != runs[0]["key"]).any() for f in runs):
    raise SystemExit(f"{name}: the runs have not scored the same sessions")
  return runs


def differences(form: str, workdirs, config, found):
  """Rows of each kind of features less counts, the mean over all seeds."""
  rows = []
  for name in asked(config):
    runs = read_runs(workdirs, name)
    many = f"mean of {len(runs)} seeds"
    y, e = runs[0]["outcome"], config.evals[name]
    one = np.ones((1, len(y)))
    draws = list(bootstrap.draws(len(y), _DRAWS, 0))
    of = lambda features, e=e, runs=runs, y=y: [
      statistics_of(e.type, y, f[features]) for f in runs
    ]
    for model in e.models:
      counts = of(f"counts_{model}")
      for features in ("embedding", "both", "text"):
        if f"{features}_{model}" not in runs[0]:
          continue
        mine, values = of(f"{features}_{model}"), {}
        for m in mine[0]:
          pairs = [(a[m], b[m]) for a, b in zip(mine, counts, strict=True)]
          gap = lambda w, pairs=pairs: np.mean(
            [a(w) - b(w) for a, b in pairs], 0
          )
          drawn = np.concatenate([gap(w) for w in draws])
          low, high = np.quantile(drawn, (0.025, 0.975))
          ends = dict(difference=gap(one)[0], low=low, high=high)
          values |= {f"{m}/{k}": v for k, v in ends.items()}
        rows.append(
          dict(
            dataset=config.data.source,
            split="test",
            protocol=f"{protocol(config, name, found[name])}; {many}",
            config=form,
            steps=config.train.steps,
            model=f"{features} less counts ({model})",
            metrics=values,
          )
        )
  return rows


def main():
  """Runs what is missing and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--data", default="wikispeedia", help="or oulad_clicks")
  add("--forms", default="words", help="separated by commas")
  add("--ablate", action="store_true", help="one change at a time")
  add("--seeds", type=int, default=3)
  add("--steps", type=int, default=700)
  add("--models", default="logistic", help="logistic, lightgbm")
  add("--out", default="runs/intent_table", help="of the runs")
  add("--root", default="data", help="of prepared data")
  add("--name", default="intent", help="of the result file")
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  rows = []
  forms = args.forms.split(",")
  if args.ablate:
    forms = [x for f in forms for x in (f, *(f"{f}:{a}" for a in ABLATIONS))]
  for form in forms:
    done = []
    for seed in range(args.seeds):
      config = make_config(form, args, seed)
      workdir = pathlib.Path(args.out) / folder(form, seed)
      found = evaluate.read(workdir)
      if not set(config.evals) <= set(found):
        main_lib.run(config, str(workdir))
      found = evaluate.read(workdir)
      lines = metric_writer.read(workdir)
      seconds = max((x.get("elapsed", 0.0) for x in lines), default=0.0)
      rows += rows_of(form, seed, config, found, seconds)
      done.append(workdir)
      results.write(args.name, rows)
    rows += differences(form, done, config, found)
    print(results.write(args.name, rows))


if __name__ == "__main__":
  main()
