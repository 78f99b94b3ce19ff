r"""How many sessions a second encoder and student take, in batches or one at a time.

  python benchmarks/intent_student.py [--width=64 --hidden=128 --labels=35]

The session encoder, --size of configs/intent.py with random weights, reads generated
sessions of --pages pages and text vectors, as `lumos sessions` reads them in batches.

Fits a student to generated vectors (its speed does not depend on what it has
learned), and times confidences of batches of 8,192, labels of 100,000 sessions as
`lumos intents` makes them for a Parquet file, and single sessions, each the best of
`--rounds` rounds and their median. Writes benchmarks/results/intent_student.json.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time
import types

import numpy as np
import results
from flax import nnx

from lumos_jax import config as config_lib
from lumos_jax import recipes
from lumos_jax import state as state_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import sessions
from lumos_jax.evaluators import predict
from lumos_jax.intents import batch, distill, taxonomy


def timed(fn, rounds: int) -> tuple[float, float]:
  """Best and median seconds of a call, after one that is not counted."""
  fn()
  found = []
  for _ in range(rounds):
    begin = time.perf_counter()
    fn()
    found.append(time.perf_counter() - begin)
  return min(found), float(np.median(found))


def encoder_row(args):
  """A result row of the session encoder's speed."""
  begin = time.monotonic()
  config = config_lib.load(f"intent:size={args.size}")
  pages = tuple(f"page{i}" for i in range(args.pages))
  schema = schema_lib.Schema(
    name="generated",
    activity=(schema_lib.Categorical("page", values=pages),),
    rows="event",
  )
  known = types.SimpleNamespace(schema=schema, path=None)
  recipe = recipes.build(config, known, ())
  module = recipe.init(nnx.Rngs(params=0))
  graph, params = state_lib.split(module)
  run = predict.Predictor(
    lambda params, batch: recipe.embed(state_lib.merge(graph, params), batch),
    config.eval_batch_size,
  )
  params, rng = run.place(params), np.random.default_rng(0)
  length = 1 + rng.geometric(1 / (args.clicks - 1), args.encoded)
  found = [session(rng, i, n, args.pages) for i, n in enumerate(length)]

  def embedded():
    groups = sessions.groups([found], run.batch_size)
    batches = sessions.batches_of(
      schema, config.data, groups, run.batch_size, short=True
    )
    for _ in run.stream(params, batches):
      pass

  best, median = timed(embedded, args.rounds)
  print(f"encoder             {len(found) / best:12,.0f} sessions/s at best")
  return dict(
    dataset=f"{len(found):,} generated sessions of {length.mean():.1f} clicks",
    protocol=f"best and median of {args.rounds} rounds",
    model=f"session encoder, {args.size}",
    wall_seconds=time.monotonic() - begin,
    metrics={
      "batches/sessions_a_second": len(found) / best,
      "batches/sessions_a_second_median": len(found) / median,
      "cores": float(len(os.sched_getaffinity(0))),
      "load_average": os.getloadavg()[0],
    },
  )


def session(rng, i: int, clicks: int, pages: int):
  """A record of a session."""
  steps = np.arange(clicks)
  return {
    "key": f"session{i}",
    "day": np.zeros(clicks, np.int32),
    "time": steps * 60_000_000,
    "categorical": rng.integers(2, pages + 2, (clicks, 1)).astype(np.int32),
    "numeric": np.zeros((clicks, 0), np.float32),
  }


def main():
  """Times both and writes the file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--width", type=int, default=64, help="of a session's vector")
  add("--hidden", type=int, default=128, help="of the student")
  add("--labels", type=int, default=35, help="of the taxonomy")
  add("--sessions", type=int, default=100_000, help="labelled in a round")
  add("--size", default="small", help="of the encoder: tiny, small, large")
  add("--pages", type=int, default=4600, help="of the encoder's vocabulary")
  add("--clicks", type=int, default=6, help="of a session, on average")
  add("--encoded", type=int, default=4096, help="sessions encoded in a round")
  add("--rounds", type=int, default=7, help="of each measurement")
  args = parser.parse_args()
  begin = time.monotonic()
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(args.sessions, args.width)).astype(np.float32)
  centers = rng.normal(size=(args.width, args.labels)).astype(np.float32)
  z = vectors[:4000] @ centers
  soft = np.exp(z - z.max(1, keepdims=True))
  soft = (soft / soft.sum(1, keepdims=True)).astype(np.float32)
  labels = [
    taxonomy.Label(f"i{n:02d}", f"label {n}", "") for n in range(args.labels)
  ]
  made, _ = distill.fit(
    vectors[:4000], soft, labels, hidden=args.hidden, rounds=20
  )

  def confidences():
    for i in range(0, len(vectors), 8192):
      p = made.confidences(vectors[i : i + 8192])
      made.chosen(p)

  keys = [f"session{i}" for i in range(len(vectors))]
  file = pathlib.Path(tempfile.mkdtemp()) / "part.parquet"

  def written():
    batch.label(made, keys, vectors).write_parquet(file)

  def one_by_one():
    for i in range(1000):
      p = made.confidences(vectors[i : i + 1])
      made.chosen(p)

  metrics = {"cores": float(len(os.sched_getaffinity(0)))}
  for name, fn, count in (
    ("batches", confidences, len(vectors)),
    ("labels_to_parquet", written, len(vectors)),
  ):
    best, median = timed(fn, args.rounds)
    metrics[f"{name}/sessions_a_second"] = count / best
    metrics[f"{name}/sessions_a_second_median"] = count / median
    print(
      f"{name:20s}{count / best:12,.0f} sessions/s at best", file=sys.stderr
    )
  best, median = timed(one_by_one, args.rounds)
  metrics["one_session/microseconds"] = best / 1000 * 1e6
  metrics["one_session/microseconds_median"] = median / 1000 * 1e6
  print(
    f"one at a time       {best * 1e3:12,.1f} microseconds", file=sys.stderr
  )
  metrics["load_average"] = os.getloadavg()[0]
  row = dict(
    dataset=f"{args.sessions:,} generated vectors",
    protocol=f"best and median of {args.rounds} rounds",
    model=f"MLP {args.width}-{args.hidden}-{args.labels}",
    wall_seconds=time.monotonic() - begin,
    metrics=metrics,
  )
  print(results.write("intent_student", [row, encoder_row(args)]))


if __name__ == "__main__":
  main()
