"""Grain pipeline of users told as text: records -> texts -> tokens -> rows.

In training texts of several users share a row of T tokens; each opens with the
start token and ends with the end token. In use a text has a row of its own, and
opens with the same start token.

Dimensions: B batch, T tokens of a row.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from lumos_jax.data import hosts as hosts_lib
from lumos_jax.data import instants, packing
from lumos_jax.data import schema as schema_lib
from lumos_jax.llm import tokenizer as tokenizer_lib

Batch = dict[str, Any]
# record -> its header and its events, each a line; the oldest first.
Tell = Callable[[Batch], tuple[str, list[str]]]

_BLOCK_USERS = 16  # Read at a time.
_LEAST = 64  # Tokens of the shortest row in use.


def check_config(cfg, tasks: Sequence[Any] = ()) -> None:
  """Raises ValueError, naming the keys, where settings exclude each other."""
  if tasks:
    raise ValueError(
      "config.tasks are for recipe 'lumos'; recipe 'llm4es' learns the next "
      "token, and labels are asked by evaluators of type 'probe'"
    )


class Texts:
  """A recipe's inputs: what data/sequences.py is for events.

  Attributes:
    cut: {"texts", "cut_texts", "cut_events"}: of what was told in this process,
      how many texts were longer than a row, and how many of their oldest events
      were left out.
  """

  def __init__(
    self, tokenizer: tokenizer_lib.Tokenizer, schema: schema_lib.Schema, cfg
  ):
    """`cfg` is config.data."""
    self.tokenizer, self.schema, self.cfg = tokenizer, schema, cfg
    self.cut = dict(texts=0, cut_texts=0, cut_events=0)

  def tell(self, record: Batch, until: int = 0) -> tuple[str, list[str]]:
    """Header and lines of the events before a day; of all where it is 0."""
    stop = len(record["day"])
    if until:
      stop = int(np.searchsorted(instants.days(record), until))
    fields = self.schema.categorical("activity")
    lines = []
    for row in record["categorical"][:stop]:
      values = [
        v
        for f, i in zip(fields, row)
        for v in self.schema.token(f.name, int(i)).values()
      ]
      lines.append("\t".join(map(str, values)) + "\n")
    return "\t".join(f.name for f in fields) + "\n", lines

  def ids(self, record: Batch, until: int = 0) -> np.ndarray:
    """Tokens of a user's text, at most T - 1, without start and end.

    The newest events that fit are kept, behind the header.
    """
    header, lines = self.tell(record, until)
    first, *each = self.tokenizer.encode([header, *lines])
    room = self.cfg.sequence_length - 1 - len(first)
    kept = len(each)
    for size in map(len, reversed(each)):
      if size > room:
        break
      room, kept = room - size, kept - 1
    self.cut["texts"] += 1
    self.cut["cut_texts"] += kept > 0
    self.cut["cut_events"] += kept
    found = itertools.chain(first, *each[kept:])
    out = np.fromiter(found, np.int32)
    return out[: self.cfg.sequence_length - 1]

  def held_out(self, record: Batch) -> bool:
    """Whether the user is one that fine-tuning does not see.

    By the id alone: the same users whatever the order, the seed, or the others.
    """
    digest = hashlib.sha256(b"held out\0" + str(record["key"]).encode())
    share = int.from_bytes(digest.digest()[:8], "big") / 2.0**64
    return share < self.cfg.holdout_share

  def window(self, record: Batch, until: int = 0) -> Batch:
    """A text as training has it: each token is told by those before it."""
    ids = self.ids(record, until)
    return {
      "ids": np.append(np.int32(self.tokenizer.start), ids),
      "target": np.append(ids, np.int32(self.tokenizer.end)),
      # Not by the id: the end token may be padding's, too.
      "weight": np.ones(len(ids) + 1, np.int8),
    }

  def train_iterator(
    self, records, cfg, tasks: Sequence[Any], batch_size: int, seed: int
  ) -> grain.DatasetIterator:
    """Endless shuffled batches of packed texts; its state can be saved.

    Args:
      records: An open `Records`.
      cfg: `config.data`.
      tasks: None.
      batch_size: B over all hosts.
      seed: Of shuffling.

    Raises:
      ValueError: There is nobody to train on.
    """
    check_config(cfg, tasks)
    source = records.source(cfg.train_split)
    if not any(self._trains(source[i]) for i in range(len(source))):
      raise ValueError(
        f"nothing to train on: none of {len(source):,} users has an event before "
        f"data.train_origin_last = {cfg.train_origin_last} and is not held out by "
        f"data.holdout_share = {cfg.holdout_share}"
      )
    blocks, rows = hosts_lib.share(
      hosts_lib.shuffled_blocks(source, seed, _BLOCK_USERS), batch_size
    )
    windows = lambda block: hosts_lib.Block(
      [
        self.window(r, cfg.train_origin_last)
        for r in block.users
        if self._trains(r)
      ]
    )
    dataset = hosts_lib.in_order(blocks.map(windows)).to_iter_dataset(
      grain.ReadOptions(num_threads=cfg.read_threads, prefetch_buffer_size=2)
    )
    return iter(
      packing.Packed(
        hosts_lib.workers(dataset, cfg.workers),
        lambda block: block.users,
        rows,
        cfg.sequence_length,
        cfg.segments,
      ).map(_positions)
    )

  def _trains(self, record: Batch) -> bool:
    known = _events(record, self.cfg.train_origin_last)
    return bool(known) and not self.held_out(record)

  def eval_batches(
    self, records, cfg, split: str, batch_size: int
  ) -> Iterator[Batch]:
    """Texts of users that fine-tuning did not see, of this host's slice.

    Args:
      records: An open `Records`.
      cfg: `config.data`.
      split: "validation" or "test": its users, where it is another split than
        data.train_split; else those of it that are held out.
      batch_size: B on this host.

    Raises:
      ValueError: There is none.
    """
    name = cfg[f"{split}_split"]
    source, own = records.source(name), name == cfg.train_split
    until = cfg[f"{split}_origin"]
    chosen = [
      i
      for i in range(len(source))
      if _events(source[i], until) and (not own or self.held_out(source[i]))
    ]
    if not chosen:
      raise ValueError(
        f"none of {len(source):,} users of split {name!r} is held out: set "
        "data.holdout_share above 0, or another data.validation_split and "
        "data.test_split"
      )
    hosts, host = jax.process_count(), jax.process_index()
    steps = math.ceil(math.ceil(len(chosen) / hosts) / batch_size)
    mine = chosen[host::hosts]
    for step in range(steps):
      some = mine[step * batch_size : (step + 1) * batch_size]
      found = [source[i] for i in some]
      windows = [self.window(r, until) for r in found]
      keys = [r["key"] for r in found]
      yield self._batch(keys, windows, batch_size)

  def embed_batches(
    self, records, cfg, split: str, batch_size: int
  ) -> Iterator[Batch]:
    """The text of each user of a split, once; for one process.

    Args:
      records: An open `Records`.
      cfg: `config.data`.
      split: "validation" or "test".
      batch_size: B.
    """
    source = records.source(cfg[f"{split}_split"])
    until = cfg[f"{split}_origin"]
    for i in range(0, len(source), batch_size):
      stop = min(i + batch_size, len(source))
      found = [source[j] for j in range(i, stop)]
      yield self._of(found, until, batch_size)

  def batches_at(
    self,
    records,
    cfg,
    groups: Iterable[Sequence[Batch]],
    day: int,
    batch_size: int,
    spare: Batch,
  ) -> Iterator[Batch]:
    """A batch of each group of records, of events before a day."""
    del records, cfg, spare
    for found in groups:
      yield self._of(found, day, batch_size)

  def _of(self, found: Sequence[Batch], until: int, batch_size: int) -> Batch:
    start = np.int32(self.tokenizer.start)
    windows = [{"ids": np.append(start, self.ids(r, until))} for r in found]
    return self._batch([r["key"] for r in found], windows, batch_size)

  def _batch(self, keys, windows: Sequence[Batch], batch_size: int) -> Batch:
    """Rows of one text each, left-aligned, padded to a width of few."""
    most = max([len(w["ids"]) for w in windows], default=1)
    width = max(_LEAST, 1 << (most - 1).bit_length())
    # Hosts that compile together need one width.
    if jax.process_count() > 1 or width > self.cfg.sequence_length:
      width = self.cfg.sequence_length
    rows = windows or [{"ids": np.asarray([self.tokenizer.start], np.int32)}]
    out = {
      name: np.zeros((batch_size, width), x.dtype)
      for name, x in rows[0].items()
    }
    out["segment"] = np.zeros((batch_size, width), np.int32)
    for i in range(batch_size):
      row = rows[min(i, len(rows) - 1)]
      n = len(row["ids"])
      for name, x in row.items():
        out[name][i, :n] = x
      out["segment"][i, :n] = 1
    steps = np.arange(width, dtype=np.int32)[None]
    out["position"] = np.where(out["segment"] > 0, steps, 0)
    out["labels"] = np.zeros((batch_size, 1, 0), np.float32)
    out["label_mask"] = np.zeros((batch_size, 1, 0), bool)
    out["user_mask"] = np.arange(batch_size) < len(windows)
    out["key"] = np.asarray([*keys, *[""] * (batch_size - len(keys))])
    return out


def _events(record: Batch, until: int) -> int:
  """Rows before a day; all where it is 0."""
  if not until:
    return len(record["day"])
  return int(np.searchsorted(instants.days(record), until))


def _positions(batch: Batch) -> Batch:
  """Steps within the row become steps within each text."""
  at, segment = batch["position"], batch["segment"]
  first = np.ones(segment.shape, bool)
  first[:, 1:] = segment[:, 1:] != segment[:, :-1]
  begin = np.maximum.accumulate(np.where(first, at, 0), 1)
  return batch | {"position": at - begin}
