r"""Cost of training per origin: 28 origins of a causal pass against one.

  python benchmarks/origins.py [--sizes=tiny,base] [--rounds=7] [--root=data]

Train steps of LUMOS on days of Complete Journey, the same users a batch, 364 days
of history and 28 of known future. One origin a pass has the paper's bidirectional
encoder, 28 have a causal one; else both are the same model, in two forms:
configs/pretrain.py (a token is a week, habits, eight members) and the paper's,
configs/paper.py (a token is a day). Steps of both take turns. Beside wall seconds
stand processor seconds, steadier on a busy machine, and the operations of a
step's matrix products, which no machine changes. Compiling takes longer than the
steps. Writes benchmarks/results/origins.json.
"""

import argparse
import pathlib
import statistics
import sys
import time

import jax

# Run as a script, Python puts benchmarks/ on the path, not the root.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import data_prep  # noqa: E402
from benchmarks import results  # noqa: E402
from lumos_jax import config as config_lib  # noqa: E402
from lumos_jax import recipes, train  # noqa: E402
from lumos_jax.data import records as records_lib  # noqa: E402
from lumos_jax.data import tasks as tasks_lib  # noqa: E402
from lumos_jax.preflight import flops  # noqa: E402

HISTORY_DAYS, ORIGINS = 364, 28
FORMS = {"token a week": "pretrain", "token a day": "paper"}


class Steps:
  """Takes steps of one model on one batch and tells seconds."""

  def __init__(self, records, form, size: str, origins: int, users: int):
    c = config_lib.load(f"{FORMS[form]}:size={size}")
    with c.unlocked():
      d = c.data
      d.history_days = d.eval_history_days = HISTORY_DAYS
      d.origins_per_example, d.origin_stride_days = origins, 7
      d.read_threads = 0  # Nothing reads while others take their turn.
      c.model.causal = origins > 1
      c.train.batch_size = users
    tasks = tasks_lib.from_config(c.tasks)
    recipe = recipes.build(c, records, tasks)
    batch = next(recipe.inputs.train_iterator(records, d, tasks, users, 0))
    trainer = train.Trainer(c, recipe)
    self._state, self._batch = trainer.init([batch]), trainer.put(batch)
    self._step = trainer.step
    # Compiler options keep a jitted function from being traced once more.
    bare = self._step.__wrapped__
    self.operations = flops.count(bare, self._state, self._batch)

  def __call__(self, count: int) -> tuple[float, float]:
    """Seconds of a step, and processor seconds of all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
      self._state, metrics = self._step(self._state, self._batch)
    jax.block_until_ready(metrics)
    seconds = time.perf_counter() - start, time.process_time() - cpu
    return seconds[0] / count, seconds[1] / count


def compare(records, form: str, size: str, args) -> list[dict]:
  """Rows of one model: with one origin a pass, and with many."""
  steps = {
    o: Steps(records, form, size, o, args.users) for o in (1, args.origins)
  }
  seconds = {o: [] for o in steps}
  for take in steps.values():
    take(1)
  for i in range(args.rounds):
    for o in sorted(steps, reverse=i % 2):
      seconds[o].append(steps[o](args.steps))
  rows = []
  for o, found in seconds.items():
    wall, cpu = (
      statistics.median(o * one[i] / s[i] for one, s in zip(seconds[1], found))
      for i in range(2)
    )
    metrics = {
      "seconds_per_step": statistics.median(s[0] for s in found),
      "times_cheaper_per_origin": wall,
      "times_cheaper_by_cpu": cpu,
      "times_fewer_operations": o * steps[1].operations / steps[o].operations,
    }
    print(form, size, o, {k: round(v, 3) for k, v in metrics.items()})
    rows.append(
      dict(
        dataset="complete_journey",
        protocol=f"train steps in turns, {args.users} users a batch",
        model=f"{size}, a {form}",
        config=f"{o} origins, causal" if o > 1 else "1 origin, bidirectional",
        steps=args.rounds * args.steps,
        wall_seconds=args.steps * sum(s[0] for s in found),
        metrics=metrics,
      )
    )
  return rows


def main():
  """Times all and writes the result."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument(
    "--sizes", default="tiny,base", help="of the model, with commas"
  )
  parser.add_argument(
    "--origins", type=int, default=ORIGINS, help="of a causal pass"
  )
  parser.add_argument("--users", type=int, default=32, help="a batch")
  parser.add_argument("--rounds", type=int, default=7, help="turns of each")
  parser.add_argument("--steps", type=int, default=2, help="of a round")
  parser.add_argument("--root", default="data", help="of the data set")
  args = parser.parse_args()
  path = data_prep.prepare("complete_journey", args.root, quiet=True)
  records = records_lib.Records.open(path)
  rows = []
  for size in args.sizes.split(","):
    for form in FORMS:
      rows += compare(records, form, size, args)
  print(results.write("origins", rows))


if __name__ == "__main__":
  main()
