"""Removes users from what was written, and proves it by reading it again.

python -m data_prep forget --users=FILE data/shop predictions runs/pretrain

FILE has a user id a line, as in the raw tables; of clicks a visitor's, or that of a
user who logged in, whose sessions go. A place is a prepared data set
(shards, rejects), or any other folder: an export or a run, whose Parquet tables
with a column `key` and whose predictions/*.npz lose the users' rows. Where ids are
keyed hashes, the key is in the environment, as it was when they were written. A
file is replaced whole or not at all. Then every file is read, and an id that still
stands somewhere is an error that names the file.

A trained model, the service's store (it forgets by itself), and the raw tables are
not touched. Fitted vocabularies and counts stay, because checkpoints read them; an
id among their values is found and told.
"""

import argparse
import io
import json
import pathlib
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import polars as pl
from array_record.python import array_record_module
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from lumos_jax import ids
from lumos_jax.data import records as records_lib

from . import builder
from . import place as place_lib
from .inputs import InputError

_MANIFEST = "manifest.json"
_BLOCK = 1024
_WHOSE = ("key", "visitor", "user")  # Columns of sessions.parquet.
# A shorter id is a part of other texts by chance: whole values are compared.
_SEARCHED = 8


class ForgetError(InputError):
  """A user still stands somewhere; says where."""


def forget(
  places: Sequence[epath.PathLike], users: Iterable[str]
) -> dict[str, dict[str, int]]:
  """Removes users.

  Args:
    places: Data sets and other folders; see the module's text.
    users: Ids as in the raw tables.

  Returns:
    {place: {"removed": rows or records, "read": values that were compared,
    "unknown": users of whom nothing was there}}.

  Raises:
    InputError: A place is not there, or ids cannot be hashed.
    ForgetError: A user is still there afterwards.
  """
  users = list(dict.fromkeys(map(str, users)))
  if not users:
    raise InputError("no user to forget")
  for place in places:
    place_lib.recover(epath.Path(place))
    if not epath.Path(place).is_dir():
      raise InputError(f"{place} is no folder")
  paths, gone = [pathlib.Path(p) for p in places], _forms(users)
  # A visitor's or user's sessions are known in a data set, and go everywhere.
  for path in paths:
    if (path / records_lib.SESSIONS).exists():
      gone |= set(_sessions(path, gone)[1]["key"])
  out, forms = {}, {u: _forms([u]) for u in users}
  for place, path in zip(places, paths, strict=True):
    seen: set[str] = set()
    if (path / records_lib.STATS).exists():
      removed = _from_data_set(path, users, gone, seen)
    else:
      removed = _from_folder(path, gone, seen)
    out[str(place)] = {
      "removed": removed,
      "read": prove(path, gone),
      "unknown": [u for u in users if not forms[u] & seen],
    }
  return out


def _sessions(path: pathlib.Path, gone: Collection[str]):
  """Rows of sessions.parquet that stay, and those of visitors or users."""
  frame = pl.read_parquet(path / records_lib.SESSIONS)
  mine = pl.any_horizontal(
    pl.col(c).cast(pl.String).is_in(list(gone)).fill_null(False) for c in _WHOSE
  )
  return frame.filter(~mine), frame.filter(mine)


def _forms(users: Sequence[str]) -> set[str]:
  """The ids as files other than data sets may hold them."""
  out = set(users)
  if ids.has_salt():
    salt = ids.salt()
    out |= {ids.hash_id(u, salt) for u in users}
  return out


def _from_data_set(
  path: pathlib.Path,
  users: Sequence[str],
  gone: Collection[str],
  seen: set[str],
) -> int:
  """Writes the data set again without the users, and puts it in place."""
  data = records_lib.Records.open(path)
  for split in data.splits:
    data.source(split)  # Names a shard that is absent or damaged.
  stats = json.loads((path / records_lib.STATS).read_text())
  ids.stored(users, stats)  # Says where the key is not the data set's.
  with place_lib.renewed(epath.Path(path)) as folder:
    return _without(path, pathlib.Path(folder), gone, stats, seen)


def _without(
  path, new: pathlib.Path, gone: set[str], stats: dict, seen: set[str]
) -> int:
  """Writes what changes of a data set; how many records and rejects went."""
  info = json.loads((path / place_lib.INFO).read_text())
  splits = {s["name"]: s for s in info["splits"]}
  removed = rows = 0
  for name, split in stats["splits"].items():
    lengths = [int(n) for n in splits[name]["shardLengths"]]
    before = split["users"]
    size = place_lib.num_bytes(splits[name], stats)
    for i, file in enumerate(split["shards"]):
      found = _shard(path / file, new / file, gone, seen)
      if found["removed"]:
        lengths[i] -= found["removed"]
        size -= found["bytes"]
        split["users"] -= found["removed"]
        split["rows"] -= found["rows"]
        rows += found["rows"]
        stats["shards"] |= place_lib.checksums(epath.Path(new), [file])
    removed += before - split["users"]
    splits[name]["shardLengths"] = [str(n) for n in lengths]
    splits[name]["numBytes"] = str(size)
  rejected = _rejects(path, new, gone, stats, seen)
  if (path / records_lib.SESSIONS).exists():
    left, mine = _sessions(path, gone)
    left.write_parquet(new / records_lib.SESSIONS)
    for column in _WHOSE:
      seen |= set(mine[column].drop_nulls().cast(pl.String))
  told = stats.setdefault("forgotten", {"users": 0, "rows": 0, "rejects": 0})
  told["users"] += removed
  told["rows"] += rows
  told["rejects"] += rejected
  if removed + rejected:
    stats["users"] -= removed
    stats["rows"] -= rows
  (new / place_lib.INFO).write_text(json.dumps(info, indent=2))
  text = json.dumps(stats, indent=1, sort_keys=True)
  (new / records_lib.STATS).write_text(text)
  return removed + rejected


def _records(path: pathlib.Path):
  """Serialized records of a shard, a block at a time."""
  try:
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
      count = reader.num_records()
      for start in range(0, count, _BLOCK):
        yield from reader.read(list(range(start, min(start + _BLOCK, count))))
    finally:
      reader.close()
  except (RuntimeError, IndexError) as e:
    reason = str(e).splitlines()[0]
    raise InputError(
      f"{path} is damaged ({reason}): prepare the data again with --overwrite"
    ) from e


def _key(data: bytes) -> tuple[str, tf_example_pb2.Example]:
  example = tf_example_pb2.Example.FromString(data)
  features = example.features.feature
  return features["key"].bytes_list.value[0].decode(), example


def _shard(path, new, gone: Collection[str], seen: set[str]) -> dict[str, int]:
  """Writes a shard without some users, who join `seen`; what was removed."""
  out = {"removed": 0, "rows": 0, "bytes": 0}
  for data in _records(path):
    key, example = _key(data)
    if key in gone:
      seen.add(key)
      out["removed"] += 1
      out["bytes"] += len(data)
      day = example.features.feature["day"].bytes_list.value[0]
      out["rows"] += len(day) // 4
  if not out["removed"]:
    return out
  writer = array_record_module.ArrayRecordWriter(
    str(new), builder.RECORD_OPTIONS
  )
  for data in _records(path):
    if _key(data)[0] not in gone:
      writer.write(data)
  writer.close()
  return out


def _rejects(path, new, gone: Collection[str], stats, seen: set[str]) -> int:
  """Writes the rejects without some users; how many rows went."""
  name = records_lib.REJECTS
  frame = pl.read_parquet(path / name)
  key = [_reject_key(v) for v in frame["values"]]
  lost = pl.Series([k in gone for k in key], dtype=pl.Boolean)
  seen |= gone.intersection(k for k in key if k is not None)
  if not lost.any():
    return 0
  frame.filter(~lost).write_parquet(new / name)
  for table, reason in frame.filter(lost).select("table", "reason").iter_rows():
    counts = stats["rejected"][table]
    counts[reason] -= 1
    if not counts[reason]:
      del counts[reason]
  return int(lost.sum())


def _reject_key(values: str) -> str | None:
  return json.loads(values).get("key")


def _hashed(keys: np.ndarray, gone: Collection[str]) -> np.ndarray:
  """bool [R]: digests of predictions/*.npz that are those of users."""
  return np.isin(keys, _digests(gone))


def _digests(keys: Collection[str]) -> np.ndarray:
  from lumos_jax.evaluators import predict  # Imports jax.

  return predict.hash_keys(keys)


def _from_folder(path: pathlib.Path, gone: set[str], seen: set[str]) -> int:
  """Takes users' rows from tables and predictions of a folder."""
  removed, changed = 0, {}
  for file in sorted(path.rglob("*")):
    if file.name.startswith(".") and file.name.endswith(".new"):
      file.unlink()  # Half of a part, left by an interrupted export.
    elif file.suffix == ".parquet":
      if "key" not in pl.read_parquet_schema(file):
        continue
      frame = pl.read_parquet(file)
      key = frame["key"].cast(pl.String)
      lost = key.is_in(list(gone)).fill_null(False)
      if lost.any():
        seen |= set(key.filter(lost))
        frame = frame.filter(~lost)
        about = pl.read_parquet_metadata(file)
        about = {k: v for k, v in about.items() if not k.startswith("ARROW")}
        buffer = io.BytesIO()
        frame.write_parquet(buffer, metadata=about, compression="zstd")
        _replace(file, buffer.getvalue())
        changed[file] = len(frame)
        removed += int(lost.sum())
    elif file.suffix == ".npz" and file.parent.name == "predictions":
      removed += _from_arrays(file, gone, seen)
  manifest = path / _MANIFEST
  if manifest.exists():
    doc = json.loads(manifest.read_text())
    for file, rows in changed.items():
      entry = doc["parts"].get(file.relative_to(path).as_posix())
      if entry is not None:
        digest = records_lib.checksum(epath.Path(file))
        entry |= {"rows": rows, "sha256": digest}
    if changed:
      doc["forgotten_rows"] = doc.get("forgotten_rows", 0) + removed
      text = json.dumps(doc, indent=1, sort_keys=True)
      _replace(manifest, text.encode())
  return removed


def _from_arrays(
  file: pathlib.Path, gone: Collection[str], seen: set[str]
) -> int:
  with np.load(file, allow_pickle=False) as found:
    arrays = dict(found)
  if "key" not in arrays:
    return 0
  keep = ~_hashed(arrays["key"], gone)
  if keep.all():
    return 0
  names = sorted(gone)
  there = np.isin(_digests(names), arrays["key"])
  seen |= {n for n, known in zip(names, there, strict=True) if known}
  arrays = {
    k: x[keep] if x.ndim and len(x) == len(keep) else x
    for k, x in arrays.items()
  }
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)
  _replace(file, buffer.getvalue())
  return int((~keep).sum())


def _replace(file: pathlib.Path, content: bytes) -> None:
  aside = file.parent / f".{file.name}.new"
  aside.write_bytes(content)
  aside.replace(file)


def prove(path: epath.PathLike, users: Iterable[str]) -> int:
  """Reads every file below a folder for users' ids, plain and hashed.

  Keys of records, tables, rejects and predictions are compared whole. Ids of 8
  characters and more are searched for in all bytes beside, those of records,
  Parquet columns and JSON texts decoded; a shorter one stands in other texts by
  chance.

  Returns:
    How many values were compared.

  Raises:
    ForgetError: An id still stands there; names the first files.
  """
  path, gone = pathlib.Path(path), _forms(list(map(str, users)))
  long = [g.encode() for g in gone if len(g) >= _SEARCHED]
  read, bad = 0, []
  for file in sorted(p for p in path.rglob("*") if p.is_file()):
    if ".array_record" in file.name:
      pairs = ((_key(data)[0], data) for data in _records(file))
    else:
      pairs = _values(file, gone)
    found = False
    for key, data in pairs:
      read += 1
      found |= key in gone or any(g in data for g in long)
    if found:
      bad.append(str(file.relative_to(path)))
  if bad:
    if any(".array_record" in f for f in bad):
      raise ForgetError(
        f"{path}: a user to forget still stands in {bad[:5]}: give each data set's "
        "own folder"
      )
    raise ForgetError(
      f"{path}: a user to forget still stands in {bad[:5]}. In schema.json it is a "
      "value of a fitted vocabulary: prepare the data again without the user, and "
      "train again"
    )
  return read


def _values(file: pathlib.Path, gone: Collection[str]):
  """Keys (None where it is none) and bytes of what a file holds."""
  if file.suffix == ".parquet":
    for column in pl.read_parquet(file).iter_columns():
      whole = column.name == "key"
      if file.name == records_lib.SESSIONS:
        whole = column.name in _WHOSE
      if whole or column.dtype == pl.String:
        for value in column.drop_nulls().cast(pl.String):
          key = value if whole else None
          if file.name == records_lib.REJECTS and column.name == "values":
            key = _reject_key(value)
          yield key, value.encode()
  elif file.suffix == ".npz" and file.parent.name == "predictions":
    with np.load(file, allow_pickle=False) as arrays:
      if "key" in arrays:
        for theirs in _hashed(arrays["key"], gone):
          yield (next(iter(gone)) if theirs else None), b""
  elif file.suffix == ".json":
    for text in _leaves(json.loads(file.read_text())):
      yield None, text.encode()
  with open(file, "rb") as f:
    tail = b""  # An id may lie across two blocks.
    while block := f.read(1 << 22):
      yield None, tail + block
      tail = block[-256:]


def _leaves(doc) -> Iterator[str]:
  """All texts of a JSON document, names included."""
  if isinstance(doc, str):
    yield doc
  elif isinstance(doc, dict):
    for key, value in doc.items():
      yield key
      yield from _leaves(value)
  elif isinstance(doc, list):
    for value in doc:
      yield from _leaves(value)


def main(argv: Sequence[str]) -> int:
  """The command; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m data_prep forget",
    description="Removes users from data sets, exports and predictions.",
  )
  parser.add_argument("--users", required=True, help="A file, an id a line.")
  parser.add_argument("places", nargs="+", help="Data sets, exports, workdirs.")
  args = parser.parse_args(argv)
  try:
    users = ids.read(args.users)
    found = forget(args.places, users)
  except (ValueError, OSError) as e:
    print(f"error: {e}", file=sys.stderr)
    return 1
  for place, counts in found.items():
    print(
      f"{place}: {counts['removed']:,} records and rows of {len(users):,} users "
      f"removed; {counts['read']:,} values read again, none of them is theirs"
    )
  unknown = set.intersection(*(set(c["unknown"]) for c in found.values()))
  if unknown := [u for u in users if u in unknown]:
    at = [str(users.index(u) + 1) for u in unknown[:5]]
    print(
      f"{len(unknown):,} of {len(users):,} ids were found nowhere (forgotten "
      f"before, or written otherwise): the first are ids {', '.join(at)} of "
      f"{args.users}"
    )
  return 0
