"""Files of records: read at random, and known to be those that were written."""

import concurrent.futures
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module
from etils import epath

_THREADS = 16  # That read shards at a time.
# Of a shard's end, where ArrayRecord keeps the places of all records.
_END_BYTES = 1 << 16


class DataError(ValueError):
  """A data set is absent, incomplete or damaged; says what to do."""


class Shards:
  """Random access to the bytes of several files' records, from any thread.

  ArrayRecordDataSource starts threads for every call: for 64 records it takes
  six times as long.
  """

  def __init__(self, paths: Sequence[str]):
    def open_one(path):
      # These options are ArrayRecord's own for reading at random.
      reader = array_record_module.ArrayRecordReader(
        path, options="readahead_buffer_size:0", file_reader_buffer_size=32768
      )
      if not reader.ok():
        raise DataError(
          f"{path} is no ArrayRecord file: prepare the data again"
        )
      return reader

    self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
    self._paths = list(paths)
    self._readers = list(self._pool.map(open_one, paths))
    counts = [reader.num_records() for reader in self._readers]
    self._first = np.cumsum([0, *counts])

  def __len__(self) -> int:
    return int(self._first[-1])

  def read(self, positions: Sequence[int]) -> list[bytes]:
    """Records at positions over all files, in their order."""
    if len(self._readers) == 1:
      return self._read(0, list(positions))
    at = np.asarray(positions, np.int64)
    shard = np.searchsorted(self._first, at, side="right") - 1
    order = np.argsort(shard, kind="stable")
    ends = np.cumsum(np.bincount(shard, minlength=len(self._readers)))
    parts = {
      i: found
      for i, found in enumerate(np.split(order, ends[:-1]))
      if len(found)
    }
    read_one = lambda i: self._read(i, (at[parts[i]] - self._first[i]).tolist())
    out = [b""] * len(at)
    spread = self._pool.map if len(parts) > 1 else map
    for i, found in zip(parts, spread(read_one, parts), strict=True):
      for place, data in zip(parts[i].tolist(), found, strict=True):
        out[place] = data
    return out

  def _read(self, shard: int, places: list[int]) -> list[bytes]:
    try:
      return self._readers[shard].read(places)
    except Exception as e:  # The reader's own, or the system's.
      reason = str(e).partition(";")[0]
      raise DataError(
        f"shard {self._paths[shard]} is damaged ({reason}): prepare the data "
        "again"
      ) from e

  def path(self, position: int) -> str:
    """The file that holds a record."""
    shard = np.searchsorted(self._first, position, side="right") - 1
    return self._paths[shard]


def entry(path: epath.PathLike) -> dict[str, Any]:
  """What stats.json keeps of a shard: {"bytes", "sha256", "end"}.

  "end" is a digest of the file's end, checked whenever a split is opened; the
  whole checksum is for `Records.verify`.
  """
  path = epath.Path(path)
  size = path.stat().length
  return {"bytes": size, "sha256": checksum(path), "end": _end(path)}


def _end(path: epath.Path) -> str:
  with path.open("rb") as f:
    f.seek(max(0, path.stat().length - _END_BYTES))
    return hashlib.sha256(f.read()).hexdigest()[:32]


def checksum(path: epath.Path) -> str:
  """sha256 of a file, in hex."""
  digest = hashlib.sha256()
  with path.open("rb") as f:
    while block := f.read(1 << 22):
      digest.update(block)
  return digest.hexdigest()


def check_size(path: epath.Path, size: int) -> None:
  """Raises DataError where a shard is absent or has another size."""
  if not path.exists():
    raise DataError(f"shard {path} is absent: prepare the data again")
  found = path.stat().length
  if found != size:
    raise DataError(
      f"shard {path} has {found} bytes, it was written with {size}: it was cut "
      "off or replaced; prepare the data again"
    )


def check_ends(
  folder: epath.Path, names: Sequence[str], entries: Mapping[str, Any]
) -> None:
  """Raises DataError, naming it, where a shard does not end as `entry` says.

  Files are padded, so that shards of other data may be of equal size.
  """

  def check(name):
    wanted = entries[name].get("end")  # Absent in older data sets.
    if wanted and _end(folder / name) != wanted:
      raise DataError(
        f"shard {folder / name} is damaged, or another data set's: it does not "
        "end as it was written; prepare the data again"
      )

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    list(pool.map(check, names))
