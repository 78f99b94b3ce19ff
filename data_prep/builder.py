"""Prepared users -> a TensorFlow-Datasets directory in array_record format.

Everything is written beside the final place and moved there at the end, so that
a data directory is complete or absent.
"""

import contextlib
import errno
import io
import json
import os
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from data_prep import encode, engine
from lumos_jax.data import records as records_lib

INCOMPLETE = ".incomplete"


class Users(tfds.core.GeneratorBasedBuilder):
  """One record a user; see `lumos_jax.data.records` for the reader."""

  VERSION = tfds.core.Version("1.0.0")
  MODULE_DOC = "Users prepared by data_prep."
  name = "users"

  def __init__(self, *, prepared: engine.Prepared, **kwargs):
    """Writes `prepared`; other arguments are the base class's."""
    self._prepared = prepared
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    schema = self._prepared.schema
    shapes = records_lib.layout(schema)
    tensor = lambda dtype, shape: tfds.features.Tensor(
      shape=shape, dtype=dtype.type, encoding="bytes"
    )
    features = {n: tensor(*shapes[n]) for n in records_lib.stored(schema)}
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"Users of {schema.name}; schema {schema.hash}.",
      features=tfds.features.FeaturesDict(
        {"key": tfds.features.Text(), **features}
      ),
      disable_shuffling=False,
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
    place = _write_shards(prepared, aside, num_shards)
    stats = {**prepared.stats, **(extra or {})}
    stats |= _shard_stats(prepared, place)
    prepared.schema.save(place / records_lib.SCHEMA)
    prepared.calendar.save(place / records_lib.CALENDAR)
    prepared.rejects.save(place / records_lib.REJECTS)
    text = json.dumps(stats, indent=1, sort_keys=True)
    (place / records_lib.STATS).write_text(text)
    place.rename(path)
  except OSError as e:
    if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      raise
    written = sum(f.stat().length for f in aside.glob("**/*") if f.is_file())
    raise OSError(
      e.errno,
      f"the disk is full: {written:,} bytes were written to {aside}, at least "
      f"{_size(prepared.users):,} are needed before compression. Nothing was "
      "kept; make room or choose another --out",
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


def _write_shards(prepared, aside, num_shards) -> epath.Path:
  builder = Users(
    prepared=prepared, data_dir=aside, file_format="array_record"
  )
  config = tfds.download.DownloadConfig(num_shards=num_shards)
  # TFDS speaks of downloads; what is to be said is said by the caller.
  with contextlib.redirect_stdout(io.StringIO()), _silent_progress():
    builder.download_and_prepare(
      download_dir=aside / "downloads", download_config=config
    )
  return epath.Path(builder.data_dir)


@contextlib.contextmanager
def _silent_progress():
  tfds.disable_progress_bar()
  try:
    yield
  finally:
    tfds.enable_progress_bar()


def _shard_stats(prepared, place: epath.Path) -> dict:
  info = tfds.builder_from_directory(place).info
  shards, splits = {}, {}
  for name, split in info.splits.items():
    files = [epath.Path(f).name for f in split.filepaths]
    splits[name] = {
      "users": int(split.num_examples),
      "rows": int(np.isin(prepared.users.rows["user"], prepared.splits[name]).sum()),
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
    "schema_hash": prepared.schema.hash,
    "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
  }


def _size(users: encode.Users) -> int:
  arrays = [*users.rows.values(), *users.profile, users.span]
  return sum(a.nbytes for a in arrays)
