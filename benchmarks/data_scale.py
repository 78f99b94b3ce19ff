r"""Time and peak memory of data preparation against the number of events.

  python benchmarks/data_scale.py --events=1000000,10000000 [--memory_gib=4]
  python benchmarks/data_scale.py --events=100000000 --work=FOLDER
  python benchmarks/data_scale.py --events=1000000 --beam
  python benchmarks/data_scale.py --events=1000000 --peer=PEER/bin/python

Generated events in order of time, as a log has them, of a hundredth as many users:
12 categories, 12 numbers and a clock, in Parquet files of a million events. Each is
prepared in a fresh process, from files to finished, checksummed shards, within
`--memory_gib` (in pieces on disk where it does not fit); with --whole, in memory;
with --beam, by Apache Beam's local runner; with --peer, by pytorch-lifestream in its
own environment (data_prep_peer.py), which writes nothing. Peak memory is the
process's greatest resident size. Processor seconds stand beside wall seconds:
others may use the machine. A size's row stays in benchmarks/results/data_scale.json
until it is measured again, so that sizes can be run on other days; files generated
in --work are used again.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import polars as pl

# Run as a script, Python puts benchmarks/ on the path, not the root.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import results  # noqa: E402

_CHUNK = 1_000_000
_DAYS = 365
SIZES = (4, 8, 20, 50, 100, 200, 400, 1000, 2000, 5000, 20, 6)
NUMBERS = 12
DESCRIPTION = f"""
from lumos_jax.data.schema import Categorical, Clock, Numeric, Schema

SCHEMA = Schema(
  name="events",
  activity=(
    *(Categorical(f"c{{i}}") for i in range({len(SIZES)})),
    *(Numeric(f"n{{i}}") for i in range({NUMBERS})),
    Clock("gap", "gap"),
  ),
  rows="event",
  epoch="2020-01-01",
)
TABLES = {{"activity": {{"file": "events/*.parquet"}}}}
TRAIN_UNTIL = 300
"""


def generate(folder: pathlib.Path, events: int) -> None:
  """Writes the events, a file of a million at a time; those there are kept."""
  (folder / "events").mkdir(parents=True, exist_ok=True)
  (folder / "events.py").write_text(DESCRIPTION)
  users, epoch = max(1, events // 100), np.datetime64("2020-01-01", "ms")
  for number, start in enumerate(range(0, events, _CHUNK)):
    path = folder / "events" / f"{number:05d}.parquet"
    if path.exists():
      continue
    rng, n = np.random.default_rng(number), min(_CHUNK, events - start)
    ends = _DAYS * start / events, _DAYS * (start + n) / events
    second = np.sort(rng.uniform(*ends, n)) * 86_400
    columns = {
      "key": pl.Series(rng.integers(0, users, n)).cast(pl.String),
      "time": epoch + (second * 1000).astype("timedelta64[ms]"),
    }
    for i, size in enumerate(SIZES):
      value = np.minimum(rng.zipf(1.3, n), size).astype(np.int32)
      columns[f"c{i}"] = value
    for i in range(NUMBERS):
      columns[f"n{i}"] = rng.lognormal(i / 4, 1.0, n).round(2)
    aside = path.with_suffix(".part")
    pl.DataFrame(columns).write_parquet(aside)
    aside.rename(path)


def prepare(folder: str, memory_gib: float, beam: bool) -> None:
  """In a process of its own: prepares and prints what it took."""
  from lumos_jax import data_prep

  root = pathlib.Path(folder)
  start = time.perf_counter()
  path = data_prep.prepare(
    "tables",
    root / "data",
    quiet=True,
    schema=str(root / "events.py"),
    memory_gib=memory_gib,
    beam=["--runner=DirectRunner"] if beam else None,
    overwrite=True,
  )
  seconds = time.perf_counter() - start
  stats = json.loads((path / "stats.json").read_text())
  used = resource.getrusage(resource.RUSAGE_SELF)
  found = {
    "rows": stats["rows"],
    "seconds": seconds,
    "events_per_second": stats["rows"] / seconds,
    "cpu_seconds": used.ru_utime + used.ru_stime,
    "peak_gib": used.ru_maxrss * 1024 / 2**30,
    "load": os.getloadavg()[0],
  }
  shutil.rmtree(path)
  print(json.dumps(found))


def peer(folder: pathlib.Path, python: str) -> dict:
  """What pytorch-lifestream takes from a table in memory, the second time."""
  frame = pl.read_parquet(folder / "events/*.parquet")
  with tempfile.TemporaryDirectory() as scratch:
    path = pathlib.Path(scratch) / "events.parquet"
    time_ = pl.col("time").dt.epoch("s")
    frame.with_columns(time_).write_parquet(path)
    fields = (
      ",".join(f"c{i}" for i in range(len(SIZES))),
      ",".join(f"n{i}" for i in range(NUMBERS)),
    )
    script = pathlib.Path(__file__).parent / "data_prep_peer.py"
    argv = [python, str(script), str(path), "key", "time", *fields]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
  if done.returncode:
    raise SystemExit(done.stderr[-3000:])
  found = json.loads(done.stdout.splitlines()[-1])
  return {
    "rows": len(frame),
    "seconds": found["seconds"],
    "events_per_second": len(frame) / found["seconds"],
    "cpu_seconds": found["cpu_seconds"],
    "peak_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    * 1024
    / 2**30,
    "load": os.getloadavg()[0],
  }


def main(argv=None) -> None:
  """Measures, and adds to benchmarks/results/data_scale.json."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--events", default="1000000,10000000", help="Sizes.")
  parser.add_argument("--memory_gib", type=float, default=4.0)
  parser.add_argument(
    "--whole", action="store_true", help="In memory, without a limit."
  )
  parser.add_argument("--beam", action="store_true", help="On Apache Beam.")
  parser.add_argument("--peer", help="Python that has pytorch-lifestream.")
  parser.add_argument("--work", help="Folder for the events, which stay there.")
  parser.add_argument("--prepare", help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  memory = 0.0 if args.whole else args.memory_gib
  if args.prepare:
    prepare(args.prepare, memory, args.beam)
    return
  with tempfile.TemporaryDirectory() as scratch:
    for events in map(int, args.events.split(",")):
      folder = pathlib.Path(args.work or scratch) / str(events)
      generate(folder, events)
      if args.peer:
        row = dict(
          dataset=f"{events:,} events, 25 fields",
          protocol="a table in memory to records in memory",
          model="pytorch-lifestream",
          config="in memory",
          metrics=peer(folder, args.peer),
        )
        argv = [a for a in sys.argv if not a.startswith("--peer")]
        print(
          results.write(
            "data_scale", [row], argv=[*argv, "--peer=PYTHON"], add=True
          )
        )
        continue
      command = [sys.executable, __file__, f"--prepare={folder}"]
      command.append("--whole" if args.whole else f"--memory_gib={memory}")
      command += ["--beam"] * args.beam
      done = subprocess.run(
        command, capture_output=True, text=True, check=False
      )
      if done.returncode:
        raise SystemExit(done.stderr[-3000:])
      found = json.loads(done.stdout.splitlines()[-1])
      limit = "in memory" if args.whole else f"within {memory:g} GiB"
      if not args.work:
        shutil.rmtree(folder)
      row = dict(
        dataset=f"{events:,} events, 25 fields",
        protocol="Parquet to finished shards, one process",
        model="data_prep",
        config="Beam's local runner" if args.beam else limit,
        wall_seconds=found["seconds"],
        metrics=found,
      )
      print(found, flush=True)
      print(results.write("data_scale", [row], add=True), flush=True)


if __name__ == "__main__":
  main()
