r"""Export of generated users: memory, speed beside the evaluator, and kills.

  python benchmarks/export.py [--users=1000000] [--root=DIR]

Writes shards of generated users and a tiny LUMOS with fresh parameters. Exports
forecasts and embeddings of all users once unbroken and once killed five times
(SIGKILL), and compares every byte; measures the peak memory of the program for a
tenth of the users and for all; times the forecasts alone beside the `forecast`
evaluator's pass, over that tenth. Writes benchmarks/results/export.json.
"""

import argparse
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import optax
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

# Run as a script, Python puts benchmarks/ on the path, not the root.
ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fake  # noqa: E402

from benchmarks import results  # noqa: E402
from lumos_jax import checkpoint, export, identity, recipes  # noqa: E402
from lumos_jax import state as state_lib  # noqa: E402
from lumos_jax.data import pipeline  # noqa: E402
from lumos_jax.data import records as records_lib  # noqa: E402
from lumos_jax.data import tasks as tasks_lib  # noqa: E402
from lumos_jax.evaluators import predict  # noqa: E402

KILLS = 5
SHARDS = 8
DIFFERENT = 2000  # Histories; users repeat them under ids of their own.


def _bytes(record) -> bytes:
  example, schema = tf_example_pb2.Example(), fake.schema()
  feature = example.features.feature
  for name in records_lib.stored(schema):
    value = np.ascontiguousarray(record[name]).tobytes()
    feature[name].bytes_list.value.append(value)
  feature["key"].bytes_list.value.append(record["key"].encode())
  return example.SerializeToString(deterministic=True)


def write_data(path: pathlib.Path, users: int) -> None:
  """A prepared data set of generated users."""
  path.mkdir(parents=True)
  rng, schema = np.random.default_rng(0), fake.schema()
  known = [fake.record(rng, i) for i in range(DIFFERENT)]
  shards, bounds = {}, np.linspace(0, users, SHARDS + 1).astype(int).tolist()
  for s in range(SHARDS):
    name = f"fake-train.array_record-{s:05d}-of-{SHARDS:05d}"
    writer = array_record_module.ArrayRecordWriter(
      str(path / name), "group_size:1"
    )
    for i in range(bounds[s], bounds[s + 1]):
      writer.write(_bytes(known[i % DIFFERENT] | {"key": f"user{i:08d}"}))
    writer.close()
    size = (path / name).stat().st_size
    shards[name] = {"bytes": size, "sha256": ""}
  schema.save(path / records_lib.SCHEMA)
  fake.calendar(schema).save(path / records_lib.CALENDAR)
  longest = max(len(r["day"]) for r in known)
  stats = {
    "schema_hash": schema.hash,
    "shards": shards,
    "splits": {
      "train": {"users": users, "longest": longest, "shards": list(shards)}
    },
  }
  (path / records_lib.STATS).write_text(json.dumps(stats))


def write_run(workdir: pathlib.Path, records) -> tuple:
  """A run with fresh parameters, as training would leave it."""
  config = fake.config(eval_batch_size=256)
  tasks = tasks_lib.from_config(config.tasks)
  recipe = recipes.build(config, records, tasks)
  state = state_lib.init(recipe, optax.identity(), 0, False)
  store = checkpoint.Checkpoints(workdir)
  columns = records.calendar.columns
  meta = identity.make_meta(config, records.schema, columns)
  store.save(1, state, "{}", meta)
  store.close()
  (workdir / "config.json").write_text(config.to_json_best_effort())
  return config, tasks, recipe, state["params"]


def command(workdir, data, out) -> list[str]:
  """The program, for forecasts and embeddings."""
  return [
    *(sys.executable, "-m", "lumos_jax.export"),
    f"--workdir={workdir}",
    f"--data_dir={data}",
    f"--out={out}",
  ]


def _start(argv) -> subprocess.Popen:
  env = os.environ | {"PYTHONPATH": str(ROOT)}
  return subprocess.Popen(argv, stderr=subprocess.DEVNULL, env=env)


def whole(argv) -> tuple[float, float]:
  """Runs to the end: seconds, and peak memory in MiB."""
  start = time.perf_counter()
  _, status, usage = os.wait4(_start(argv).pid, 0)
  if status:
    raise RuntimeError(f"{argv} ended with status {status}")
  return time.perf_counter() - start, usage.ru_maxrss / 1024


def parts(out: pathlib.Path) -> list[pathlib.Path]:
  """Finished parts."""
  return sorted(out.glob("*/part-*.parquet"))


def killed(argv, out: pathlib.Path, total: int) -> int:
  """Kills the program five times on its way, lets it end; number of kills."""
  count = 0
  for i in range(1, KILLS + 1):
    running, goal = _start(argv), total * i // (KILLS + 1)
    while len(parts(out)) < max(goal, 1) and running.poll() is None:
      time.sleep(0.02)
    if running.poll() is None:
      running.send_signal(signal.SIGKILL)
      count += 1
    running.wait()
  whole(argv)
  return count


def content(out: pathlib.Path) -> dict[str, str]:
  """{file: sha256}."""
  return {
    str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
    for p in sorted(out.rglob("*"))
    if p.is_file()
  }


def speeds(root, workdir, data, made) -> tuple[float, float]:
  """Users/s of the evaluator's pass, and of an export of forecasts.

  In turn, the fastest of three each: others use the machine too.
  """
  config, tasks, recipe, params = made
  records = records_lib.Records.open(data)
  graph, _ = state_lib.structure(recipe)
  runs = predict.Predictor(
    lambda p, batch: recipe.predict(state_lib.merge(graph, p), batch),
    config.eval_batch_size,
  )

  def batches():
    return pipeline.eval_batches(
      records, config.data, tasks, "train", fake.DAYS, runs.batch_size
    )

  runs(params, [next(batches())])  # Compiles.
  users, evaluator, exported = len(records.source("train")), [], []
  for i in range(3):
    start = time.perf_counter()
    assert len(runs(params, batches()).key) == users
    evaluator.append(time.perf_counter() - start)
    start = time.perf_counter()
    export.export(workdir, root / f"timed{i}", ["forecasts"], data_dir=data)
    exported.append(time.perf_counter() - start)
  return users / min(evaluator), users / min(exported)


def measure(root: pathlib.Path, users: int) -> dict[str, float]:
  """All figures; see the module's text."""
  write_data(root / "all", users)
  write_data(root / "tenth", max(users // 10, 1))
  workdir = root / "run"
  workdir.mkdir()
  made = write_run(workdir, records_lib.Records.open(root / "all"))
  some = command(workdir, root / "tenth", root / "out_tenth")
  _, memory_tenth = whole(some)
  argv = command(workdir, root / "all", root / "out")
  seconds, memory = whole(argv)
  total = len(parts(root / "out"))
  again = command(workdir, root / "all", root / "broken")
  kills = killed(again, root / "broken", total)
  equal = content(root / "out") == content(root / "broken")
  evaluator, exported = speeds(root, workdir, root / "tenth", made)
  return {
    "users": users,
    "parts": total,
    "users_per_second": users / seconds,
    "peak_mib": memory,
    "peak_mib_of_a_tenth": memory_tenth,
    "kills": kills,
    "equal_bytes": float(equal),
    "forecast_users_per_second": exported,
    "evaluator_users_per_second": evaluator,
    "share_of_evaluator": exported / evaluator,
  }


def main():
  """Measures and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--users", type=int, default=1_000_000)
  parser.add_argument(
    "--root", help="folder for data and files; it must be new"
  )
  args = parser.parse_args()
  start = time.perf_counter()
  with tempfile.TemporaryDirectory() as aside:
    found = measure(pathlib.Path(args.root or aside) / "export", args.users)
  row = dict(
    dataset="generated",
    split="train",
    protocol="forecasts and embeddings as of the day after the data's last",
    model="tiny LUMOS",
    config=f"{args.users} users",
    wall_seconds=time.perf_counter() - start,
    metrics=found,
  )
  print(json.dumps(found, indent=1))
  print(results.write("export", [row]))


if __name__ == "__main__":
  main()
