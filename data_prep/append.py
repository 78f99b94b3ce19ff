"""New days of events join a prepared data set; the old tables are not read again.

python -m data_prep append data/shop --source=tables --set schema=shop.py path=new

The batch is encoded with what the data set was fitted on: vocabularies are frozen,
and values that were not fitted count as unknown and are told. It begins where the
data set ends: rows of earlier days are an error, or left out and counted with
--late=drop. A batch is known by its content, so that the same one twice changes
nothing. Records are those of preparing all rows under the same fit; the data set is
written again beside itself and put in place when it is complete.

Users keep their split, and their profile where the batch says nothing of them. New
users go to the one split, or to that of the batch's own table `split`. A day of entry
stands; a day of exit or of the end of observation that was the data's last moves on.
"""

import argparse
import dataclasses
import hashlib
import heapq
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import tensorflow_datasets as tfds
from etils import epath

from lumos_jax import ids
from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib

from . import batch as batch_lib
from . import builder, derive, engine, place, run, sources
from . import fitted as fitted_lib
from .inputs import InputError

_BLOCK = 512
_LATE = ("refuse", "drop")


def append(
  path: epath.PathLike,
  source: str,
  /,  # Options of a source may have the same names.
  *,
  late: str = "refuse",
  **options: Any,
) -> dict[str, Any]:
  """Appends a batch to a data set.

  Args:
    path: The data set's directory.
    source: Of the batch, see `data_prep.sources.names()`.
    late: "refuse" rows of days that the data set has, or "drop" them.
    **options: Of the source.

  Returns:
    {"batch": its fingerprint, "new": whether it was appended, "rows", "late_rows",
    "users", "new_users", "outside": values that were not fitted, "rejected": rows}.

  Raises:
    InputError: The batch cannot be used, or overlaps; nothing is changed.
  """
  if late not in _LATE:
    raise InputError(f"late={late!r}: use one of {list(_LATE)}")
  place.recover(epath.Path(path))
  data = records_lib.Records.open(path)
  fitted = fitted_lib.load(path)
  salt = None
  if ids.hashed(data.stats):
    ids.stored([], data.stats)  # Says where the key is not the data set's.
    salt = ids.salt()
  try:
    raw = sources.load(source, options)
    if raw.sessions is not None or raw.pages is not None:
      raise InputError(
        f"{source}: sessions of clicks are cut from the whole log, since a later "
        "click can join two of them: prepare the whole log again"
      )
    prepared = engine.prepare(raw, fitted, salt=salt)
  except pl.exceptions.PolarsError as e:
    raise InputError(f"{source}: a table cannot be read: {e}") from e
  batch = batch_lib.Batch(prepared, data)
  found = {"batch": batch.fingerprint, "new": False}
  before = data.stats.get("appended", [])
  if batch.fingerprint in [b["batch"] for b in before]:
    return found
  late_rows = batch.cut(data.schema.last_day)
  if late_rows and late == "refuse":
    raise InputError(
      f"{late_rows:,} rows of the batch lie before day {data.schema.last_day}, "
      f"where {path} ends: give only later days, or --late=drop to leave these "
      "out"
    )
  merged = _Merge(data, prepared, batch, raw.split is not None)
  found |= {
    "new": True,
    "rows": batch.rows,
    "late_rows": late_rows,
    "users": len(batch.records),
    "new_users": len(merged.fresh),
    "outside": prepared.stats["fitted"]["outside"],
    "rejected": prepared.rejects.to_json(),
  }
  with place.renewed(epath.Path(path), keep_shards=False) as new:
    merged.write(new, found)
  return found


class _Merge:
  """Old and new records of the same users, in the order of shards.

  Attributes:
    fresh: Keys of the batch that the data set has not.
  """

  def __init__(
    self, data, prepared: engine.Prepared, batch: batch_lib.Batch, told: bool
  ):
    """`told` says whether the batch has a table of splits."""
    self.data, self.prepared, self.batch = data, prepared, batch
    self.old, new = data.schema, prepared.schema
    last_day = max(self.old.last_day, new.last_day)
    self.schema = dataclasses.replace(
      self.old, last_day=last_day, labels=new.labels
    )
    self.groups = self._groups()
    self.gaps = [
      f
      for f in self.old.activity
      if isinstance(f, schema_lib.Clock) and f.part == "gap"
    ]
    left = set(batch.records)
    for split in data.splits:
      for record in self._records(split):
        left.discard(record["key"])
    self.fresh = left
    several = len(data.splits) > 1
    unknown = {batch.split[k] for k in left} - set(data.splits)
    if left and several and (unknown or not told):
      raise InputError(
        f"{len(left):,} users of the batch are new, and the data set has the "
        f"splits {data.splits}: say with a table `split` in which they are"
      )

  def _groups(self) -> np.ndarray | None:
    """Positions of the old groups in the batch's calendar, where it has one."""
    old, new = self.data.calendar, self.prepared.calendar
    if old.group_names == new.group_names:
      return None
    absent = [n for n in old.group_names if n not in new.group_names]
    if absent:
      raise InputError(
        f"the batch's calendar lacks the groups {absent[:5]} of the data set: "
        "bring the whole calendar, or none"
      )
    return np.asarray([new.group_names.index(n) for n in old.group_names])

  def _records(self, split: str) -> Iterator[dict[str, Any]]:
    source = self.data.source(split)
    for start in range(0, len(source), _BLOCK):
      stop = min(start + _BLOCK, len(source))
      yield from source.__getitems__(range(start, stop))

  def _split(self, split: str) -> Iterator[dict[str, Any]]:
    """Records of a split, merged, by the hash of their keys."""
    mine = [
      self.batch.records[k]
      for k in self.fresh
      if len(self.data.splits) == 1 or self.batch.split[k] == split
    ]
    digest = lambda r: hashlib.sha256(r["key"].encode()).digest()
    old = map(self._merged, self._records(split))
    yield from heapq.merge(old, sorted(mine, key=digest), key=digest)

  def _merged(self, old: dict[str, Any]) -> dict[str, Any]:
    """One user's record, with what the batch has of him."""
    new = self.batch.records.get(old["key"])
    out = old | {"span": self._span(old, new)}
    if self.groups is not None:
      out["groups"] = self.groups[old["groups"]].astype(np.int32)
    if new is None:
      return out
    if len(old["day"]) and len(new["day"]):
      new = self._continued(old, new)
    for name in batch_lib.ROWS:
      if name in old:
        out[name] = np.concatenate([old[name], new[name]])
    both = np.concatenate([out["groups"], new["groups"]])
    out["groups"] = np.unique(both).astype(np.int32)
    # What is absent from the batch's profile is as it was.
    known = new["profile_categorical"] != schema_lib.MISSING
    if known.any():
      for name in ("profile_categorical", "profile_numeric"):
        out[name] = new[name]
    out |= self._labels(old, new)
    return out

  def _span(self, old, new) -> np.ndarray:
    before, after = self.old.last_day, self.schema.last_day
    span = np.array(old["span"], np.int32)
    later = [after] * 3 if new is None else new["span"]
    if not len(old["day"]) and span[0] == before:  # Had no day of entry.
      span[0] = later[0]
    for i in (1, 2):
      if span[i] == before or (new is not None and later[i] != after):
        span[i] = later[i]
    return span

  def _continued(self, old, new) -> dict[str, Any]:
    """The new rows, the first of which comes after an old one."""
    if not self.gaps:
      return new
    named = self.old.categorical("activity")
    at = {f.name: i for i, f in enumerate(named)}
    row = np.array(new["categorical"][:1])
    time = np.asarray([old["time"][-1], new["time"][0]])
    for f in self.gaps:
      found = derive.clock_ids(f, np.zeros(2, np.int32), time, time, 0)
      row[0, at[f.name]] = found[1]
    columns = {n: row[:, i] for n, i in at.items()}
    sizes = {f.name: f.size for f in named}
    for f in self.old.activity:
      if isinstance(f, schema_lib.Composite) and {g.name for g in self.gaps} & {
        *f.of
      }:
        products = derive.Products(f, [sizes[n] for n in f.of])
        parts = [columns[n] for n in f.of]
        row[:, at[f.name]] = derive.composite_ids(products, parts)
    rest = new["categorical"][1:]
    return new | {"categorical": np.concatenate([row, rest])}

  def _labels(self, old, new) -> dict[str, np.ndarray]:
    """Labels of both, each once, in the order of a preparation."""
    event = new["label_event"]
    shifted = np.where(event < 0, event, event + len(old["day"]))
    new = new | {"label_event": shifted.astype(np.int32)}
    names = [n for n in batch_lib.LABELS if n in old and n in new]
    both = {n: np.concatenate([old[n], new[n]]) for n in names}
    order = (
      "label_known",
      "label_value",
      "label_event",
      "label_time",
      "label_id",
    )
    keys = [both[n] for n in order if n in both]
    if not len(both["label_id"]):
      return {}
    at = np.lexsort(keys)
    same = np.ones(len(at) - 1, bool)
    for x in keys:
      same &= x[at][1:] == x[at][:-1]
    at = at[np.append(True, ~same)]
    return {n: x[at] for n, x in both.items()}

  def write(self, new: epath.Path, told: dict[str, Any]) -> None:
    """Writes the data set with the batch at `new`."""
    stats, info = dict(self.data.stats), self.data.path / place.INFO
    doc = json.loads(info.read_text())
    splits = {s["name"]: s for s in doc["splits"]}
    names = ["key", *records_lib.stored(self.schema)]
    stats["splits"], stats["shards"], labels = {}, {}, 0
    for split, entry in self.data.stats["splits"].items():
      template = tfds.core.ShardedFileTemplate(
        data_dir=new,
        dataset_name="users",
        split=split,
        filetype_suffix="array_record",
      )
      fresh = [
        k
        for k in self.fresh
        if len(self.data.splits) == 1 or self.batch.split[k] == split
      ]
      users = entry["users"] + len(fresh)
      size = place.num_bytes(splits[split], self.data.stats)
      size += size * self.batch.rows // max(1, entry["rows"])
      shards = max(len(entry["shards"]), 1 + size // builder.SHARD_BYTES)
      writer = builder.Split(split, template, users, shards)
      for record in self._split(split):
        writer.count(np.asarray([len(record["day"])]))
        labels += len(record["label_id"])
        writer.write({n: record[n] for n in names})
      done = writer.done()
      files = [epath.Path(f).name for f in done.filepaths]
      stats["splits"][split] = {
        "users": users,
        "rows": writer.rows,
        "longest": writer.longest,
        "shards": files,
      }
      stats["shards"] |= place.checksums(new, files)
      splits[split]["shardLengths"] = [str(n) for n in done.shard_lengths]
      # TFDS would print a size for people.
      splits[split]["numBytes"] = str(int(done.num_bytes))
    every = stats["splits"].values()
    stats["users"] = sum(s["users"] for s in every)
    stats["rows"] = sum(s["rows"] for s in every)
    stats["labels"], stats["last_day"] = labels, self.schema.last_day
    stats["schema_hash"] = self.schema.hash
    stats["model_hash"] = self.schema.model_hash
    about = {k: v for k, v in told.items() if k != "new"}
    stats["appended"] = [*stats.get("appended", []), about]
    contents = dict(stats["contents"])
    contents["appended"] = [b["batch"] for b in stats["appended"]]
    stats["contents"] = contents
    (new / place.INFO).write_text(json.dumps(doc, indent=2))
    (new / records_lib.SCHEMA).write_text(self.schema.to_json())
    self.prepared.calendar.save(new / records_lib.CALENDAR)
    self._rejects(new / records_lib.REJECTS)
    text = json.dumps(stats, indent=1, sort_keys=True)
    (new / records_lib.STATS).write_text(text)

  def _rejects(self, path: epath.Path) -> None:
    self.prepared.rejects.save(path)
    old = self.data.path / records_lib.REJECTS
    both = [pl.read_parquet(f.read_bytes()) for f in (old, path)]
    with path.open("wb") as f:
      pl.concat(both).write_parquet(f)


def main(argv: Sequence[str]) -> int:
  """The command; returns the exit status."""
  from . import __main__ as cli

  parser = argparse.ArgumentParser(
    prog="python -m data_prep append",
    description="Appends new days of events to a prepared data set.",
  )
  add = parser.add_argument
  add("data_set", help="The data set's folder.")
  add("--source", required=True, help="Of the batch.")
  add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
  add("--rows", choices=("day", "event"), help="What a row of activity is.")
  add("--late", choices=_LATE, default="refuse", help="Rows of earlier days.")
  args = parser.parse_args(argv)
  try:
    options = cli.options(args.set)
    if args.rows:
      options["rows"] = args.rows
    found = append(args.data_set, args.source, late=args.late, **options)
  except (ValueError, OSError) as e:
    print(f"error: {e}", file=sys.stderr)
    return 1
  if not found["new"]:
    print(f"{args.data_set} has this batch already: nothing to do")
    return 0
  print(
    f"{args.data_set}: {found['rows']:,} rows of {found['users']:,} users "
    f"({found['new_users']:,} of them new) appended, {found['late_rows']:,} late "
    "rows left out"
  )
  lines = run.rejected(found["rejected"]) + fitted_lib.drift(found["outside"])
  for line in lines:
    print(line)
  return 0
