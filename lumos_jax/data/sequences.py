"""Grain pipeline of next-event prediction: records -> windows -> packed rows.

The target of a row is the next event's value of one field. Long users are cut
into windows that overlap; windows of several users share a row of T tokens.

Dimensions: B batch, T tokens of a row, S segments of a row, C categorical and N
numeric columns of an event, Cp and Np of a profile.
"""

import itertools
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
from lumos_jax.data import teacher as teacher_lib
from lumos_jax.data.windows import (
  HOLDOUTS,
  Sequences,
  check_config,
  target_column,
)

__all__ = [
  "HOLDOUTS",
  "Sequences",
  "batches_at",
  "check_config",
  "embed_batches",
  "eval_batches",
  "longest",
  "row_batch",
  "some_example",
  "target_column",
  "train_iterator",
]

Batch = dict[str, Any]
_BLOCK_USERS = 64  # Read at a time.
_LISTS = ("seen", "often")  # Of an example; as long as it has values.


def train_iterator(
  records, cfg, tasks: Sequence[Any], batch_size: int, seed: int
) -> grain.DatasetIterator:
  """Endless shuffled batches of this host's users; its state can be saved.

  Args:
    records: An open `Records`.
    cfg: `config.data`.
    tasks: None: they belong to another recipe.
    batch_size: B over all hosts, in packed rows.
    seed: Of shuffling.

  Raises:
    ValueError: B does not divide by the hosts.
  """
  check_config(cfg, tasks)
  source = records.source(cfg.train_split)
  if cfg.cache:
    source = records_lib.Cached(source)
  blocks, rows = hosts_lib.share(
    hosts_lib.shuffled_blocks(source, seed, _BLOCK_USERS), batch_size
  )
  sequences = Sequences(records.schema, cfg)
  _check_some_train(sequences, source)
  teacher = teacher_lib.Teacher.read(cfg.teacher) if cfg.teacher else None
  if teacher:
    teacher.check(source, cfg.train_split)
  told = lambda r: teacher.of(r["key"]) if teacher else {}
  windows = lambda block: hosts_lib.Block(
    [w | told(r) for r in block.users for w in sequences.windows(r)]
  )
  # Packed here, not by the workers: each would pack at a pace of its own, and
  # users of one would be seen more often than another's.
  packed = packing.Packed(
    hosts_lib.read_ahead(blocks.map(windows), cfg, in_memory=cfg.cache),
    lambda block: block.users,
    rows,
    cfg.sequence_length,
    cfg.segments,
  )
  return iter(packed.map(instants.split_batch))


def eval_batches(records, cfg, split: str, batch_size: int) -> Iterator[Batch]:
  """Each user of this host's slice that has a target, once.

  `labels` [B, 1, 2] are the target's id and the number of events before it.
  The last batch is padded with copies, `user_mask` False; hosts yield equally
  many batches.

  Args:
    records: An open `Records`.
    cfg: `config.data`.
    split: "validation" or "test".
    batch_size: B on this host.
  """
  sequences = Sequences(records.schema, cfg)
  source = records.source(cfg[f"{split}_split"])
  hosts, host = jax.process_count(), jax.process_index()
  mine = range(host, len(source), hosts)
  steps = math.ceil(math.ceil(len(source) / hosts) / batch_size)
  # Hosts compile one program together: their batches need one width.
  width = longest(records, cfg[f"{split}_split"]) if hosts > 1 else 0
  spare = None
  for step in range(steps):
    block = mine[step * batch_size : (step + 1) * batch_size]
    found = source.__getitems__(block)
    parts = [(r["key"], sequences.example(r, split)) for r in found]
    parts = [(k, e) for k, e in parts if e is not None]
    if spare is None:
      spare = parts[-1][1] if parts else some_example(records, cfg, split)
    yield _batch(parts, spare, batch_size, width)


def batches_at(
  records,
  cfg,
  groups: Iterable[Sequence[Batch]],
  day: int,
  batch_size: int,
  spare: Batch,
  width: int = 0,
) -> Iterator[Batch]:
  """A batch of each group of records: what predicts the first event of a day.

  Users without history are left out (with the start token, none are).

  Args:
    records: An open `Records`.
    cfg: `config.data`.
    groups: At most B records each.
    day: Events before it are known.
    batch_size: B.
    spare: A record to pad an empty group with.
    width: Least length of `seen`: hosts that compile together need one.
  """
  sequences = Sequences(records.schema, cfg)
  # Without a start token, the padding wants an event.
  padding = sequences.upcoming(spare, day) or _nobody(records.schema, cfg)
  for found in groups:
    parts = [(r["key"], sequences.upcoming(r, day)) for r in found]
    parts = [(k, e) for k, e in parts if e is not None]
    yield _batch(parts, padding, batch_size, width)


def _nobody(schema: schema_lib.Schema, cfg) -> Batch:
  """An example of a user with one event of missing values."""
  rows = {
    k: np.zeros([1 if n is None else n for n in shape], dtype)
    for k, (dtype, shape) in records_lib.layout(schema).items()
  }
  return Sequences(schema, cfg).upcoming(rows, 1)


def embed_batches(records, cfg, split: str, batch_size: int) -> Iterator[Batch]:
  """All events of each user of a split once, in one or more rows a user.

  For one process. `key` says whose row it is; labels are empty.

  Args:
    records: An open `Records`.
    cfg: `config.data`.
    split: "validation" or "test".
    batch_size: B.
  """
  sequences = Sequences(records.schema, cfg)
  source = records.source(cfg[f"{split}_split"])
  rows = (
    (record["key"], row)
    for record in (source[i] for i in range(len(source)))
    for row in sequences.whole(record)
  )
  while some := list(itertools.islice(rows, batch_size)):
    yield row_batch(some, batch_size)


def row_batch(parts: Sequence[tuple[str, Batch]], batch_size: int) -> Batch:
  """A batch of at most B rows of `Sequences.whole`, and whose they are."""
  found = [row for _, row in parts]
  found += found[-1:] * (batch_size - len(found))
  out = {k: np.stack([f[k] for f in found]) for k in found[0]}
  out["labels"] = np.zeros((batch_size, 1, 0), np.float32)
  out["label_mask"] = np.zeros((batch_size, 1, 0), bool)
  out["user_mask"] = np.arange(batch_size) < len(parts)
  keys = [k for k, _ in parts]
  out["key"] = np.asarray(keys + [""] * (batch_size - len(keys)))
  return out


def some_example(records, cfg, split: str) -> Batch:
  """The first user's example of a split, see `Sequences.example`.

  Raises:
    ValueError: No user has an event to predict.
  """
  cut = Sequences(records.schema, cfg)
  source = records.source(cfg[f"{split}_split"])
  for i in range(len(source)):
    found = cut.example(source[i], split)
    if found is not None:
      return found
  if cfg.holdout == "last":
    needs = "users need three events or more (data.holdout = 'last')"
  else:
    days = cfg.validation_origin, cfg.test_origin
    needs = (
      f"data.validation_origin and test_origin are {days}, and the data span days "
      f"{records.schema.first_day} to {records.schema.last_day - 1}"
    )
  raise ValueError(
    f"none of {len(source):,} users has an event to predict in split {split!r}: "
    f"{needs}"
  )


def _check_some_train(cut: "Sequences", source) -> None:
  """Raises ValueError where no user has a target that trains."""
  for i in range(len(source)):
    if any(w["target"].any() for w in cut.windows(source[i])):
      return
  least = "an event" if cut.cfg.start_token else "two events"
  raise ValueError(
    f"nothing to train on: none of {len(source):,} users has {least} or more, the "
    f"last one known by data.target = {cut.cfg.target!r}, before what "
    f"data.holdout = {cut.cfg.holdout!r} holds out"
  )


def longest(records, split: str) -> int:
  """Rows of the longest user of a split."""
  found = records.stats["splits"][split].get("longest")
  if found is None:
    raise ValueError(
      f"{records.path}: stats.json does not say how long its longest user is, "
      "which several hosts need: prepare the data again with this program"
    )
  return found


def _batch(parts, spare: Batch, batch_size: int, width: int = 0) -> Batch:
  keys, found = [k for k, _ in parts], [e for _, e in parts]
  found += [spare] * (batch_size - len(found))
  # Few different widths, so that few shapes are compiled.
  most = max(width, *(len(e["seen"]) for e in found))
  width = max(8, 1 << (most - 1).bit_length()) if most else 8
  lists = {k: np.zeros((batch_size, width), np.int32) for k in _LISTS}
  for i, e in enumerate(found):
    for name, values in lists.items():
      values[i, : len(e[name])] = e[name]
  out = {
    k: np.stack([e[k] for e in found])
    for k in found[0]
    if k not in (*_LISTS, "history")
  }
  out |= lists
  pairs = [(int(e["next"]), int(e["history"])) for e in found]
  out["labels"] = np.asarray(pairs, np.float32)[:, None]
  out["label_mask"] = np.ones(out["labels"].shape, bool)
  out["user_mask"] = np.arange(batch_size) < len(keys)
  out["key"] = np.asarray(keys + [""] * (batch_size - len(keys)))
  return out
