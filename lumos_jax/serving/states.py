"""States of users that new events are appended to, without reading the history.

  states = States(predictor, batch_size=16)
  (user,) = states.append([states.new()], [events])
  states.next_events([user], k=10)
  stored = states.to_bytes(user)

A user's `State` is immutable: `append` returns another one. Events are encoded
rows as records have them (data/records.py): {"time": int64 [n], microseconds since
the epoch, never falling; "categorical": int32 [n, C]; "numeric": float32 [n, N]};
and, if known, "tie": uint64 [n] of data_prep/order.py.

n users asked for, B users of a compiled batch, C rows of each, T tokens of a
window, D model width, V values.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lumos_jax import identity
from lumos_jax import predictor as predictor_lib
from lumos_jax.data import instants, running, sequences
from lumos_jax.data import schema as schema_lib
from lumos_jax.evaluators import probe
from lumos_jax.models import held as held_lib
from lumos_jax.objectives import deviation as deviation_lib
from lumos_jax.recipes import expected
from lumos_jax.serving import appends, stored, user_state
from lumos_jax.serving.stored import StaleState
from lumos_jax.serving.user_state import RAW, State

__all__ = [
  "CannotAppend",
  "NotAsked",
  "OutOfOrder",
  "StaleState",
  "State",
  "States",
]

Events = Mapping[str, np.ndarray]
Profile = tuple[np.ndarray, np.ndarray]
_CHUNKS = (1, 8, 64, 512)  # Rows of a user that a program reads at a time.
_SEEN = 8  # Least width of a list of seen values; others are doubles of it.


class CannotAppend(ValueError):
  """The model's states cannot be updated event by event; names the setting.

  The way out is `Predictor.predict` on the whole history.
  """


class OutOfOrder(ValueError):
  """An event is older than the last one: `rebuild` from sorted events."""


class NotAsked(ValueError):
  """A state cannot say this: no events without a start token, or no time."""


class States:
  """Makes, updates and asks states of users.

  Calls are not thread-safe. Any number of users goes into a call; they run in
  batches of `batch_size`, or one by one where there is one. What is returned is
  in the order of the users.

  Attributes:
    batch_size: B.
    features: Names of `deviation`'s columns.
    embedding_width: Of `embedding`.
    model_hash: 16 hex digits of what states depend on: parameters, fitted
      schema, settings of model and window. Bytes of another one are stale.
    step: Of the checkpoint.
  """

  def __init__(self, predictor: predictor_lib.Predictor, batch_size: int = 16):
    """Takes the predictor's model; compiles nothing yet (see `compile`).

    Raises:
      CannotAppend: It is not one of events that looks back only.
    """
    check(predictor.recipe)
    if batch_size < 1:
      raise ValueError(f"batch_size = {batch_size} must be 1 or more")
    self._recipe, self.batch_size = predictor.recipe, batch_size
    self._predictor, self._schema = predictor, predictor.schema
    self.step = predictor.step
    recipe, self._data = self._recipe, predictor.config.data
    self._start_token = bool(self._data.start_token)
    self._length = self._data.sequence_length
    self._copies = bool(recipe.cfg.copy)
    self.features = expected.names(recipe)
    self.model_hash = _hash(predictor)
    # Where the model was compiled to run: on the first device.
    self._device = jax.local_devices()[0]
    self._params = jax.device_put(
      {k: np.asarray(v) for k, v in predictor.parameters.items()}, self._device
    )
    made = jax.jit(self._made)(self._params)
    self._table = made["table"]
    self._vectors = np.asarray(made["vectors"])
    width = recipe.cfg.d_model
    self._sums_width = width + self._vectors.shape[1]
    self.embedding_width = 2 * self._sums_width + 1
    nothing = jax.eval_shape(
      lambda p: predictor.module(p).model.nothing(1), self._params
    )
    self._kept = {n: x for n, x in nothing.items() if n != held_lib.TAIL}
    self._tail = nothing.get(held_lib.TAIL)
    counts = running.Running(self._schema)
    self._settings = appends.Settings(
      self._length,
      recipe.column,
      bool(self._data.filter_seen) and not self._copies,
      counts,
    )
    self._chunks = [c for c in _CHUNKS if c < self._length] + [self._length]
    self._programs: dict[Any, Any] = {}
    self._staged: dict[int, dict[str, np.ndarray]] = {}
    self._empty = self.new()

  def _made(self, params):
    """Tables that all calls share."""
    module = self._predictor.module(params)
    model = module.model
    return {
      "table": model.scored_values(model.values()),
      "vectors": self._recipe.event_vectors(module),
    }

  # The state of a user.

  def new(self, profile: Profile | None = None) -> State:
    """A user without events.

    Args:
      profile: Its row of the profile: ids int32 [Cp] and numbers float32 [Np];
        None where nothing is known.
    """
    if profile is None:
      from lumos_jax.data_prep import fit  # Not to predict from shards.

      ids = len(self._schema.categorical("profile"))
      profile = (
        np.full(ids, schema_lib.MISSING, np.int32),
        fit.absent(self._schema.profile),
      )
    ids, numeric = profile
    raw = {
      "time": np.zeros(1, np.int64),
      "categorical": np.zeros(
        (1, len(self._schema.categorical("activity"))), np.int32
      ),
      "numeric": np.zeros(
        (1, self._schema.numeric_width("activity")), np.float32
      ),
    }
    past = {
      n: np.zeros(self._shape(n, x), x.dtype) for n, x in self._kept.items()
    }
    window, rows = user_state.Window.like(raw, past, 1), 0
    if self._start_token:
      window, rows = window.grown(0, raw), 1
    tail = None
    if self._tail is not None:
      count, _, *shape = self._tail.shape
      tail = np.zeros((count, *shape), self._tail.dtype)
    return State(
      profile=(np.asarray(ids, np.int32), np.asarray(numeric, np.float32)),
      start_token=self._start_token,
      rows=rows,
      begin=0,
      window=window,
      tail=tail,
      first_time=0,
      totals=np.zeros(self._settings.counts.width, np.float32),
      sums=np.zeros(self._sums_width, np.float64),
      seen=np.zeros(0, np.int32),
    )

  def _shape(self, name: str, x) -> tuple[int, ...]:
    """Of one user's rows [L, 1, ...]; what the pointer keeps has one layer."""
    if name == "pointer":
      return 1, 1, *x.shape[2:]
    return x.shape[0], 1, *x.shape[3:]

  def append(
    self, states: Sequence[State], events: Sequence[Events]
  ) -> list[State]:
    """The users after more events, any number of each.

    Appending a user's events one by one, in parts or all at once gives the same
    state, to rounding.

    Raises:
      OutOfOrder: Of a user, an event comes before the one before it; names its
        place. Nobody has changed.
    """
    for i, (state, more) in enumerate(zip(states, events, strict=True)):
      _check_order(i, state, more)
    drafts = [
      appends.Draft(s, e, self._settings) if len(e["time"]) else None
      for s, e in zip(states, events, strict=True)
    ]
    waiting = [d for d in drafts if d is not None]
    while waiting := self._read_some(waiting):
      pass
    return [s if d is None else d.state for s, d in zip(states, drafts)]

  def _read_some(self, drafts: list[appends.Draft]) -> list[appends.Draft]:
    """Lets each draft read some rows; those that are not at their end."""
    found = [(d, d.next(self._chunks[-1])) for d in drafts]
    found = [(d, rows) for d, rows in found if rows is not None]
    # Alike many rows together.
    found.sort(key=lambda x: len(x[1].next_time))
    for i in range(0, len(found), self.batch_size):
      some = found[i : i + self.batch_size]
      states, new = self._extend([rows for _, rows in some])
      for b, (draft, rows) in enumerate(some):
        c = len(rows.next_time)
        kept = {n: x[:, b, :c] for n, x in new.items()}
        draft.read(c, states[b, :c], self._vectors, kept)
    return [d for d, _ in found]

  def rebuild(
    self,
    events: Sequence[Events],
    profiles: Sequence[Profile | None] | None = None,
  ) -> list[State]:
    """States of whole histories, sorted by time."""
    profiles = profiles or [None] * len(events)
    return self.append([self.new(p) for p in profiles], events)

  # What a state says.

  def embedding(self, states: Sequence[State]) -> np.ndarray:
    """Embeddings of users: float32 [n, `embedding_width`].

    Those of `Predictor.predict` where all events fit a window. Beyond, each event
    counts with its state in the first window that held it.
    """
    sums = np.stack([s.sums for s in states])
    some = [i for i, s in enumerate(states) if s.count]
    for i in range(0, len(some), self.batch_size):
      mine = some[i : i + self.batch_size]
      # The last one, which no other follows.
      last = [self._last(states[j], states[j].last_time) for j in mine]
      found, _ = self._extend(last)
      ids = [states[j].row("categorical")[-1] for j in mine]
      column = self._settings.column
      vectors = self._vectors[[row[column] for row in ids]]
      sums[mine] += np.concatenate([found[: len(mine), 0], vectors], 1)
    count = np.asarray([[s.count] for s in states], np.float64)
    return probe.pooled(sums, count).astype(np.float32)

  def next_events(
    self,
    states: Sequence[State],
    k: int = 10,
    at: Sequence[int | None] | None = None,
  ) -> dict[str, np.ndarray]:
    """The k most likely values of each user's next event.

    Args:
      states: Of users.
      k: Values a user.
      at: When the next event will be, microseconds since the epoch. Models that
        are told the time (model.target_time) need it; those that are told only
        whether it is later (model.tell_later) take it to be later by default;
        others do not read it.

    Returns:
      {"value": int32 [n, k] ids, most likely first; "probability": float32 [n,
      k]}; 0 where fewer compete.

    Raises:
      NotAsked: See there.
    """
    k = min(k, self._table.shape[0])
    width = _SEEN
    while width < max((len(s.seen) for s in states), default=0):
      width *= 2

    def more(some: slice) -> dict[str, np.ndarray]:
      mine = states[some]
      seen = np.zeros((len(mine), width), np.int32)
      for i, s in enumerate(mine):
        seen[i, : len(s.seen)] = s.seen
      return {"seen": seen}

    run = functools.partial(self._next, k)
    return self._ask(("next", k, width), run, states, at, more)

  def _next(self, k, module, table, batch, states, copied):
    seen = batch["seen"] if copied is None else batch["window_ids"]
    scored = module.model.scored_states(states)
    return self._recipe.listed(scored, table, copied, seen, k)

  def expect(
    self,
    states: Sequence[State],
    at: Sequence[int | None] | None = None,
  ) -> dict[str, np.ndarray]:
    """What is expected of the next event, before it is seen.

    Args:
      states: Of users.
      at: As for `next_events`.

    Returns:
      {"state": float32 [n, D], the vector that says it; "entropy": float32 [n],
      of the next value; "log_gap": float32 [n], expected log (1 + seconds) to
      the next event, where objective.gap_weight trained it}.

    Raises:
      NotAsked: See there.
    """
    columns = len(self._schema.categorical("activity"))
    none = np.zeros(columns, np.int32)
    found = self._deviations(states, at, [none] * len(states))
    features = found.pop("features")
    entropy = features[:, self.features.index("entropy")]
    return {**found, "entropy": entropy}

  def deviation(
    self, states: Sequence[State], events: Sequence[Events]
  ) -> np.ndarray:
    """How far an event is from what was expected before it: float32 [n, F].

    The events are not appended. Columns are `features`, see
    recipes/expected.py; batches of whole histories give the same numbers
    (`expected.of_batch`).

    Args:
      states: Of users.
      events: One event of each user.

    Raises:
      OutOfOrder, NotAsked: See there.
    """
    for i, (state, event) in enumerate(zip(states, events, strict=True)):
      if len(event["time"]) != 1:
        raise ValueError(f"user {i}: {len(event['time'])} events; give one")
      _check_order(i, state, event)
    at = [int(e["time"][0]) for e in events]
    ids = [np.asarray(e["categorical"][0], np.int32) for e in events]
    return self._deviations(states, at, ids)["features"]

  def _deviations(self, states, at, ids):
    more = lambda some: {"event": np.stack(ids[some])}
    return self._ask("deviation", self._deviation, states, at, more)

  def _deviation(self, module, table, batch, states, copied):
    pointed = None
    if copied is not None:
      pointed = deviation_lib.Pointed(
        copied.keep[:, 0], copied.give[:, 0], copied.weights[:, 0], copied.ids
      )
    gap = instants.elapsed(batch["next_time"], batch["time"])[:, 0]
    found = expected.features(
      self._recipe, module, states, batch["event"], gap, pointed, table
    )
    out = {"state": states.astype(jnp.float32), "features": found}
    if self._recipe.objective.gap_weight:
      out["log_gap"] = module.gap_head(out["state"])[:, 0]
    return out

  def _ask(self, name, run, states, at, more):
    """Outputs of a program for all users, {name: [n, ...]}."""
    at = [None] * len(states) if at is None else at
    when = [
      self._when(i, s, t)
      for i, (s, t) in enumerate(zip(states, at, strict=True))
    ]
    parts = []
    for i in range(0, len(states), self.batch_size):
      some = slice(i, i + self.batch_size)
      rows = [self._last(s, t) for s, t in zip(states[some], when[some])]
      batch, past, size = self._batch(rows, 1)
      for key, x in more(some).items():
        batch[key] = _padded(x, size)
      found = self._run((name, size), run, batch, past)
      parts.append({n: np.asarray(x)[: len(rows)] for n, x in found.items()})
    if not parts:
      return {}
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

  def _when(self, i: int, state: State, at: int | None) -> int:
    """Instant of the next event that the model is told."""
    if not state.rows:
      raise NotAsked(
        f"user {i} has no events, and without data.start_token = True nothing is "
        "said of what comes first"
      )
    if at is not None:
      return int(at)
    if self._recipe.cfg.target_time:
      raise NotAsked(
        "model.target_time = True is told when the next event happens: give at="
      )
    return (state.last_time or 0) + 1

  def _last(self, state: State, next_time: int) -> appends.Rows:
    """A state's last row, of which nothing is kept yet."""
    after = np.asarray([next_time], np.int64)
    return appends.Rows(state, state.held - 1, after, state.totals)

  # Storage.

  def to_bytes(self, state: State) -> bytes:
    """A state as bytes, with the model that it belongs to (stored.py)."""
    return stored.to_bytes(state, self.model_hash)

  def from_bytes(self, found: bytes) -> State:
    """The state of `to_bytes`.

    Raises:
      StaleState: It is another model's or format's, or damaged.
    """
    return stored.from_bytes(found, self.model_hash, self._empty)

  # Batches and programs.

  def _extend(self, rows: Sequence[appends.Rows]):
    """States float32 [B, C, D] and what is to be kept {name: [L, B, C, ...]}."""
    most = max(len(r.next_time) for r in rows)
    chunk = next(c for c in self._chunks if c >= most)
    batch, past, size = self._batch(rows, chunk)
    found, new = self._run(("extend", size, chunk), None, batch, past)
    return np.asarray(found), {n: np.asarray(x) for n, x in new.items()}

  def _run(self, name, run, batch, past):
    if name not in self._programs:
      self._programs[name] = jax.jit(functools.partial(self._program, run))
    return self._programs[name](self._params, self._table, batch, past)

  def _program(self, run, params, table, batch, past):
    module = self._predictor.module(params)
    model, batch = module.model, dict(batch)
    if "pointer" in past:
      past = past | {"pointer": past["pointer"][0]}
    states, new = model.extend(batch, past)
    if run is None:
      if "pointer" in new:
        new = new | {"pointer": new["pointer"][None]}
      return states.astype(jnp.float32), new
    copied = None
    if self._copies:
      copied = model.copied(states, batch, past["pointer"])
      copied = copied.at(jnp.zeros(states.shape[0], jnp.int32))
    return run(module, table, batch, states[:, 0], copied)

  def _batch(self, rows: Sequence[appends.Rows], chunk: int):
    """What `Panther.extend` reads, of one user or of B, and how many these are."""
    size = 1 if len(rows) == 1 else self.batch_size
    length = self._length
    columns = len(self._schema.categorical("activity"))
    numbers = self._schema.numeric_width("activity")
    ids = np.zeros((size, chunk, columns), np.int32)
    numeric = np.zeros((size, chunk, numbers), np.float32)
    time = np.zeros((2, size, chunk), np.int64)
    window_time = np.zeros((size, length), np.int64)
    window_ids = np.zeros((size, length), np.int32)
    segment = np.zeros((size, chunk), np.int32)
    at = np.zeros((size, 1), np.int32)
    start = np.zeros((size, chunk), bool)
    before = np.zeros((size, 1, self._settings.counts.width), np.float32)
    profile = [
      np.zeros((size, 1, len(x)), x.dtype) for x in rows[0].state.profile
    ]
    past = self._staging(size)
    for b, r in enumerate(rows):
      state, c = r.state, len(r.next_time)
      mine, own = slice(r.at, r.at + c), slice(0, c)
      raw, held = {name: state.row(name) for name in RAW}, r.at + c
      ids[b, own], numeric[b, own] = (
        raw["categorical"][mine],
        raw["numeric"][mine],
      )
      time[0, b, own], time[1, b, own] = raw["time"][mine], r.next_time
      window_time[b, :held] = raw["time"][:held]
      window_ids[b, :held] = raw["categorical"][:held, self._settings.column]
      segment[b, own], at[b, 0] = 1, r.at
      start[b, 0] = state.start_token and not state.begin and not r.at
      before[b, 0] = r.totals
      for x, value in zip(profile, state.profile, strict=True):
        x[b, 0] = value
      for name, x in past.items():
        if name == held_lib.TAIL:
          x[:, b] = state.tail
        else:
          x[:, b, : r.at] = state.window.past[name][:, : r.at]
    window_time = instants.split(window_time)
    batch = {
      "ids": ids,
      "numeric": numeric,
      "start": start,
      "time": instants.split(time[0]),
      "next_time": instants.split(time[1]),
      "position": at + np.arange(chunk, dtype=np.int32)[None],
      "segment": segment,
      "begin": window_time[:, 0],
      "window_time": window_time,
      "window_ids": window_ids,
      "profile_categorical": profile[0],
      "profile_numeric": profile[1],
      "profile_before": before,
      "profile_user": np.zeros((size, 1), np.int32),
    }
    return batch, past, size

  def _staging(self, size: int) -> dict[str, np.ndarray]:
    """Arrays for B users' past, used again and again: {name: [L, B, T, ...]}."""
    if size not in self._staged:
      kept = dict(self._kept)
      if self._tail is not None:
        kept[held_lib.TAIL] = self._tail
      made = {}
      for name, x in kept.items():
        shape = x.shape if name != "pointer" else (1, *x.shape)
        made[name] = np.zeros((shape[0], size, *shape[2:]), x.dtype)
      self._staged[size] = made
    return self._staged[size]


def check(recipe) -> None:
  """Raises CannotAppend where a recipe's states cannot go on with new events."""
  if recipe.inputs is not sequences:
    raise CannotAppend(
      "recipe 'lumos' reads days up to a day of prediction, not events: its "
      "forecasts and embeddings are recomputed from the history"
    )
  if recipe.cfg.masked:
    raise CannotAppend(
      "model.masked = True looks both ways, so that each new event changes the "
      "states of all others: they are recomputed from the history"
    )


def _check_order(i: int, state: State, events: Events) -> None:
  time = np.asarray(events["time"], np.int64)
  last = state.last_time
  if last is not None:
    time = np.concatenate([[last], time])
  if not (time[1:] < time[:-1]).any():
    if last is None or len(time) < 2 or time[1] > last or not state.tie:
      return
    tie = int(events["tie"][0]) if "tie" in events else 0
    if not tie or tie >= state.tie:
      return
    raise OutOfOrder(
      f"user {i}: event 0 has the instant of the last one and comes before it in "
      "the order of data_prep: rebuild the state from sorted events"
    )
  place = int((time[1:] < time[:-1]).argmax()) + (last is None)
  raise OutOfOrder(
    f"user {i}: event {place} is older than the one before it: rebuild the state "
    "from sorted events"
  )


def _hash(predictor: predictor_lib.Predictor) -> str:
  config = identity.plain(predictor.config)
  data = {
    k: config["data"][k]
    for k in ("target", "sequence_length", "start_token", "filter_seen")
  }
  doc = [
    predictor.model_hash,
    predictor.schema.model_hash,
    config["model"],
    data,
  ]
  text = json.dumps(doc, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _padded(x: np.ndarray, size: int) -> np.ndarray:
  out = np.zeros((size, *x.shape[1:]), x.dtype)
  out[: len(x)] = x
  return out
