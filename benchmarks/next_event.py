r"""Next-event prediction: PANTHER and its peers, one split, full ranking.

  python benchmarks/next_event.py --data=beauty --seeds=3 \
    --models=panther,sasrec,hstu,bert4rec --name=next_event_beauty

Every model and seed is a whole run of `main` with configs/MODEL.py; runs that were
interrupted go on, finished ones are read. Models behind the first have --peer-seeds
seeds. A model may carry arguments, of its config file or config keys:
`panther:sprm=none:model.norm=post`; --grid makes a matched table of them, --set is
for all models:

  python benchmarks/next_event.py --data=movielens --seeds=3 --steps=8000 \
    --models=panther:ids --name=next_event_matched_movielens --grid="width=96,192 \
    cosine=on,off sprm=none,paper,bsarec,tvrec profile=none,position"
  python benchmarks/next_event.py --data=beauty --models=panther:ids --seeds=3 \
    --grid="width=64,96 cosine=on,off sprm=none,paper,bsarec,tvrec" \
    --set="train.best.metric=validation/ndcg@10 train.patience=10 \
    train.evaluate_best=True evals.validation.every_steps=250 \
    objective.loss=softmax" --steps=20000 --name=next_event_matched_beauty

Popularity, Markov and recency come from the first run. Rows say what a model is
shown, its kind first (ids, attributes, profile, times): only rows of one kind are
compared. All models of a table must have ranked the same number of users. Writes
benchmarks/results/NAME.json after every run; with --add what is in it stays, and
only what it lacks is run.
"""

import argparse
import ast
import itertools
import json
import pathlib
import time
from collections.abc import Sequence

import results
from absl import logging

from lumos_jax import config as config_lib
from lumos_jax import main as main_lib
from lumos_jax import metric_writer, progress


def dataset_of(config) -> str:
  """Name of the data set in result rows."""
  return config.data.options.get("name", config.data.source)


def protocol(config) -> str:
  """What was held out and ranked, in words."""
  d = config.data
  if d.holdout == "last":
    text = "leave-one-out: last event test, the one before validation"
  else:
    text = (
      f"first event from day {d.test_origin} on; trained up to day "
      f"{d.train_origin_last}"
    )
  text += f"; all values of {d.target} ranked, "
  return text + (
    "those of the history left out" if d.filter_seen else "all compete"
  )


def sees(config) -> str:
  """What the model is shown; before the colon, with what it may be compared."""
  d, m = config.data, config.model
  parts, kind = [d.target], "ids"
  if m.use_attributes:
    parts, kind = [*parts, "attributes"], "attributes"
  if m.profile_as != "none":
    parts, kind = [*parts, "profile"], "profile"
  # Other fields may be clocks and gaps.
  times = {
    "other fields": m.use_fields,
    "times of the history": m.time_bias,
    "time of the target": m.target_time,
    "whether the target is later": m.tell_later,
  }
  shown = [name for name, given in times.items() if given]
  return f"{'times' if shown else kind}: sees {', '.join(parts + shown)}"


def expand(models: Sequence[str], grid: str) -> list[str]:
  """Each model with every combination of a grid's values, in order.

  Args:
    models: "panther:ids" or the like.
    grid: "width=96,192 sprm=none,paper", "" for none.

  Raises:
    ValueError: An axis has no value.
  """
  axes = []
  for axis in grid.split():
    name, _, values = axis.partition("=")
    if not values:
      raise ValueError(f"--grid: {axis!r} is not of the form NAME=VALUE,VALUE")
    axes.append([f"{name}={v}" for v in values.split(",")])
  return [":".join((m, *v)) for m in models for v in itertools.product(*axes)]


def override(config, settings: Sequence[str]) -> None:
  """Sets config keys of "KEY=VALUE", as --config.KEY=VALUE of main does."""
  with config.unlocked():
    for part in settings:
      key, _, text = part.partition("=")
      config_lib.check_key(config, key)
      try:
        value = ast.literal_eval(text)
      except (ValueError, SyntaxError):
        value = text
      config.update_from_flattened_dict({key: value})


def check_users(rows) -> None:
  """Raises ValueError where models of a split ranked different users."""
  found = {}
  for r in rows:
    if "users" in r["metrics"]:
      place = found.setdefault((r["dataset"], r["protocol"], r["split"]), {})
      place.setdefault(r["metrics"]["users"], r["model"])
  for where, counts in found.items():
    if len(counts) > 1:
      said = ", ".join(f"{m}: {int(n):,}" for n, m in counts.items())
      raise ValueError(
        f"{' '.join(where)}: models ranked different users ({said}), so their "
        "rows cannot be compared; with a start token every user is ranked"
      )


def rows_of(config, label, workdir, seed):
  """Result rows of one finished run."""
  found = json.loads((workdir / "eval.json").read_text())
  lines = metric_writer.read(workdir)
  wall = max((x.get("elapsed", 0.0) for x in lines), default=0.0)
  common = dict(dataset=dataset_of(config))
  common |= dict(protocol=protocol(config), seed=seed)
  keep = lambda d: {k: v for k, v in d.items() if v is not None}
  out = []
  for name, kw in config.evals.items():
    if kw["type"] == "baseline_next_event":
      if not seed:
        baselines = {}
        for k, v in keep(found[name]).items():
          model, _, metric = k.partition("/")
          baselines.setdefault(model, {})[metric] = v
        out += [
          dict(**common, split="test", model=k, metrics=v)
          for k, v in baselines.items()
        ]
      continue
    out.append(
      dict(
        **common,
        split=kw.get("split", "test"),
        model=label if kw["type"] == "next_event" else f"{label} {name}",
        config=sees(config),
        steps=found["steps"][name],
        trained_steps=config.train.steps,  # More, if the best was tested.
        wall_seconds=wall,
        metrics=keep(found[name]),
      )
    )
  return out


def known(rows) -> set[tuple]:
  """What rows are of: data set, model, seed and steps of training."""
  fields = ("dataset", "model", "seed")
  return {
    (*(r[f] for f in fields), r.get("trained_steps", r["steps"])) for r in rows
  }


def finished(workdir, config) -> bool:
  """Whether every evaluator has seen the last step, or the best of them."""
  path = workdir / "eval.json"
  steps = json.loads(path.read_text())["steps"] if path.exists() else {}
  if not all(name in steps for name in config.evals):
    return False
  if config.train.best.metric and config.train.steps == _trained_to(workdir):
    return True
  return all(steps[name] == config.train.steps for name in config.evals)


def _trained_to(workdir) -> int:
  return json.loads((workdir / "config.json").read_text())["train"]["steps"]


def main():
  """Runs models and seeds and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument(
    "--data", default="complete_journey", help="data= of the configs"
  )
  parser.add_argument(
    "--models",
    default="panther,sasrec,hstu,bert4rec",
    help="files of configs/, with commas; MODEL:ARGUMENTS too",
  )
  parser.add_argument("--grid", default="", help="NAME=VALUE,VALUE of models")
  parser.add_argument("--set", default="", help="KEY=VALUE of all configs")
  parser.add_argument("--seeds", type=int, default=3, help="how many")
  parser.add_argument("--peer-seeds", type=int, default=0, help="0: as many")
  parser.add_argument("--steps", type=int, default=0, help="0: the config's")
  parser.add_argument("--name", required=True, help="of the result file")
  parser.add_argument(
    "--workdir", default="runs/next_event", help="of all runs"
  )
  parser.add_argument("--root", default="", help="data.root, if another")
  parser.add_argument("--add", action="store_true", help="to NAME.json")
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  progress.quiet_libraries()
  old = results.rows(args.name) if args.add else []
  have = known(old)
  rows, baselines = [], any(r["model"] == "popularity" for r in old)
  for seed in range(args.seeds):
    models = expand(args.models.split(","), args.grid)
    if args.peer_seeds and seed >= args.peer_seeds:
      models = models[:1]
    for model in models:
      file, _, more = model.partition(":")
      settings = [f"data={args.data}", f"seed={seed}"]
      settings += [f"steps={args.steps}"] if args.steps else []
      keys = [x for x in more.split(":") if "." in x.partition("=")[0]]
      settings += [x for x in more.split(":") if x and x not in keys]
      config = config_lib.load(f"{file}:{','.join(settings)}")
      override(config, args.set.split() + keys)
      with config.unlocked():
        config.data.root = args.root or config.data.root
        config.report = False
        if baselines:  # They do not depend on model or seed.
          del config.evals.baseline_next_event
      label = model.replace(":", " ")
      if (dataset_of(config), label, seed, config.train.steps) in have:
        logging.info("%s, seed %d: in %s", label, seed, args.name)
        continue
      baselines = True
      name = f"{config.name}_{more}_seed{seed}".replace(":", "_")
      workdir = pathlib.Path(args.workdir) / name
      start = time.time()
      if not finished(workdir, config):
        main_lib.run(config, workdir)
      logging.info("%s, seed %d: %.0f s", label, seed, time.time() - start)
      rows += rows_of(config, label, workdir, seed)
      check_users(old + rows)
      print(results.write(args.name, rows, add=args.add))


if __name__ == "__main__":
  main()
