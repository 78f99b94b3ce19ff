"""What the service says of users: one method a question, for many users at once.

Each takes pairs of a user and an `Ask` and returns, for each, a plain document or
the `Problem` that is its answer.
"""

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumos_jax import predictor as predictor_lib
from lumos_jax.data import instants
from lumos_jax.data import schema as schema_lib
from lumos_jax.serving import history, problems
from lumos_jax.serving.problems import Problem

_MOST_HISTORY = 200
_YEAR_DAYS = 366
Pairs = Sequence[tuple[history.User, Any]]
Document = dict[str, Any]


class Answers:
  """Answers with one model, whatever becomes the service's model meanwhile."""

  def __init__(self, scorer: Any, live: Any):
    """`scorer` is the service's, `live` the model it had as this began."""
    self._scorer, self._live = scorer, live
    self._model = live.model

  def _about(self, **more: Any) -> Document:
    return {
      "model": {"step": self._model.step, "hash": self._model.model_hash},
      **more,
    }

  # States: what the model has to say of the next event.

  def _states(self, users: Sequence[history.User], keys: Sequence[bytes]):
    """States of users; those in memory are of this model and version."""
    out: list[Any] = [
      self._live.looks.get(k, u.version)
      for u, k in zip(users, keys, strict=True)
    ]
    absent = [i for i, x in enumerate(out) if x is None]
    if absent:
      rows = [self._row(users[i]) for i in absent]
      made = self._model.look([r for r in rows if r is not None])
      made.reverse()
      for i, row in zip(absent, rows, strict=True):
        if row is None:
          continue
        out[i] = made.pop()
        self._live.looks.put(keys[i], users[i].version, out[i])
    return out

  def _row(self, user: history.User, at: int | None = None):
    record = user.record(self._model.layout)
    day = int(record["day"][-1]) + 1 if len(record["day"]) else user.enter
    return self._model.row(record, day, at)

  def refresh(self, pairs: Pairs) -> list[None]:
    """Makes states of users whose events have just come."""
    if self._model.events and not self._model.timed:
      self._states([u for u, _ in pairs], [a.user for _, a in pairs])
    return [None] * len(pairs)

  # Scores.

  def score(self, pairs: Pairs) -> list[Any]:
    """Scores of new events, which are not stored; or of a user."""
    if self._model.events:
      return self._deviations(pairs)
    out = self._each(pairs, self._forecast_of)
    kinds = {t.name for t in self._model.tasks if t.kind == "binary"}
    for i, found in enumerate(out):
      if isinstance(found, dict):
        scores = {n: found["forecasts"][n] for n in kinds}
        out[i] = self._about(kind="forecast", scores=scores, events=[])
    return out

  def _deviations(self, pairs: Pairs) -> list[Any]:
    out: list[Any] = [None] * len(pairs)
    # (pair, its events, the user before each of them)
    asked: list[tuple[int, list, history.User]] = []
    for i, (user, ask) in enumerate(pairs):
      try:
        rows = self._scorer.encode(user, ask.args["events"])
        if not rows:
          raise problems.wrong(
            "events: this run scores events: give at least one"
          )
        asked.append((i, rows, user))
      except Problem as e:
        out[i] = e
    users, keys, owner, events = [], [], [], []
    for i, rows, user in asked:
      before = user
      for n, row in enumerate(rows):
        users.append(before)
        keys.append(pairs[i][1].user if n == 0 else None)
        owner.append(i)
        events.append((row, before.last_time))
        if n + 1 < len(rows):
          before = self._scorer.extended(before, [row])
    states = self._expecting(users, keys, [e.time for e, _ in events])
    good = [n for n, s in enumerate(states) if s is not None]
    if good:
      ids = np.asarray([events[n][0].categorical for n in good], np.int32)
      gaps = [
        0.0 if before is None else (row.time - before) / 1e6
        for row, before in (events[n] for n in good)
      ]
      found = self._model.deviations(
        [states[n] for n in good], ids, np.asarray(gaps, np.float32)
      )
      numbers = dict(zip(good, found.tolist(), strict=True))
    for i, _, _ in asked:
      mine = [n for n, o in enumerate(owner) if o == i]
      if any(states[n] is None for n in mine):
        out[i] = problems.conflict(
          "the user has no events yet, and this model expects none of a user "
          "without history"
        )
        continue
      features = [
        dict(zip(self._model.features, numbers[n], strict=True)) for n in mine
      ]
      out[i] = self._scored(features)
    return out

  def _scored(self, features: list[dict[str, float]]) -> Any:
    if not all(math.isfinite(x) for f in features for x in f.values()):
      return problems.busy("the model gives no finite number")
    anomaly = -features[-1]["log_probability"]
    return self._about(
      kind="deviation", scores={"anomaly": anomaly}, events=features
    )

  def _expecting(self, users, keys, times):
    """States of users before events at these times; None without history."""
    out: list[Any] = [None] * len(users)
    if not self._model.timed:
      known = [n for n, k in enumerate(keys) if k is not None]
      found = self._states([users[n] for n in known], [keys[n] for n in known])
      for n, state in zip(known, found, strict=True):
        out[n] = state
    rows = {}
    for n, (user, at) in enumerate(zip(users, times, strict=True)):
      if out[n] is None and (self._model.timed or keys[n] is None):
        row = self._row(user, at)
        if row is not None:
          rows[n] = row
    if rows:
      for n, state in zip(
        rows, self._model.look(list(rows.values())), strict=True
      ):
        out[n] = state
    return out

  # Next events.

  def next(self, pairs: Pairs) -> list[Any]:
    """The likeliest values of users' next events."""
    if not self._model.events:
      wrong = problems.wrong(
        "a run of recipe 'lumos' forecasts days and tasks, no next event: use "
        "/forecast"
      )
      return [wrong] * len(pairs)
    users, keys = [u for u, _ in pairs], [a.user for _, a in pairs]
    start = self._scorer.default_day * instants.DAY_SECONDS * 1_000_000
    times = [max(start, u.last_time or start) for u in users]
    states = self._expecting(users, keys, times)
    good = [n for n, s in enumerate(states) if s is not None]
    out: list[Any] = [
      problems.conflict("the user has no events yet") for _ in pairs
    ]
    if not good:
      return out
    column = self._model.recipe.column
    seen = [np.unique(users[n].rows["categorical"][:, column]) for n in good]
    found = self._model.next_events([states[n] for n in good], seen)
    for n, (values, p) in zip(good, found, strict=True):
      out[n] = self._about(next=self._words(values, p, pairs[n][1].args["k"]))
    return out

  def _words(self, values, p, k: int) -> list[Document]:
    schema = self._model.schema
    target = self._model.predictor.config.data.target
    return [
      {"rank": i + 1, "value": schema.token(target, int(v)), "probability": q}
      for i, (v, q) in enumerate(
        zip(values[:k].tolist(), p[:k].tolist(), strict=True)
      )
    ]

  # Forecasts and embeddings.

  def _day(self, user: history.User, as_of: int | str | None) -> int:
    """The day of a prediction.

    Raises:
      Problem: It is none, or lies outside what is known.
    """
    schema, default = self._model.schema, self._scorer.default_day
    if as_of is None:
      return default
    day = as_of
    if isinstance(day, str):
      try:
        day = datetime.date.fromisoformat(day)
        day = (day - datetime.date.fromisoformat(schema.epoch)).days
      except ValueError:
        raise problems.wrong(
          "as_of: give a date like 2020-01-31, or a day number where the data "
          "have no dates"
        ) from None
    now = self._scorer.clock.now()
    last = default
    if now is not None:
      last = max(last, now.local // (instants.DAY_SECONDS * 1_000_000) + 1)
    if not schema.first_day <= day <= last:
      text = self._scorer.clock.day_text
      raise problems.wrong(
        f"as_of: days from {text(schema.first_day)} to {text(last)} can be "
        "asked for"
      )
    return day

  def _each(self, pairs: Pairs, answer) -> list[Any]:
    """Answers with those that share a calendar in one call."""
    out: list[Any] = [None] * len(pairs)
    plain: list[tuple[int, history.User, int]] = []
    for i, (user, ask) in enumerate(pairs):
      try:
        extra = ask.args.get("events") or ()
        if extra:
          rows = self._scorer.encode(user, extra, future=True)
          user = self._scorer.extended(user, rows)
        day = self._day(user, ask.args.get("as_of"))
        if extra and ask.args.get("as_of") is None:
          day = max(day, rows[-1].day + 1)
        if day < user.enter:
          raise problems.conflict(
            "the user has not entered by as_of: its first event comes later"
          )
        plain.append((i, user, day))
      except Problem as e:
        out[i] = e
    if plain:
      users = [u for _, u, _ in plain]
      days = [d for _, _, d in plain]
      asks = [pairs[i][1] for i, _, _ in plain]
      for (i, _, _), found in zip(
        plain, answer(users, days, asks), strict=True
      ):
        out[i] = found
    return out

  def forecast(self, pairs: Pairs) -> list[Any]:
    """Forecasts of all tasks, and under an edited calendar."""
    if self._model.events:
      wrong = problems.wrong(
        "this run expects events and forecasts no task: use /next or /score"
      )
      return [wrong] * len(pairs)
    return self._each(pairs, self._forecast_of)

  def _forecast_of(self, users, days, asks) -> list[Any]:
    layout = self._model.layout
    out: list[Any] = [None] * len(users)
    absent = []
    for n, (user, day, ask) in enumerate(zip(users, days, asks, strict=True)):
      # Hypothetical events are of a version that is nobody's.
      hypothetical = bool(ask.args.get("events"))
      key = None if hypothetical else (ask.user, day)
      known = key and self._live.answers.get(key, user.version)
      if known:
        out[n] = known
      else:
        absent.append((n, key))
    if absent:
      found = self._model.forecasts(
        [users[n].record(layout) for n, _ in absent],
        [days[n] for n, _ in absent],
      )
      for (n, key), made in zip(absent, found, strict=True):
        out[n] = made
        if key:
          self._live.answers.put(key, users[n].version, made)
    text = self._scorer.clock.day_text
    for n, ask in enumerate(asks):
      if not all(map(math.isfinite, out[n].values())):
        out[n] = problems.busy("the model gives no finite number")
        continue
      out[n] = self._about(as_of=text(days[n]), forecasts=dict(out[n]))
      if edits := ask.args.get("edits"):
        edited = self._edited(users[n], days[n], edits)
        if isinstance(edited, Problem):
          out[n] = edited
        else:
          out[n]["edited"] = edited
    return out

  def _edited(self, user, day: int, edits) -> Any:
    if not self._model.schema.calendar:
      return problems.wrong("edits: this run's data have no calendar")
    try:
      calendar = self._model.edited(edits, day)
    except (predictor_lib.PredictError, schema_lib.SchemaError) as e:
      return problems.wrong(f"edits: {e}")
    record = user.record(self._model.layout)
    (found,) = self._model.forecasts([record], [day], calendar)
    if not all(map(math.isfinite, found.values())):
      return problems.busy("the model gives no finite number")
    return found

  def embedding(self, pairs: Pairs) -> list[Any]:
    """Embeddings of users."""
    return self._each(pairs, self._embedding_of)

  def _embedding_of(self, users, days, asks) -> list[Any]:
    layout, text = self._model.layout, self._scorer.clock.day_text
    found = self._model.embeddings([u.record(layout) for u in users], days)
    out = []
    for vectors, day in zip(found, days, strict=True):
      if not all(np.isfinite(v).all() for v in vectors.values()):
        out.append(problems.busy("the model gives no finite number"))
        continue
      vectors = {k: v.tolist() for k, v in vectors.items()}
      out.append(self._about(as_of=text(day), embedding=vectors))
    return out

  # In words.

  def past(self, pairs: Pairs) -> list[Any]:
    """The newest rows of users, in words, newest first."""
    return [
      {
        "total": user.events,
        "profile": self._profile(user),
        "events": self._rows(user, ask.args["last"]),
      }
      for user, ask in pairs
    ]

  def _profile(self, user: history.User) -> Document:
    schema, out = self._model.schema, {}
    for f, i in zip(
      schema.categorical("profile"), user.profile_categorical, strict=True
    ):
      values = {0: None, 1: "(unknown)"}
      first = schema_lib.FIRST_VALUE
      out[f.name] = values[int(i)] if i < first else f.values[i - first]
    for f in schema.dense("profile"):
      if schema_lib.width(f) == 1:
        x = float(
          user.profile_numeric[schema.numeric_column("profile", f.name)]
        )
        out[f.name] = x if math.isfinite(x) else None
    return out

  def _rows(self, user: history.User, last: int) -> list[Document]:
    schema, layout = self._model.schema, self._model.layout
    rows = user.all_rows(layout)[-min(last, _MOST_HISTORY) :][::-1]
    clock, out = self._scorer.clock, []
    composites = [
      f.name
      for f in schema.categorical("activity")
      if isinstance(f, schema_lib.Composite)
    ]
    for row in rows:
      values: Document = {}
      for f, i in zip(
        schema.categorical("activity"), row["categorical"], strict=True
      ):
        if f.name not in composites:
          values |= schema.token(f.name, int(i))
      for f in schema.dense("activity"):
        if schema_lib.width(f) == 1:
          x = float(row["numeric"][schema.numeric_column("activity", f.name)])
          # Days have a column a value; those that are 0 say nothing.
          if math.isfinite(x) and (x or not layout.daily):
            values[f.name] = x
      when = int(row["time"]) if not layout.daily else None
      time = clock.day_text(int(row["day"]))
      if when is not None:
        time = clock.time_text(when)
      out.append({"time": time, "values": values})
    return out

  def ahead(self, pairs: Pairs) -> list[Any]:
    """Calendar entries of users that are running or ahead."""
    return [self._entries(user, ask) for user, ask in pairs]

  def _entries(self, user: history.User, ask: Any) -> Any:
    calendar, clock = self._model.calendar, self._scorer.clock
    try:
      day = self._day(user, ask.args.get("as_of"))
    except Problem as e:
      return e
    fields = self._model.schema.categorical("calendar")
    groups = {0, *user.groups.tolist()}
    entries: list[Document] = []
    for e in range(len(calendar.group)):
      if int(calendar.group[e]) not in groups:
        continue
      start, end = int(calendar.start[e]), int(calendar.end[e])
      known = calendar.announced[e] <= day
      if end <= day or start > day + _YEAR_DAYS or not known:
        continue
      match: Mapping[str, Any] = {
        f.name: f.values[i - schema_lib.FIRST_VALUE]
        for f, i in zip(fields, calendar.categorical[e].tolist(), strict=True)
        if i >= schema_lib.FIRST_VALUE
      }
      name = calendar.group_names[int(calendar.group[e])]
      entries.append({
        "start": start - day,
        "end": end - day,
        "start_day": clock.day_text(start),
        # What an edit of this entry matches.
        "match": {**match, "start": start, "group": name},
      })  # fmt: skip
    entries.sort(key=lambda x: (x["start"], x["end"]))
    return {"as_of": clock.day_text(day), "entries": entries}
