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

Batch = dict[str, Any]
HOLDOUTS = ("last", "time")
_BLOCK_USERS = 64  # Read at a time.
_LISTS = ("seen", "often")  # Of an example; as long as it has values.
_PROFILE = ("profile_categorical", "profile_numeric")


def check_config(cfg, tasks: Sequence[Any] = ()) -> None:
  """Raises ValueError, naming the keys, where settings exclude each other."""
  if tasks:
    raise ValueError(
      "config.tasks are for recipe 'lumos'; next-event prediction has "
      "data.target"
    )
  if cfg.holdout not in HOLDOUTS:
    raise ValueError(f"data.holdout = {cfg.holdout!r}; use one of {HOLDOUTS}")
  if not 0 <= cfg.overlap < cfg.sequence_length:
    raise ValueError(
      f"data.overlap = {cfg.overlap} must be from 0 to below "
      f"data.sequence_length = {cfg.sequence_length}"
    )
  days = (cfg.train_origin_last, cfg.validation_origin, cfg.test_origin)
  if cfg.holdout == "time" and not days[0] <= days[1] < days[2]:
    raise ValueError(
      "data.holdout = 'time' needs data.train_origin_last <= validation_origin "
      f"< test_origin; they are {days}"
    )


def target_column(schema: schema_lib.Schema, cfg) -> int:
  """Column of `categorical` that is predicted.

  Raises:
    SchemaError: The data have no such field, or no rows of events.
  """
  if schema.rows != "event":
    raise schema_lib.SchemaError(
      f"{schema.name!r} has a row a day; next-event prediction needs events: "
      "prepare it with rows=event"
    )
  names = [f.name for f in schema.categorical("activity")]
  if cfg.target not in names:
    raise schema_lib.SchemaError(
      f"data.target = {cfg.target!r}: {schema.name!r} has the fields {names}"
    )
  return names.index(cfg.target)


class Sequences:
  """Cuts records into what trains, and what is held out."""

  def __init__(self, schema: schema_lib.Schema, cfg):
    """Keeps what every user shares; `cfg` is config.data."""
    check_config(cfg)
    self._column = target_column(schema, cfg)
    self.cfg = cfg

  def cut(self, record: Batch, split: str) -> int | None:
    """Events before the target of a split; None where there is no target.

    The events before the validation target are what trains.
    """
    n, cfg = len(record["time"]), self.cfg
    if cfg.holdout == "last":
      if n < 3:
        return None
      return n - 1 if split == "test" else n - 2
    days = instants.days(record)
    at = lambda day: int(np.searchsorted(days, day))
    first = at(cfg.test_origin if split == "test" else cfg.validation_origin)
    last = n if split == "test" else at(cfg.test_origin)
    return first if first < last else None

  def training_events(self, record: Batch) -> int:
    """Number of a user's events that train: those before what is held out."""
    if self.cfg.holdout == "time":
      days = instants.days(record)
      return int(np.searchsorted(days, self.cfg.train_origin_last))
    held_out = self.cut(record, "validation")
    return len(record["time"]) if held_out is None else held_out

  def rows(self, record: Batch, start: int, stop: int) -> Batch:
    """Input rows of events [start, stop); start -1 is the start token.

    `start` marks the start token, a row of zeros at the first event's time.
    `next_time` is the next event's (the row's own where there is none): when,
    not what, for models that are told.
    """
    out = {
      "ids": record["categorical"][max(start, 0) : stop],
      "numeric": record["numeric"][max(start, 0) : stop],
    }
    if start < 0:
      out = {k: _padded(x, before=1) for k, x in out.items()}
    out["start"] = np.arange(start, stop) < 0
    time = instants.between(record["time"], start, stop + 1)
    out["time"], out["next_time"] = time[:-1], time[1:]
    return out

  def asked(self, record: Batch) -> np.ndarray:
    """Which events [n] are like those that are held out.

    By time, these are the first of a day or later: later than all that is
    known, as no event is that has the time of the one before it.
    """
    asked = record["categorical"][:, self._column] >= schema_lib.FIRST_VALUE
    if self.cfg.holdout == "time":
      asked[1:] &= record["time"][1:] > record["time"][:-1]
    return asked

  def windows(self, record: Batch) -> list[Batch]:
    """Windows of a user's training events, each with its targets.

    Their instants are not yet split, see `instants.split_batch`.

    Every event but the first (with the start token: every event) is a target
    once: rows that a window repeats from the one before it have target 0. So
    have events whose value is missing or not in the vocabulary.
    """
    n, cfg = self.training_events(record), self.cfg
    first = -1 if cfg.start_token else 0
    out = []
    start = first
    while start < n - 1:
      stop = min(start + cfg.sequence_length, n - 1)
      window = self.rows(record, start, stop)
      target = record["categorical"][start + 1 : stop + 1, self._column].copy()
      target[target < schema_lib.FIRST_VALUE] = 0  # Nothing to predict.
      if start > first:
        target[: cfg.overlap] = 0
      window["target"] = target
      for name in _PROFILE:
        window[name] = record[name][None]
      out.append(window)
      if stop == n - 1:
        break
      start = stop - cfg.overlap
    return out

  def example(self, record: Batch, split: str) -> Batch | None:
    """What is known before the target of a split; None where there is none.

    Rows are left-aligned, `last` is the one that predicts. A user without
    history has the start token, if there is one. `seen` are the values before
    the target, the latest last, and `often` how often each was `asked`.
    """
    cut, cfg = self.cut(record, split), self.cfg
    if cut is None or (cut == 0 and not cfg.start_token):
      return None
    first = -1 if cfg.start_token else 0
    start = max(first, cut - cfg.sequence_length)
    out = self._row(record, start, cut)
    out["last"] = np.int32(cut - start - 1)
    out["next"] = record["categorical"][cut, self._column]
    out["seen"], out["often"] = _counted(
      record["categorical"][:cut, self._column], self.asked(record)[:cut]
    )
    out["history"] = cut
    return out

  def before(self, record: Batch, day: int) -> Batch:
    """The record as it was known at the begin of a day: earlier events only."""
    stop = int(np.searchsorted(instants.days(record), day))
    names = ("day", "time", "categorical", "numeric")
    return {k: x[:stop] if k in names else x for k, x in record.items()}

  def upcoming(self, record: Batch, day: int) -> Batch | None:
    """What predicts a user's first event from a day on; None without history.

    As `example`, with the target unknown. Models that are told when the next
    event happens are told: as the day begins, in UTC.
    """
    known, cfg = self.before(record, day), self.cfg
    cut = len(known["time"])
    if cut == 0 and not cfg.start_token:
      return None
    start = max(-1 if cfg.start_token else 0, cut - cfg.sequence_length)
    out = self._row(known, start, cut)
    out["last"] = np.int32(cut - start - 1)
    begin = instants.split(day * instants.DAY_SECONDS * 1_000_000)
    latest = out["time"][out["last"]]
    later = cut == 0 or tuple(begin) > tuple(latest)
    out["next_time"][out["last"]] = begin if later else latest
    out["next"] = np.int32(0)
    out["seen"], out["often"] = _counted(
      known["categorical"][:, self._column], self.asked(known)
    )
    out["history"] = cut
    return out

  def whole(self, record: Batch) -> list[Batch]:
    """Rows that hold all events of a user once, for its embedding."""
    n, length = len(record["time"]), self.cfg.sequence_length
    first = -1 if self.cfg.start_token else 0
    starts = range(first, max(n, first + 1), length)
    return [self._row(record, s, min(s + length, n)) for s in starts]

  def _row(self, record: Batch, start: int, stop: int) -> Batch:
    """Events [start, stop) as an unpacked row, left-aligned."""
    out = instants.split_batch(self.rows(record, start, stop))
    length = stop - start
    pad = self.cfg.sequence_length - length
    out = {k: _padded(x, after=pad) for k, x in out.items()}
    steps = np.arange(self.cfg.sequence_length, dtype=np.int32)
    out["segment"] = (steps < length).astype(np.int32)
    out["position"] = np.where(steps < length, steps, 0).astype(np.int32)
    for name in _PROFILE:
      out[name] = record[name][None]
    return out


def _padded(x: np.ndarray, before: int = 0, after: int = 0) -> np.ndarray:
  """Rows of zeros around x; `np.pad` takes 30 times as long."""
  out = np.zeros((before + len(x) + after, *x.shape[1:]), x.dtype)
  out[before : before + len(x)] = x
  return out


def _counted(
  ids: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Each id once, where it stands last, and how often it was asked."""
  values, last, at = np.unique(ids[::-1], True, True)
  often = np.bincount(at[asked[::-1]], minlength=len(values))
  order = np.argsort(-last)
  return values[order], often[order].astype(np.int32)


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
  windows = lambda block: hosts_lib.Block(
    [w for r in block.users for w in sequences.windows(r)]
  )
  dataset = hosts_lib.in_order(blocks.map(windows)).to_iter_dataset(
    grain.ReadOptions(
      # Records that are in memory need no thread.
      num_threads=0 if cfg.cache else cfg.read_threads,
      prefetch_buffer_size=2,
    )
  )
  # Packed here, not by the workers: each would pack at a pace of its own, and
  # users of one would be seen more often than another's.
  packed = packing.Packed(
    hosts_lib.workers(dataset, cfg.workers),
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
