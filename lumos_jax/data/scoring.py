"""Grain pipeline of scored points: records -> points -> examples -> batches.

A point is what a discriminative model scores: a user as of a day (data.unit =
"user"), or an event ("event"), with the history before it. Labels of training are
what was known by the day of training, those of validation by the test's day.

Parts are cut by time, and by the data set's splits of users where they differ. A
random cut (data.cut = "random") has to be asked for: it lets a model learn from
what comes later, and every result of it says so.

B batch, F context features, M tasks, N points.
"""

import math
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np

from lumos_jax.data import context as context_lib
from lumos_jax.data import hosts as hosts_lib
from lumos_jax.data import instants, pipeline, windows
from lumos_jax.data import points as points_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.data.points import (
  KEYS,
  PARTS,
  Points,
  check_config,
  marks,
)

__all__ = ["KEYS", "PARTS", "Points", "Scoring", "check_config", "marks"]

Batch = dict[str, Any]


class Scoring:
  """The inputs of a recipe that scores points, as train.py calls them.

  Attributes:
    context: Makes context features.
    sequences: Cuts what a backbone of events reads; None with another, or none.
  """

  def __init__(self, cfg, records, tasks, backbone=None):
    """Keeps what every part shares.

    Args:
      cfg: config.data.
      records: An open data set; for a model alone, its schema and calendar.
      tasks: Declared tasks.
      backbone: Config of the pretrained model whose inputs examples hold; None
        for context alone.
    """
    check_config(cfg, tasks)
    tasks_lib.check(tasks, records.schema)
    self._cfg, self._tasks = cfg, tuple(tasks)
    self._schema, self._calendar = records.schema, records.calendar
    self.context = context_lib.Context(
      records.schema, records.calendar, tasks, cfg.unit, cfg.last_events
    )
    self.sequences = self._days = None
    if backbone is not None and "sequence_length" in backbone.data:
      shape = backbone.data.copy_and_resolve_references().unlock()
      # Short histories need no long rows.
      if cfg.history_events:
        shape.sequence_length = min(shape.sequence_length, cfg.history_events)
        shape.overlap = min(shape.overlap, shape.sequence_length - 1)
      self.sequences = windows.Sequences(records.schema, shape)
    elif backbone is not None:
      self._days = pipeline.Example(
        records.schema,
        records.calendar,
        tasks_lib.from_config(backbone.tasks),
        backbone.data.eval_history_days,
        labels=False,
      )
    self._parts: dict[tuple[int, str], Points] = {}

  @property
  def users(self) -> bool:
    """Whether users are scored, and not events."""
    return self._cfg.unit == "user"

  def __getstate__(self):
    return self.__dict__ | {"_parts": {}}

  # Points.

  def _known_by(self, part: str) -> int | None:
    """Day by which the labels of a part were known; None: all are."""
    cfg = self._cfg
    if part == "test" or cfg.cut == "random":
      return None
    if part == "train" and cfg.known_by is not None:
      return int(cfg.known_by)
    later = {"train": "validation", "validation": "test"}[part]
    if cfg[f"{part}_split"] != cfg[f"{later}_split"]:
      return None  # Other users, of which all was seen to the end.
    return int(cfg[f"{later}_origin"])

  def points(self, records, part: str) -> Points:
    """All points of a part of an open data set; made once.

    Raises:
      ValueError: There is none, or none has a label.
    """
    key = id(records), part
    if key not in self._parts:
      self._parts[key] = self._points(records, part)
    return self._parts[key]

  def _points(self, records, part: str) -> Points:
    source, cfg = records.source(self._cfg[f"{part}_split"]), self._cfg
    kept: list[Batch] = []
    found: list[tuple] = []
    for i in range(len(source)):
      record = source[i]
      place = self._places(record, part)
      if not len(place):
        continue
      y, mask = self.labels(record, place, self._known_by(part))
      # A point without a label teaches nothing; scored, it is not counted.
      use = mask.any(1) if part == "train" else np.ones(len(place), bool)
      place, y, mask = place[use], y[use], mask[use]
      most = cfg.points_per_user
      if most and len(place) > most:
        some = np.linspace(0, len(place) - 1, most).astype(int)
        place, y, mask = place[some], y[some], mask[some]
      if len(place):
        found.append((np.full(len(place), len(kept)), place, y, mask))
        kept.append(record)
    if not found:
      raise ValueError(
        f"no point of part {part!r} in split {cfg[f'{part}_split']!r}: no user "
        f"or event lies on the days that data.*_origin say, with a label known "
        f"by day {self._known_by(part)} (data.known_by)"
      )
    user, place, y, mask = map(np.concatenate, zip(*found, strict=True))
    out = Points(np.zeros((len(user), 0)), y, mask, user, place, kept)
    if cfg.balanced:
      out = out.take(points_lib.balanced(out, PARTS.index(part)))
    ends = np.searchsorted(out.user, np.arange(len(kept) + 1))
    spans = zip(ends, ends[1:], kept, strict=False)
    out.context = np.concatenate(
      [self._context(r, out.place[a:b]) for a, b, r in spans if b > a]
    )
    return out

  def _places(self, record: Batch, part: str) -> np.ndarray:
    """Ascending days, or events, of a user that a part scores."""
    cfg = self._cfg
    random = cfg.cut == "random"
    if self.users:
      if random and points_lib.drawn(record["key"]) != part:
        return np.zeros(0, int)
      if part != "train":
        return np.asarray([cfg[f"{part}_origin"]])
      first, last = cfg.train_origin_first, cfg.train_origin_last
      return np.arange(last, first - 1, -cfg.origin_stride_days)[::-1]
    days = instants.days(record)
    events = np.arange(len(days))
    if random:
      mine = [points_lib.drawn(f"{record['key']}/{i}") == part for i in events]
      return events[np.asarray(mine, bool) & (days >= cfg.train_origin_first)]
    first, last = {
      "train": (cfg.train_origin_first, cfg.train_origin_last),
      "validation": (cfg.validation_origin, math.inf),
      "test": (cfg.test_origin, math.inf),
    }[part]
    if part == "validation" and cfg.validation_split == cfg.test_split:
      last = cfg.test_origin
    return events[(days >= first) & (days < last)]

  def context_of(
    self, record: Batch, place: int, before: np.ndarray | None = None
  ) -> np.ndarray:
    """Context features of a point: float32 [F].

    Args:
      record: Of the user.
      place: Day, or position of the scored event.
      before: float32 [A], `context.aggregates` of its day, if there already.
    """
    before = None if before is None else before[None]
    return self._context(record, np.asarray([place]), before)[0]

  def _context(
    self, record: Batch, place: np.ndarray, before: np.ndarray | None = None
  ) -> np.ndarray:
    make = self.context.of_user if self.users else self.context.of_events
    return make(record, place, before)

  def labels(
    self, record: Batch, place: np.ndarray, known_by: int | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Labels float32 [n, M] and mask bool [n, M] of a user's points.

    Label windows of an event begin on the day after it.
    """
    schema = self._schema
    if self.users:
      return tasks_lib.labels(self._tasks, schema, record, place, known_by)
    days = instants.days(record)[place].astype(np.int64)
    y, mask = tasks_lib.labels(self._tasks, schema, record, days + 1, known_by)
    for m, task in enumerate(self._tasks):
      if task.reduce == "event":
        found = tasks_lib.of_events(task, schema, record, known_by)
        y[:, m], mask[:, m] = (x[place] for x in found)
    return y, mask

  # Examples.

  def events_before(self, record: Batch, place: int) -> int:
    """Events before a point."""
    if not self.users:
      return place
    return int(np.searchsorted(instants.days(record), place))

  def begin(self, record: Batch, place: int) -> int:
    """Event that the backbone reads first, -1 for the start token.

    That of a state which is kept and goes on with each event (`held_from`), so
    that a service scores what was trained.
    """
    return self.sequences.held(self.events_before(record, place))

  def example(
    self,
    record: Batch,
    place: int,
    context: np.ndarray | None = None,
    begin: int | None = None,
  ) -> Batch:
    """Arrays of a point, without labels: its context, and the model's inputs.

    Args:
      record: Of a user.
      place: Day, or position of the scored event.
      context: Of the point, if it is there already.
      begin: Event that the backbone reads first; see `begin`.
    """
    if context is None:
      context = self.context_of(record, place)
    out: Batch = {"context": context}
    if self._days is not None:
      day = place if self.users else int(instants.days(record)[place])
      return out | self._days(record, np.asarray([day]))
    if self.sequences is None:
      return out
    begin = self.begin(record, place) if begin is None else begin
    if self.users:
      return out | self.sequences.as_of(record, place, begin)
    out |= self.sequences.history(record, place, begin)
    time = record["time"]
    since = (time[place] - time[place - 1]) / 1e6 if place else 0.0
    out["event_ids"] = record["categorical"][place]
    out["event_gap"] = np.float32(since)
    return out

  def train_iterator(
    self, records, cfg, tasks, batch_size: int, seed: int
  ) -> grain.DatasetIterator:
    """Endless shuffled batches of this host's points; its state can be saved.

    Args:
      records: An open `Records`.
      cfg: config.data.
      tasks: Declared tasks.
      batch_size: B over all hosts.
      seed: Of shuffling.
    """
    del tasks
    examples = hosts_lib.shuffled(
      _Examples(self, self.points(records, "train"), cfg.cache), seed
    )
    examples, rows = hosts_lib.share(examples, batch_size)
    ahead = 2 * max(1, cfg.read_threads)
    return iter(hosts_lib.read_ahead(examples.batch(rows), cfg, ahead))

  def eval_batches(
    self, records, part: str, batch_size: int
  ) -> Iterator[Batch]:
    """This host's points of a part, once; the last batch has copies at its end.

    Args:
      records: An open `Records`.
      part: Of PARTS.
      batch_size: B on this host.
    """
    points = self.points(records, part)
    hosts, host = jax.process_count(), jax.process_index()
    mine = range(host, len(points), hosts)
    for step in range(math.ceil(math.ceil(len(points) / hosts) / batch_size)):
      some = mine[step * batch_size : (step + 1) * batch_size]
      yield self._batch(points, list(some), batch_size)

  def _batch(self, points: Points, rows: list[int], batch_size: int) -> Batch:
    filled = rows + (rows[-1:] or [0]) * (batch_size - len(rows))
    source = _Examples(self, points, False)
    found = [source[i] for i in filled]
    out = {k: np.stack([f[k] for f in found]) for k in found[0]}
    out["user_mask"] = np.arange(batch_size) < len(rows)
    out["point"] = np.asarray(filled, np.int32)
    keys = [str(points.records[points.user[i]]["key"]) for i in rows]
    out["key"] = np.asarray(keys + [""] * (batch_size - len(keys)))
    return out

  def batches_at(
    self, groups, day: int, batch_size: int, spare: Batch
  ) -> Iterator[Batch]:
    """A batch of each group of records, users as of a day, without labels."""
    for found in groups:
      parts = [self.example(r, day) for r in found or [spare]]
      parts += parts[-1:] * (batch_size - len(parts))
      batch = {k: np.stack([p[k] for p in parts]) for k in parts[0]}
      shape = batch_size, 1, len(self._tasks)
      batch["labels"] = np.zeros(shape, np.float32)
      batch["label_mask"] = np.zeros(shape, bool)
      batch["user_mask"] = np.arange(batch_size) < len(found)
      keys = [str(r["key"]) for r in found]
      batch["key"] = np.asarray(keys + [""] * (batch_size - len(keys)))
      yield batch

  def nobody(self) -> Batch:
    """A batch of one point without history: shapes, to build a model by."""
    from lumos_jax.data import records as records_lib

    record = {
      k: np.zeros([1 if n is None else n for n in shape], dtype)
      for k, (dtype, shape) in records_lib.layout(self._schema).items()
    }
    place = 0 if not self.users else 1
    return {
      k: np.asarray(v)[None] for k, v in self.example(record, place).items()
    }


class _Examples:
  """Training examples by place."""

  def __init__(self, scoring: Scoring, points: Points, cache: bool):
    self._scoring, self._points = scoring, points
    self._cache: dict[int, Batch] | None = {} if cache else None

  def __len__(self) -> int:
    return len(self._points)

  def __repr__(self) -> str:
    return f"Points({len(self)})"

  def __getitem__(self, i: int) -> Batch:
    if self._cache is not None and i in self._cache:
      return self._cache[i]
    p = self._points
    record, place = p.records[p.user[i]], int(p.place[i])
    out = self._scoring.example(record, place, p.context[i])
    out["labels"], out["label_mask"] = p.y[i][None], p.mask[i][None]
    if self._cache is not None:
      self._cache[i] = out
    return out
