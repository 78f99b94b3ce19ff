r"""Coverage-guided fuzzing of the record decoder and the schema reader.

  python benchmarks/fuzz.py --seconds=60 [--only=records,schema,edits]

Needs atheris (pip install -e ".[fuzz]"; wheels for Linux). Whatever the bytes are,
the reader gives an object that is what it claims to be, or its own named error:
never another exception, a hang or much memory. Each target runs for so many
seconds in a process of its own, from valid inputs on; an input that breaks the rule
stays in --found. Writes benchmarks/results/fuzz.json. Ends with 1 where one was
found. tests/fuzz_test.py has the same targets for hypothesis.
"""

import argparse
import copy
import functools
import json
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

# Run as a script, Python puts benchmarks/ on the path, not the root.
ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

TOGETHER = 16  # Records that are decoded at once.
_LIMITS = ("-timeout=10", "-malloc_limit_mb=512")
_ROOM_MIB = (
  1024  # That fuzzing may take beside what the program has at its start.
)
# What takes the place of a part of a schema.
_VALUES = (
  None, True, -1, 0, 1, 2**70, 1e308, float("nan"), "", "x", "\ud800", [], [1],
  [[]], [["a", "b"]], {}, {"a": 1}, {"type": "Numeric", "name": "n"},
)  # fmt: skip


class _Found:
  """Stands for shards that hold given bytes."""

  def __init__(self, found: Sequence[bytes]):
    self._found = found

  def __len__(self) -> int:
    return len(self._found)

  def read(self, positions: Sequence[int]) -> list[bytes]:
    """The bytes."""
    return [self._found[i] for i in positions]

  def path(self, position: int) -> str:
    """A name for errors."""
    return f"shard of record {position}"


@functools.cache
def schemas() -> tuple:
  """Schemas with fields of every type."""
  import dataclasses

  import fake

  from lumos_jax.data import schema as s

  events = s.Schema(
    name="all",
    activity=(
      s.Categorical("c", values=("a", "b"), attributes=((1,), (2, 3))),
      s.Binned("b", of="x", edges=(0.5, 1.5), low=0.0, high=2.0),
      s.Clock("hour", "hour"),
      s.Composite("t", of=("c", "b"), backoff=("c",), values=((2, 2), (3, -1))),
      s.Numeric("x", offset=1.0, divisor=2.0),
      s.Timestamp("then", time_zone="UTC"),
      s.Vector("v", 3),
    ),
    profile=(s.Categorical("region", values=("n",), names={"n": "north"}),),
    labels=(s.Label("fraud", level="event"), s.Label("late", delay_days=3)),
    rows="event",
    epoch="2020-01-01",
  )
  return fake.schema(), events, dataclasses.replace(fake.schema(), labels=())


@functools.cache
def valid_records() -> tuple[bytes, ...]:
  """A serialized record of each schema."""
  import numpy as np
  from lumos_jax.data_prep import builder

  from lumos_jax.data import records

  out = []
  for schema in schemas():
    example = {"key": "user"}
    layout = records.layout(schema)
    for name in records.stored(schema):
      dtype, shape = layout[name]
      shape = [2 if n is None else n for n in shape]
      example[name] = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    out.append(builder.serialize(example))
  return tuple(out)


def source(schema, found: Sequence[bytes]):
  """A source of records that are given as bytes."""
  from lumos_jax.data import records

  made = records.Source.__new__(records.Source)
  made._take(schema, _Found(found))
  return made


def check_record(schema, record: dict[str, Any]) -> None:
  """Raises AssertionError where a decoded record is not of the schema's form."""
  from lumos_jax.data import records

  assert isinstance(record["key"], str)
  layout = records.layout(schema)
  assert record.keys() == {"key", *layout}, record.keys()
  rows = len(record["day"])
  for name, (dtype, shape) in layout.items():
    x = record[name]
    assert x.dtype == dtype and x.ndim == len(shape), (name, x.dtype, x.shape)
    for have, want in zip(x.shape, shape, strict=True):
      assert want is None or have == want, (name, x.shape, shape)
    if len(shape) == 2 or name == "time":
      assert len(x) == rows, (name, len(x), rows)
  labels = {len(record[n]) for n in layout if n.startswith("label_")}
  assert len(labels) <= 1, f"labels of different lengths {labels}"


def records_target(data: bytes) -> None:
  """One record, many alike, and one among valid ones; byte 0 is the schema's."""
  import numpy as np

  from lumos_jax.data.records import DataError

  which, data = (data[0] if data else 0) % len(schemas()), data[1:]
  schema, valid = schemas()[which], valid_records()[which]
  try:
    alone = source(schema, [data])[0]
    check_record(schema, alone)
  except DataError:
    alone = None
  for found in ([data] * TOGETHER, [valid] * (TOGETHER - 1) + [data]):
    try:
      many = source(schema, found).__getitems__(range(TOGETHER))
    except DataError:
      assert alone is None, "refused among others, read alone"
      continue
    assert alone is not None, "read among others, refused alone"
    check_record(schema, many[-1])
    for name, x in alone.items():
      np.testing.assert_array_equal(x, many[-1][name])


def schema_target(data: bytes) -> None:
  """The text of a schema.json."""
  from lumos_jax.data import schema as s

  try:
    text = data.decode()
  except UnicodeDecodeError:
    return  # `load` names the file; see tests/fuzz_test.py.
  try:
    found = s.Schema.from_json(text)
  except s.SchemaError:
    return
  check_schema(found)


def check_schema(found) -> None:
  """Raises where a schema that was read cannot be used."""
  from lumos_jax.data import records
  from lumos_jax.data import schema as s

  assert s.Schema.from_json(found.to_json()) == found
  assert len(found.hash) == len(found.model_hash) == 16
  layout = records.layout(found)
  assert set(records.stored(found)) <= set(layout)
  for table in s.TABLES:
    assert found.numeric_width(table) >= 0
    assert all(f.size >= s.FIRST_VALUE for f in found.categorical(table))
  for f in found.categorical("activity"):
    for i in range(min(f.size, 4)):
      found.token(f.name, i)


def edited(schema, choose: Callable[[int], int]) -> bytes:
  """A schema's text, of which parts are replaced or removed.

  Args:
    schema: To begin with.
    choose: Draws a number below its argument.
  """
  doc = json.loads(schema.to_json())
  for _ in range(1 + choose(3)):
    node, parents = doc, []
    while isinstance(node, dict | list) and node and (choose(4) or not parents):
      keys = sorted(node) if isinstance(node, dict) else range(len(node))
      key = list(keys)[choose(len(node))]
      parents.append((node, key))
      node = node[key]
    if not parents:
      break
    node, key = parents[-1]
    what = choose(len(_VALUES) + 2)
    if what == len(_VALUES):
      del node[key]
    elif what > len(_VALUES):  # Another part of the schema.
      other = json.loads(schemas()[1].to_json())
      node[key] = other[sorted(other)[choose(len(other))]]
    else:
      node[key] = copy.deepcopy(_VALUES[what])
  return json.dumps(doc).encode()


def edits_target(data: bytes) -> None:
  """Well-formed JSON that is nearly a schema; the bytes say what is changed."""
  left = list(data[:64])
  choose = lambda n: (left.pop(0) if left else 0) % n
  schema_target(edited(schemas()[choose(3)], choose))


TARGETS = {
  "records": records_target,
  "schema": schema_target,
  "edits": edits_target,
}


def fuzz(name: str, seconds: int, found: str) -> None:
  """Fuzzes one target in this process, which atheris ends."""
  import atheris

  with atheris.instrument_imports(include=["lumos_jax.data"]):
    from lumos_jax.data import records, schema  # noqa: F401
  folder = pathlib.Path(tempfile.mkdtemp())
  seeds = [s.to_json().encode() for s in schemas()]
  if name == "records":
    seeds = [bytes([i]) + data for i, data in enumerate(valid_records())]
  for i, data in enumerate(seeds):
    (folder / str(i)).write_bytes(data)
  # A process's greatest size counts what the one that forked it had.
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
  flags = [f"-max_total_time={seconds}", "-print_final_stats=1", *_LIMITS]
  flags.append(f"-rss_limit_mb={before + _ROOM_MIB}")
  flags += ["-max_len=8192", f"-artifact_prefix={found}/", str(folder)]
  atheris.Setup([sys.argv[0], *flags], TARGETS[name])
  atheris.Fuzz()


def measured(name: str, seconds: int, found: pathlib.Path) -> dict:
  """Metrics of a target."""
  argv = [sys.executable, __file__, f"--target={name}", f"--found={found}"]
  begin = time.monotonic()
  done = subprocess.run(
    [*argv, f"--seconds={seconds}"], capture_output=True, text=True
  )
  said = done.stdout + done.stderr
  count = re.search(r"number_of_executed_units: (\d+)", said)
  covered = re.findall(r"cov: (\d+)", said)
  memory = re.search(r"peak_rss_mb:\s+(\d+)", said)
  if done.returncode or count is None:
    print(said[-3000:], file=sys.stderr)
  if count is None:
    raise RuntimeError(f"{name}: atheris did not run")
  return {
    "inputs": int(count[1]),
    "found": int(done.returncode != 0),
    "coverage": int(covered[-1]) if covered else 0,
    "peak_mib": int(memory[1]) if memory else 0,
    "seconds": time.monotonic() - begin,
  }


def main() -> int:
  """Fuzzes each target for the given time; 0 where nothing was found."""
  from benchmarks import results

  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--seconds", type=int, default=60, help="of each target")
  add("--only", default="", help=f"of {', '.join(TARGETS)}")
  add("--found", default="runs/fuzz", help="folder for inputs that break it")
  add("--target", default="", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.target:
    fuzz(args.target, args.seconds, args.found)
    return 0
  folder = pathlib.Path(args.found)
  folder.mkdir(parents=True, exist_ok=True)
  rows, broken = [], 0
  for name in [n for n in args.only.split(",") if n] or list(TARGETS):
    metrics = measured(name, args.seconds, folder)
    wall = metrics.pop("seconds")
    print(name, json.dumps(metrics), flush=True)
    broken += metrics["found"]
    rows.append(
      dict(
        dataset="bytes",
        protocol="coverage-guided, from valid inputs",
        model=name,
        wall_seconds=wall,
        metrics=metrics,
      )
    )
  print(results.write("fuzz", rows, add=True))
  return int(broken > 0)


if __name__ == "__main__":
  sys.exit(main())
