"""A trained run, opened to predict: what export, Python and services share.

  run = lumos_jax.load("runs/pretrain")
  run.forecast(as_of="2017-12-04", users=["718", "1130"])

A prediction is made as of a day: events before it are known, and of the calendar
what was announced by then. The same batches and compiled functions serve the
evaluators, so that a forecast is the one that was evaluated, to the bit.
"""

import collections
import dataclasses
import datetime
import functools
import hashlib
import itertools
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import chex
import jax
import numpy as np
from etils import epath

from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import evaluate, population
from lumos_jax import recipes as recipes_lib
from lumos_jax import state as state_lib
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import pipeline, sequences
from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import predict, probe
from lumos_jax.evaluators.what_if import Spliced
from lumos_jax.names import near

FORECASTS, EMBEDDINGS, NEXT_EVENTS = "forecasts", "embeddings", "next_events"
KINDS = (FORECASTS, EMBEDDINGS, NEXT_EVENTS)


class PredictError(ValueError):
  """What was asked for cannot be predicted; says what can."""


@dataclasses.dataclass(frozen=True)
class Block:
  """Predictions of some users.

  Attributes:
    index: Of the block.
    keys: User ids, one a row.
    columns: {name: [rows, ...]}.
  """

  index: int
  keys: list[str]
  columns: dict[str, np.ndarray]


class Predictor:
  """A run's model on this host's devices.

  Attributes:
    workdir, config, tasks, recipe: Of the run.
    step: Of the checkpoint.
    schema: As the run's data were fitted.
    model_hash: 16 hex digits of the parameters.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    step: int | None = None,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Reads the run's config and a checkpoint; no data yet.

    Args:
      workdir: Of the run.
      step: Checkpoint; default the newest.
      devices: Local devices to use; default all.

    Raises:
      FileNotFoundError: There is no run.
      CheckpointError: There is no such checkpoint.
    """
    self.workdir = epath.Path(workdir)
    self.config = evaluate.load_config(self.workdir)
    store = checkpoint_lib.Checkpoints(self.workdir, read_only=True)
    meta = store.meta(step)
    self.schema = schema_lib.Schema.from_json(meta["schema"])
    self.calendar_columns = tuple(meta["calendar_columns"])
    self.tasks = tasks_lib.from_config(self.config.tasks)
    known = types.SimpleNamespace(
      schema=self.schema, calendar=self._empty_calendar()
    )
    self.recipe = recipes_lib.build(self.config, known, self.tasks)
    self.step, params = evaluate.restored(store, self.recipe, step)
    self._graph, _ = state_lib.structure(self.recipe)
    self._base = predict.Predictor(
      lambda params, batch: {}, self.config.eval_batch_size, devices
    )
    self._params = self._base.place(params)
    self._programs: dict[tuple[str, int, bool], Any] = {}

  @property
  def batch_size(self) -> int:
    """Users of a batch on this host."""
    return self._base.batch_size

  @functools.cached_property
  def model_hash(self) -> str:
    """16 hex digits of the parameters' names and bytes."""
    digest = hashlib.sha256()
    for name, x in sorted(self._params.items()):
      digest.update(name.encode())
      digest.update(np.asarray(x.addressable_data(0)).tobytes())
    return digest.hexdigest()[:16]

  def _empty_calendar(self) -> calendar_lib.Calendar:
    """The columns of the run's calendar, without entries."""
    columns = self.calendar_columns
    spanning = [c.removesuffix(":age") for c in columns if c.endswith(":age")]
    return calendar_lib.empty(self.schema, spanning)

  def kinds(self) -> tuple[str, ...]:
    """What this run's recipe can predict, among KINDS."""
    able = {
      FORECASTS: self.recipe.inputs is pipeline,
      EMBEDDINGS: hasattr(self.recipe, "embed"),
      NEXT_EVENTS: hasattr(self.recipe, "next_events"),
    }
    return tuple(k for k in KINDS if able[k])

  def check_kind(self, kind: str) -> None:
    """Raises PredictError where the recipe cannot predict that."""
    if kind not in self.kinds():
      raise PredictError(
        f"a run of recipe {self.config.recipe!r} gives "
        f"{' and '.join(self.kinds())}, no {kind}"
      )

  def open_data(self, data: epath.PathLike | None = None) -> Any:
    """Opens a prepared data set and checks that the model can read it.

    Args:
      data: Its directory; default the run's own.

    Raises:
      DataError: There is none.
      CheckpointError: It was fitted otherwise than the run's data.
    """
    if data is None:
      options = self.config.data.options.to_dict()
      name = records_lib.directory_name(self.config.data.source, options)
      data = epath.Path(self.config.data.root) / name
    records = records_lib.Records.open(data)
    self.check_records(records)
    return records

  def check_records(self, records: Any) -> None:
    """Raises CheckpointError where the model cannot read the records."""
    meta = {
      "schema": self.schema.to_json(),
      "calendar_columns": self.calendar_columns,
    }
    checkpoint_lib.check_meta(
      meta, self.config, records.schema, records.calendar.columns, False
    )

  def day(
    self, as_of: int | str | datetime.date | None, schema: schema_lib.Schema
  ) -> int:
    """The day of a prediction: a day number, an ISO date, or by default the day
    after the last day of the data.

    Raises:
      PredictError: It is neither, or before the data.
    """
    if as_of is None:
      return schema.last_day
    day = as_of
    if isinstance(as_of, str) and as_of.lstrip("-").isdecimal():
      day = int(as_of)
    if not isinstance(day, (int, np.integer)):
      try:
        if isinstance(day, str):
          day = datetime.date.fromisoformat(day)
        day = (day - datetime.date.fromisoformat(schema.epoch)).days
      except (ValueError, TypeError) as e:
        raise PredictError(
          f"as_of = {as_of!r} is no date like 2020-01-31, or the data count "
          "days without dates: give a day number"
        ) from e
    if day < schema.first_day:
      raise PredictError(
        f"as_of = {as_of!r} is day {day}; the data begin on day "
        f"{schema.first_day}"
      )
    return int(day)

  def users(
    self, people: population.Population, keys: Iterable[str] | None
  ) -> tuple[np.ndarray, list[str]]:
    """Positions of the wanted users, all by default; and ids nobody has."""
    if keys is None:
      return np.arange(len(people)), []
    positions, unknown = people.find(keys)
    if not len(positions):
      raise PredictError(
        f"none of {len(unknown)} user ids is in the data, which have "
        f"{len(people):,} users in the splits {list(people.splits)}; the first "
        "asked for was not found. Ids are text, as in the raw tables"
      )
    return positions, unknown

  def predict(
    self,
    kind: str,
    records: Any,
    people: population.Population,
    blocks: Iterable[tuple[int, np.ndarray]],
    day: int,
    *,
    k: int = 10,
    per_event: bool = False,
    calendar: Any = None,
    batches_a_block: int | None = None,
  ) -> Iterator[Block]:
    """Predictions of blocks of users, one after another.

    Args:
      kind: One of KINDS.
      records: Where the users are from.
      people: The users.
      blocks: Number and positions in `people` of each.
      day: As of its begin.
      k: Values of a user's next event.
      per_event: Embeddings of each event (or token of days), not each user.
      calendar: Another one than the records' (a what-if).
      batches_a_block: Makes every block take as many steps, where several hosts
        must step together.

    Raises:
      PredictError: The recipe cannot predict that.
    """
    self.check_kind(kind)
    spare = people.read([0])[0]
    size = self.batch_size

    def groups(positions):
      count = batches_a_block or -(-len(positions) // size)
      for i in range(count):
        yield people.read(positions[i * size : (i + 1) * size])

    if self.recipe.inputs is pipeline:
      batches = lambda positions: pipeline.batches_at(
        records, self.config.data, self.tasks, groups(positions), day, size,
        spare, calendar,
      )  # fmt: skip
    elif kind == NEXT_EVENTS:
      batches = lambda positions: sequences.batches_at(
        records, self.config.data, groups(positions), day, size, spare
      )
    else:
      cut = sequences.Sequences(records.schema, self.config.data)
      batches = lambda positions: _windows(cut, groups(positions), day, size)
    run, reduce = self._program(kind, k, per_event)
    # The stream reads ahead of what it yields: tags say whose a batch is, and
    # where a block ends.
    tags: collections.deque[tuple[int, bool]] = collections.deque()

    def tagged():
      for index, positions in blocks:
        for batch in batches(positions):
          tags.append((index, False))
          yield batch
        tags.append((index, True))

    parts: list = []

    def ended() -> Iterator[Block]:
      while tags and tags[0][1]:
        index, _ = tags.popleft()
        yield reduce(index, parts, day) if parts else Block(index, [], {})
        parts.clear()

    for found in run.stream(self._params, tagged()):
      yield from ended()
      tags.popleft()
      parts.append(found)
    yield from ended()

  def _program(self, kind: str, k: int, per_event: bool):
    """What runs on the devices, and what makes a block of its outputs."""
    key = kind, k, per_event
    if key not in self._programs:
      self._programs[key] = self._made(*key)
    return self._programs[key]

  def _made(self, kind, k, per_event):
    recipe, merge = self.recipe, lambda p: state_lib.merge(self._graph, p)
    if kind == FORECASTS:
      fn = lambda params, batch: recipe.predict(merge(params), batch)
      return self._base.of(fn), _user_block
    if kind == NEXT_EVENTS:
      fn = lambda params, batch: recipe.next_events(merge(params), batch, k)
      return self._base.of(fn), _next_block
    if per_event:
      fn = lambda params, batch: recipe.states(merge(params), batch)
      return self._base.of(fn), _state_block
    fn = lambda params, batch: recipe.embed(merge(params), batch)
    windows = recipe.inputs is sequences
    return self._base.of(fn), _window_block if windows else _user_block


def _windows(cut, groups, day: int, size: int) -> Iterator[dict[str, Any]]:
  """Batches of all events before a day of each user, in one or more rows."""

  def rows():
    for found in groups:
      for record in found:
        known = cut.before(record, day)
        for n, row in enumerate(cut.whole(known)):
          # Where the row's events stand in the record; -1 for the start token.
          first = n * cut.cfg.sequence_length - bool(cut.cfg.start_token)
          yield record["key"], row, (known, first)

  every = rows()
  while some := list(itertools.islice(every, size)):
    batch = sequences.row_batch([x[:2] for x in some], size)
    yield batch | {"rows": [x[2] for x in some]}


def _user_block(index, parts, day) -> Block:
  """A row a user; forecasts [B, O] at their one origin are numbers."""
  del day
  for batch, found in parts:
    chex.assert_tree_shape_prefix(found, batch["user_mask"].shape)
  columns = {
    n: np.concatenate([f[n][b["user_mask"]] for b, f in parts])
    for n in parts[0][1]
  }
  columns = {
    n: x[:, 0] if x.shape[1:] == (1,) else x for n, x in columns.items()
  }
  return Block(index, _keys(parts), columns)


def _next_block(index, parts, day) -> Block:
  del day
  keys, out = [], {"rank": [], "value": [], "probability": []}
  for batch, found in parts:
    mask = batch["user_mask"]
    p, value = found["probability"][mask], found["value"][mask]
    own = np.asarray(batch["key"])[mask]
    user, place = np.nonzero(p > 0)
    keys += own[user].tolist()
    out["rank"].append(place + 1)
    out["value"].append(value[user, place])
    out["probability"].append(p[user, place])
  columns = {n: np.concatenate(x) for n, x in out.items()}
  return Block(index, keys, columns)


def _window_block(index, parts, day) -> Block:
  """Users' embeddings from sums over their rows (evaluators/probe.py)."""
  del day
  keys = np.concatenate(
    [np.asarray(b["key"])[b["user_mask"]] for b, _ in parts]
  )
  sums = np.concatenate([f["sums"][b["user_mask"]] for b, f in parts])
  tokens = np.concatenate([f["tokens"][b["user_mask"]] for b, f in parts])
  first = np.append(True, keys[1:] != keys[:-1])
  start = np.flatnonzero(first)
  total = np.add.reduceat(sums.astype(np.float64), start)
  count = np.add.reduceat(tokens.astype(np.float64), start)
  vectors = probe.pooled(total, count).astype(np.float32)
  return Block(index, keys[start].tolist(), {"embedding": vectors})


def _state_block(index, parts, day) -> Block:
  """A row an event, or a token of days."""
  keys, out = [], {"day": [], "time": [], "embedding": []}
  for batch, found in parts:
    for i in np.flatnonzero(batch["user_mask"]):
      at = np.flatnonzero(found["seen"][i])
      keys += [str(batch["key"][i])] * len(at)
      out["embedding"].append(found["state"][i][at])
      if "day" in found:
        out["day"].append((found["day"][i][at] + day).astype(np.int32))
        continue
      record, first = batch["rows"][i]
      out["day"].append(record["day"][at + first])
      out["time"].append(record["time"][at + first])
  columns = {n: np.concatenate(x) for n, x in out.items() if x}
  return Block(index, keys, columns)


def _keys(parts) -> list[str]:
  return [
    str(k) for b, _ in parts for k in np.asarray(b["key"])[b["user_mask"]]
  ]


def edited(
  calendar: calendar_lib.Calendar, edits: Sequence[Mapping[str, Any]], day: int
) -> Spliced:
  """The calendar as it was before a day, and as edited from it on.

  Raises:
    PredictError: An edit has an unknown key.
    SchemaError: It names an unknown field, value or group.
  """
  known = [f.name for f in dataclasses.fields(calendar_lib.Edit)]
  made = []
  for edit in edits:
    for key in edit:
      if key not in known:
        raise PredictError(
          f"edits: no key {key!r}{near(key, known)} There are {known}"
        )
    made.append(calendar_lib.Edit(**edit))
  return Spliced(calendar, calendar.edited(made), day)
