"""The same users under an edited calendar: what would the model forecast?

The effect is the mean over users of forecast(edited) - forecast(as it was). It
is an answer about the model, and stands beside what can show it wrong:

- a negative control: the same entries, begun after a task's window. What ends
  before its cause cannot change.
- who got such entries: where history predicts that, the model may have learned
  who is invited, not what an invitation does ("not identified").
- an earlier entry of the kind that some users had and others had not: the
  effect scaled by what was true of that one ("calibrated").
- an entry that no forecast can see: a test of the program, not of the model.

Intervals hold the luck of training and of users. See docs/what_if.md, and
data/edited.py for what an edit does to entries that are running.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import edited as edited_lib
from lumos_jax.data import pipeline
from lumos_jax.data import schema as schema_lib
from lumos_jax.evaluators import assignment, base, bootstrap, effects
from lumos_jax.evaluators import members as members_lib

Spliced = edited_lib.Spliced
_OVER = ("all", "changed")
_STEP_DAYS = 7  # Between starts of the negative control.
# An assignment whose AUC surely is above this can be predicted from history.
_PREDICTABLE = 0.55
_FEWEST = 20  # Users with, and without, an entry that is evidence.
_MOST = 4  # Such entries at an origin.


class UnseenEntryError(RuntimeError):
  """A calendar entry that lies beyond all inputs changed a forecast."""


def unused_edits(
  calendar: calendar_lib.Calendar, day: int
) -> list[calendar_lib.Edit]:
  """Edits that change the calendar of everyone, from `day` on only.

  Every categorical value and every numeric field gets an entry there.
  """
  common = dict(op="add", start=day, end=day + 28)
  edits = []
  for field in calendar.schema.categorical("calendar"):
    for value in field.values or ():
      edits.append(calendar_lib.Edit(values={field.name: value}, **common))
  for field in calendar.schema.dense("calendar"):
    if isinstance(field, schema_lib.Numeric):
      edits.append(calendar_lib.Edit(values={field.name: 1.0}, **common))
  return edits


class WhatIf(base.Evaluator):
  """Effect of a calendar edit on the forecast of each task.

  Metrics are "edited/task", "control/task" and "calibrated/task" with "/low" and
  "/high", and for a sweep "moved_+7_days/task" and so on; predictions/<name>.json
  holds the same and more. For regression tasks the model's mean is compared,
  not its median.
  """

  def __init__(
    self,
    *args,
    edits: Sequence[Mapping[str, Any]] = (),
    sweep_days: Sequence[int] = (),
    over: str = "all",
    checkpoints: Sequence[str] = (),
    evidence_origins: Sequence[int] | None = None,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
    **kw,
  ):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      edits: Each the arguments of a calendar.Edit, for example
        dict(op="move", match={"type": "Type A"}, days=7).
      sweep_days: Also show the effect with every "move" by that many days.
      over: Mean over "all" users, or over those whose forecast "changed".
      checkpoints: Workdirs of other trainings of the same config (other seeds),
        whose newest checkpoints are members beside the one evaluated. Without
        any, the rows of the model's own ensemble are the members.
      evidence_origins: Days whose outcomes are known and were not trained on;
        default the validation origin where that is of the same users and earlier.
      level: Of the intervals.
      n_resamples, seed: Of the bootstrap over users.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    key = f"config.evals.{self.name}"
    if over not in _OVER:
      raise ValueError(f"{key}.over = {over!r}; use one of {_OVER}")
    if not 0 < level < 1:
      raise ValueError(f"{key}.level = {level} must lie between 0 and 1")
    if not edits:
      raise ValueError(f"{key}.edits is empty: say what to change")
    known = {f.name for f in dataclasses.fields(calendar_lib.Edit)}
    for edit in edits:
      unknown = set(edit) - known
      if unknown:
        raise ValueError(
          f"{key}.edits: no {sorted(unknown)}; there are {sorted(known)}"
        )
    self._edits = [calendar_lib.Edit(**edit) for edit in edits]
    if sweep_days and not any(e.op == "move" for e in self._edits):
      raise ValueError(f"{key}.sweep_days needs an edit with op='move'")
    self._over = over
    self._members = members_lib.Gather(
      self.predictor, self.records.schema, self.tasks, checkpoints, self.name
    )
    self._interval = dict(level=level, n=n_resamples, seed=seed)
    self._horizon = pipeline.horizon_days(self.tasks)
    self._evidence_origins = self._origins(evidence_origins)
    self._questions = {"edited": self._calendar(self._edits)}
    self._days: dict[str, int] = {}
    for days in sweep_days:
      moved = [
        dataclasses.replace(e, days=days) if e.op == "move" else e
        for e in self._edits
      ]
      name = f"moved_{days:+d}_days"
      self._questions[name] = self._calendar(moved)
      self._days[name] = days
    end = self.origin + self._horizon
    self._unused = self._calendar(unused_edits(self.records.calendar, end))

  def _origins(self, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is None:
      d = self.data_cfg
      earlier = d.validation_origin + self._horizon <= self.origin
      same = d.validation_split == self.split
      return (d.validation_origin,) if earlier and same else ()
    late = [o for o in given if o + self._horizon > self.origin]
    if late:
      raise ValueError(
        f"config.evals.{self.name}.evidence_origins: the outcomes of {late} are "
        f"not known on day {self.origin}; windows take {self._horizon} days"
      )
    return tuple(given)

  def _calendar(self, edits) -> Spliced:
    return edited_lib.splice(self.records.calendar, edits, self.origin)

  def _forecast(self, members, calendar, origin=None):
    """Predictions, and {task: float64 [S, U]} of the members."""
    batches = self.batches(members.predictor, calendar, origin)
    found = members.predictor(members.params, batches)
    p = {}
    for t in self.tasks:
      x = found.p[t.name].astype(np.float64)
      p[t.name] = x[None] if x.ndim == 1 else x.T
    return found, p

  def run(self, params) -> base.Metrics:
    """Yields effects, controls and what can be said of them.

    Args:
      params: Of the training evaluated; or a list of several trainings'.

    Raises:
      UnseenEntryError: An entry beyond all inputs changed a forecast.
    """
    members = self._members(params)
    weights = members.weights
    found, real = self._forecast(members, None)
    doc: dict[str, Any] = {
      "origin": self.origin,
      "edits": [dataclasses.asdict(e) for e in self._edits],
      "over": self._over,
      "level": self._interval["level"],
      "members": {"count": len(weights), "are": members.are},
      "questions": {},
    }
    moved = {}
    for question, calendar in self._questions.items():
      _, edited = self._forecast(members, calendar)
      x = {t: edited[t] - real[t] for t in real}
      changed = np.any([(v != 0).any(0) for v in x.values()], 0)
      if not changed.any():
        logging.warning(
          "%s: %s changes no forecast: no entry that it touches lies in the "
          "horizon of a user, or is known by the origin",
          self.name,
          question,
        )
      yield f"{question}/users_changed", float(changed.sum())
      said = {}
      for m, t in enumerate(self.tasks):
        use = found.mask[:, m] & (changed | (self._over == "all"))
        moved.setdefault(t.name, (x[t.name], use))
        e = self._mean(x[t.name][:, use], weights[:, m])
        said[t.name] = _plain(e)
        yield from _three(f"{question}/{t.name}", e)
      doc["questions"][question] = {
        "days": self._days.get(question),
        "users_changed": int(changed.sum()),
        "effect": said,
      }
    yield from self._controls(members, found.mask, doc)
    yield from self._assignment(members, moved, doc)
    _, unused = self._forecast(members, self._unused)
    worst = max(float(np.abs(unused[t] - real[t]).max()) for t in real)
    doc["unused_entry_max_abs"] = worst
    self.save_text(json.dumps(doc, indent=1))
    yield "unused_entry_max_abs", worst
    if worst:
      differs = [(unused[t] != real[t]).any(0) for t in real]
      raise UnseenEntryError(
        f"config.evals.{self.name}: calendar entries after the horizon changed "
        f"the forecast of {np.any(differs, 0).sum()} users by up to {worst:g}: "
        "something that lies after it reaches the model, and no effect above "
        "may be believed"
      )

  def _mean(self, x, weights) -> bootstrap.Interval:
    kept = weights > 0
    return effects.mean(x[kept], weights[kept], **self._interval)

  def _controls(self, members, mask, doc) -> base.Metrics:
    """Entries that begin when a task's window has ended, a week apart."""
    until = self._horizon
    starts = [range(t.horizon_days, until, _STEP_DAYS) for t in self.tasks]
    doc["control"] = {t.name: [] for t in self.tasks}
    for ahead in sorted({s for each in starts for s in each}):
      pair = edited_lib.begun_later(
        self.records.calendar,
        self._edits,
        self.origin,
        self.origin + ahead,
        self.origin + until,
      )
      if pair is None:
        return
      (_, a), (_, b) = (self._forecast(members, c) for c in pair)
      x = {t: b[t] - a[t] for t in a}
      changed = np.any([(v != 0).any(0) for v in x.values()], 0)
      for m, t in enumerate(self.tasks):
        if t.horizon_days > ahead:
          continue
        use = mask[:, m] & (changed | (self._over == "all"))
        e = self._mean(x[t.name][:, use], members.weights[:, m])
        rows = doc["control"][t.name]
        rows.append({"starts_after_days": ahead, **_plain(e)})
        if len(rows) == 1:
          yield from _three(f"control/{t.name}", e)

  def _assignment(self, members, moved, doc) -> base.Metrics:
    """Who had entries of the kind before, and what came of it."""
    found = [e for o in self._evidence_origins for e in self._had(members, o)]
    doc["evidence"] = {"origins": list(self._evidence_origins), "entries": []}
    if not found:
      doc["evidence"]["identified"] = None
      return
    said = doc["evidence"]["entries"]
    n, seed = self._interval["n"], self._interval["seed"]
    for origin, start, by_task in found:
      first = next(iter(by_task.values()))
      auc = assignment.separation(first.got, first.propensity, n, seed)
      share = float(first.got.mean())
      said.append(
        {"origin": origin, "start": start, "share": share, "auc": auc}
      )
    worst = max((s["auc"] for s in said), key=lambda i: i.low)
    for s in said:
      s["auc"] = _plain(s["auc"])
    identified = bool(worst.low <= _PREDICTABLE)
    doc["evidence"]["identified"] = identified
    yield from _three("assignment_auc", worst)
    yield "identified", float(identified)
    doc["calibrated"] = {}
    # Where it is not identified, what was found is no effect and scales none.
    for m, t in enumerate(self.tasks if identified else ()):
      weights = members.weights[:, m]
      kept = weights > 0
      x, use = moved[t.name]
      own = [
        by_task[t.name]._replace(
          without=by_task[t.name].without[kept],
          everyone=by_task[t.name].everyone[kept],
        )
        for _, _, by_task in found
        if by_task[t.name].mask.any()
      ]
      if not own:
        continue
      e, theta = effects.calibrated(
        x[kept], use, own, weights[kept], **self._interval
      )
      doc["calibrated"][t.name] = {**_plain(e), "scale": theta}
      yield from _three(f"calibrated/{t.name}", e)

  def _had(self, members, origin):
    """Entries that some of the users had: (origin, start, evidence a task)."""
    calendar = self.records.calendar
    hit = edited_lib.concerned(
      calendar, self._edits, origin, origin + self._horizon
    )
    some = np.flatnonzero(hit & (calendar.group != calendar_lib.EVERYONE))
    latest = np.argsort(calendar.start[some], kind="stable")[-_MOST:]
    for entry in some[latest]:
      pair = edited_lib.for_everyone(calendar, int(entry), origin)
      got, x = assignment.who(
        self.records.schema,
        self.batches(self.predictor, None, origin),
        self.batches(self.predictor, pair[0], origin),
      )
      if min(got.sum(), (~got).sum()) < _FEWEST:
        continue
      e = assignment.propensity(x, got, self._interval["seed"])
      (real, zero), (_, one) = (
        self._forecast(members, c, origin) for c in pair
      )
      by_task = {}
      for m, t in enumerate(self.tasks):
        sees = calendar.start[entry] < origin + t.horizon_days
        by_task[t.name] = effects.Evidence(
          got, e, real.y[:, m].astype(np.float64), real.mask[:, m] & sees,
          zero[t.name], one[t.name],
        )  # fmt: skip
      yield origin, int(calendar.start[entry]), by_task


def _plain(e: bootstrap.Interval) -> dict[str, float | None]:
  return {k: v if np.isfinite(v) else None for k, v in e._asdict().items()}


def _three(name: str, e: bootstrap.Interval) -> base.Metrics:
  yield name, e.value
  yield f"{name}/low", e.low
  yield f"{name}/high", e.high
