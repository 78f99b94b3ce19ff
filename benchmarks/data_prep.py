r"""Events a second of data preparation, against pytorch-lifestream's.

  python benchmarks/data_prep.py --peer-python=PEER/bin/python [--repeats=3]

Complete Journey as events with four categorical and four numeric fields. Ours:
Parquet files -> joined with products -> checked -> fitted on training rows ->
encoded -> finished, checksummed shards, with campaigns, holidays and
demographics. Peer: `PandasDataPreprocessor` of pytorch-lifestream 0.7.0, whose
table is joined and in memory, and which writes nothing (see data_prep_peer.py).
Both run twice in a fresh process, in turns; the second run counts, so that no
import is on either clock. Processor seconds stand beside wall seconds: on a busy
machine they give the steadier ratio, though they hide what a second core brings.
PEER needs its own environment:

  python -m venv PEER && PEER/bin/pip install pytorch-lifestream distributed
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

# Run as a script, Python puts benchmarks/ on the path, not the root.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import results  # noqa: E402

EVENTS = 1_469_307
CATEGORICAL = ("department", "product_category", "store", "brand")
NUMERIC = ("sales", "quantity", "retail_disc", "coupon_disc")
OPTIONS = {
  "event": {
    "rows": "event",
    "promotions": False,
    "fields": ",".join(CATEGORICAL + NUMERIC),
  },
  "day": {"rows": "day", "promotions": False},
}


def ours(rows: str) -> None:
  """Prepares the data twice and prints the times."""
  from lumos_jax import data_prep

  seconds, cpu = [], []
  for _ in range(2):
    with tempfile.TemporaryDirectory() as folder:
      start, cpu_start = time.perf_counter(), time.process_time()
      data_prep.prepare("complete_journey", folder, quiet=True, **OPTIONS[rows])
      seconds.append(time.perf_counter() - start)
      cpu.append(time.process_time() - cpu_start)
  result = {"seconds": seconds[1], "first_seconds": seconds[0]}
  print(json.dumps(result | {"cpu_seconds": cpu[1]}))


def write_table(path: pathlib.Path) -> None:
  """The joined events, for the peer."""
  import polars as pl
  from lumos_jax.data_prep import sources

  raw = sources.load("complete_journey", OPTIONS["event"])
  text = [c for c in CATEGORICAL if c != "store"]
  raw.activity.select(
    "key",
    pl.col("time").dt.epoch("s").alias("event_time"),
    pl.col(text).cast(pl.String),
    "store",
    *NUMERIC,
  ).collect().write_parquet(path)


def call(*command: str) -> dict:
  """Runs a command; its last line of output is JSON."""
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise SystemExit(f"{command[:2]} failed:\n{done.stderr[-2000:]}")
  return json.loads(done.stdout.splitlines()[-1])


def main(argv=None) -> None:
  """Runs the benchmark and writes benchmarks/results/data_prep.json."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--peer-python", help="Interpreter of the peer.")
  parser.add_argument("--repeats", type=int, default=3, help="Of each.")
  parser.add_argument("--ours", choices=list(OPTIONS), help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if args.ours:
    ours(args.ours)
    return
  if not args.peer_python:
    parser.error("--peer-python is needed, see the top of this file")
  here = pathlib.Path(__file__)
  peer = str(here.with_name("data_prep_peer.py"))
  rows, versions = [], {}
  with tempfile.TemporaryDirectory() as folder:
    table = pathlib.Path(folder) / "events.parquet"
    write_table(table)
    columns = ("key", "event_time", ",".join(CATEGORICAL), ",".join(NUMERIC))
    for repeat in range(args.repeats):
      theirs = call(args.peer_python, peer, str(table), *columns)
      versions |= theirs["versions"]
      runs = {
        "pytorch-lifestream, in memory": theirs,
        "lumos_jax, to shards": call(sys.executable, str(here), "--ours=event"),
        "lumos_jax, day rows to shards": call(
          sys.executable, str(here), "--ours=day"
        ),
      }
      for model, run in runs.items():
        speed = EVENTS / run["seconds"]
        rows.append(
          {
            "dataset": "complete_journey",
            "protocol": "second run in a process",
            "model": model,
            "config": "4 categorical, 4 numeric"
            if "day" not in model
            else "24 departments, 7 numeric, store",
            "seed": repeat,
            "wall_seconds": run["seconds"],
            "metrics": {
              "events_per_second": speed,
              "first_run_events_per_second": EVENTS / run["first_seconds"],
              "times_peer": theirs["seconds"] / run["seconds"],
              "cpu_seconds": run["cpu_seconds"],
              "times_peer_by_cpu": theirs["cpu_seconds"] / run["cpu_seconds"],
            },
          }
        )
        print(f"{repeat} {model}: {speed / 1e3:,.0f} k events/s", flush=True)
  print(results.write("data_prep", rows, versions))


if __name__ == "__main__":
  main()
