"""Reads a prepared data set; needs neither Polars nor data_prep.

The shards are ArrayRecord files of a TensorFlow-Datasets directory. They are
read directly, several times faster than through the generic decoder; its
`builder_from_directory(path)` opens the same directory.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import shards as shards_lib
from lumos_jax.data import wire
from lumos_jax.data.shards import DataError, checksum

T = TypeVar("T")
STATS, SCHEMA, CALENDAR = "stats.json", "schema.json", "calendar.npz"
REJECTS = "rejects.parquet"
SESSIONS = "sessions.parquet"  # Of clicks: whose, from when to when.
BOTS = "bots"  # Split of sessions that are no people's.
_BLOCK = 1024  # Records that are read at a time where all are.
_LABELS = "columns of labels differ in length"
_TOGETHER = 16  # Fewer records are decoded sooner one by one.


def directory_name(source: str, options: Mapping[str, Any]) -> str:
  """Directory of a prepared data set below the data root.

  Args:
    source: Name of a data_prep source.
    options: Its options. Where the raw files lie ("path") does not change the
      name; other options do. With "schema", a file, its stem replaces `source`;
      so does "name".
  """
  options = {k: v for k, v in options.items() if k != "path"}
  name = source
  if isinstance(options.get("schema"), str):
    name = epath.Path(options.pop("schema")).stem
  if options.get("name"):
    name = options.pop("name")
  if not options:
    return name
  text = json.dumps(options, sort_keys=True, default=list)
  return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def layout(schema: schema_lib.Schema) -> dict[str, tuple[np.dtype, tuple]]:
  """Type and shape of each tensor of a record; None for a free length.

  `day` is the local day of each row since the schema's epoch. Rows of events
  have `time` beside it: the instant, in microseconds since midnight UTC of the
  epoch day, in whose order they stand. `label_event` is the row that a label of
  events is of, -1 for labels of users; `label_known` the day from which on a label
  is known.
  """
  i, f = np.dtype(np.int32), np.dtype(np.float32)
  time = {"time": (np.dtype(np.int64), (None,))}
  more = {}
  if any(x.level == "event" for x in schema.labels):
    more["label_event"] = (i, (None,))
  if any(x.late for x in schema.labels):
    more["label_known"] = (i, (None,))
  return {
    "day": (i, (None,)),
    **(time if schema.rows == "event" else {}),
    "categorical": (i, (None, len(schema.categorical("activity")))),
    "numeric": (f, (None, schema.numeric_width("activity"))),
    "profile_categorical": (i, (len(schema.categorical("profile")),)),
    "profile_numeric": (f, (schema.numeric_width("profile"),)),
    "groups": (i, (None,)),
    "span": (i, (3,)),
    "label_id": (i, (None,)),
    "label_time": (i, (None,)),
    "label_value": (f, (None,)),
    **more,
  }


def stored(schema: schema_lib.Schema) -> list[str]:
  """Names of tensors that are on disk: those of zero width are not."""
  names = [k for k, (_, shape) in layout(schema).items() if 0 not in shape]
  if not schema.labels:
    names = [n for n in names if not n.startswith("label_")]
  return names


class Source:
  """Random access to the records of one split; safe to read from threads.

  `source[i]` is a dict of numpy arrays (all keys of `layout`, and key: str).
  They may be views of the record's bytes: not writeable, and not aligned.
  """

  ordered_by_hash = True  # Of the keys (data_prep/builder.py).

  def __init__(self, paths: Sequence[str], schema: schema_lib.Schema):
    """Opens shards in their order."""
    self._paths = list(paths)
    self._take(schema, shards_lib.Shards(self._paths))

  def _take(self, schema: schema_lib.Schema, shards: shards_lib.Shards) -> None:
    self._schema, self._layout = schema, layout(schema)
    self._labels = [n for n in self._layout if n.startswith("label_")]
    self._shards = shards

  def __getstate__(self):
    return {"paths": self._paths, "schema": self._schema}

  def __setstate__(self, state):
    self.__init__(**state)

  def __len__(self) -> int:
    return len(self._shards)

  def __repr__(self) -> str:
    return f"Source(schema={self._schema.hash}, records={len(self)})"

  def __getitem__(self, i: int) -> dict[str, Any]:
    return self.__getitems__([i])[0]

  def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
    positions = [int(i) for i in positions]
    if not positions:
      return []
    for i in (min(positions), max(positions)):
      if not 0 <= i < len(self):
        raise IndexError(f"record {i} of {len(self)}")
    found = self._shards.read(positions)
    if len(found) >= _TOGETHER:
      try:
        return self._decode_together(found)
      except (KeyError, ValueError):  # One by one, which says where.
        pass
    return [self._decode(i, d) for i, d in zip(positions, found, strict=True)]

  def _decode_together(self, found: Sequence[bytes]) -> list[dict[str, Any]]:
    """What `_decode` makes of each record; raises ValueError, KeyError."""
    spans, count = wire.byte_features(found), len(found)
    rows = spans["day"][1] // self._layout["day"][0].itemsize
    none = 0 * rows, 0 * rows
    size = lambda n: spans.get(n, none)[1] // self._layout[n][0].itemsize
    if any(np.any(size(n) != size(self._labels[0])) for n in self._labels):
      raise ValueError(_LABELS)
    shared, columns = {"key": ""}, {}
    for name, (dtype, shape) in self._layout.items():
      first, size = spans.get(name, none)
      if name == "time":
        extents = (rows,)
      elif shape == (None,):
        extents = (size // dtype.itemsize,)
      elif len(shape) == 1:
        extents = (np.full(count, shape[0]),)
      else:
        extents = rows, np.full(count, shape[1])
      if np.any(math.prod(extents) * dtype.itemsize != size):
        raise ValueError(f"{name} is not of the form {shape}")
      if not size.any() and all(x.min() == x.max() for x in extents):
        # One object for all that is empty.
        shared[name] = np.zeros([int(x[0]) for x in extents], dtype)
        continue
      # Tuples and `map` take half the time of lists and a loop.
      extents = zip(*(x.tolist() for x in extents), strict=True)
      shared[name] = None
      columns[name] = map(
        np.ndarray, extents, [dtype] * count, found, first.tolist()
      )
    first, size = spans["key"]
    ends = (first + size).tolist()
    columns["key"] = (
      data[i:j].decode() for data, i, j in zip(found, first.tolist(), ends)
    )
    # Copies of a dict that has all keys grow no more.
    out = [shared.copy() for _ in found]
    for name, values in columns.items():
      for record, value in zip(out, values, strict=True):
        record[name] = value
    return out

  def _decode(self, i: int, data: bytes) -> dict[str, Any]:
    try:
      features = tf_example_pb2.Example.FromString(data).features.feature
      out = {"key": features["key"].bytes_list.value[0].decode()}
      rows = len(features["day"].bytes_list.value[0]) // 4
      for name, (dtype, shape) in self._layout.items():
        if name in features:
          raw = features[name].bytes_list.value[0]
          values = np.frombuffer(raw, dtype)
        else:
          values = np.zeros(0, dtype)
        if name == "time":
          shape = (rows,)
        elif shape == (None,):
          shape = (len(values),)
        elif len(shape) == 2:
          shape = (rows, shape[1])
        out[name] = values.reshape(shape)
      if len({len(out[name]) for name in self._labels}) > 1:
        raise ValueError(_LABELS)
      return out
    except Exception as e:  # Foreign bytes fail in many ways.
      raise DataError(
        f"record {i}, in shard {self._shards.path(i)}, is not one of this data "
        f"set ({type(e).__name__}: {e}): prepare the data again"
      ) from e


class Cached:
  """A source whose records are decoded once and stay in memory."""

  def __init__(self, source: Source):
    """Reads all of it."""
    self._records = []
    for first in range(0, len(source), _BLOCK):
      some = range(first, min(first + _BLOCK, len(source)))
      self._records += source.__getitems__(some)
    self._name = repr(source)

  def __len__(self) -> int:
    return len(self._records)

  def __repr__(self) -> str:
    return f"Cached({self._name})"

  def __getitem__(self, i: int) -> dict[str, Any]:
    return self._records[i]

  def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
    return [self._records[i] for i in positions]


class Records:
  """A prepared data set.

  Attributes:
    path: Its directory.
    schema, calendar: As prepared.
    stats: Counts, see stats.json.
    splits: Names of the splits.
  """

  def __init__(self, path, schema, calendar, stats):
    """Use `open`."""
    self.path, self.schema, self.calendar = path, schema, calendar
    self.stats = stats
    self.splits = sorted(stats["splits"])

  @classmethod
  def open(cls, path: epath.PathLike) -> "Records":
    """Opens a directory that data_prep wrote.

    Raises:
      DataError: The directory is absent or incomplete, or a shard is not as it
        was written; names the file.
      SchemaError: The schema is another version's.
    """
    path = epath.Path(path)
    if not path.exists():
      raise DataError(
        f"no data set at {path}: prepare it with python -m data_prep "
        f"--source=SOURCE --out={path.parent} (see --list)"
      )
    for name in (SCHEMA, CALENDAR, STATS):
      if not (path / name).exists():
        raise DataError(
          f"{path} is not a complete data set, {name} is absent: give the "
          "folder of one data set, or prepare it again where this one is broken"
        )
    schema = schema_lib.Schema.load(path / SCHEMA)
    stats = _intact(path / STATS, lambda file: json.loads(file.read_text()))
    _intact(path / STATS, lambda _: _check_stats(stats))
    shards, splits = stats["shards"], stats["splits"]
    calendar = _intact(
      path / CALENDAR, lambda file: calendar_lib.Calendar.load(file, schema)
    )
    if stats["schema_hash"] != schema.hash:
      raise DataError(
        f"{path / SCHEMA} is not the schema that the shards were written with "
        f"({schema.hash} against {stats['schema_hash']}): prepare the data again"
      )
    for name in (n for s in splits.values() for n in s["shards"]):
      shards_lib.check_size(path / name, shards[name]["bytes"])
    return cls(path, schema, calendar, stats)

  def source(self, split: str) -> Source:
    """Records of a split, by position.

    Raises:
      DataError: There is no such split, names those there are; or a shard is
        another one's.
    """
    if split not in self.splits:
      raise DataError(f"{self.path} has no split {split!r}, but {self.splits}")
    entry = self.stats["splits"][split]
    shards_lib.check_ends(self.path, entry["shards"], self.stats["shards"])
    paths = [str(self.path / n) for n in entry["shards"]]
    source = Source(paths, self.schema)
    count = len(source)
    if count != entry["users"]:
      raise DataError(
        f"{paths} hold {count} records, {STATS} says {entry['users']}: prepare "
        "the data again"
      )
    return source

  def verify(self) -> None:
    """Reads all shards and compares checksums; raises DataError on a mismatch."""
    for name, entry in self.stats["shards"].items():
      found = checksum(self.path / name)
      if found != entry["sha256"]:
        raise DataError(
          f"{self.path / name} is damaged: its sha256 is {found}, it was "
          f"written with {entry['sha256']}: prepare the data again"
        )


def _intact(path: epath.Path, read: Callable[[epath.Path], T]) -> T:
  """What `read` gives; changed bytes fail in many ways, which all name the file."""
  try:
    return read(path)
  except (OSError, MemoryError):
    raise
  except Exception as e:
    raise DataError(
      f"{path} is damaged ({type(e).__name__}: {e}): prepare the data again"
    ) from e


def _check_stats(stats: Any) -> None:
  """Raises KeyError, TypeError, AttributeError where an entry is not there."""
  for entry in stats["splits"].values():
    int(entry["users"])
    for name in entry["shards"]:
      int(stats["shards"][name]["bytes"])
  str(stats["schema_hash"])
