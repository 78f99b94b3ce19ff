"""Reads a prepared data set; needs neither Polars nor data_prep.

The shards are ArrayRecord files of a TensorFlow-Datasets directory. They are
read directly, several times faster than through the generic decoder; its
`builder_from_directory(path)` opens the same directory.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_data_source
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import schema as schema_lib

STATS, SCHEMA, CALENDAR = "stats.json", "schema.json", "calendar.npz"
REJECTS = "rejects.parquet"


class DataError(ValueError):
  """A data set is absent, incomplete or damaged; says what to do."""


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
  """Type and shape of each tensor of a record; None for a free length."""
  i, f = np.dtype(np.int32), np.dtype(np.float32)
  return {
    "time": (i, (None,)),
    "categorical": (i, (None, len(schema.categorical("activity")))),
    "numeric": (f, (None, schema.numeric_width("activity"))),
    "profile_categorical": (i, (len(schema.categorical("profile")),)),
    "profile_numeric": (f, (schema.numeric_width("profile"),)),
    "groups": (i, (None,)),
    "span": (i, (3,)),
    "label_id": (i, (None,)),
    "label_time": (i, (None,)),
    "label_value": (f, (None,)),
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
  """

  def __init__(self, paths: Sequence[str], schema: schema_lib.Schema):
    """Opens shards in their order."""
    self._paths, self._schema = list(paths), schema
    self._layout = layout(schema)
    self._reader = array_record_data_source.ArrayRecordDataSource(self._paths)

  def __getstate__(self):
    return {"paths": self._paths, "schema": self._schema}

  def __setstate__(self, state):
    self.__init__(**state)

  def __len__(self) -> int:
    return len(self._reader)

  def __repr__(self) -> str:
    return f"Source(schema={self._schema.hash}, records={len(self)})"

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"record {i} of {len(self)}")
    return self._decode(i, self._reader[int(i)])

  def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
    found = self._reader.__getitems__([int(i) for i in positions])
    return [self._decode(i, data) for i, data in zip(positions, found)]

  def _decode(self, i: int, data: bytes) -> dict[str, Any]:
    try:
      features = tf_example_pb2.Example.FromString(data).features.feature
      out = {"key": features["key"].bytes_list.value[0].decode()}
      rows = None
      for name, (dtype, shape) in self._layout.items():
        if name in features:
          raw = features[name].bytes_list.value[0]
          values = np.frombuffer(raw, dtype)
        else:
          values = np.zeros(0, dtype)
        if shape == (None,):
          shape = (len(values),)
        elif len(shape) == 2:
          shape = (rows, shape[1])
        out[name] = values.reshape(shape)
        rows = len(out["time"])
      return out
    except Exception as e:  # Foreign bytes fail in many ways.
      raise DataError(
        f"record {i} of {self._paths[0]} and its fellows is not one of this "
        f"data set ({type(e).__name__}: {e}): prepare the data again"
      ) from e


class Cached:
  """A source whose records are decoded once and stay in memory."""

  def __init__(self, source: Source):
    """Reads all of it."""
    self._records = source.__getitems__(range(len(source)))
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
    try:
      stats = json.loads((path / STATS).read_text())
      shards, splits = stats["shards"], stats["splits"]
      calendar = calendar_lib.Calendar.load(path / CALENDAR, schema)
    except (KeyError, ValueError) as e:
      raise DataError(
        f"{path}: {STATS} or {CALENDAR} cannot be read ({e}): prepare the data "
        "again"
      ) from e
    if stats["schema_hash"] != schema.hash:
      raise DataError(
        f"{path / SCHEMA} is not the schema that the shards were written with "
        f"({schema.hash} against {stats['schema_hash']}): prepare the data again"
      )
    for name in (n for s in splits.values() for n in s["shards"]):
      _check_size(path / name, shards[name]["bytes"])
    return cls(path, schema, calendar, stats)

  def source(self, split: str) -> Source:
    """Records of a split, by position.

    Raises:
      DataError: There is no such split; names those there are.
    """
    if split not in self.splits:
      raise DataError(f"{self.path} has no split {split!r}, but {self.splits}")
    entry = self.stats["splits"][split]
    paths = [str(self.path / n) for n in entry["shards"]]
    try:
      source = Source(paths, self.schema)
      count = len(source)
    except Exception as e:
      raise DataError(f"{paths}: not ArrayRecord files ({e})") from e
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


def checksum(path: epath.Path) -> str:
  """sha256 of a file, in hex."""
  digest = hashlib.sha256()
  with path.open("rb") as f:
    while block := f.read(1 << 22):
      digest.update(block)
  return digest.hexdigest()


def _check_size(path: epath.Path, size: int) -> None:
  if not path.exists():
    raise DataError(f"shard {path} is absent: prepare the data again")
  found = path.stat().length
  if found != size:
    raise DataError(
      f"shard {path} has {found} bytes, it was written with {size}: it was cut "
      "off or replaced; prepare the data again"
    )
