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
import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from lumos_jax import best, evaluate, identity, population
from lumos_jax import blocks as blocks_lib
from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import recipes as recipes_lib
from lumos_jax import state as state_lib
from lumos_jax import why as why_lib
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import edited as edited_lib
from lumos_jax.data import pipeline, scoring, sequences
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import calibration as calibration_lib
from lumos_jax.evaluators import predict
from lumos_jax.names import near

FORECASTS, EMBEDDINGS, NEXT_EVENTS = "forecasts", "embeddings", "next_events"
KINDS = (FORECASTS, EMBEDDINGS, NEXT_EVENTS)

_FEW = 8  # Users of a small batch.


class PredictError(ValueError):
  """What was asked for cannot be predicted; says what can."""


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
    step: int | str | None = None,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Reads the run's config and a checkpoint; no data yet.

    Args:
      workdir: Of the run.
      step: Checkpoint, or "best" where the run keeps one; default the newest.
      devices: Local devices to use; default all.

    Raises:
      FileNotFoundError: There is no run.
      CheckpointError: There is no such checkpoint.
    """
    self.workdir = epath.Path(workdir)
    self.config = evaluate.load_config(self.workdir)
    store = checkpoint_lib.Checkpoints(self.workdir, read_only=True)
    if step == "best":
      step = best.read(self.workdir)["step"]
    meta = store.meta(step)
    self.schema = schema_lib.Schema.from_json(meta["schema"])
    self.calendar_columns = tuple(meta["calendar_columns"])
    self.tasks = tasks_lib.from_config(self.config.tasks)
    known = types.SimpleNamespace(
      schema=self.schema, calendar=self.empty_calendar()
    )
    self.recipe = recipes_lib.build(self.config, known, self.tasks)
    self.step, params = evaluate.restored(store, self.recipe, step)
    self._graph, _ = state_lib.structure(self.recipe)
    held = getattr(self.recipe, "held_dtype", None)
    self._base = predict.Predictor(
      lambda params, batch: {}, self.config.eval_batch_size, devices, held
    )
    self._params = self._base.place(params)
    # Few users need not wait for a full batch on every device.
    few = min(_FEW, self.config.eval_batch_size)
    self._few = predict.Predictor(
      lambda params, batch: {}, few, self._base.devices[:1], held
    )
    self._few_params = self._alone = None
    self._programs: dict[tuple, Any] = {}

  @property
  def batch_size(self) -> int:
    """Users of a batch on this host."""
    return self._base.batch_size

  @functools.cached_property
  def model_hash(self) -> str:
    """16 hex digits of the parameters' names and bytes."""
    return predict.params_hash(self._params)

  @property
  def parameters(self) -> dict[str, jax.Array]:
    """The model's, on this host's devices; `module` takes them."""
    return self._params

  def module(self, params: dict[str, jax.Array]) -> Any:
    """The recipe's module with parameters, traced ones too."""
    return state_lib.merge(self._graph, params)

  def empty_calendar(self) -> calendar_lib.Calendar:
    """The columns of the run's calendar, without entries."""
    columns = self.calendar_columns
    spanning = [c.removesuffix(":age") for c in columns if c.endswith(":age")]
    return calendar_lib.empty(self.schema, spanning)

  def kinds(self) -> tuple[str, ...]:
    """What this run's recipe can predict, among KINDS."""
    able = {
      FORECASTS: self.recipe.inputs is pipeline or self._scores_users,
      EMBEDDINGS: hasattr(self.recipe, "embed"),
      NEXT_EVENTS: hasattr(self.recipe, "next_events"),
    }
    return tuple(k for k in KINDS if able[k])

  @property
  def _scores_users(self) -> bool:
    inputs = self.recipe.inputs
    return isinstance(inputs, scoring.Scoring) and inputs.users

  @functools.cached_property
  def calibration(self) -> Mapping[str, calibration_lib.Map]:
    """{task: map from raw to calibrated scores} of evaluator "risk"; or {}.

    What is ranked are raw scores: calibrated ones have ties. A map that was fitted
    on another checkpoint is not used.
    """
    return calibration_lib.load(self.workdir, self.model_hash)

  def read_calibration(self) -> None:
    """Reads the maps again: a run writes them after its checkpoint.

    Where the file is another checkpoint's by now, those in use stay.

    Raises:
      ValueError: The file is damaged.
    """
    found = calibration_lib.load(self.workdir, self.model_hash)
    self.__dict__["calibration"] = found or self.calibration

  @functools.cached_property
  def why(self) -> why_lib.Why:
    """Explains scores of a hybrid run; ValueError for other recipes."""
    return why_lib.Why(self.recipe, self._params)

  def calibrated(self, task: str, p: np.ndarray) -> np.ndarray:
    """Probabilities as calibrated on validation; as they are without a map."""
    found = self.calibration.get(task)
    return np.asarray(p, np.float64) if found is None else found(p)

  def check_kind(self, kind: str) -> None:
    """Raises PredictError where the recipe cannot predict that."""
    if kind not in self.kinds() and not self.kinds():
      raise PredictError(
        f"a run of recipe {self.config.recipe!r} with data.unit = 'event' scores "
        f"events, and gives no {kind} of users as of a day"
      )
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
    records = evaluate.open_data(self.config, data)
    self.check_records(records)
    return records

  def check_records(self, records: Any) -> None:
    """Raises CheckpointError where the model cannot read the records."""
    meta = {
      "schema": self.schema.to_json(),
      "calendar_columns": self.calendar_columns,
    }
    identity.check_meta(
      meta, self.config, records.schema, records.calendar.columns, False
    )

  def day(
    self, as_of: int | str | datetime.date | None, schema: schema_lib.Schema
  ) -> int:
    """The day of a prediction: a day number, an ISO date, or by default the day
    after the last day of the data.

    Raises:
      PredictError: It is neither, or the data do not reach it.
    """
    # The first day has no history; later than the last, rows are unknown.
    first, last = schema.first_day, schema.last_day
    there = f"the data allow {day_text(schema, first)} to"
    there = f"{there} {day_text(schema, last)}, the day after their last"
    if as_of is None:
      return schema.last_day
    day = as_of.date() if isinstance(as_of, datetime.datetime) else as_of
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
          f"days without dates: give a day number; {there}"
        ) from e
    if not first <= day <= last:
      raise PredictError(
        f"as_of = {as_of!r} is {day_text(schema, int(day))}; {there}. Add rows of "
        "later days by python -m data_prep"
      )
    return int(day)

  def users(
    self, people: population.Population, keys: Iterable[str] | None
  ) -> tuple[np.ndarray, list[str]]:
    """Ascending positions of users, all by default; and ids nobody has."""
    if keys is None:
      return np.arange(len(people)), []
    positions, unknown = people.find(keys)
    if not len(positions):
      raise PredictError(
        f"none of {len(unknown)} user ids is in the data, which have "
        f"{len(people):,} users in the splits {list(people.splits)}; the first "
        "asked for was not found. Ids are text, as in the raw tables"
      )
    return np.sort(positions), unknown

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
    few: bool = False,
  ) -> Iterator[blocks_lib.Block]:
    """Predictions of blocks of users that have entered by a day.

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
      few: Batches of some users on one device, where few are asked for. Others
        are an evaluator's batches and give its numbers to the bit; from these,
        the last bits may differ.

    Raises:
      PredictError: The recipe cannot predict that, or there is no user.
    """
    self.check_kind(kind)
    if per_event and not hasattr(self.recipe, "states"):
      raise PredictError(
        f"a run of recipe {self.config.recipe!r} has one vector a user, none of "
        "each event: leave out per_event"
      )
    if not len(people):
      raise PredictError(f"the splits {list(people.splits)} hold no user")
    spare = people.read([0])[0]
    entered = population.Entered(people, day)
    few = few and jax.process_count() == 1
    base, params = self._base, self._params
    if few:
      base = self._few
      if self._few_params is None:
        self._few_params = base.place(params)
      params = self._few_params
    size = base.batch_size

    def groups(positions):
      count = batches_a_block or -(-len(positions) // size)
      for i in range(count):
        yield entered.read(positions[i * size : (i + 1) * size])

    if self.recipe.inputs is pipeline:
      batches = lambda positions: pipeline.batches_at(
        records, self.config.data, self.tasks, groups(positions), day, size,
        spare, calendar, labels=False,
      )  # fmt: skip
    elif self._scores_users:
      if calendar is not None:
        raise PredictError("a run of recipe 'hybrid' answers no what-if")
      batches = lambda positions: self.recipe.inputs.batches_at(
        groups(positions), day, size, spare
      )
    elif kind == NEXT_EVENTS:
      width = 0
      if jax.process_count() > 1:
        width = max(sequences.longest(records, s) for s in people.splits)
      batches = lambda positions: sequences.batches_at(
        records, self.config.data, groups(positions), day, size, spare, width
      )
    elif self.recipe.inputs is not sequences:
      batches = lambda positions: self.recipe.inputs.batches_at(
        records, self.config.data, groups(positions), day, size, spare
      )
    else:
      cut = sequences.Sequences(records.schema, self.config.data)
      batches = lambda positions: _windows(
        cut, entered, positions, day, size, spare
      )
    run, reduce = self._program(base, kind, k, per_event)
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

    def ended() -> Iterator[blocks_lib.Block]:
      while tags and tags[0][1]:
        index, _ = tags.popleft()
        yield (
          reduce(index, parts, day)
          if parts
          else blocks_lib.Block(index, [], {})
        )
        parts.clear()

    for found in run.stream(params, tagged()):
      yield from ended()
      tags.popleft()
      parts.append(found)
    yield from ended()
    entered.tell()

  def _program(self, base, kind: str, k: int, per_event: bool):
    """What runs on the devices, and what makes a block of its outputs."""
    key = base is self._few, kind, k, per_event
    if key not in self._programs:
      self._programs[key] = self._made(base, kind, k, per_event)
    return self._programs[key]

  def embedder(self) -> Any:
    """Runs the recipe's `embed` over batches of its inputs.

    Raises:
      PredictError: The recipe has no embeddings.
    """
    self.check_kind(EMBEDDINGS)
    return self._program(self._base, EMBEDDINGS, 0, False)[0]

  def alone(self, fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the model, compiled for the first device.

    For a service's small batches: an answer waits for one device, and a shape
    that was called before is compiled.

    Args:
      fn: (module, *arrays) -> arrays.

    Returns:
      The function of *arrays.
    """
    if self._alone is None:
      first = self._base.devices[0]
      here = lambda x: jax.device_put(x.addressable_data(0), first)
      self._alone = jax.tree.map(here, self._params)
    run = jax.jit(lambda p, *xs: fn(self.module(p), *xs))
    params = self._alone
    return lambda *arrays: run(params, *arrays)

  def _made(self, base, kind, k, per_event):
    recipe, merge = self.recipe, self.module
    if kind == FORECASTS:
      fn = lambda params, batch: recipe.predict(merge(params), batch)
      return base.of(fn), blocks_lib.of_users
    if kind == NEXT_EVENTS:
      fn = lambda params, batch: recipe.next_events(merge(params), batch, k)
      return base.of(fn), blocks_lib.of_next_events
    if per_event:
      fn = lambda params, batch: recipe.states(merge(params), batch)
      return base.of(fn), blocks_lib.of_states
    fn = lambda params, batch: recipe.embed(merge(params), batch)
    windows = recipe.inputs is sequences
    reduce = blocks_lib.of_windows if windows else blocks_lib.of_users
    return base.of(fn), reduce


def day_text(schema: schema_lib.Schema, day: int) -> str:
  """ "day 337 (2017-12-04)", or "day 337" where the data have no dates."""
  if not schema.epoch:
    return f"day {day}"
  start = datetime.date.fromisoformat(schema.epoch)
  return f"day {day} ({start + datetime.timedelta(days=day)})"


def _windows(
  cut, people, positions, day: int, size: int, spare
) -> Iterator[dict[str, Any]]:
  """Batches of all events before a day of each user, in one or more rows.

  Hosts take equally many: those with fewer rows add padding.
  """

  def rows():
    for i in range(0, len(positions), size):
      for record in people.read(positions[i : i + size]):
        known = cut.before(record, day)
        for n, row in enumerate(cut.whole(known)):
          # Where the row's events stand in the record; -1 for the start token.
          first = n * cut.cfg.sequence_length - bool(cut.cfg.start_token)
          yield record["key"], row, (known, first)

  every, most = rows(), 0
  if jax.process_count() > 1:
    # Told before the first one: hosts start their programs in one order.
    every = list(every)
    mine = np.asarray(-(-len(every) // size))
    most = int(multihost_utils.process_allgather(mine).max())
  every, steps = iter(every), 0
  while some := list(itertools.islice(every, size)):
    batch = sequences.row_batch([x[:2] for x in some], size)
    steps += 1
    yield batch | {"rows": [x[2] for x in some]}
  row = cut.whole(cut.before(spare, day))[0]
  for _ in range(most - steps):
    batch = sequences.row_batch([("", row)], size)
    yield batch | {"user_mask": np.zeros(size, bool), "rows": []}


def edited(
  calendar: calendar_lib.Calendar, edits: Sequence[Mapping[str, Any]], day: int
) -> edited_lib.Spliced:
  """The calendar as edited from a day on; see data/edited.py.

  Raises:
    PredictError: An edit has an unknown key.
    SchemaError: It names an unknown field, value or group, or finds no entry
      that is running or ahead.
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
  return edited_lib.splice(calendar, made, day)
