r"""Next-event prediction: PANTHER and its peers, one split, full ranking.

  python benchmarks/next_event.py --data=beauty --seeds=3 \
    --models=panther,sasrec,hstu,bert4rec --name=next_event_beauty

Every model and seed is a whole run of `main` with configs/MODEL.py; runs that were
interrupted go on, finished ones are read. Models behind the first have --peer-seeds
seeds. A model may carry arguments: `panther:sprm=none`. Popularity, Markov and
recency come from the first run. Writes benchmarks/results/NAME.json after every
run; with --add what is in it stays, and only what it lacks is run.
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
  """What the model is shown."""
  d, m = config.data, config.model
  parts = [d.target]
  parts += ["attributes"] if m.use_attributes else []
  parts += ["other fields"] if m.use_fields else []
  parts += ["profile"] if m.profile_as != "none" else []
  parts += ["times of the history"] if m.time_bias else []
  parts += ["time of the target"] if m.target_time else []
  parts += ["whether the target is later"] if m.tell_later else []
  return "sees " + ", ".join(parts)


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
        steps=config.train.steps,
        wall_seconds=wall,
        metrics=keep(found[name]),
      )
    )
  return out


def finished(workdir, config) -> bool:
  """Whether every evaluator has seen the last step."""
  path = workdir / "eval.json"
  steps = json.loads(path.read_text())["steps"] if path.exists() else {}
  return all(steps.get(name) == config.train.steps for name in config.evals)


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
  have = {(r["dataset"], r["model"], r["seed"], r["steps"]) for r in old}
  rows, baselines = [], any(r["model"] == "popularity" for r in old)
  for seed in range(args.seeds):
    models = args.models.split(",")
    if args.peer_seeds and seed >= args.peer_seeds:
      models = models[:1]
    for model in models:
      file, _, more = model.partition(":")
      settings = [f"data={args.data}", f"seed={seed}"]
      settings += [f"steps={args.steps}"] if args.steps else []
      settings += more.split(":") if more else []
      config = config_lib.load(f"{file}:{','.join(settings)}")
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
      print(results.write(args.name, rows, add=args.add))


if __name__ == "__main__":
  main()
