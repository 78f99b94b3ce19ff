r"""Does the what-if evaluator find a known effect, and say when it cannot?

  python benchmarks/what_if.py --trials=40 --data=data

A trial plants campaigns with a known effect in Complete Journey's histories
(benchmarks/semi_synthetic.py), assigned at random or by activity, trains a few
small models on samples of the users, and asks what the forecasts of the test
origin would be without the campaign. Writes benchmarks/results/what_if.json, a
row a trial and a row of shares for each assignment; trials that are there are
not run again.
"""

import argparse
import pathlib
import tempfile
import time

import jax
import numpy as np
import results
import semi_synthetic
from absl import logging

import data_prep
from lumos_jax import progress, recipes, startup, train
from lumos_jax import state as state_lib
from lumos_jax.data import pipeline
from lumos_jax.data import records as records_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import predict, what_if

NAME, LEVEL = "what_if", 0.9


class Trials:
  """Models that are compiled once, for all trials."""

  def __init__(self, root: str, steps: int, members: int, own_window: bool):
    """Prepares the data set where it is missing."""
    self.config = semi_synthetic.config(root, own_window)
    self.config.train.steps, self.members = steps, members
    path = data_prep.prepare(
      "complete_journey", root, quiet=True, **semi_synthetic.OPTIONS
    )
    self.records = records_lib.Records.open(path)
    self.tasks = tasks_lib.from_config(self.config.tasks)
    self._trainers: list[train.Trainer] = []
    self._predictor = None

  def run(self, assignment: str, seed: int) -> dict[str, float]:
    """Metrics of one trial."""
    planted = semi_synthetic.Planted(self.records, assignment, seed)
    if not self._trainers:
      self._build(planted)
    params = [
      self._train(trainer, planted.resampled(1000 * seed + i), seed)
      for i, trainer in enumerate(self._trainers)
    ]
    with tempfile.TemporaryDirectory() as folder:
      evaluator = what_if.WhatIf(
        self._predictor,
        planted,
        self.tasks,
        self.config.data,
        "what_if",
        folder,
        edits=[dict(op="remove", match={"type": semi_synthetic.KIND})],
        level=LEVEL,
        n_resamples=500,
      )
      found = dict(evaluator.run(params))
    return self._judged(planted, found)

  def _build(self, planted):
    graph = None
    for seed in range(self.members):
      c = self.config.copy_and_resolve_references()
      c.seed = seed
      recipe = recipes.build(c, planted, self.tasks)
      self._trainers.append(train.Trainer(c, recipe))
      graph = self._trainers[0].graph
    predict_fn = lambda params, batch: recipe.predict(
      state_lib.merge(graph, params), batch
    )
    self._predictor = predict.Predictor(predict_fn, 512)

  def _train(self, trainer, planted, seed: int):
    c = trainer.config
    iterator = pipeline.train_iterator(
      planted, c.data, self.tasks, c.train.batch_size, 10 * seed + c.seed
    )
    state = trainer.init([next(iterator) for _ in range(4)])
    step = self._trainers[0].step  # Another seed's differs in dropout alone.
    for _ in range(c.train.steps):
      state, _ = step(state, trainer.put(next(iterator)))
    return jax.tree.map(np.asarray, state_lib.eval_params(state))

  def _judged(self, planted, found) -> dict[str, float]:
    """What was found beside what is true."""
    origin = self.config.data.test_origin
    out = {
      "rate": planted.rate,
      "assignment_auc": found["assignment_auc"],
      "identified": found["identified"],
    }
    inside = lambda name, value: float(
      found[f"{name}/low"] <= value <= found[f"{name}/high"]
    )
    mask = np.concatenate(
      [
        tasks_lib.labels(self.tasks, planted.schema, r, np.asarray([origin]))[1]
        for r in planted.users
      ]
    )
    for m, t in enumerate(self.tasks):
      true = -float(planted.effect(t, origin)[mask[:, m]].mean())
      out[f"{t.name}/true"] = true
      for question in ("edited", "calibrated", "control"):
        name = f"{question}/{t.name}"
        if f"{name}/low" not in found:
          continue
        for end in ("", "/low", "/high"):
          out[name + end] = found[name + end]
        wanted = 0.0 if question == "control" else true
        out[f"{name}/inside"] = inside(name, wanted)
    return out


def summary(rows) -> list[dict]:
  """A row of means over the trials of each config and assignment."""
  out, of = [], lambda r: (r["config"], r["protocol"])
  for kind in dict.fromkeys(map(of, rows)):
    group = [r for r in rows if of(r) == kind]
    mine = [r["metrics"] for r in group]
    names = dict.fromkeys(
      n
      for m in mine
      for n in m
      if n.endswith(("/inside", "/true")) or "/" not in n
    )
    metrics = {
      n: float(np.mean([m[n] for m in mine if n in m])) for n in names
    } | {"trials": len(mine)}
    if not metrics["identified"]:  # No calibrated effect was given.
      metrics = {n: v for n, v in metrics.items() if "calibrated" not in n}
    wall = sum(r["wall_seconds"] for r in group)
    more = dict(model="all trials", seed=0, wall_seconds=wall, metrics=metrics)
    out.append(group[0] | more)
  return out


def main():
  """Runs the trials and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--trials", type=int, default=40, help="how many")
  parser.add_argument("--steps", type=int, default=150, help="of training")
  parser.add_argument(
    "--members", type=int, default=4, help="trainings a trial"
  )
  parser.add_argument(
    "--own_window",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="a task sees the calendar of its own window alone",
  )
  parser.add_argument("--data", default="data", help="data.root")
  parser.add_argument("--out", default="", help="folder of the result file")
  parser.add_argument(
    "--assignments", default="at random,by activity", help="which"
  )
  args = parser.parse_args()
  logging.set_verbosity(logging.WARNING)
  progress.quiet_libraries()
  startup.keep_compilations()
  folder = pathlib.Path(args.out) if args.out else None
  trials = Trials(args.data, args.steps, args.members, args.own_window)
  rows = [r for r in results.rows(NAME, folder) if r["model"] != "all trials"]
  for seed in range(args.trials):
    for assignment in args.assignments.split(","):
      row = dict(
        dataset="complete_journey",
        split="test",
        protocol=f"campaigns assigned {assignment}",
        model=f"LUMOS, {args.members} trainings",
        config=trials.config.name,
        seed=seed,
        steps=args.steps,
      )
      if any(all(r[k] == v for k, v in row.items()) for r in rows):
        continue
      start = time.time()
      metrics = trials.run(assignment, seed)
      wall = round(time.time() - start, 1)
      rows.append(row | dict(wall_seconds=wall, metrics=metrics))
      alike = [r for r in rows if r["protocol"] == row["protocol"]]
      results.write(NAME, [*summary(alike), rows[-1]], folder=folder, add=True)
      said = {k: round(v, 4) for k, v in metrics.items() if "/low" not in k}
      print(f"{assignment} {seed}: {wall} s {said}", flush=True)


if __name__ == "__main__":
  main()
