r"""Users/s of the input pipeline against reading the same users' bytes.

  python benchmarks/input_speed.py [--users=50000] [--rounds=15] [--root=DIR]
    [--name=NAME]

Generates payments of users with Zipf-like lengths (54 events on average) and
prepares them through `data_prep`, and Complete Journey by days. Then all take
turns, reading users at random: the bytes alone in batches of 1,024 records and our
source, which decodes them, both with a thread a core; PANTHER's packed batches
(configs/panther.py, as for MovieLens) and LUMOS' batches (configs/pretrain.py) in
one. No pipeline reads ahead, so that none works in another's turn. Times differ
from machine to machine, ratios to the bytes of the same round less. At last
configs/pretrain.py trains for some steps as it is, and tells how much of its time
it waits for input. With --root the data sets stay there. Writes
benchmarks/results/NAME.json.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time
from concurrent import futures

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python import array_record_data_source, array_record_module

# Run as a script, Python puts benchmarks/ on the path, not the root.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import results  # noqa: E402
from lumos_jax import config as config_lib  # noqa: E402
from lumos_jax import (
  data_prep,  # noqa: E402
  metric_writer,  # noqa: E402
)
from lumos_jax import main as main_lib  # noqa: E402
from lumos_jax.data import pipeline, sequences  # noqa: E402
from lumos_jax.data import records as records_lib  # noqa: E402
from lumos_jax.data import tasks as tasks_lib  # noqa: E402

WAIT_STEPS = 60  # Of the default job.
BATCH = 1024  # Records that are read at a time where nothing else is said.
DESCRIPTION = """
from lumos_jax.data.schema import Categorical, Numeric, Schema

SCHEMA = Schema(
  name="payments",
  activity=(
    Categorical("item", max_values=20_000),
    Categorical("channel"),
    Numeric("amount"),
  ),
  rows="event",
  epoch="2020-01-01",
)
TABLES = {"activity": {"file": "payments.parquet"}}
TRAIN_UNTIL = 365
"""


def write_events(path: pathlib.Path, users: int) -> None:
  """Payments of a year; few users have many, an item's share is Zipf's."""
  rng = np.random.default_rng(0)
  length = np.minimum(3 + 31 * rng.pareto(1.5, users), 1000).astype(int)
  n = length.sum()
  seconds = np.sort(rng.uniform(0, 365 * 86_400, n))
  start = np.datetime64("2020-01-01", "ms")
  table = pa.table(
    {
      "key": rng.permutation(np.repeat(np.arange(users), length)),
      "time": start + (seconds * 1000).astype("timedelta64[ms]"),
      "item": np.minimum(rng.zipf(1.2, n), 20_000),
      "channel": rng.choice(["card", "app", "web", "transfer"], n),
      "amount": np.exp(rng.normal(3, 1, n)).round(2),
    }
  )
  pq.write_table(table, path)


def prepare(root: pathlib.Path, users: int):
  """The events and Complete Journey by days, prepared or found prepared."""
  root.mkdir(parents=True, exist_ok=True)
  write_events(root / "payments.parquet", users)
  file = root / "payments.py"
  file.write_text(DESCRIPTION)
  events = data_prep.prepare("tables", root, quiet=True, schema=str(file))
  days = data_prep.prepare("complete_journey", root, quiet=True)
  return records_lib.Records.open(events), records_lib.Records.open(days)


def shards(records) -> list[str]:
  """Files of the training split."""
  names = records.stats["splits"]["train"]["shards"]
  return [str(records.path / n) for n in names]


class Reads:
  """Reads users at random by `read`, [position] -> [record]."""

  def __init__(self, users: int, read, size=lambda found: 0):
    self._users, self._read, self._size = users, read, size
    self._rng = np.random.default_rng(0)
    cores = results.machine()["cores"]
    self._pool = futures.ThreadPoolExecutor(cores)

  def __call__(self, batches: int) -> dict[str, float]:
    """What was read, and seconds, with a thread a core."""

    def take(at):
      found = self._read(at)
      return self._size(found)

    at = self._rng.integers(0, self._users, (batches, BATCH)).tolist()
    start = time.perf_counter()
    size = sum(self._pool.map(take, at))
    done = dict(users=batches * BATCH, seconds=time.perf_counter() - start)
    return done | ({"megabytes": size / 1e6} if size else {})


def bytes_alone(records) -> Reads:
  """The reader of array_record, in one call a batch."""
  (path,) = shards(records)  # Its positions are the reader's.
  reader = array_record_module.ArrayRecordReader(
    path, options="readahead_buffer_size:0", file_reader_buffer_size=32768
  )
  size = lambda found: sum(map(len, found))
  return Reads(reader.num_records(), reader.read, size)


class Batches:
  """Takes batches of a pipeline; `count` tells what is in one."""

  def __init__(self, inputs, records, config, count, **data):
    cfg = config.copy_and_resolve_references()
    with cfg.unlocked():
      cfg.data.update(data, read_threads=0)
    self._count = count
    self._iterator = inputs.train_iterator(
      records,
      cfg.data,
      tasks_lib.from_config(cfg.tasks),
      cfg.train.batch_size,
      cfg.seed,
    )

  def __call__(self, batches: int) -> dict[str, float]:
    """What was in them, and seconds."""
    start = time.perf_counter()
    found = [next(self._iterator) for _ in range(batches)]
    seconds = time.perf_counter() - start
    counts = [self._count(b) for b in found]
    total = {k: sum(c[k] for c in counts) for k in counts[0]}
    return total | {"seconds": seconds}


def packed_count(batch) -> dict[str, int]:
  """A user's first window opens with the start token, which has no values."""
  some = batch["segment"] > 0
  first = some & (batch["position"] == 0) & (batch["ids"] == 0).all(-1)
  return {"users": int(first.sum()), "tokens": int(some.sum())}


def daily_count(batch) -> dict[str, int]:
  """LUMOS' tokens are its rows of history."""
  days = batch["history_day"]
  return {"users": len(days), "tokens": days.size}


def readers(events, days) -> dict[tuple[str, str], tuple]:
  """{(data set, what): (reads, batches of a turn)}; bytes come first."""
  source = events.source("train")
  data = array_record_data_source.ArrayRecordDataSource(shards(events))
  packed = lambda cache: Batches(
    sequences,
    events,
    config_lib.load("panther:data=movielens"),
    packed_count,
    cache=cache,
  )
  daily = Batches(pipeline, days, config_lib.load("pretrain"), daily_count)
  decode = days.source("train")
  return {
    ("payments", "bytes"): (bytes_alone(events), 10),
    ("payments", "bytes, ArrayRecordDataSource"): (
      Reads(len(data), data.__getitems__),
      10,
    ),
    ("payments", "decoded"): (Reads(len(source), source.__getitems__), 10),
    ("payments", "packed batches"): (packed(False), 10),
    ("payments", "packed batches, cache"): (packed(True), 20),
    ("complete_journey", "bytes"): (bytes_alone(days), 10),
    ("complete_journey", "decoded"): (
      Reads(len(decode), decode.__getitems__),
      10,
    ),
    ("complete_journey", "LUMOS batches, 14 origins"): (daily, 4),
  }


def wait_percent(root: pathlib.Path, folder: str) -> float:
  """Share of its steps' time that the default job waits for a batch."""
  config = config_lib.load("pretrain")
  with config.unlocked():
    config.data.root, config.report, config.evals = str(root), False, {}
    config.train.steps = config.train.log_every = WAIT_STEPS
  main_lib.run(config, pathlib.Path(folder) / "waits")
  lines = metric_writer.read(pathlib.Path(folder) / "waits")
  return 100 * lines[-1]["input_wait_share"]  # Over the last 50 steps.


def main():
  """Times all in turns and writes the result."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--users", type=int, default=50_000, help="generated")
  parser.add_argument("--rounds", type=int, default=15, help="turns of each")
  parser.add_argument("--root", default="", help="of the data sets")
  parser.add_argument("--name", default="input_speed", help="of the result")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(args.root or folder)
    events, days = prepare(root, args.users)
    takes = readers(events, days)
    found = {name: [] for name in takes}
    for take, _ in takes.values():
      take(1)  # Opens files.
    names = list(takes)
    waits = wait_percent(root, folder)
    for i in range(args.rounds):
      # Who comes behind whom changes, for one's garbage slows the next.
      for name in np.random.default_rng(i).permutation(len(names)):
        take, batches = takes[names[name]]
        found[names[name]].append(take(batches))
  rows = []
  rates = lambda key, what: [x[what] / x["seconds"] for x in found[key]]
  for key in names:
    data, model = key
    base = rates((data, "bytes"), "users")
    mine = rates(key, "users")
    metrics = {
      f"{what}_per_second": statistics.median(rates(key, what))
      for what in found[key][0]
      if what != "seconds"
    }
    metrics["to_bytes"] = statistics.median(
      m / b for m, b in zip(mine, base, strict=True)
    )
    print(data, model, {k: f"{v:,.2f}" for k, v in metrics.items()})
    rows.append(
      dict(
        dataset=data,
        protocol="in turns, median of the rounds",
        model=model,
        config=f"{args.users:,} generated users"
        if data == "payments"
        else "days of 2,469 households",
        steps=args.rounds,
        wall_seconds=sum(x["seconds"] for x in found[key]),
        metrics=metrics,
      )
    )
  rows.append(
    dict(
      dataset="complete_journey",
      protocol="last 50 steps",
      model="default job",
      config="days of 2,469 households",
      steps=WAIT_STEPS,
      metrics={"input_wait_percent": waits},
    )
  )
  print(results.write(args.name, rows))


if __name__ == "__main__":
  main()
