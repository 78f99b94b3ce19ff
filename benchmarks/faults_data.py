"""Faults of shards and of data preparation, and what is promised under them."""

import contextlib
import hashlib
import json
import pathlib
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator

from benchmarks import faults_programs as programs
from benchmarks.faults_programs import Fault, expect

SHARDS = 3


class Skipped(RuntimeError):
  """A fault that cannot be made here; says why."""


class World:
  """Raw tables, and the data set that an undisturbed preparation makes of them.

  Attributes:
    folder: Everything is below.
    data: The data set.
    other: One of equally many users and rows with other values.
    schema: Description of the tables.
  """

  def __init__(self, folder: pathlib.Path):
    import tiny_data

    self.folder = folder
    self.schema = tiny_data.write_tables(folder / "raw")
    frames = tiny_data.tiny_frames(seed=1)
    other = tiny_data.write_tables(folder / "raw_other", frames)
    self.data = self.prepared(folder / "data", self.schema)
    self.other = self.prepared(folder / "data_other", other)
    self.read = content(self.data)
    self._changes: dict[tuple, tuple[int, float]] = {}

  def argv(self, out, schema: str = "", *flags: str) -> list[str]:
    """Of a preparation."""
    schema = schema or self.schema
    shards = f"--num_shards={SHARDS}"
    out = f"--out={out}"
    return ["--source=tables", out, shards, *flags, "--set", f"schema={schema}"]

  def prepared(self, out: pathlib.Path, schema: str) -> pathlib.Path:
    """A data set; its folder."""
    argv = self.argv(out, schema)
    status, said, _ = programs.run("data_prep", argv, self.folder / "log")
    expect(status == 0, said)
    return out / "tiny"

  def undisturbed(self, make: Callable[[Fault], tuple]) -> tuple[int, float]:
    """Changes of files and seconds of a program; `make` runs it, once a name."""
    name = make.__name__
    if name not in self._changes:
      there = self.folder / f"{name}.changes"
      fault = Fault(count_to=str(there), under=str(self.folder))
      status, said, seconds = make(fault)
      expect(status == 0, said)
      self._changes[name] = int(there.read_text()), seconds
    return self._changes[name]


def content(path: pathlib.Path) -> str:
  """Digest of all that is read of a data set.

  Raises:
    DataError, SchemaError: As the reader does.
  """
  from lumos_jax.data import records as records_lib

  data = records_lib.Records.open(path)
  digest = hashlib.sha256(data.schema.to_json().encode())
  for name in ("group", "start", "end", "announced", "categorical", "numeric"):
    digest.update(getattr(data.calendar, name).tobytes())
  for split in data.splits:
    source = data.source(split)
    for record in source.__getitems__(range(len(source))):
      for key, value in sorted(record.items()):
        digest.update(key.encode())
        if isinstance(value, str):
          digest.update(value.encode())
        else:
          digest.update(f"{value.dtype}{value.shape}".encode())
          digest.update(value.tobytes())
  return digest.hexdigest()


def files_of(path: pathlib.Path) -> dict[str, bytes]:
  """{name: bytes} of a data set, without the time at which it was written."""
  out = {p.name: p.read_bytes() for p in sorted(path.iterdir())}
  stats = json.loads(out["stats.json"])
  del stats["written"]
  return out | {"stats.json": json.dumps(stats, sort_keys=True).encode()}


def refused(path: pathlib.Path, name: str, or_read: str | None = None) -> None:
  """The reader names the file in an error; or all is read as it was."""
  from lumos_jax.data import records as records_lib
  from lumos_jax.data import schema as schema_lib

  try:
    found = content(path)
  except (records_lib.DataError, schema_lib.SchemaError) as e:
    expect(name in str(e), f"an error that does not name {name}: {e}")
    return
  expect(found == or_read, f"{name} was read, and nothing was said")


def _copy(world: World, folder: pathlib.Path, rng: random.Random):
  """A copy of the data set, and one of its shards."""
  path = shutil.copytree(world.data, folder / "tiny")
  return path, rng.choice(sorted(path.glob("*.array_record-*")))


def corrupt_byte(world, rng, folder) -> None:
  """A changed byte of a shard."""
  path, shard = _copy(world, folder, rng)
  _change(shard, rng)
  # Padding and what is told twice: then nothing may have changed.
  refused(path, shard.name, world.read)


def _change(file: pathlib.Path, rng: random.Random) -> None:
  """Another value at a place that is not padding."""
  data = bytearray(file.read_bytes())
  places = [i for i, byte in enumerate(data) if byte]
  data[rng.choice(places)] ^= rng.randrange(1, 256)
  file.write_bytes(bytes(data))


def truncated(world, rng, folder) -> None:
  """A shard cut short."""
  path, shard = _copy(world, folder, rng)
  data = shard.read_bytes()
  shard.write_bytes(data[: rng.randrange(len(data))])
  refused(path, shard.name)


def missing(world, rng, folder) -> None:
  """A shard that is not there."""
  path, shard = _copy(world, folder, rng)
  shard.unlink()
  refused(path, shard.name)


def foreign(world, rng, folder) -> None:
  """A shard of another data set, or another one of the same, in its place."""
  path, shard = _copy(world, folder, rng)
  others = [world.other / shard.name, *world.data.glob("*.array_record-*")]
  others = [o for o in others if o != world.data / shard.name]
  shard.write_bytes(rng.choice(sorted(others)).read_bytes())
  refused(path, shard.name)


def corrupt_side_file(world, rng, folder) -> None:
  """A changed byte, or a cut, of schema, calendar or counts."""
  path, _ = _copy(world, folder, rng)
  file = path / rng.choice(("schema.json", "calendar.npz", "stats.json"))
  if rng.random() < 0.5:
    _change(file, rng)
  else:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))])
  # The hash of the schema stands in stats.json, checksums of shards do too.
  name = "" if file.name == "stats.json" else file.name
  refused(path, name, world.read)


# Preparation.


def _whole_or_refused(path: pathlib.Path, *whole: str) -> None:
  """What an interrupted program left is not read, or is a whole data set."""
  from lumos_jax.data import records as records_lib

  try:
    found = content(path)
  except records_lib.DataError:
    return
  expect(found in whole, "a half-made data set was read")


def disturbed(world, rng, make: Callable[[Fault], tuple], start) -> str:
  """Kills a program at a random change of a file, or a random moment.

  Args:
    world: The world.
    rng: Draws the moment.
    make: Runs it to its end, with a fault.
    start: Starts it.

  Returns:
    What it said.
  """
  changes, seconds = world.undisturbed(make)
  if rng.random() < 0.5:
    at = rng.randint(1, changes)
    fault = Fault(changes="kill", at=at, under=str(world.folder))
    return make(fault)[1]
  running = start(Fault())
  running.wait(rng.uniform(0.0, seconds))
  running.kill()
  return running.said


def _preparing(world, rng, folder, *flags: str):
  """The programs of a try: (run with a fault, start with a fault)."""
  argv = world.argv(folder, "", *flags)
  log = world.folder / "log"
  start = lambda fault: programs.Program("data_prep", argv, log, fault)
  return lambda fault: start(fault).end(), start


def killed_preparation(world, rng, folder) -> None:
  """kill -9, in memory or in pieces on disk; then the same command."""
  # The least memory: an even smaller table is prepared in memory.
  pieces = rng.random() < 0.5
  flags = ["--memory_gib=1.5001"] if pieces else []
  make, start = _preparing(world, rng, folder, *flags)
  make.__name__ = f"preparation{pieces}"
  first = folder / "first"
  if make.__name__ not in world._changes:
    again, _ = _preparing(world, rng, first, *flags)
    again.__name__ = make.__name__
    world.undisturbed(again)
    shutil.rmtree(first)
  disturbed(world, rng, make, start)
  _whole_or_refused(folder / "tiny", world.read)
  _again(world, folder, make, world.data)


def _again(world, folder, make, wanted: pathlib.Path) -> None:
  """The same command gives the same bytes, and leaves nothing beside them."""
  status, said, _ = make(Fault())
  expect(status == 0, said)
  a, b = files_of(folder / "tiny"), files_of(wanted)
  differ = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
  expect(not differ, f"other bytes in {differ}")
  left = [p.name for p in folder.iterdir() if p.name != "tiny"]
  expect(not left, f"left behind: {left}")


def killed_replacement(world, rng, folder) -> None:
  """kill -9 while a data set is replaced (--overwrite)."""
  before = content(world.other)
  shutil.copytree(world.other, folder / "tiny")
  make, start = _preparing(world, rng, folder, "--overwrite")
  make.__name__ = "replacement"
  if make.__name__ not in world._changes:
    world.undisturbed(make)
    shutil.rmtree(folder / "tiny")
    shutil.copytree(world.other, folder / "tiny")
  disturbed(world, rng, make, start)
  _whole_or_refused(folder / "tiny", before, world.read)
  _again(world, folder, make, world.data)


def killed_append(world, rng, folder) -> None:
  """kill -9 while new days are appended."""
  import datetime

  import polars as pl
  import tiny_data

  raw = world.folder / "raw_new"
  if not raw.exists():
    frames = tiny_data.tiny_frames(seed=2)
    later = pl.col("time") + datetime.timedelta(days=tiny_data.DAYS)
    frames["activity"] = frames["activity"].with_columns(later)
    last = tiny_data.DAYS * 2
    text = tiny_data.DESCRIPTION.format(
      days=last, train_until=tiny_data.TRAIN_UNTIL
    )
    tiny_data.write_tables(raw, frames, text)
  schema = f"schema={raw / 'tiny.py'}"
  argv = ["append", str(folder / "tiny"), "--source=tables", "--set", schema]
  log = world.folder / "log"
  start = lambda fault: programs.Program("data_prep", argv, log, fault)
  make = lambda fault: start(fault).end()
  make.__name__ = "appending"
  whole = world.folder / "appended"
  shutil.copytree(world.data, folder / "tiny")
  if not whole.exists():
    world.undisturbed(make)
    shutil.move(folder / "tiny", whole)
    shutil.copytree(world.data, folder / "tiny")
  disturbed(world, rng, make, start)
  _whole_or_refused(folder / "tiny", world.read, content(whole))
  _again(world, folder, make, whole)


@contextlib.contextmanager
def mounted(folder: pathlib.Path, options: str) -> Iterator[None]:
  """A tmpfs at a folder.

  Raises:
    Skipped: This user may not mount.
  """
  folder.mkdir(parents=True, exist_ok=True)
  argv = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
  try:
    subprocess.run(argv, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError) as e:
    raise Skipped(f"needs to mount a tmpfs: {e}") from e
  try:
    yield
  finally:
    subprocess.run(["umount", "-l", str(folder)], check=False)


def remount(folder: pathlib.Path, options: str) -> None:
  """Mounts again with other options."""
  argv = ["mount", "-o", f"remount,{options}", str(folder)]
  subprocess.run(argv, check=True, capture_output=True)


def told(status, said: str, *words: str) -> None:
  """A program ended with 1 and one line that has one of the words."""
  lines = [x for x in said.strip().splitlines() if x.startswith("error: ")]
  expect(status == 1 and lines, f"status {status}: {said}")
  # Orbax logs what its threads met, with a traceback; ours is the last word.
  expect(any(w in lines[-1] for w in words), f"{words} not in {lines[-1]}")


def full_disk_in_preparation(world, rng, folder) -> None:
  """A disk that is full before the data set is written."""
  size = sum(p.stat().st_size for p in world.data.iterdir())
  with mounted(folder, f"size={rng.randint(1, size * 9 // 10 // 1024)}k"):
    make, _ = _preparing(world, rng, folder)
    status, said, _ = make(Fault())
    told(status, said, "No space left", "disk is full")
    expect(not (folder / "tiny").exists(), "a data set stands there")
    left = [p.name for p in folder.iterdir()]
    expect(not left, f"left behind: {left}")
    remount(folder, "size=64m")
    _again(world, folder, make, world.data)


def read_only_preparation(world, rng, folder) -> None:
  """A folder that cannot be written."""
  with mounted(folder, "size=64m,ro"):
    make, _ = _preparing(world, rng, folder)
    status, said, _ = make(Fault())
    told(status, said, str(folder))
    remount(folder, "rw")
    _again(world, folder, make, world.data)


def failing_disk_in_preparation(world, rng, folder) -> None:
  """An input/output error of any one change of a file."""
  make, _ = _preparing(world, rng, folder)
  make.__name__ = "preparationFalse"
  if make.__name__ not in world._changes:
    world.undisturbed(make)
    shutil.rmtree(folder / "tiny")
  changes, _ = world.undisturbed(make)
  at = rng.randint(1, changes)
  status, said, _ = make(Fault(changes="fail", at=at, under=str(folder)))
  if status != 0:  # An error while leftovers are removed harms nothing.
    told(status, said, str(folder))
  _whole_or_refused(folder / "tiny", world.read)
  _again(world, folder, make, world.data)
