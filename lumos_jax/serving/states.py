"""States of users that new events are appended to, without reading the history.

  states = States(predictor, batch_size=16)
  (user,) = states.append([states.new()], [events])
  states.next_events([user], k=10)
  stored = states.to_bytes(user)

A user's `State` is immutable: `append` returns another one. Events are encoded
rows as records have them (data/records.py): {"time": int64 [n], microseconds since
the epoch, never falling; "categorical": int32 [n, C]; "numeric": float32 [n, N]};
and, if known, "tie": uint64 [n] of data_prep.order.ties.

n users asked for, B users of a compiled batch, C rows of each, T tokens of a
window, D model width, V values.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from lumos_jax import predictor as predictor_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.evaluators import probe
from lumos_jax.recipes import expected
from lumos_jax.serving import appends, reader, refusals, stored, user_state
from lumos_jax.serving.refusals import CannotAppend, NotAsked, OutOfOrder
from lumos_jax.serving.stored import StaleState
from lumos_jax.serving.user_state import State

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
    refusals.check_model(predictor.recipe)
    if batch_size < 1:
      raise ValueError(f"batch_size = {batch_size} must be 1 or more")
    self._recipe, self.batch_size = predictor.recipe, batch_size
    self._schema, self._data = predictor.schema, predictor.config.data
    self.step, self.model_hash = predictor.step, stored.model_hash(predictor)
    self.features = expected.names(self._recipe)
    self._reader = reader.Reader(predictor, batch_size)
    width = self._recipe.cfg.d_model + self._reader.vectors.shape[1]
    self._sums_width, self.embedding_width = width, 2 * width + 1
    copies = bool(self._recipe.cfg.copy)
    self._settings = appends.Settings(
      self._data.sequence_length,
      self._recipe.column,
      bool(self._data.filter_seen) and not copies,
      self._reader.counts,
    )
    self._empty = self.new()

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
      n: np.zeros((x.shape[0], *x.shape[2:-2], 0, x.shape[-1]), x.dtype)
      for n, x in self._reader.kept.items()
    }
    most = self._settings.length
    window, rows = user_state.Window(raw, past, most, 1), 0
    start_token = bool(self._data.start_token)
    if start_token:
      window, rows = window.grown(0, raw), 1
    tail = self._reader.tail
    if tail is not None:
      tail = np.zeros((tail.shape[0], *tail.shape[2:]), tail.dtype)
    return State(
      profile=(np.asarray(ids, np.int32), np.asarray(numeric, np.float32)),
      start_token=start_token,
      rows=rows,
      begin=0,
      window=window,
      tail=tail,
      first_time=0,
      totals=np.zeros(self._settings.counts.width, np.float32),
      sums=np.zeros(self._sums_width, np.float64),
      seen=np.zeros(0, np.int32),
    )

  def append(
    self, states: Sequence[State], events: Sequence[Events]
  ) -> list[State]:
    """The users after more events, any number of each.

    Appending a user's events one by one, in parts or all at once gives the same
    state, to rounding.

    Raises:
      OutOfOrder: Of a user, an event comes before the one before it; names its
        place. Nobody has changed.
      ValueError: Events have other columns than the model's.
    """
    for i, (state, more) in enumerate(zip(states, events, strict=True)):
      refusals.check_events(i, state, more)
    drafts = [
      appends.Draft(s, e, self._settings) if len(e["time"]) else None
      for s, e in zip(states, events, strict=True)
    ]
    waiting = [d for d in drafts if d is not None]
    while waiting := self._read_some(waiting):
      pass
    return [s if d is None else d.done() for s, d in zip(states, drafts)]

  def _read_some(self, drafts: list[appends.Draft]) -> list[appends.Draft]:
    """Lets each draft read some rows; those that are not at their end."""
    found = [(d, d.next(self._reader.chunks[-1])) for d in drafts]
    found = [(d, rows) for d, rows in found if rows is not None]
    # Alike many rows together.
    found.sort(key=lambda x: len(x[1].next_time))
    for i in range(0, len(found), self.batch_size):
      some = found[i : i + self.batch_size]
      states, new = self._reader.extend([rows for _, rows in some])
      for b, (draft, rows) in enumerate(some):
        c = len(rows.next_time)
        kept = {n: x[:, b, ..., :c, :] for n, x in new.items()}
        draft.read(c, states[b, :c], self._reader.vectors, kept)
    return [d for d, _ in found]

  def rebuild(
    self,
    events: Sequence[Events],
    profiles: Sequence[Profile | None] | None = None,
  ) -> list[State]:
    """States of whole histories, sorted by time."""
    profiles = profiles or [None] * len(events)
    return self.append([self.new(p) for p in profiles], events)

  def compile(self, k: int = 10, seen: int = 64) -> None:
    """Compiles all programs before the first user asks; takes a minute or more.

    Args:
      k: Of `next_events`.
      seen: Different values of a history that the longest has, where values that
        were seen do not compete; longer ones compile when they come.
    """
    start = bool(self._data.start_token)
    for users in sorted({1, self.batch_size}):
      states = [self._empty] * users
      for chunk in self._reader.chunks:
        n = chunk if start else chunk + 1
        raw = {x: v[[0] * n] for x, v in self._empty.window.raw.items()}
        states = self.append([self._empty] * users, [_zeros(raw)] * users)
      width = _SEEN
      while True:
        some = np.arange(width, dtype=np.int32)
        like = [dataclasses.replace(s, seen=some) for s in states]
        self.next_events(like, k, [0] * users)
        if width >= seen or not self._settings.keeps_seen:
          break
        width *= 2
      self.embedding(states)
      one = _zeros({x: v[:1] for x, v in raw.items()})
      self.deviation(states, [one] * users)

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
      found, _ = self._reader.extend(last)
      ids = [states[j].row("categorical")[-1] for j in mine]
      column = self._settings.column
      vectors = self._reader.vectors[[row[column] for row in ids]]
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
    k = min(k, self._reader.values)
    width = _SEEN
    while width < max((len(s.seen) for s in states), default=0):
      width *= 2

    def more(some: slice) -> dict[str, np.ndarray]:
      mine = states[some]
      seen = np.zeros((len(mine), width), np.int32)
      for i, s in enumerate(mine):
        seen[i, : len(s.seen)] = s.seen
      return {"seen": seen}

    run = functools.partial(reader.next_events, self._recipe, k)
    return self._ask(("next", k, width), run, states, at, more)

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
      refusals.check_events(i, state, event)
    at = [int(e["time"][0]) for e in events]
    ids = [np.asarray(e["categorical"][0], np.int32) for e in events]
    return self._deviations(states, at, ids)["features"]

  def _deviations(self, states, at, ids):
    more = lambda some: {"event": np.stack(ids[some])}
    run = functools.partial(reader.deviation, self._recipe)
    return self._ask("deviation", run, states, at, more)

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
      parts.append(self._reader.ask(name, run, rows, more(some)))
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
    return appends.Rows(
      state,
      state.window,
      state.begin,
      state.held - 1,
      after,
      state.totals,
      state.tail,
    )

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


def _zeros(raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {name: np.zeros_like(x) for name, x in raw.items()}
