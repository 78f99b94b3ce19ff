"""Grain pipeline of users told as text: records -> texts -> tokens -> rows.

In training texts of several users share a row of T tokens; each opens with the
start token and ends with the end token. In use a text has a row of its own, and
opens with the same start token.

Dimensions: B batch, T tokens of a row.
"""

import collections
import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import logging

from lumos_jax.data import hosts as hosts_lib
from lumos_jax.data import packing
from lumos_jax.data import schema as schema_lib
from lumos_jax.llm import offline, prepared, text
from lumos_jax.llm import rows as rows_lib
from lumos_jax.llm import tokenizer as tokenizer_lib

Batch = dict[str, Any]
# Keys of config.data.text: how events become text, and what varies in training.
TEXT = tuple(
  f.name for of in (text.Options, offline.Mix) for f in dataclasses.fields(of)
)

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

  Training mixes forms and names, anew each epoch; in use a user has the base
  text.
  """

  def __init__(
    self,
    tokenizer: tokenizer_lib.Tokenizer,
    schema: schema_lib.Schema,
    cfg,
    seed: int = 0,
  ):
    """Keeps what all users share.

    Args:
      tokenizer: The model's.
      schema: Of the data.
      cfg: config.data.
      seed: Of the forms that training has.

    Raises:
      TextError: cfg.text asks for what the schema has not.
    """
    self.tokenizer, self.cfg = tokenizer, cfg
    self._schema, self._written = schema, None
    options = {name: cfg.text[name] for name in TEXT}
    self.mixer = offline.Mixer(schema, options, seed)
    # Training counts what it tells apart, in threads of its own.
    self._base = text.Teller(schema, self.mixer.teller.options)

  @property
  def counts(self) -> collections.Counter:
    """Of the texts that were told in use, see `text.Teller`."""
    return self._base.counts

  def content(self, training: bool) -> dict[str, str]:
    """Digests of what is read beside the data set, see `identity.inputs_of`."""
    out = {"the tokenizer of model.weights": self.tokenizer.digest}
    if training and self.cfg.written:
      out["data.written"] = prepared.digest(self.cfg.written)
    return out

  def ids(
    self, record: Batch, until: int = 0, epoch: int | None = None
  ) -> np.ndarray:
    """Tokens of a user's text, at most T - 1, without start and end.

    Args:
      record: Of the user.
      until: Events before this day; of all where it is 0. The newest that fit
        are told.
      epoch: Of training; None for the base text.
    """
    room = self.cfg.sequence_length - 1
    encode = lambda t: self.tokenizer.encode([t])[0]
    kw = dict(until=until, count=lambda t: len(encode(t)), room=room)
    if epoch is not None and self._written is not None:
      written = self._written.text(str(record["key"]), epoch)
      if written is not None:
        return self._newest(encode(written), room)
    if epoch is None:
      told = self._base.tell(record, **kw)
    else:
      told = self.mixer.tell(record, epoch, **kw)
    return np.asarray(encode(told.text)[:room], np.int32)

  def _newest(self, ids: list[int], room: int) -> np.ndarray:
    """The end of a written text; it has no events to leave out."""
    self.mixer.teller.counts.update(texts=1, cut_texts=int(len(ids) > room))
    return np.asarray(ids[-room:], np.int32)

  def held_out(self, record: Batch) -> bool:
    """Whether the user is one that fine-tuning does not see.

    By the id alone: the same users whatever the order, the seed, or the others.
    """
    digest = hashlib.sha256(b"held out\0" + str(record["key"]).encode())
    share = int.from_bytes(digest.digest()[:8], "big") / 2.0**64
    return share < self.cfg.holdout_share

  def window(
    self, record: Batch, until: int = 0, epoch: int | None = None
  ) -> Batch:
    """A text of which each token is told by those before it; as `ids`."""
    ids = self.ids(record, until, epoch)
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
    if cfg.written:
      self._written = prepared.Texts(
        cfg.written,
        cfg.train_split,
        self._schema.hash,
        cfg.train_origin_last,
        seed,
        self._base.options,
      )
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
        self.window(r, cfg.train_origin_last, block.epoch)
        for r in block.users
        if self._trains(r)
      ]
    )
    return iter(
      packing.Packed(
        hosts_lib.read_ahead(blocks.map(windows), cfg),
        lambda block: block.users,
        rows,
        cfg.sequence_length,
        cfg.segments,
      )
    )

  def _trains(self, record: Batch) -> bool:
    cfg, known = self.cfg, rows_lib.events(record, self.cfg.train_origin_last)
    # Where other splits are asked, all of this one may learn.
    asked = cfg.train_split in (cfg.validation_split, cfg.test_split)
    return bool(known) and not (asked and self.held_out(record))

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
      if rows_lib.events(source[i], until)
      and (not own or self.held_out(source[i]))
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
    with self._telling():
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
    with self._telling():
      for found in groups:
        yield self._of(found, day, batch_size)

  @contextlib.contextmanager
  def _telling(self) -> Iterator[None]:
    """Says at the end how many texts were cut, and how many are empty."""
    before = dict(self.counts)
    yield
    told = {k: n - before[k] for k, n in self.counts.items()}
    if told["cut_texts"]:
      logging.info(
        "%d of %d texts are cut: %d older events are not told (data.sequence_length "
        "= %d)",
        told["cut_texts"],
        told["texts"],
        told["cut_events"],
        self.cfg.sequence_length,
      )
    if told["empty_texts"]:
      logging.warning(
        "%d of %d users have no event in their text: none before the day, or none "
        "that fits data.sequence_length = %d",
        told["empty_texts"],
        told["texts"],
        self.cfg.sequence_length,
      )

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
