"""States of users that new events are appended to, without reading the history.

  states = States(predictor, batch_size=16)
  (user,) = states.append([states.new()], [events])
  states.next_events([user], k=10)
  stored = states.to_bytes(user)

A user's `State` is immutable: `append` returns another one. Events are encoded
rows as records have them (data/records.py): {"time": int64 [n], microseconds since
the epoch, never falling; "categorical": int32 [n, C]; "numeric": float32 [n, N]}.

n users asked for, B users of a compiled batch, T tokens of a window.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lumos_jax import predictor as predictor_lib
from lumos_jax.data import instants, sequences
from lumos_jax.data import schema as schema_lib
from lumos_jax.data.windows import held_from
from lumos_jax.evaluators import probe
from lumos_jax.objectives import deviation
from lumos_jax.recipes import expected

Events = Mapping[str, np.ndarray]
Profile = tuple[np.ndarray, np.ndarray]


class CannotAppend(ValueError):
  """The model's states cannot be updated event by event; names the setting.

  The way out is `Predictor.predict` on the whole history.
  """


class OutOfOrder(ValueError):
  """An event is older than the last one: `rebuild` from sorted events."""


class StaleState(ValueError):
  """Stored bytes are another model's or format's: `rebuild` from events."""


class NoEvents(ValueError):
  """Nothing can be said of a user without events, as there is no start token."""


@dataclasses.dataclass(frozen=True, eq=False)
class State:
  """A user after some events.

  Attributes:
    count: Events ever appended.
    last_time: Instant of the last one, microseconds since the epoch; None
      without events.
    time, categorical, numeric: The latest events, at least the last T // 2 of
      them, as in a record; not to be written to.
    profile: Ids int32 [Cp] and numbers float32 [Np].
  """

  profile: Profile
  time: np.ndarray
  categorical: np.ndarray
  numeric: np.ndarray

  @property
  def count(self) -> int:
    """Events so far."""
    return len(self.time)

  @property
  def last_time(self) -> int | None:
    """Instant of the last event; None without events."""
    return int(self.time[-1]) if len(self.time) else None


class States:
  """Makes, updates and asks states of users.

  Calls are not thread-safe. Any number of users goes into a call; they run in
  batches of `batch_size`, or one by one where there is one. What is returned is
  in the order of the users.

  Attributes:
    features: Names of `deviation`'s columns.
    embedding_width: Of `embedding`.
  """

  def __init__(self, predictor: predictor_lib.Predictor, batch_size: int = 16):
    """Takes the predictor's model.

    Raises:
      CannotAppend: It is not one of events that looks back only.
    """
    self._recipe, self.batch_size = predictor.recipe, batch_size
    self._predictor = predictor
    if self._recipe.inputs is not sequences:
      raise CannotAppend(
        "recipe 'lumos' reads days up to a day of prediction, not events: its "
        "forecasts are recomputed from the history"
      )
    if self._recipe.cfg.masked:
      raise CannotAppend(
        "model.masked = True looks both ways, so that each new event changes the "
        "states of all others: they are recomputed from the history"
      )
    self.features = expected.names(self._recipe)
    self._cut = sequences.Sequences(predictor.schema, predictor.config.data)
    self._params = predictor.parameters
    self._programs: dict[Any, Any] = {}

  # The state of a user.

  def new(self, profile: Profile | None = None) -> State:
    """A user without events.

    Args:
      profile: Its row of the profile: ids int32 [Cp] and numbers float32 [Np];
        None where nothing is known.
    """
    schema = self._predictor.schema
    if profile is None:
      from lumos_jax.data_prep import fit  # Not to predict from shards.

      ids = len(schema.categorical("profile"))
      profile = (
        np.full(ids, schema_lib.MISSING, np.int32),
        fit.absent(schema.profile),
      )
    columns = len(schema.categorical("activity"))
    return State(
      tuple(profile),
      np.zeros(0, np.int64),
      np.zeros((0, columns), np.int32),
      np.zeros((0, schema.numeric_width("activity")), np.float32),
    )

  def append(
    self, states: Sequence[State], events: Sequence[Events]
  ) -> list[State]:
    """The users after more events, any number of each.

    Appending a user's events one by one, in parts or all at once gives the same
    state, to rounding.

    Raises:
      OutOfOrder: Of a user, an event comes before the last one; names its place.
        No user was changed.
    """
    out = []
    for i, (state, more) in enumerate(zip(states, events, strict=True)):
      time = np.concatenate([state.time, np.asarray(more["time"], np.int64)])
      if (np.diff(time) < 0).any():
        raise OutOfOrder(f"user {i}: an event is older than the one before it")
      out.append(
        State(
          state.profile,
          time,
          np.concatenate([state.categorical, more["categorical"]]),
          np.concatenate([state.numeric, more["numeric"]]),
        )
      )
    return out

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
    found = []
    for state in states:
      sums, tokens = 0.0, 0.0
      for batch, counted in self._windows(state):
        out = self._call("embed", self._recipe.embed, batch, counted)
        sums = sums + np.asarray(out["sums"][0], np.float64)
        tokens += float(out["tokens"][0, 0])
      found.append(probe.pooled(sums[None], np.asarray([[tokens]]))[0])
    return np.asarray(found, np.float32)

  def next_events(
    self,
    states: Sequence[State],
    k: int = 10,
    at: Sequence[int] | None = None,
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
      NoEvents: See there.
    """
    run = lambda module, batch: self._recipe.next_events(module, batch, k)
    found = [
      self._call(("next", k), run, self._asked(s, at and at[i]))
      for i, s in enumerate(states)
    ]
    return {n: np.concatenate([f[n] for f in found]) for n in found[0]}

  def expect(
    self, states: Sequence[State], at: Sequence[int] | None = None
  ) -> dict[str, np.ndarray]:
    """What is expected of the next event, before it is seen.

    Args:
      states: Of users.
      at: As for `next_events`.

    Returns:
      {"entropy": float32 [n], of the next value; "state": float32 [n, D], the
      vector that says it; "log_gap": float32 [n], expected log (1 + seconds) to
      the next event, where objective.gap_weight trained it}.

    Raises:
      NoEvents: See there.
    """
    raise NotImplementedError

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
      OutOfOrder, NoEvents: See there.
    """
    found = []
    for state, event in zip(states, events, strict=True):
      if state.last_time is not None and event["time"][0] < state.last_time:
        raise OutOfOrder("the event is older than the last one")
      batch = self._asked(state, int(event["time"][0]))
      batch["event"] = np.asarray(event["categorical"], np.int32)
      found.append(self._call("deviation", self._deviation, batch))
    return np.concatenate(found)

  # Storage.

  def to_bytes(self, state: State) -> bytes:
    """A state as bytes, with the model that it belongs to."""
    raise NotImplementedError

  def from_bytes(self, stored: bytes) -> State:
    """The state of `to_bytes`.

    Raises:
      StaleState: It is another model's or format's, or damaged.
    """
    raise NotImplementedError

  # By recomputing.

  def _record(self, state: State):
    ids, numeric = state.profile
    return {
      "time": state.time,
      "day": (state.time // (instants.DAY_SECONDS * 10**6)).astype(np.int32),
      "categorical": state.categorical,
      "numeric": state.numeric,
      "profile_categorical": ids,
      "profile_numeric": numeric,
    }

  def _windows(self, state: State):
    """(row of a window, which of its events count) until the last window."""
    cfg, record = self._predictor.config.data, self._record(state)
    first, length = -bool(cfg.start_token), cfg.sequence_length
    start, counted = 0, 0
    n = state.count
    while True:
      row = self._cut._row(
        record, start + first, min(start + first + length, n)
      )
      place = start + np.arange(length)
      yield row, place >= counted
      counted = start + length
      if counted >= n - first:
        return
      start = held_from(counted + 1, length)

  def _asked(self, state: State, at: int | None):
    cfg = self._predictor.config.data
    if not state.count and not cfg.start_token:
      raise NoEvents("the user has no events and data.start_token = False")
    row, _ = list(self._windows(state))[-1]
    last = int(row["segment"].sum()) - 1
    when = at if at is not None else (state.last_time or 0) + 1
    row["next_time"][last] = instants.split(when)
    seen = np.unique(state.categorical[:, self._recipe.column])
    width = max(8, 1 << (len(seen) - 1).bit_length()) if len(seen) else 8
    row["seen"] = np.pad(seen, (0, width - len(seen))).astype(np.int32)
    return row | {"last": np.int32(last)}

  def _deviation(self, module, batch):
    recipe, model = self._recipe, module.model
    states, pointed = model(batch), None
    last = batch["last"]
    take = lambda x: jax.numpy.take_along_axis(
      x, last.reshape(-1, *[1] * (x.ndim - 1)), 1
    )[:, 0]
    if recipe.cfg.copy:
      copied = model.copied(states, batch).at(last)
      pointed = deviation.Pointed(
        copied.keep[:, 0], copied.give[:, 0], copied.weights[:, 0], copied.ids
      )
    gap = instants.elapsed(take(batch["next_time"]), take(batch["time"]))
    return expected.features(
      recipe, module, take(states), batch["event"], gap, pointed
    )

  def _call(self, name, fn, batch, *more):
    if name not in self._programs:
      self._programs[name] = jax.jit(
        lambda params, batch, *more: fn(
          self._predictor.module(params), batch, *more
        )
      )
    one = lambda x: np.asarray(x)[None]
    batch = {k: one(v) if k != "event" else v for k, v in batch.items()}
    found = self._programs[name](self._params, batch, *map(one, more))
    return jax.tree.map(np.asarray, found)
