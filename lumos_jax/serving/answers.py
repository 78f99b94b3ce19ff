"""What the service says of users: one method a question, for many users at once.

Each takes pairs of a user and an `Ask` and returns, for each, a plain document or
the `Problem` that is its answer.
"""

import datetime
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lumos_jax import predictor as predictor_lib
from lumos_jax.data import instants
from lumos_jax.data import schema as schema_lib
from lumos_jax.serving import history, intent, problems, risks, words
from lumos_jax.serving import model as model_lib
from lumos_jax.serving.problems import Problem

_NOTHING = (
  "the user has no events yet, and this model expects nothing of a user without "
  "history"
)
Pairs, Document = risks.Pairs, risks.Document


class Answers(intent.Answers, risks.Answers):
  """Answers with one model, whatever becomes the service's model meanwhile."""

  def __init__(self, scorer: Any, live: Any):
    """`scorer` is the service's, `live` the model it had as this began."""
    self._scorer, self._live = scorer, live
    self._model = live.model
    self._say = words.Words(live.model.layout, scorer.clock)

  def _about(self, **more: Any) -> Document:
    return {
      "model": {"step": self._model.step, "hash": self._model.model_hash},
      **more,
    }

  # States: what the model has to say of the next event.

  def _states(
    self, users: Sequence[history.User], keys: Sequence[bytes]
  ) -> list[model_lib.Kept]:
    """States of users, of this model; those in memory go on."""
    out: list[Any] = [self._live.states.get(k) for k in keys]
    late = {
      k: i
      for i, (k, u, x) in enumerate(zip(keys, users, out, strict=True))
      if x is None or x.born != u.born or x.events != u.events
    }
    if late:
      places = list(late.values())
      made = self._model.advanced(
        [users[i] for i in places], [out[i] for i in places]
      )
      for i, kept in zip(places, made, strict=True):
        self._live.states.put(keys[i], users[i].version, kept)
      # Several requests of a batch may be about one user.
      found = dict(zip(late, made, strict=True))
      out = [found.get(k, x) for k, x in zip(keys, out, strict=True)]
    return out

  def refresh(self, pairs: Pairs) -> list[None]:
    """Goes on with users whose events have just come."""
    if self._model.states is not None:
      self._states([u for u, _ in pairs], [a.user for _, a in pairs])
    return [None] * len(pairs)

  # Scores.

  def score(self, pairs: Pairs) -> list[Any]:
    """Scores of new events, which are not stored; or of a user."""
    if self._model.sessions:
      return [problems.wrong(intent.ALONE)] * len(pairs)
    if self._model.events:
      return self._deviations(pairs)
    if self._model.risks:
      if self._model.of_users:
        return self._each(pairs, self._risks_of_users)
      return self._risks_of_events(pairs)
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
        asked.append((i, self._scored_rows(user, ask), user))
      except Problem as e:
        out[i] = e
    kept = self._states(
      [u for _, _, u in asked], [pairs[i][1].user for i, _, _ in asked]
    )
    owner, befores, events = [], [], []
    for (i, rows, user), state in zip(asked, kept, strict=True):
      befores += self._model.following(state, user, rows)
      owner += [i] * len(rows)
      events += [(np.asarray(r.categorical, np.int32), r.time) for r in rows]
    good = [n for n, k in enumerate(befores) if k.state.rows]
    numbers: dict[int, list[float]] = {}
    if good:
      found = self._model.deviations(
        [befores[n] for n in good], [events[n] for n in good]
      )
      numbers = dict(zip(good, found.tolist(), strict=True))
    for i, _, _ in asked:
      mine = [n for n, o in enumerate(owner) if o == i]
      if not all(n in numbers for n in mine):
        out[i] = problems.conflict(_NOTHING)
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

  # Next events.

  def next(self, pairs: Pairs) -> list[Any]:
    """The likeliest values of users' next events."""
    if not self._model.events:
      wrong = problems.wrong(
        "this run expects no next event: use /forecast or /score"
      )
      return [wrong] * len(pairs)
    users, keys = [u for u, _ in pairs], [a.user for _, a in pairs]
    kept = self._states(users, keys)
    start = self._scorer.default_day * instants.DAY_SECONDS * 1_000_000
    good = [n for n, k in enumerate(kept) if k.state.rows]
    out: list[Any] = [problems.conflict(_NOTHING) for _ in pairs]
    if not good:
      return out
    found = self._model.next_events(
      [kept[n] for n in good],
      [max(start, users[n].last_time or start) for n in good],
    )
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
        plain.append((i, *self._point(user, ask.args)))
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

  def _point(self, user: history.User, args: Any) -> tuple[history.User, int]:
    """The user with the events that are supposed, and the day asked for.

    Raises:
      Problem: An event or the day is wrong.
    """
    extra = args.get("events") or ()
    if extra:
      rows = self._scorer.encode(user, extra, future=True)
      user = self._scorer.extended(user, rows)
    day = self._day(user, args.get("as_of"))
    if extra and args.get("as_of") is None:
      day = max(day, rows[-1].day + 1)
    if day < user.enter:
      raise problems.conflict(
        "the user has not entered by as_of: its first event comes later"
      )
    return user, day

  def forecast(self, pairs: Pairs) -> list[Any]:
    """Forecasts of all tasks, and under an edited calendar."""
    m = self._model
    if m.events or m.risks or m.sessions:
      wrong = problems.wrong(
        "this run forecasts no task: use /score, or /next where events are expected"
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
    if self._model.risks:
      wrong = problems.wrong("a run of recipe 'hybrid' gives scores alone")
      return [wrong] * len(pairs)
    return self._each(pairs, self._embedding_of)

  def _embedding_of(self, users, days, asks) -> list[Any]:
    layout, text = self._model.layout, self._scorer.clock.day_text
    if self._model.events:
      kept = self._states_as_of(users, days, asks)
      found = self._model.states.embedding([k.state for k in kept])
      found = [{"embedding": vector} for vector in found]
    else:
      found = self._model.embeddings([u.record(layout) for u in users], days)
    out = []
    for vectors, day in zip(found, days, strict=True):
      if not all(np.isfinite(v).all() for v in vectors.values()):
        out.append(problems.busy("the model gives no finite number"))
        continue
      vectors = {k: v.tolist() for k, v in vectors.items()}
      out.append(self._about(as_of=text(day), embedding=vectors))
    return out

  def _states_as_of(self, users, days, asks) -> list[model_lib.Kept]:
    """States of users before each day, kept where all is known that is stored."""
    whole, parts = {}, {}
    for n, (user, day) in enumerate(zip(users, days, strict=True)):
      known = int(np.searchsorted(instants.days(_columns(user)), day))
      # Events that are supposed are nobody's.
      if known == len(user.rows) and not asks[n].args.get("events"):
        whole[n] = user
      else:
        parts[n] = user.until(known)
    keys = [asks[n].user for n in whole]
    kept = self._states(list(whole.values()), keys)
    kept += self._model.advanced(list(parts.values()), [None] * len(parts))
    order = [*whole, *parts]
    found = dict(zip(order, kept, strict=True))
    return [found[n] for n in range(len(users))]

  # In words.

  def past(self, pairs: Pairs) -> list[Any]:
    """The newest rows of users, in words, newest first."""
    out = []
    for user, ask in pairs:
      rows = user.all_rows(self._model.layout)[-ask.args["last"] :]
      out.append({
        "total": user.events,
        "profile": self._say.profile(user),
        "events": self._say.rows(rows[::-1]),
      })  # fmt: skip
    return out

  def ahead(self, pairs: Pairs) -> list[Any]:
    """Calendar entries of users that are running or ahead."""
    out: list[Any] = []
    for user, ask in pairs:
      try:
        day = self._day(user, ask.args.get("as_of"))
      except Problem as e:
        out.append(e)
        continue
      out.append({
        "as_of": self._scorer.clock.day_text(day),
        "entries": self._say.entries(self._model.calendar, user, day),
      })  # fmt: skip
    return out


def _columns(user: history.User) -> dict[str, np.ndarray]:
  return {"day": user.rows["day"]}
