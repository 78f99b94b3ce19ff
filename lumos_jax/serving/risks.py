"""Scores of a hybrid, and why they are so: of users as of a day, or of new events."""

import math
from collections.abc import Sequence
from typing import Any

from lumos_jax.serving import encoder, history, problems, reasons
from lumos_jax.serving.problems import Problem

Pairs = Sequence[tuple[history.User, Any]]
Document = dict[str, Any]


class Answers:
  """What `answers.Answers` says of risks, and of events that are scored."""

  _scorer: Any
  _model: Any
  _say: Any

  def _risk(self, found: list[Document]) -> Any:
    if not all(math.isfinite(x) for f in found for x in f.values()):
      return problems.busy("the model gives no finite number")
    return self._about(kind="risk", scores=found[-1], events=found)

  def _risks_of_users(self, users, days, asks) -> list[Any]:
    found = self._risk_as_of(users, days, asks)
    out = [self._risk([f]) for f in found]
    for x in out:
      if isinstance(x, dict):
        x["events"] = []  # It is the user who is scored.
    return out

  def _risk_as_of(self, users, days, asks) -> list[Document]:
    """Scores of users as of days, from kept states where there are any."""
    layout = self._model.layout
    records = [u.record(layout) for u in users]
    if self._model.states is None:
      return self._model.risk(records, days)
    kept = self._states_as_of(users, days, asks)
    return self._with_kept(kept, records, days)

  def _with_kept(self, kept, records, places) -> list[Document]:
    """Scores of points; of those without a row before them, from padding."""
    some = [i for i, k in enumerate(kept) if k.state.rows]
    none = [i for i, k in enumerate(kept) if not k.state.rows]
    pick = lambda x, mine: [x[i] for i in mine]
    points = lambda mine: (pick(records, mine), pick(places, mine))
    found = {}
    if some:
      scores = self._model.risk_kept(pick(kept, some), *points(some))
      found |= zip(some, scores, strict=True)
    if none:
      found |= zip(none, self._model.risk(*points(none)), strict=True)
    return [found[i] for i in range(len(kept))]

  def _new_rows(self, user: history.User, ask: Any) -> list[encoder.Row]:
    """The events of a question about events, encoded.

    Raises:
      Problem: One of them is wrong, or a day is asked for.
    """
    if ask.args.get("as_of") is not None:
      raise problems.wrong(
        "as_of: this run scores events, each at its own time: leave it out"
      )
    return self._scorer.encode(user, ask.args["events"])

  def _scored_rows(self, user: history.User, ask: Any) -> list[encoder.Row]:
    """The same, of which there must be one."""
    rows = self._new_rows(user, ask)
    if not rows:
      raise problems.wrong("events: this run scores events: give at least one")
    return rows

  def _risks_of_events(self, pairs: Pairs) -> list[Any]:
    out: list[Any] = [None] * len(pairs)
    records, places, owner, asked = [], [], [], []
    for i, (user, ask) in enumerate(pairs):
      try:
        rows = self._scored_rows(user, ask)
        after = self._scorer.extended(user, rows)
      except Problem as e:
        out[i] = e
        continue
      record = after.record(self._model.layout)
      count = len(record["day"])
      records += [record] * len(rows)
      places += range(count - len(rows), count)
      owner += [i] * len(rows)
      asked.append((user, ask.user, rows))
    if not records:
      return out
    if self._model.states is None:
      found = self._model.risk(records, places)
    else:
      now = self._states([u for u, _, _ in asked], [k for _, k, _ in asked])
      kept = []
      for state, (user, _, rows) in zip(now, asked, strict=True):
        kept += self._model.following(state, user, rows)
      found = self._with_kept(kept, records, places)
    mine: dict[int, list[Document]] = {}
    for i, x in zip(owner, found, strict=True):
      mine.setdefault(i, []).append(x)
    for i, x in mine.items():
      out[i] = self._risk(x)
    return out

  def why(self, pairs: Pairs) -> list[Any]:
    """What moved a score: of a user, or of the last of its events."""
    return [self._why(*pair) for pair in pairs]

  def _why(self, user: history.User, ask: Any) -> Any:
    args, model = ask.args, self._model
    try:
      task = reasons.task_of(model, args["task"])
      if model.of_users:
        user, place = self._point(user, args)
      else:
        rows = self._new_rows(user, ask)
        user = self._scorer.extended(user, rows)
        place = len(user.all_rows(model.layout)) - 1
        if place < 0:
          raise problems.wrong("events: the user has none yet: give one")
      found = reasons.explain(
        model, self._say, user, place, task, args["method"], args["last"]
      )
    except Problem as e:
      return e
    return self._about(**found)
