"""Joins store, encoder and model: answers questions about users.

Two threads: one asks the model, one writes; a third explains scores. Requests
that wait for one of the two share its next call: one call of a compiled program, or
one commit. A model has its own states, so those of two checkpoints are never mixed:
a new one makes them from the stored events.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from lumos_jax.data import instants
from lumos_jax.serving import (
  answers,
  batching,
  cache,
  encoder,
  history,
  problems,
  writes,
)
from lumos_jax.serving import jobs as jobs_lib
from lumos_jax.serving import model as model_lib
from lumos_jax.serving import store as store_lib

_SCHEMA = b"schema"  # Meta: whose encoding the rows have.
_MOST_WHYS = 8  # Explanations that wait.
_FILL = 512  # Users written at a time.
_FUTURE_SECONDS = 300  # Clocks of clients go wrong by so much.
_FUTURE_DAYS = 366  # Beyond the newest day known, where days have no dates.


class Live:
  """A model and the states that it made."""

  def __init__(self, model: model_lib.Model, settings: jobs_lib.Settings):
    self.model = model
    self.states = cache.Cache(settings.state_bytes, lambda kept: kept.nbytes)
    self.answers = cache.Cache(
      settings.cache_bytes // 4, lambda found: 256 + 64 * len(found)
    )


class Scorer(writes.Writes):
  """The service without HTTP.

  Attributes:
    live: Model in use, see `swap`.
    store, keys: Where users are.
    users: Users in memory.
    asks, writes: The two queues.
    whys: The queue of explanations, one at a time, behind which no score waits.
  """

  def __init__(
    self,
    model: model_lib.Model,
    store: store_lib.Store,
    keys: store_lib.Keys,
    settings: jobs_lib.Settings | None = None,
  ):
    """Starts the threads.

    Raises:
      StoreError: The store's rows were encoded for another model.
    """
    self.settings = settings or jobs_lib.Settings()
    self._check_window(model)
    self.store, self.keys = store, keys
    self._claim(model)
    self.users = cache.Cache(
      self.settings.cache_bytes, lambda u: 1024 + u.rows.nbytes + u.open.nbytes
    )
    self._install(model)
    day = store.get_meta(writes.DAY)
    self._newest_day = None if day is None else int(day)
    s = self.settings
    self.asks = batching.Batcher(
      "ask", self._answer, s.batch, s.waiting, s.deadline_seconds
    )
    self.writes = batching.Batcher(
      "write", self._write, 4 * s.batch, s.waiting, s.deadline_seconds
    )
    # An explanation takes as long as a hundred scores: few may wait, and longer.
    self.whys = batching.Batcher(
      "why", self._explain, 1, _MOST_WHYS, _MOST_WHYS * s.deadline_seconds
    )
    # Those of a process that ended before it compacted, too.
    self.deleted_since_compaction = int(bool(store.get_meta(store_lib.PENDING)))
    self.commits = self.appended = self.conflicts = 0

  def _check_window(self, model):
    least = model.least_rows
    if self.settings.window < least:
      raise ValueError(
        f"the model reads {least} rows of a user: keep as many or more, "
        f"--keep={least}"
      )

  def _claim(self, model) -> None:
    """One store holds rows of one encoding."""
    mine = model.schema.model_hash.encode()
    theirs = self.store.get_meta(_SCHEMA)
    if theirs is None:
      self.store.set_meta(_SCHEMA, mine)
    elif theirs != mine:
      raise store_lib.StoreError(
        f"{self.store.about} holds rows that were encoded for another run's data "
        "(other vocabularies, bins or fields): give this run a --store_dir of its "
        "own"
      )

  def _install(self, model) -> None:
    self._encoder = encoder.Encoder(model.schema, model.layout.fields)
    self._profiles = encoder.Encoder(
      model.schema, model.schema.profile, "profile"
    )
    self.clock = self._encoder.clock
    self.live = Live(model, self.settings)

  def swap(self, model: model_lib.Model) -> None:
    """Answers with another checkpoint from the next call on.

    Raises:
      ValueError: It reads rows of another encoding.
    """
    if model.schema.model_hash != self.live.model.schema.model_hash:
      raise ValueError(
        "the new checkpoint reads rows of another encoding: start a service of "
        "its own for it"
      )
    self._check_window(model)
    # One assignment: calls that have begun end with the model they began with.
    self.live = Live(model, self.settings)

  @property
  def default_day(self) -> int:
    """The day after all that is known: of the data set, and of any user."""
    newest = self._newest_day
    last = self.live.model.last_day
    return last if newest is None else max(last, newest + 1)

  def fill(self, records: Any) -> tuple[int, int]:
    """Takes users of a data set into the store.

    Args:
      records: An open data set, encoded as the run's.

    Returns:
      How many users were taken, and how many were there already.
    """
    from lumos_jax import population

    people = population.Population(records)
    layout, taken = self.live.model.layout, 0
    for start in range(0, len(people), _FILL):
      some = people.read(range(start, min(start + _FILL, len(people))))
      changes, version = [], time.time_ns()
      for record in some:
        user = history.from_record(
          layout, record, self.settings.window, version
        )
        key = self.keys.stored(str(record["key"]))
        changes.append(
          store_lib.Change(key, store_lib.NEW, history.fields_of(user))
        )
      taken += sum(self.store.commit(changes))
    return taken, len(people) - taken

  def forget(self, user_ids: Iterable[str]) -> int:
    """Deletes users by id, for programs that serve nothing; how many."""
    keys = [self.keys.user(u) for u in user_ids]
    gone = self.store.delete(keys)
    for key in keys:
      self._evict(key)
    return sum(gone)

  def tidy(self, seconds: float, ended: Callable[[], bool]) -> None:
    """Compacts the store so long after a deletion, until `ended` says so."""
    since = None
    while not ended():
      time.sleep(0.1)
      if not self.deleted_since_compaction:
        since = None
        continue
      since = since or time.monotonic()
      if time.monotonic() - since >= seconds:
        self.writes.post(jobs_lib.Compact())
        since = None

  def close(self) -> None:
    """Ends the threads once what waits is done, and the store."""
    self.writes.close()
    self.asks.close()
    self.whys.close()
    if self.deleted_since_compaction:
      try:
        self.store.compact()
      except store_lib.StoreError as e:  # The next start goes on with it.
        logging.error("%s", e)
    self.store.close()

  # What one thread does: reads users, asks the model.

  def lookup(
    self, keys: Sequence[bytes], keep: bool = True
  ) -> dict[bytes, history.User]:
    """Users that are there, from memory or the store.

    Args:
      keys: Of the users.
      keep: Whether they stay in memory. Only where a deletion waits for what
        this thread does.
    """
    keys = list(dict.fromkeys(keys))
    versions: dict[bytes, int | None] = dict.fromkeys(keys)
    if self.store.shared:
      heads = self.store.read(keys, [store_lib.HEAD])
      versions = {
        k: store_lib.version_of(h.get(store_lib.HEAD))
        for k, h in zip(keys, heads, strict=True)
      }
    out, absent = {}, []
    for key in keys:
      user = self.users.get(key, versions[key])
      if user is None:
        absent.append(key)
      else:
        out[key] = user
    if absent:
      layout = self.live.model.layout
      for key, fields in zip(absent, self.store.read(absent), strict=True):
        user = history.from_fields(layout, fields)
        if user is not None:
          out[key] = user
          if keep:
            self.users.put(key, user.version, user)
    return out

  def _evict(self, key: bytes) -> None:
    self.users.pop(key)
    self.live.states.pop(key)
    self.live.answers.pop(key)

  def _explain(self, jobs: Sequence[jobs_lib.Ask]) -> list[Any]:
    return self._answer(jobs, keep=False)

  def _answer(
    self, jobs: Sequence[jobs_lib.Ask], keep: bool = True
  ) -> list[Any]:
    live = self.live
    found: list[Any] = [None] * len(jobs)
    try:
      asked = [j.user for j in jobs if j.what != "evict" and j.user]
      users = self.lookup(asked, keep)
      if any(not j.user for j in jobs):  # Of whom nothing is stored.
        users[b""] = self._new(jobs_lib.Append(b"", ()))
    except store_lib.StoreError as e:
      logging.error("%s", e)
      return [problems.busy("the store does not answer")] * len(jobs)
    kinds: dict[str, list[int]] = {}
    for i, job in enumerate(jobs):
      if job.what == "evict":
        self._evict(job.user)
      elif job.user in users:
        kinds.setdefault(job.what, []).append(i)
      else:
        found[i] = problems.unknown_user()
    answer = answers.Answers(self, live)
    for what, places in kinds.items():
      some = [(users[jobs[i].user], jobs[i]) for i in places]
      results = _isolated(getattr(answer, what), some)
      for i, result in zip(places, results, strict=True):
        found[i] = result
    return found

  def encode(
    self,
    user: history.User,
    events: Sequence[Mapping[str, Any]],
    future: bool = False,
  ) -> list[encoder.Row]:
    """A user's new events, encoded.

    Raises:
      Problem: One of them is wrong, out of order, or from the future.
    """
    now = self.clock.now()
    limit = None
    if now is not None and not future:
      limit = now.instant + _FUTURE_SECONDS * 1_000_000
    elif now is None:
      limit = (
        (self.default_day + _FUTURE_DAYS) * instants.DAY_SECONDS * 1_000_000
      )
    rows, before = [], user.last_time
    for i, event in enumerate(events):
      where = f"events[{i}]"
      try:
        at = self.clock.read(event["time"], f"{where}.time")
        row = self._encoder.encode(event["fields"], at, before, where)
      except encoder.EventError as e:
        raise problems.wrong(str(e)) from e
      if limit is not None and at.instant > limit:
        far = f", more than {_FUTURE_DAYS} days beyond all that is known"
        raise problems.wrong(
          f"{where}.time lies in the future{far if now is None else ''}"
        )
      if before is not None and at.instant < before:
        raise problems.conflict(
          f"{where} is older than the event before it: events of a user come in "
          "order of time"
        )
      if not -(2**31) <= row.day < 2**31 - 1:
        raise problems.wrong(f"{where}.time is too far from the data's epoch")
      rows.append(row)
      before = at.instant
    return rows

  def extended(
    self, user: history.User, rows: Sequence[encoder.Row]
  ) -> history.User:
    """The user with more events.

    Raises:
      Problem: They are out of order.
    """
    try:
      layout = self.live.model.layout
      return user.appended(layout, rows, self.settings.window)
    except history.OrderError as e:
      raise problems.conflict(str(e)) from e


def _isolated(answer: Callable, some: Sequence[tuple]) -> list[Any]:
  """Answers to all; of what fails together, each alone, so that one fails alone."""
  try:
    return answer(some)
  except Exception as e:
    if len(some) == 1:
      return [e]
  return [x for one in some for x in _isolated(answer, [one])]
