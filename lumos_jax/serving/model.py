"""A run's model for a service: programs of fixed shapes, compiled beforehand.

The `Predictor` is the one that exports and evaluates. What a program returns is
waited for here: an answer is there when a call returns.

B batch, T tokens of a row, D model width, C categorical columns, F features.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from lumos_jax import predictor as predictor_lib
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import instants, pipeline, scoring
from lumos_jax.data import records as records_lib
from lumos_jax.data import sessions as sessions_lib
from lumos_jax.evaluators import predict
from lumos_jax.recipes import expected
from lumos_jax.serving import encoder, history, intent, user_state
from lumos_jax.serving import states as states_lib

SIZES = (1, 8, 32)  # Users of a compiled batch.
MOST_NEXT = 50
_MOST_SEEN = 256  # Different values of a history that are compiled for.
Arrays = dict[str, np.ndarray]


class Model:
  """A checkpoint, opened to answer.

  Attributes:
    predictor: The run's.
    recipe, schema, tasks: Of the run.
    layout: Of users' rows.
    model_hash, step: Of the checkpoint.
    hash_bytes: Tells states of this model.
    scores: What a score is: "deviation", "forecast" or "risk"; "none" of a run
      that scores nothing.
    sessions: Whether it reads sessions of clicks.
    student: Tells intents of sessions; None where there are none.
    events: Whether it expects events (PANTHER and its relatives).
    states: Of users whose events were read before; None where a model reads a
      history anew each time.
    direct: Whether a vector says all of what is expected of a user.
    calendar: Of the run's data; without entries where they are not there.
    last_day: Day after the data's last.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    step: int | str | None = None,
    data_dir: epath.PathLike | None = None,
    sizes: Sequence[int] = SIZES,
  ):
    """Restores a checkpoint; `warm` compiles.

    Args:
      workdir: Of the run.
      step: Checkpoint; default the newest.
      data_dir: A prepared data set, for its calendar; default the run's own.
      sizes: Of batches, ascending.
    """
    self.predictor = predictor_lib.Predictor(workdir, step)
    p = self.predictor
    self.recipe, self.schema, self.tasks = p.recipe, p.schema, p.tasks
    self.step, self.model_hash = p.step, p.model_hash
    self.hash_bytes = bytes.fromhex(p.model_hash)
    self.layout, self.sizes = history.Layout(p.schema), tuple(sizes)
    self.events = predictor_lib.NEXT_EVENTS in p.kinds()
    self.risks = isinstance(p.recipe.inputs, scoring.Scoring)
    self.scores = "deviation" if self.events else "forecast"
    if self.risks:
      self.scores = "risk"
    self.sessions = p.recipe.inputs is sessions_lib
    if self.sessions:
      self.scores = "none"
    self.student = intent.student_of(workdir)
    self.states = None
    self.last_day, self.calendar = self._data(data_dir)
    if self.events:
      self.states = states_lib.States(p)
      self.features = self.states.features
      self._deviation = p.alone(self._deviation_fn)
      table = lambda m: m.model.scored_values(m.model.values())
      self._table = p.alone(table)()
    elif self.risks:
      self._risk = p.alone(p.recipe.predict)
      if p.recipe.inputs.sequences is not None:
        self.states = states_lib.States(p)
    elif self.sessions:
      self.vectors = intent.Encoder(p, self.sizes)
    else:
      self._example = self._examples(self.calendar)
      self._forecast = p.alone(p.recipe.predict)
      self._embed = p.alone(p.recipe.embed)
    self.direct = self.states is not None and self.states.direct

  def _data(self, data_dir) -> tuple[int, calendar_lib.Calendar]:
    p = self.predictor
    try:
      records = p.open_data(data_dir)
    except records_lib.DataError:
      if data_dir is not None:
        raise
      if p.calendar_columns and p.schema.calendar:
        logging.warning(
          "the run's data set is not here: the service knows no calendar entry; "
          "give one with --data_dir"
        )
      return p.schema.last_day, p.empty_calendar()
    return records.schema.last_day, records.calendar

  def warm(self) -> float:
    """Compiles and runs every program at every size; seconds it took."""
    begin = time.perf_counter()
    if self.events:
      widest = len(self.schema.categorical("activity"))
      self.states.compile(MOST_NEXT, _MOST_SEEN)
      none = np.zeros(widest, np.int32)
      look = np.zeros(self.predictor.config.model.d_model, np.float32)
      new = self.states.new()
      raw = {
        n: np.zeros((1, *x.shape[1:]), x.dtype)
        for n, x in new.window.raw.items()
      }
      (state,) = self.states.append([new], [raw])
      for size in self.sizes if self.direct else ():
        kept = Kept(0, 0, state, look)
        self.deviations([kept] * size, [(none, 1)] * size)
    elif self.risks:
      place = self.last_day if self.of_users else 0
      for size in self.sizes:
        self.risk([self._nobody()] * size, [place] * size)
      if self.states is not None:
        self.states.compile()
      why = self.predictor.why
      task = self.tasks[0].name
      why.score(self._nobody(), place, task=task)
      if why.gradual:
        why.gradients(self._nobody(), place, task)
    elif self.sessions:
      for size in self.sizes:
        self.vectors([self._nobody()] * size)
    else:
      for size in self.sizes:
        users, days = [self._nobody()] * size, [self.last_day] * size
        self.forecasts(users, days)
        self.embeddings(users, days)
    return time.perf_counter() - begin

  def _nobody(self) -> dict[str, Any]:
    """A record with one row of missing values."""
    schema = self.schema
    rows = {
      k: np.zeros([1 if n is None else n for n in shape], dtype)
      for k, (dtype, shape) in records_lib.layout(schema).items()
    }
    rows["groups"] = rows["groups"][:0]
    return {"key": "", **rows}

  def _padded(self, parts: Sequence[Arrays]) -> Iterator[tuple[Arrays, int]]:
    """Batches of compiled sizes, and how many users each has."""
    most = self.sizes[-1]
    for start in range(0, len(parts), most):
      some = list(parts[start : start + most])
      size = next(n for n in self.sizes if n >= len(some))
      count = len(some)
      some += some[-1:] * (size - count)
      yield {k: np.stack([p[k] for p in some]) for k in some[0]}, count

  # Events: PANTHER and its relatives.

  def advanced(
    self, users: Sequence[history.User], before: Sequence["Kept | None"]
  ) -> list["Kept"]:
    """States of users, made from earlier ones where these go on in them.

    Args:
      users: Of the store.
      before: An earlier state of each, of this model; None for none.
    """
    states, events, aggregates = [], [], []
    for user, old in zip(users, before, strict=True):
      new = user.events - old.events if old is not None else -1
      if old is None or old.born != user.born or not 0 <= new <= len(user.rows):
        state = self.states.new(
          (user.profile_categorical, user.profile_numeric)
        )
        new, known = len(user.rows), {}
      else:
        # Its own: events that are supposed are no part of the real user.
        state, known = old.state, dict(old.aggregates)
      rows = user.rows[len(user.rows) - new :]
      states.append(state)
      aggregates.append(known)
      events.append({n: rows[n] for n in ("time", "categorical", "numeric")})
    if self.direct:
      made, looks = self.states.append_looks(states, events)
    else:
      made = self.states.append(states, events)
      looks = [None] * len(made)
    return [
      Kept(user.born, user.events, state, look, known)
      for user, state, look, known in zip(
        users, made, looks, aggregates, strict=True
      )
    ]

  def following(
    self,
    kept: "Kept",
    user: history.User,
    rows: Sequence[encoder.Row],
  ) -> list["Kept"]:
    """States before each of some events: the user's, and on from there.

    Args:
      kept: Before the first.
      user: The same, as stored.
      rows: Events in order, which are not stored.
    """
    out = [kept]
    for row in rows[:-1]:
      user = user.appended(self.layout, [row], len(user.rows) + 1)
      out += self.advanced([user], out[-1:])
    return out

  def _deviation_fn(self, module, look, ids, gap, table):
    return expected.features(self.recipe, module, look, ids, gap, table=table)

  def deviations(
    self,
    kept: Sequence["Kept"],
    events: Sequence[tuple[np.ndarray, int]],
  ) -> np.ndarray:
    """How far events are from what was expected: float32 [N, F].

    Args:
      kept: States of users with something to expect from.
      events: Ids int32 [C] and instant of each.
    """
    out = np.zeros((len(kept), len(self.features)), np.float32)
    known, slow = [], []
    for i, (k, (_, at)) in enumerate(zip(kept, events, strict=True)):
      follows = k.look is not None and self.states.follows(k.state, at)
      (known if follows else slow).append(i)
    if slow:
      none = np.zeros((1, self.schema.numeric_width("activity")), np.float32)
      out[slow] = self.states.deviation(
        [kept[i].state for i in slow],
        [
          {
            "time": np.asarray([events[i][1]]),
            "categorical": np.asarray(events[i][0])[None],
            "numeric": none,  # What is expected is ids and times.
          }
          for i in slow
        ],
      )
    parts = []
    for i in known:
      k, (ids, at) = kept[i], events[i]
      last = k.state.last_time
      gap = 0.0 if last is None else (at - last) / 1e6
      parts.append({
        "look": k.look,
        "ids": np.asarray(ids, np.int32),
        "gap": np.float32(gap),
      })  # fmt: skip
    found = [
      np.asarray(self._deviation(*batch.values(), self._table))[:count]
      for batch, count in self._padded(parts)
    ]
    if known:
      out[known] = np.concatenate(found)
    return out

  def next_events(
    self, kept: Sequence["Kept"], at: Sequence[int]
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """The likeliest next values of each: ids and probabilities, at most 50."""
    found = self.states.next_events([k.state for k in kept], MOST_NEXT, at)
    pairs = zip(found["value"], found["probability"], strict=True)
    # 0 fills up where there are fewer.
    return [(v[v > 0], p[v > 0]) for v, p in pairs]

  # Points: hybrids.

  @property
  def of_users(self) -> bool:
    """Whether a hybrid scores users as of a day, and not events."""
    return self.predictor.recipe.inputs.users

  @property
  def least_rows(self) -> int:
    """Rows of a user that the model reads at most."""
    cfg = self.predictor.config.data
    if self.risks:
      return max(1, cfg.history_events)
    rows = self.events or self.sessions
    return cfg.sequence_length if rows else cfg.eval_history_days

  def risk(
    self, records: Sequence[Mapping[str, Any]], places: Sequence[int]
  ) -> list[dict[str, float]]:
    """Calibrated probability of each task at points of records.

    Args:
      records: Users'.
      places: Position of the scored event, or day where users are scored.
    """
    out: list[dict[str, float]] = []
    example = self.recipe.inputs.example
    parts = [example(r, n) for r, n in zip(records, places, strict=True)]
    for batch, count in self._padded(parts):
      out += self._calibrated(jax.device_get(self._risk(batch)), count)
    return out

  def risk_kept(
    self,
    kept: Sequence["Kept"],
    records: Sequence[Mapping[str, Any]],
    places: Sequence[int],
  ) -> list[dict[str, float]]:
    """The same of users whose states as of the points are kept, with a row each.

    Raises:
      states.NotAsked: One has none.
    """
    states = [k.state for k in kept]
    points = list(zip(records, places, strict=True))
    context = np.stack(
      [self._context_of(k, *p) for k, p in zip(kept, points, strict=True)]
    )
    days = [n * instants.DAY_SECONDS * 1_000_000 for n in places]
    events = None
    if not self.of_users:
      raw = ("time", "categorical", "numeric")
      events = [{k: r[k][n : n + 1] for k in raw} for r, n in points]
    looks = [k.look for k in kept] if self.direct else None
    found = self.states.risk(states, days, context, events, looks)
    return self._calibrated(found, len(states))

  def _context_of(self, kept: "Kept", record, place: int) -> np.ndarray:
    """Context features of a point; aggregates of a day are made once."""
    inputs, days = self.recipe.inputs, instants.days(record)
    day = place if self.of_users else int(days[place])
    earlier = int(np.searchsorted(days, day))
    # All events ever before the day, of which the state has read some later ones.
    count = kept.events - (0 if self.of_users else place - earlier)
    known = kept.aggregates.get(day)
    if known is None or known[0] != count:
      (found,) = inputs.context.aggregates(record, np.asarray([day]))
      kept.aggregates.clear()
      known = kept.aggregates[day] = count, found
    return inputs.context_of(record, place, known[1])

  def _calibrated(self, found: Mapping[str, np.ndarray], count: int):
    named = {
      t: self.predictor.calibrated(t, v.reshape(-1)[:count]).tolist()
      for t, v in found.items()
    }
    return [{t: v[i] for t, v in named.items()} for i in range(count)]

  # Days: LUMOS.

  def _examples(self, calendar) -> pipeline.Example:
    cfg = self.predictor.config.data
    return pipeline.Example(
      self.schema,
      calendar,
      self.tasks,
      cfg.eval_history_days,
      cfg.daily_labels,
      labels=False,
    )

  def edited(self, edits: Sequence[Mapping[str, Any]], day: int):
    """The calendar as edited from a day on.

    Raises:
      PredictError, SchemaError: An edit is none, or finds no entry.
    """
    return predictor_lib.edited(self.calendar, edits, day)

  def _batches(self, records, days, calendar=None):
    made = self._example if calendar is None else self._examples(calendar)
    parts = [
      made(r, np.asarray([d])) for r, d in zip(records, days, strict=True)
    ]
    parts = [
      {k: v for k, v in p.items() if k not in predict.HOST} for p in parts
    ]
    yield from self._padded(parts)

  def forecasts(
    self,
    records: Sequence[Mapping[str, Any]],
    days: Sequence[int],
    calendar: Any = None,
  ) -> list[dict[str, float]]:
    """Forecasts of all tasks of each record as of its day."""
    out = []
    for batch, count in self._batches(records, days, calendar):
      found = jax.device_get(self._forecast(batch))
      found = {k.replace("/", "_"): v.reshape(-1) for k, v in found.items()}
      out += [{k: float(v[i]) for k, v in found.items()} for i in range(count)]
    return out

  def embeddings(
    self, records: Sequence[Mapping[str, Any]], days: Sequence[int]
  ) -> list[dict[str, np.ndarray]]:
    """Embeddings of each record as of its day: {name: [D]}."""
    if self.sessions:
      return self.vectors(
        [sessions_lib.before(r, d) for r, d in zip(records, days, strict=True)]
      )
    out = []
    for batch, count in self._batches(records, days):
      found = jax.device_get(self._embed(batch))
      out += [{k: v[i] for k, v in found.items()} for i in range(count)]
    return out


@dataclasses.dataclass(frozen=True)
class Kept:
  """A user's state in memory.

  Attributes:
    born: Of the user's record.
    events: Rows of the record that the state has read.
    state: Of `states.States`.
    look: float32 [D], the state that expects the next event, where that does not
      depend on when it comes; else None.
    aggregates: {day: events before it, and what is said of them (data/context.py)},
      of the newest day that a hybrid was asked for.
  """

  born: int
  events: int
  state: user_state.State
  look: np.ndarray | None
  aggregates: dict[int, tuple[int, np.ndarray]] = dataclasses.field(
    default_factory=dict
  )

  @property
  def nbytes(self) -> int:
    """Of its arrays."""
    w = self.state.window
    arrays = [*w.raw.values(), *w.past.values(), self.state.totals]
    arrays += [self.state.sums, self.state.seen]
    arrays += [x for x in (self.state.tail, self.look) if x is not None]
    return 1024 + sum(x.nbytes for x in arrays)
