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
from lumos_jax.serving import (
  appends,
  head,
  reader,
  refusals,
  stored,
  user_state,
)
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
_SEEN = 8  # Least width of a list of seen values; others are doubles of it.


class States(head.Head):
  """Makes, updates and asks states of users.

  Calls are not thread-safe. Any number of users goes into a call; they run in
  batches of `batch_size`, or one by one where there is one. What is returned is
  in the order of the users.

  Attributes:
    batch_size: B.
    direct: Whether what is said of the next event follows from the state of the
      last row, but for a few; see `follows`.
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
    if batch_size < 1:
      raise ValueError(f"batch_size = {batch_size} must be 1 or more")
    self._reader = reader.Reader(predictor, batch_size)
    self._recipe, self.batch_size = self._reader.recipe, batch_size
    self._schema, self._data = predictor.schema, self._reader.data
    self.step = predictor.step
    self.model_hash = stored.model_hash(predictor, self._data)
    self.features = expected.names(self._recipe)
    # The run's, where it has a head over the states.
    self._head = predictor.recipe if self._reader.said else None
    width = self._recipe.cfg.d_model + self._reader.vectors.shape[1]
    self._sums_width, self.embedding_width = width, 2 * width + 1
    cfg, copies = self._recipe.cfg, bool(self._recipe.cfg.copy)
    self.direct = not (cfg.target_time or copies)
    self._ahead = int(bool(cfg.tell_later))  # Microseconds to what comes next.
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
    return user_state.without_events(
      profile,
      self._schema,
      self._reader.kept | self._reader.said,
      self._reader.tail,
      self._settings.length,
      bool(self._data.start_token),
      self._settings.counts.width,
      self._sums_width,
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
    return self._appended(states, events)[0]

  def append_embedding(
    self, states: Sequence[State], events: Sequence[Events]
  ) -> tuple[list[State], np.ndarray]:
    """`append`, and the `embedding` of what it gives, in one call of the model.

    Raises:
      OutOfOrder, ValueError: See `append`.
    """
    after, looks = self._appended(states, events, 0)
    return after, self._embedded(after, looks)

  def append_looks(
    self, states: Sequence[State], events: Sequence[Events]
  ) -> tuple[list[State], list[np.ndarray | None]]:
    """`append`, and float32 [D] of each user's last row, in one call of the model.

    All that is said of what comes next follows from it where `follows` says so;
    None of users without a row.

    Raises:
      OutOfOrder, ValueError: See `append`.
    """
    after, looks = self._appended(states, events, self._ahead)
    some = [i for i, s in enumerate(after) if s.rows]
    return after, self._looked(after, looks, some, self._ahead)

  def follows(self, state: State, at: int) -> bool:
    """Whether what is said of an event at an instant follows from a look."""
    if not self.direct or not state.count:
      return False  # A start token is as old as the first event.
    # What a look says is of a later event; some models are told of one at once.
    return not self._ahead or at > state.last_time

  def _appended(self, states, events, ahead=None):
    """The users after more events; of some, what was found of their last row."""
    for i, (state, more) in enumerate(zip(states, events, strict=True)):
      refusals.check_events(i, state, more)
    drafts = [
      appends.Draft(s, e, self._settings) if len(e["time"]) else None
      for s, e in zip(states, events, strict=True)
    ]
    waiting = [d for d in drafts if d is not None]
    while waiting := self._read_some(waiting, ahead):
      pass
    after = [s if d is None else d.done() for s, d in zip(states, drafts)]
    looks = [None if d is None else d.look for d in drafts]
    return after, looks

  def _read_some(
    self, drafts: list[appends.Draft], ahead: int | None
  ) -> list[appends.Draft]:
    """Lets each draft read some rows; those that are not at their end."""
    found = [(d, d.next(self._reader.chunks[-1], ahead)) for d in drafts]
    found = [(d, rows) for d, rows in found if rows is not None]
    # Alike many rows together.
    found.sort(key=lambda x: len(x[1].next_time))
    for i in range(0, len(found), self.batch_size):
      some = found[i : i + self.batch_size]
      states, new = self._reader.extend([rows for _, rows in some])
      for b, (draft, rows) in enumerate(some):
        c = len(rows.next_time) - rows.look
        if rows.look:
          draft.look = states[b, c]
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
    raw = self._empty.window.raw
    some = lambda n: {x: np.zeros((n, *v.shape[1:]), v.dtype)
                      for x, v in raw.items()}  # fmt: skip
    for users in sorted({1, self.batch_size}):
      for chunk in self._reader.chunks:
        more = some(chunk if start else chunk + 1)
        states = self.append([self._empty] * users, [more] * users)
      self.embedding(states)
    for users in self._reader.sizes:
      states, one = states[:1] * users, some(1)
      if self._head is not None:
        inputs = self._head.inputs
        context = np.zeros((users, len(inputs.context.names)), np.float32)
        events = None if inputs.users else [one] * users
        if self.direct:
          look = np.zeros(self._recipe.cfg.d_model, np.float32)
          later = (
            None if inputs.users else [one | {"time": one["time"] + 1}] * users
          )
          self.risk(states, [1] * users, context, later, [look] * users)
        if users == 1 or not self.direct:
          self.risk(states, [0] * users, context, events)
        continue
      width = _SEEN
      while True:
        values = np.arange(width, dtype=np.int32)
        like = [dataclasses.replace(s, seen=values) for s in states]
        self.next_events(like, k, [0] * users)
        if width >= seen or not self._settings.keeps_seen:
          break
        width *= 2
      self.deviation(states, [one] * users)

  # What a state says.

  def embedding(self, states: Sequence[State]) -> np.ndarray:
    """Embeddings of users: float32 [n, `embedding_width`].

    Those of `Predictor.predict` where all events fit a window. Beyond, each event
    counts with its state in the first window that held it.
    """
    return self._embedded(states, [None] * len(states))

  def _embedded(self, states, looks) -> np.ndarray:
    """Embeddings of users; `looks` are states of their last rows, where known."""
    sums = np.stack([s.sums for s in states])
    some = [i for i, s in enumerate(states) if s.count]
    looks = self._looked(states, looks, some, 0)
    if some:
      column = self._settings.column
      ids = [states[i].row("categorical")[-1][column] for i in some]
      vectors = self._reader.vectors[ids]
      sums[some] += np.concatenate([[looks[i] for i in some], vectors], 1)
    count = np.asarray([[s.count] for s in states], np.float64)
    return probe.pooled(sums, count).astype(np.float32)

  def _looked(self, states, looks, some, ahead) -> list[np.ndarray | None]:
    """States of last rows, found of `some` users where they are not known.

    As if what follows came so many microseconds later.
    """
    looks = list(looks)
    absent = [i for i in some if looks[i] is None]
    for i in range(0, len(absent), self.batch_size):
      mine = absent[i : i + self.batch_size]
      when = [(states[j].last_time or 0) + ahead for j in mine]
      last = [self._last(states[j], t) for j, t in zip(mine, when)]
      found, _ = self._reader.extend(last)
      for j, x in zip(mine, found[:, 0], strict=False):
        looks[j] = x
    return looks

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

    def more(some: Sequence[int]) -> dict[str, np.ndarray]:
      seen = np.zeros((len(some), width), np.int32)
      for row, i in zip(seen, some, strict=True):
        row[: len(states[i].seen)] = states[i].seen
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
    at, ids = self._one_each(states, events)
    return self._deviations(states, at, ids, True)["features"]

  def _one_each(self, states, events) -> tuple[list[int], list[np.ndarray]]:
    """Instants and ids of events, one of each user."""
    for i, (state, event) in enumerate(zip(states, events, strict=True)):
      if len(event["time"]) != 1:
        raise ValueError(f"user {i}: {len(event['time'])} events; give one")
      refusals.check_events(i, state, event)
    at = [int(e["time"][0]) for e in events]
    return at, [np.asarray(e["categorical"][0], np.int32) for e in events]

  def _deviations(self, states, at, ids, come=False):
    more = lambda some: {"event": np.stack([ids[i] for i in some])}
    run = functools.partial(reader.deviation, self._recipe)
    return self._ask("deviation", run, states, at, more, come)

  def _ask(self, name, run, states, at, more, come=False, looks=None):
    """Outputs of a program for all users, {name: [n, ...]}.

    With `come`, what comes next is an event: a user's first has its start token
    beside it, of which `looks` do not say what it is now.
    """
    at = [None] * len(states) if at is None else at
    when = [
      self._when(i, s, t)
      for i, (s, t) in enumerate(zip(states, at, strict=True))
    ]
    everyone, out = list(range(len(states))), {}
    groups = [(everyone, False)]
    if looks is not None:
      told = [self.follows(s, t) for s, t in zip(states, when, strict=True)]
      groups = [([i for i in everyone if told[i]], True)]
      # Others each alone: they are few, and need no programs of all sizes.
      groups += [([i], False) for i in everyone if not told[i]]
    for mine, look in groups:
      for i in range(0, len(mine), self.batch_size):
        some = mine[i : i + self.batch_size]
        rows = [self._last(states[j], when[j], come) for j in some]
        given = np.stack([looks[j] for j in some]) if look else None
        found = self._reader.ask(name, run, rows, more(some), given)
        for n, x in found.items():
          if n not in out:
            out[n] = np.zeros((len(states), *x.shape[1:]), x.dtype)
          out[n][some] = x
    return out

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

  def _last(
    self, state: State, next_time: int, come: bool = False
  ) -> appends.Rows:
    """A state's last row, of which nothing is kept yet."""
    after, window = np.asarray([next_time], np.int64), state.window
    if come and not state.count:
      start = {n: state.row(n) for n in user_state.RAW}
      empty = user_state.Window(window.raw, window.past, window.most, 1)
      window = empty.grown(0, start | {"time": after})
    return appends.Rows(
      state,
      window,
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
