r"""The gain of LUMOS over its baselines as the number of users grows.

  python benchmarks/users_curve.py --users=2500,10000,40000,100000 --seeds=1 \
    --members=2 --workdir=runs/users_curve

Each size is a generated world (data_prep/generate.py) whose campaigns truly lift
visits; a larger world begins with the users of the smaller one. Training steps
grow with the square root of the users, from the world's config at 2,500.
Baselines have as many members as the model (--members: of all sizes alike, as
trees of 50,000 users take long); other settings are the config's. Beside them
"truth" forecasts with each user's true probabilities and means, given the state
of the origin's morning, which no model sees: no model can rank better. (Of
amounts it has no median, so its absolute error is no floor.)

Boosted baselines' members take turns at the origins (evaluators/tabular.py):
with fewer members than turns, here four, some origins train none of them. And
baselines train on the last 28 weekly origins. --members=4 --origins=41 gives them
all weeks that the model trains on, and the model as many members:

  python benchmarks/users_curve.py --users=2500 --seeds=1 --members=4 \
    --origins=41 --workdir=runs/users_curve_all --name=users_curve_all

Writes benchmarks/results/NAME.json: a row a size, model and seed; the size stands
in `dataset` as world_USERS. Finished sizes and seeds are read, an interrupted one
goes on.
"""

import argparse
import math
import pathlib

import forecast
import numpy as np
import polars as pl
import results
from absl import logging
from lumos_jax.data_prep import generate

from lumos_jax import config as config_lib
from lumos_jax import main as main_lib
from lumos_jax import progress
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import metrics, predict
from lumos_jax.presets import lumos

_BASE_USERS = 2_500
_KEPT = (
  "validation",
  "forecast",
  "baseline_lightgbm",
  "baseline_linear",
  "baseline_calendar",
  "baseline_best",
  "baseline_stack",
  "stack",
)


def world(root: pathlib.Path, users: int) -> pathlib.Path:
  """A world's folder, generated unless it is there."""
  out = root / f"world_{users}"
  if not (out / "truth.json").exists():
    generate.generate(users, str(out), overwrite=out.exists())
  return out


def config_of(
  folder: pathlib.Path, users: int, seed: int, members: int, origins: int
):
  """The world's own config, with steps for so many users.

  `members` is of the model and of the baselines, `origins` of the latter; 0 for
  the config's.
  """
  steps = round(600 * math.sqrt(users / _BASE_USERS))
  config = config_lib.load(
    f"{folder / 'world_config.py'}:seed={seed},steps={steps}"
  )
  with config.unlocked():
    config.name = f"world_{users}"
    config.evals.validation.every_steps = 0
    m = config.model
    share = m.state_members / m.members  # That see no habits.
    m.members = members or m.members
    m.state_members = round(share * m.members)
    for name in list(config.evals):
      if name not in _KEPT:
        del config.evals[name]
      elif origins and name in lumos.TABULAR:
        config.evals[name].n_origins = origins
  return config


def truth_row(config, workdir: pathlib.Path, folder: pathlib.Path) -> dict:
  """Metrics of the true probabilities on the test users of a finished run."""
  found = predict.Predictions.load(workdir / "predictions" / "forecast.npz")
  true = pl.read_parquet(folder / "truth" / "*.parquet").filter(
    pl.col("origin") == config.data.test_origin
  )
  keys = predict.hash_keys(true["key"].to_list())
  order = np.argsort(keys, kind="stable")
  at = np.searchsorted(keys[order], found.key)
  at = order[np.minimum(at, len(order) - 1)]
  if not (keys[at] == found.key).all():
    raise ValueError(f"{folder}/truth lacks users of {workdir}/predictions")
  tasks = tasks_lib.from_config(config.tasks)
  p = {t.name: true[t.name].to_numpy()[at].astype(np.float32) for t in tasks}
  values = metrics.of_tasks(tasks, found.y, found.mask, p)
  return {k: float(v) for k, v in values.items() if np.isfinite(v)}


def main():
  """Runs the sizes, smallest first, and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--users", default="2500,10000,40000,100000", help="sizes, with commas")
  add("--seeds", type=int, default=1, help="of model and baselines")
  add("--members", type=int, default=0, help="of both; 0: as the config has")
  add("--origins", type=int, default=0, help="of baselines; 0: the config's")
  add("--name", default="users_curve", help="of the result file")
  add("--workdir", default="runs/users_curve", help="worlds and runs")
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  progress.quiet_libraries()
  root, rows = pathlib.Path(args.workdir), []
  for users in sorted(int(n) for n in args.users.split(",")):
    folder = world(root, users)
    place = dict(dataset=f"world_{users}", config="world")
    runs = []
    for seed in range(args.seeds):
      config = config_of(folder, users, seed, args.members, args.origins)
      workdir = root / f"run_{users}_seed{seed}"
      main_lib.run(config, workdir)
      mine = forecast.rows_of(config, workdir, workdir, seed)
      told = truth_row(config, workdir, folder)
      mine.append({**mine[0], "model": "truth", "steps": 0, "metrics": told})
      runs.append((config, workdir, config.data.test_origin, seed))
      rows += [{**r, **place} for r in mine]
    pooled = forecast.pooled_rows(runs)
    rows += [{**r, **place} for r in pooled]
    print(results.write(args.name, rows, add=True))


if __name__ == "__main__":
  main()
