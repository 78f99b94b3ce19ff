r"""How many sessions a second the student labels, in batches and one at a time.

  python benchmarks/intent_student.py [--width=64 --hidden=128 --labels=35]

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

import numpy as np
import results

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


def main():
  """Times the student and writes the file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--width", type=int, default=64, help="of a session's vector")
  add("--hidden", type=int, default=128, help="of the student")
  add("--labels", type=int, default=35, help="of the taxonomy")
  add("--sessions", type=int, default=100_000, help="labelled in a round")
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
  print(results.write("intent_student", [row]))


if __name__ == "__main__":
  main()
