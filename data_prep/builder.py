"""Prepared users -> a TensorFlow-Datasets directory in array_record format.

Everything is written beside the final place and moved there at the end, so that
a data directory is complete or absent.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from lumos_jax.data import records as records_lib

from . import encode, engine

INCOMPLETE = ".incomplete"
# Level 1 is twice as fast as the default 3, at 2 % more bytes. A record is its
# own chunk, so that random reads decompress nothing else.
_RECORD_OPTIONS = "group_size:1,zstd:1"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHARD_BYTES = 256 << 20
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
    del dl_manager
    return {
      name: self._generate_examples(users)
      for name, users in self._prepared.splits.items()
    }

  def _generate_examples(self, users) -> Iterator[tuple[str, dict]]:
    names = ["key", *records_lib.stored(self._prepared.schema)]
    for record in encode.records(self._prepared.users, users):
      yield record["key"], {n: record[n] for n in names}

  def _download_and_prepare(self, dl_manager, download_config) -> None:
    """Writes the shards of all splits.

    The base class's writer would give the same records, but takes five times as
    long: it checks each tensor again and keeps all records to sort them.
    """
    del dl_manager, download_config
    splits = [
      self._write_split(name, users)
      for name, users in self._prepared.splits.items()
    ]
    self.info.set_splits(tfds.core.SplitDict(splits))

  def _write_split(self, name: str, users: np.ndarray) -> tfds.core.SplitInfo:
    """Shards of one split, users in the order of a hash of their keys."""
    template = self._get_filename_template(split_name=name)
    keys = self._prepared.users.keys
    digest = lambda u: hashlib.sha256(keys[u].encode()).digest()
    order = sorted(users.tolist(), key=digest)
    shards = self._num_shards or _shards(self._prepared.users, len(order))
    shards = min(shards, len(order))
    bounds = [len(order) * i // shards for i in range(shards + 1)]
    total = 0
    for i in range(shards):
      path = template.sharded_filepath(shard_index=i, num_shards=shards)
      chosen = order[bounds[i] : bounds[i + 1]]
      total += _write_shard(path, self._generate_examples(chosen))
    return tfds.core.SplitInfo(
      name=name,
      shard_lengths=np.diff(bounds).tolist(),
      num_bytes=total,
      filename_template=template,
    )


def _write_shard(path: epath.Path, examples) -> int:
  """Writes one file; returns its bytes before compression."""
  total = 0
  try:
    writer = array_record_module.ArrayRecordWriter(str(path), _RECORD_OPTIONS)
    for _, example in examples:
      data = serialize(example)
      total += len(data)
      writer.write(data)
    writer.close()
  except RuntimeError as e:  # What the writer makes of every failed write.
    for number in _FULL:
      if os.strerror(number) in str(e):
        written = path.stat().length if path.exists() else 0
        raise OSError(number, f"{path} after {written:,} bytes") from e
    raise
  return total


def serialize(example: dict) -> bytes:
  """A record as tf.train.Example, each tensor as its bytes."""
  proto = tf_example_pb2.Example()
  features = proto.features.feature
  for name, value in example.items():
    data = value.encode() if isinstance(value, str) else value.tobytes()
    features[name].bytes_list.value.append(data)
  return proto.SerializeToString()


def _shards(users: encode.Users, count: int) -> int:
  size = _size(users) * count // len(users.keys)
  return min(_MAX_SHARDS, 1 + size // _SHARD_BYTES)


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
  claim(aside, say)
  try:
    builder = _write_shards(prepared, aside, num_shards)
    place = epath.Path(builder.data_dir)
    stats = {**prepared.stats, **(extra or {})}
    stats |= _shard_stats(prepared, builder.info, place)
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
    if e.errno not in _FULL:
      raise
    raise OSError(
      e.errno,
      f"the disk is full or a limit reached: {e}. The data set takes up to "
      f"{_size(prepared.users):,} bytes, a fifth of it as a rule. Nothing was "
      f"kept in {path.parent}; make room, or choose another --out",
    ) from e
  finally:
    if aside.exists():
      aside.rmtree(missing_ok=True)
  return stats


def claim(aside: epath.Path, say: Callable[[str], None]) -> None:
  """Takes the place beside the data set; cleans what an interrupted run left.

  Raises:
    FileExistsError: A living process of this machine is writing there.
  """
  owner = aside / "owner"
  host = os.uname().nodename
  if aside.exists():
    text = owner.read_text().split() if owner.exists() else []
    if len(text) == 2 and text[0] == host and _alive(int(text[1])):
      raise FileExistsError(
        f"{aside} is being written by process {text[1]}: wait for it, or "
        "choose another --out"
      )
    say(f"removing {aside}, left by an interrupted preparation")
    aside.rmtree()
  aside.mkdir(parents=True)
  owner.write_text(f"{host} {os.getpid()}")


def _alive(pid: int) -> bool:
  if pid == os.getpid():
    return False
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  return True


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


def _shard_stats(prepared, info: tfds.core.DatasetInfo, place) -> dict:
  users = prepared.users
  rows = np.bincount(users.rows["user"], minlength=len(users.keys))
  shards, splits = {}, {}
  for name, split in info.splits.items():
    files = [epath.Path(f).name for f in split.filepaths]
    own = rows[prepared.splits[name]]
    splits[name] = {
      "users": int(split.num_examples),
      "rows": int(own.sum()),
      "longest": int(own.max(initial=0)),
      "shards": files,
    }
    for f in files:
      shards[f] = {
        "bytes": (place / f).stat().length,
        "sha256": records_lib.checksum(place / f),
      }
  return {
    "splits": splits,
    "shards": shards,
    "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
  }


def _size(users: encode.Users) -> int:
  arrays = [*users.rows.values(), *users.profile, users.span]
  return sum(a.nbytes for a in arrays)
