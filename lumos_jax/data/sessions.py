"""Grain pipeline of sessions of clicks: records -> sessions -> packed rows.

A record is a session, a row a click. In training sessions share a row of T tokens;
in use a session has a row of its own.

Dimensions: B batch, T tokens of a row, S sessions of a row, C categorical and N
numeric columns of a click.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from lumos_jax.data import hosts as hosts_lib
from lumos_jax.data import instants, packing
from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data.windows import target_column

__all__ = [
  "batches_at",
  "batches_of",
  "before",
  "blocks",
  "check_config",
  "embed_batches",
  "eval_batches",
  "groups",
  "target_column",
  "train_iterator",
]

Batch = dict[str, Any]
_BLOCK_USERS = 64  # Read at a time.
_SORTED_BATCHES = 16  # Whose sessions are put in order of length together.


def check_config(cfg, tasks: Sequence[Any] = ()) -> None:
  """Raises ValueError, naming the keys, where settings exclude each other."""
  if tasks:
    raise ValueError(
      "config.tasks are for recipe 'lumos'; recipe 'intent' learns pages, and "
      "outcomes are asked by evaluators of type 'conversion'"
    )
  if not cfg.target:
    raise ValueError("data.target is empty: name the field of the pages")


def window(record: Batch, column: int, start: int, stop: int) -> Batch:
  """Clicks [start, stop) of a session, each the target of itself."""
  ids = record["categorical"][start:stop]
  target = ids[:, column].copy()
  target[target < schema_lib.FIRST_VALUE] = 0  # Nothing to predict.
  return {
    "ids": ids,
    "numeric": record["numeric"][start:stop],
    "target": target,
  }


def train_iterator(
  records, cfg, tasks: Sequence[Any], batch_size: int, seed: int
) -> grain.DatasetIterator:
  """Endless shuffled batches of packed sessions; its state can be saved.

  A session of more than T clicks is read in pieces.

  Args:
    records: An open `Records`.
    cfg: `config.data`.
    tasks: None.
    batch_size: B over all hosts, in packed rows.
    seed: Of shuffling.

  Raises:
    ValueError: B does not divide by the hosts, or no session has a known page.
  """
  check_config(cfg, tasks)
  column, length = target_column(records.schema, cfg), cfg.sequence_length
  source = records.source(cfg.train_split)
  if cfg.cache:
    source = records_lib.Cached(source)
  known = lambda r: (
    r["categorical"][:, column] >= schema_lib.FIRST_VALUE
  ).any()
  if not any(known(source[i]) for i in range(len(source))):
    raise ValueError(
      f"nothing to train on: none of {len(source):,} sessions has a click on a "
      f"page that data.target = {cfg.target!r} knows"
    )
  blocks, rows = hosts_lib.share(
    hosts_lib.shuffled_blocks(source, seed, _BLOCK_USERS), batch_size
  )
  pieces = lambda r: range(0, len(r["day"]), length)
  windows = lambda block: hosts_lib.Block(
    [
      window(r, column, s, min(s + length, len(r["day"])))
      for r in block.users
      for s in pieces(r)
    ]
  )
  return iter(
    packing.Packed(
      hosts_lib.read_ahead(blocks.map(windows), cfg, in_memory=cfg.cache),
      lambda block: block.users,
      rows,
      length,
      cfg.segments,
    )
  )


def eval_batches(records, cfg, split: str, batch_size: int) -> Iterator[Batch]:
  """Sessions of two clicks or more of this host's slice, whose last is asked.

  `last` is its place, `next` the id of its page; `labels` [B, 1, 2] are that id
  and the number of clicks before it. The last batch is padded with copies.

  Args:
    records: An open `Records`.
    cfg: `config.data`.
    split: "validation" or "test".
    batch_size: B on this host.
  """
  column = target_column(records.schema, cfg)
  source = records.source(cfg[f"{split}_split"])
  hosts, host = jax.process_count(), jax.process_index()
  mine = range(host, len(source), hosts)
  steps = math.ceil(math.ceil(len(source) / hosts) / batch_size)
  for step in range(steps):
    found = source.__getitems__(
      mine[step * batch_size : (step + 1) * batch_size]
    )
    known = lambda r: (
      len(r["day"]) > 1
      and r["categorical"][-1, column] >= schema_lib.FIRST_VALUE
    )
    found = [r for r in found if known(r)]
    batch = _batch(found, records.schema, column, cfg, batch_size)
    last = np.maximum(batch["segment"].sum(1) - 1, 0).astype(np.int32)
    batch["last"] = last
    batch["next"] = batch["target"][np.arange(batch_size), last]
    batch["labels"] = np.stack([batch["next"], last], 1)[:, None].astype(
      np.float32
    )
    batch["label_mask"] = np.ones(batch["labels"].shape, bool)
    yield batch


def embed_batches(
  records, cfg, split: str, batch_size: int, first: int = 0
) -> Iterator[Batch]:
  """The sessions of a split once; for one process.

  Args:
    records: An open `Records`.
    cfg: `config.data`.
    split: "train", "validation" or "test".
    batch_size: B.
    first: Clicks that are read, of sessions with more than these; 0 for all
      clicks of all sessions.

  Sessions of like length come together.
  """
  source = records.source(cfg[f"{split}_split"])
  found = groups(blocks(source, batch_size), batch_size, first)
  return batches_of(records.schema, cfg, found, batch_size, short=True)


def blocks(source, batch_size: int) -> Iterator[list[Batch]]:
  """All records of a source, those of several batches at a time."""
  size = batch_size * _SORTED_BATCHES
  for start in range(0, len(source), size):
    yield source.__getitems__(range(start, min(start + size, len(source))))


def groups(
  found: Iterable[Sequence[Batch]], batch_size: int, first: int = 0
) -> Iterator[list[Batch]]:
  """Sessions of blocks, at most B at a time, those of like length together.

  Args:
    found: Blocks of records.
    batch_size: B.
    first: As `embed_batches`.
  """
  for block in found:
    if first:
      block = [_cut(r, first) for r in block if len(r["day"]) > first]
    block = sorted(block, key=lambda r: len(r["day"]))
    for i in range(0, len(block), batch_size):
      yield block[i : i + batch_size]


def batches_of(
  schema: schema_lib.Schema,
  cfg,
  groups: Iterable[Sequence[Batch]],
  batch_size: int,
  short: bool = False,
) -> Iterator[Batch]:
  """A batch of each group of at most B sessions.

  Args:
    schema: Of the sessions.
    cfg: `config.data`.
    groups: Of records.
    batch_size: B.
    short: Rows are cut to what their longest session fills, in quarters of T:
      less to compute, and up to three shapes to compile.
  """
  column, length = target_column(schema, cfg), cfg.sequence_length
  for found in groups:
    most = max((len(r["day"]) for r in found), default=0) if short else length
    fits = (math.ceil(length / n) for n in (4, 2, 1))
    rows = next((n for n in fits if n >= most), length)
    yield _batch(found, schema, column, cfg, batch_size, rows)


def batches_at(
  records,
  cfg,
  groups: Iterable[Sequence[Batch]],
  day: int,
  batch_size: int,
  spare: Batch,
) -> Iterator[Batch]:
  """A batch of each group of sessions, of their clicks before a day."""
  del spare
  column = target_column(records.schema, cfg)
  for found in groups:
    found = [before(r, day) for r in found]
    yield _batch(found, records.schema, column, cfg, batch_size)


def before(record: Batch, day: int) -> Batch:
  """A session's clicks before a day."""
  return _cut(record, int(np.searchsorted(instants.days(record), day)))


def _cut(record: Batch, stop: int) -> Batch:
  names = ("day", "time", "categorical", "numeric")
  return {k: x[:stop] if k in names else x for k, x in record.items()}


def _batch(
  found: Sequence[Batch],
  schema,
  column: int,
  cfg,
  batch_size: int,
  length: int = 0,
) -> Batch:
  """Rows of one session each, its last T clicks, left-aligned."""
  length = length or cfg.sequence_length
  shape = batch_size, length
  out = {
    "ids": np.zeros((*shape, len(schema.categorical("activity"))), np.int32),
    "numeric": np.zeros((*shape, schema.numeric_width("activity")), np.float32),
    "target": np.zeros(shape, np.int32),
    "segment": np.zeros(shape, np.int32),
  }
  for i, r in enumerate(found):
    n = len(r["day"])
    row = window(r, column, max(0, n - length), n)
    for name, x in row.items():
      out[name][i, : len(x)] = x
    out["segment"][i, : len(row["target"])] = 1
  steps = np.arange(length, dtype=np.int32)[None]
  out["position"] = np.where(out["segment"] > 0, steps, 0)
  out["labels"] = np.zeros((batch_size, 1, 0), np.float32)
  out["label_mask"] = np.zeros((batch_size, 1, 0), bool)
  out["user_mask"] = np.arange(batch_size) < len(found)
  keys = [r["key"] for r in found]
  out["key"] = np.asarray([*keys, *[""] * (batch_size - len(keys))])
  return out
