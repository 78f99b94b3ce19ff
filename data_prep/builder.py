"""Prepared users -> a TensorFlow-Datasets directory in array_record format.

Everything is written beside the final place and moved there at the end, so that
a data directory is complete or absent.
"""

import contextlib
import dataclasses
import io
import json
import os
import time
from collections.abc import Callable

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from lumos_jax.data import records as records_lib
from lumos_jax.data import shards as shards_lib

from . import encode, engine, overlap, room, spill

INCOMPLETE = ".incomplete"
# Level 1 is twice as fast as the default 3, at 2 % more bytes. A record is its
# own chunk, so that random reads decompress nothing else.
RECORD_OPTIONS = "group_size:1,zstd:1"
SHARD_BYTES = 256 << 20
_BATCH = 256  # Records handed to the thread that writes.
_MAX_SHARDS = 1024


class _Info(tfds.core.DatasetInfo):
  """Does not ask Google's bucket for what no data set of one's own has there.

  The base class does, and leaves an empty folder in the temporary directory.
  """

  def initialize_from_bucket(self) -> None:
    pass


class Users(tfds.core.GeneratorBasedBuilder):
  """One record a user; see `lumos_jax.data.records` for the reader."""

  VERSION = tfds.core.Version("1.0.0")
  MODULE_DOC = "Users prepared by data_prep."
  name = "users"

  def __init__(
    self, *, prepared: engine.Prepared, num_shards: int | None = None, **kwargs
  ):
    """Writes `prepared`; other arguments are the base class's."""
    self._prepared, self._num_shards = prepared, num_shards
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    schema = self._prepared.schema
    shapes = records_lib.layout(schema)
    tensor = lambda dtype, shape: tfds.features.Tensor(
      shape=shape, dtype=dtype.type, encoding="bytes"
    )
    features = {n: tensor(*shapes[n]) for n in records_lib.stored(schema)}
    return _Info(
      builder=self,
      description=f"Users of {schema.name}.",
      features=tfds.features.FeaturesDict(
        {"key": tfds.features.Text(), **features}
      ),
    )

  def _split_generators(self, dl_manager):
    raise NotImplementedError("_download_and_prepare writes all splits")

  def _generate_examples(self):
    raise NotImplementedError("_download_and_prepare writes all splits")

  def _download_and_prepare(self, dl_manager, download_config) -> None:
    """Writes the shards of all splits.

    The base class's writer would give the same records, but takes five times as
    long: it checks each tensor again and keeps all records to sort them.
    """
    del dl_manager, download_config
    names = ["key", *records_lib.stored(self._prepared.schema)]
    write = self._write_on_many if self._prepared.many else self._write
    self.info.set_splits(tfds.core.SplitDict(write(names)))

  def _write_on_many(self, names) -> list[tfds.core.SplitInfo]:
    """A shard a piece, by whoever has it."""
    prepared = self._prepared
    templates = {
      n: self._get_filename_template(split_name=n) for n in prepared.splits
    }
    found = prepared.many.write(prepared, templates, names)
    self.lengths = {n: (w["rows"], w["longest"]) for n, w in found.items()}
    return [
      tfds.core.SplitInfo(
        name=name,
        shard_lengths=w["lengths"],
        num_bytes=w["bytes"],
        filename_template=templates[name],
      )
      for name, w in found.items()
    ]

  def _write(self, names) -> list[tfds.core.SplitInfo]:
    prepared, writers = self._prepared, {}
    split = np.full(len(prepared.users.keys), "", object)
    for name, users in prepared.splits.items():
      template = self._get_filename_template(split_name=name)
      split[users] = name
      shards = self._num_shards or _shards(prepared, len(users))
      writers[name] = Split(name, template, len(users), shards)
    for piece in prepared.pieces():
      members = piece.members
      owner = split if members is None else split[members]
      for name, writer in writers.items():
        order = spill.by_hash(piece.keys, np.flatnonzero(owner == name))
        lengths = np.bincount(piece.rows["user"], minlength=len(piece.keys))
        writer.count(lengths[order])
        for record in encode.records(piece, order):
          writer.write({n: record[n] for n in names})
    found = [w.done() for w in writers.values()]
    self.lengths = {n: (w.rows, w.longest) for n, w in writers.items()}
    return found


@dataclasses.dataclass(frozen=True)
class OneFile:
  """Where the one shard of a `Split` goes."""

  path: epath.Path

  def sharded_filepath(self, **_) -> epath.Path:
    """The file."""
    return self.path


class Split:
  """Writes the shards of one split, users in the order of a hash of their keys.

  Attributes:
    rows: Written so far.
    longest: Most rows of a user.
  """

  def __init__(self, name: str, template, users: int, shards: int):
    shards = min(shards, users)
    self._name, self._template = name, template
    self._bounds = [users * i // shards for i in range(shards + 1)]
    self._shard, self._written, self._bytes = -1, 0, 0
    self._writer = self._path = None
    self._pending, self._behind = [], overlap.Behind()
    self.rows = self.longest = 0

  def count(self, lengths: np.ndarray) -> None:
    """Notes the rows of users [U] who are about to be written."""
    self.rows += int(lengths.sum())
    self.longest = max(self.longest, int(lengths.max(initial=0)))

  def write(self, example: dict) -> None:
    """Writes the next user; the shard changes at its bound."""
    while self._written == self._bounds[self._shard + 1]:
      self._open(self._shard + 1)
    data = serialize(example)
    self._bytes += len(data)
    self._written += 1
    self._pending.append(data)
    if len(self._pending) == _BATCH:
      self._flush()

  def _flush(self) -> None:
    """Compresses and writes records while the next ones are made."""
    pending, self._pending = self._pending, []
    self._behind(self._write, pending)

  def _write(self, records: list[bytes]) -> None:
    with self._full():
      for data in records:
        self._writer.write(data)

  def _open(self, shard: int) -> None:
    self.close()
    self._shard = shard
    self._path = self._template.sharded_filepath(
      shard_index=shard, num_shards=len(self._bounds) - 1
    )
    with self._full():
      self._writer = array_record_module.ArrayRecordWriter(
        str(self._path), RECORD_OPTIONS
      )

  def close(self) -> int:
    """Ends the present shard; bytes of all records so far."""
    if self._writer is not None:
      self._flush()
      self._behind.wait()
      with self._full():
        self._writer.close()
      self._writer = None
    return self._bytes

  @contextlib.contextmanager
  def _full(self):
    try:
      yield
    except RuntimeError as e:  # What the writer makes of every failed write.
      for number in room.FULL:
        if os.strerror(number) in str(e):
          there = self._path.exists()
          written = self._path.stat().length if there else 0
          text = f"{self._path} after {written:,} bytes"
          raise OSError(number, text) from e
      raise

  def done(self) -> tfds.core.SplitInfo:
    """Closes the last shard."""
    self.close()
    assert self._written == self._bounds[-1], self._name
    return tfds.core.SplitInfo(
      name=self._name,
      shard_lengths=np.diff(self._bounds).tolist(),
      num_bytes=self._bytes,
      filename_template=self._template,
    )


def serialize(example: dict) -> bytes:
  """A record as tf.train.Example, each tensor as its bytes."""
  proto = tf_example_pb2.Example()
  features = proto.features.feature
  for name, value in example.items():
    data = value.encode() if isinstance(value, str) else value.tobytes()
    features[name].bytes_list.value.append(data)
  # The order of a map's entries is otherwise another one in each process.
  return proto.SerializeToString(deterministic=True)


def _shards(prepared: engine.Prepared, count: int) -> int:
  size = prepared.bytes * count // len(prepared.users.keys)
  return min(_MAX_SHARDS, 1 + size // SHARD_BYTES)


def write(
  prepared: engine.Prepared,
  path: epath.PathLike,
  extra: dict | None = None,
  num_shards: int | None = None,
  say: Callable[[str], None] = lambda _: None,
) -> dict:
  """Writes a complete data set at `path`, which must not exist.

  Args:
    prepared: What to write.
    path: The data set's directory.
    extra: More entries of stats.json.
    num_shards: Of each split; by size where None.
    say: Receives lines of progress.

  Returns:
    The contents of stats.json.

  Raises:
    OSError: The disk is full, or cannot be written; nothing is left behind.
  """
  path = epath.Path(path)
  aside = path.parent / (path.name + INCOMPLETE)
  room.claim(aside, say)
  try:
    builder = _write_shards(prepared, aside, num_shards)
    place = epath.Path(builder.data_dir)
    stats = {**prepared.stats, **(extra or {})}
    stats |= _shard_stats(builder, place)
    schema = prepared.schema.to_json()
    stats["schema_hash"] = prepared.schema.hash
    stats["model_hash"] = prepared.schema.model_hash
    (place / records_lib.SCHEMA).write_text(schema)
    prepared.calendar.save(place / records_lib.CALENDAR)
    prepared.rejects.save(place / records_lib.REJECTS)
    if prepared.pages is not None:
      prepared.pages.save(place)
    if prepared.sessions is not None:
      buffer = io.BytesIO()
      prepared.sessions.write_parquet(buffer)
      (place / records_lib.SESSIONS).write_bytes(buffer.getvalue())
    text = json.dumps(stats, indent=1, sort_keys=True)
    (place / records_lib.STATS).write_text(text)
    place.rename(path)
  except OSError as e:
    if e.errno not in room.FULL:
      raise
    raise OSError(
      e.errno,
      f"the disk is full or a limit reached: {e}. The data set takes up to "
      f"{prepared.bytes:,} bytes, a fifth of it as a rule. Nothing was "
      f"kept in {path.parent}; make room, or choose another --out",
    ) from e
  finally:
    if aside.exists():
      aside.rmtree(missing_ok=True)
  return stats


def _write_shards(prepared, aside, num_shards) -> Users:
  builder = Users(
    prepared=prepared,
    num_shards=num_shards,
    data_dir=aside,
    file_format="array_record",
  )
  # TFDS speaks of downloads; what is to be said is said by the caller.
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(
      download_dir=aside / "downloads",
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
  return builder


def _shard_stats(builder: Users, place) -> dict:
  shards, splits = {}, {}
  for name, split in builder.info.splits.items():
    files = [epath.Path(f).name for f in split.filepaths]
    rows, longest = builder.lengths[name]
    splits[name] = {
      "users": int(split.num_examples),
      "rows": rows,
      "longest": longest,
      "shards": files,
    }
    for f in files:
      shards[f] = shards_lib.entry(place / f)
  return {
    "splits": splits,
    "shards": shards,
    "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
  }
