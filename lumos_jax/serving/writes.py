"""What the service's writing thread does: appends, deletions, compaction."""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from lumos_jax.serving import encoder, history, problems
from lumos_jax.serving import jobs as jobs_lib
from lumos_jax.serving import store as store_lib
from lumos_jax.serving.problems import Problem

DAY = b"day"  # Meta: the newest day that any user's events have.
_TRIES = 5  # Of a commit that another service was quicker than.


class Writes:
  """Mixed into `scorer.Scorer`, whose store, users and queues it uses."""

  def _write(self, jobs: Sequence[Any]) -> list[Any]:
    found: list[Any] = [None] * len(jobs)
    waiting: list[int] = []
    for i, job in enumerate(jobs):
      if isinstance(job, jobs_lib.Append):
        waiting.append(i)
        continue
      self._append(jobs, waiting, found)
      waiting = []
      try:
        found[i] = self._other(job)
      except store_lib.StoreError as e:
        found[i] = _refused(e)
    self._append(jobs, waiting, found)
    return found

  def _other(self, job: Any) -> Any:
    if isinstance(job, jobs_lib.Compact):
      self.store.compact()
      self.deleted_since_compaction = 0
      return True
    (gone,) = self.store.delete([job.user])
    self._evict(job.user)
    # Behind what the other thread does with the user just now.
    self.asks.post(jobs_lib.Ask("evict", job.user))
    if not gone:
      return problems.unknown_user()
    self.deleted_since_compaction += 1
    return True

  def _append(self, jobs, places: Sequence[int], found: list[Any]) -> None:
    """Appends of a batch, in one commit."""
    left = list(places)
    for _ in range(_TRIES):
      if not left:
        return
      try:
        left = self._try(jobs, left, found)
      except store_lib.StoreError as e:
        for i in left:
          found[i] = _refused(e)
        return
      self.conflicts += len(left)
    for i in left:
      found[i] = problems.busy("another service writes this user")

  def _try(self, jobs, places: Sequence[int], found: list[Any]) -> list[int]:
    """Returns the places whose user was changed by another service."""
    before: dict[bytes, history.User | None]
    before = dict.fromkeys(jobs[i].user for i in places)
    before |= self.lookup(list(before))
    after: dict[bytes, history.User] = {}
    owner: dict[bytes, list[int]] = {}
    for i in places:
      job = jobs[i]
      user = after.get(job.user) or before[job.user]
      try:
        user, found[i] = self._apply(user, job)
      except Exception as e:
        found[i] = e
        continue
      if user is not None:
        after[job.user] = user
      if job.user in after:  # A repeat stands and falls with what it repeats.
        owner.setdefault(job.user, []).append(i)
    if not after:
      return []
    changes = []
    for key, user in after.items():
      old = before[key]
      version = store_lib.NEW if old is None else old.version
      changes.append(
        store_lib.Change(key, version, history.fields_of(user, old))
      )
    done = self.store.commit(changes)
    self.commits += 1
    again = []
    for (key, user), written in zip(after.items(), done, strict=True):
      if written:
        self.users.put(key, user.version, user)
        self.appended += sum(found[i]["accepted"] for i in owner[key])
        self._note_day(user)
        self.asks.post(jobs_lib.Ask("refresh", key))
      else:
        self.users.pop(key)
        again += owner[key]
    return sorted(again)

  def _note_day(self, user: history.User) -> None:
    rows = user.open if len(user.open) else user.rows
    if len(rows) and int(rows["day"][-1]) > (self._newest_day or -(2**31)):
      self._newest_day = int(rows["day"][-1])
      try:
        self.store.set_meta(DAY, str(self._newest_day).encode())
      except store_lib.StoreError as e:  # The events themselves are written.
        logging.error("the newest day is not noted: %s", e)

  def _apply(
    self, user: history.User | None, job: jobs_lib.Append
  ) -> tuple[history.User | None, dict[str, Any]]:
    """The user after an append; None where nothing changes. And the answer."""
    digest = ""
    if job.request:
      doc = [job.events, job.profile, list(job.groups)]
      text = json.dumps(doc, sort_keys=True)
      digest = self.keys.request(text).hex()
      known = user.requests.get(job.request) if user else None
      if known is not None:
        if known != digest:
          raise problems.conflict(
            "the idempotency key was used for another request of this user"
          )
        answer = {"accepted": 0, "events": user.events, "repeated": True}
        return None, answer
    if user is None:
      user = self._new(job)
    elif job.profile is not None or job.groups:
      raise problems.conflict(
        "the user is there already: profile and groups are given with its first "
        "events"
      )
    rows = self.encode(user, job.events)
    changed = self.extended(user, rows)
    if job.request:
      changed = changed.remembering(job.request, digest)
    answer = {"accepted": len(rows), "events": changed.events}
    return changed, answer | {"repeated": False}

  def _new(self, job: jobs_lib.Append) -> history.User:
    layout, model = self.live.model.layout, self.live.model
    try:
      ids, numbers = encoder.profile(self._profiles, job.profile)
    except encoder.EventError as e:
      raise problems.wrong(str(e)) from e
    names, groups = model.calendar.group_names, []
    for name in job.groups:
      if name not in names or not name:
        raise problems.wrong("groups: the calendar has no such group")
      groups.append(names.index(name))
    # Greater than any that a deleted user of this id had.
    version = time.time_ns()
    return history.User(
      version=version,
      born=version,
      rows=np.zeros(0, layout.row),
      open=np.zeros(0, layout.event),
      dropped=0,
      last_time=None,
      profile_categorical=ids,
      profile_numeric=numbers,
      groups=np.asarray(sorted(set(groups)), np.int32),
      enter=0,
      requests={},
    )


def _refused(error: store_lib.StoreError) -> Problem:
  logging.error("%s", error)
  if isinstance(error, store_lib.StoreFull):
    return problems.busy("the store is full: nothing was written")
  return problems.busy("the store does not answer: nothing was acknowledged")
