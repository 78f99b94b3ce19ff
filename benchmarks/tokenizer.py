r"""A composite tokenizer over ten million events: coverage and peak memory.

  python benchmarks/tokenizer.py [--events=10000000] [--tokens=60000]

Writes Zipf-distributed payments as Parquet, then prepares them in a fresh process
through `data_prep`: read once, bins and tokens fitted, encoded, shards finished.
Writes benchmarks/results/tokenizer.json.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# Run as a script, Python puts benchmarks/ on the path, not the root.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import results  # noqa: E402

_CHUNK = 1_000_000
DESCRIPTION = """
from lumos_jax.data.schema import Binned, Categorical, Composite, Schema

SCHEMA = Schema(
  name="payments",
  activity=(
    Categorical("channel"),
    Categorical("category", max_values=2000),
    Categorical("risk"),
    Binned("amount_bin", of="amount", bins=100),
    Composite(
      "token",
      of=("channel", "amount_bin", "category", "risk"),
      max_values={tokens},
      backoff=("category",),
    ),
  ),
  rows="event",
  epoch="2020-01-01",
)
TABLES = {{"activity": {{"file": "payments.parquet"}}}}
TRAIN_UNTIL = 300
"""


def write_events(path: pathlib.Path, events: int, users: int) -> None:
  """Payments of a year, in order of time, a chunk at a time."""
  rng = np.random.default_rng(0)
  day = np.datetime64("2020-01-01", "ms")
  writer = None
  for start in range(0, events, _CHUNK):
    n = min(_CHUNK, events - start)
    first, last = 365 * start / events, 365 * (start + n) / events
    seconds = np.sort(rng.uniform(first, last, n)) * 86_400
    category = np.minimum(rng.zipf(1.3, n), 800)
    table = pa.table(
      {
        "key": rng.integers(0, users, n),
        "time": day + (seconds * 1000).astype("timedelta64[ms]"),
        "channel": rng.choice(["card", "app", "web", "transfer"], n),
        "category": category,
        "risk": rng.choice(5, n, p=(0.8, 0.1, 0.06, 0.03, 0.01)),
        "amount": np.exp(rng.normal(3 + category % 7 / 3, 1.0, n)).round(2),
      }
    )
    writer = writer or pq.ParquetWriter(path, table.schema)
    writer.write_table(table)
  writer.close()


def prepare(folder: str) -> None:
  """In a process of its own: prepares and prints what it took."""
  from lumos_jax import data_prep

  start = time.perf_counter()
  folder = pathlib.Path(folder)
  path = data_prep.prepare(
    "tables", folder / "data", quiet=True, schema=str(folder / "payments.py")
  )
  stats = json.loads((path / "stats.json").read_text())
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  print(
    json.dumps(
      {
        "seconds": time.perf_counter() - start,
        "peak_gib": peak / 2**30,
        "rows": stats["rows"],
        **stats["composites"]["token"],
      }
    )
  )


def main():
  """Measures and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument(
    "--events", type=int, default=10_000_000, help="to generate"
  )
  parser.add_argument(
    "--users", type=int, default=100_000, help="whose events they are"
  )
  parser.add_argument(
    "--tokens", type=int, default=60_000, help="of the vocabulary"
  )
  parser.add_argument("--prepare", default="", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.prepare:
    prepare(args.prepare)
    return
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    write_events(root / "payments.parquet", args.events, args.users)
    text = DESCRIPTION.format(tokens=args.tokens)
    (root / "payments.py").write_text(text)
    command = [sys.executable, __file__, f"--prepare={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
      raise SystemExit(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
  seconds = found.pop("seconds")
  row = dict(
    dataset=f"{args.events:,} generated payments of {args.users:,} users",
    protocol=f"K = {args.tokens:,}; Parquet to finished shards, one process",
    model="data_prep",
    wall_seconds=seconds,
    metrics=found,
  )
  print(found, f"{seconds:.0f} s")
  print(results.write("tokenizer", [row]))


if __name__ == "__main__":
  main()
