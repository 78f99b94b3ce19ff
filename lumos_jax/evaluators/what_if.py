"""The same users under an edited calendar: what would the model forecast?

The effect is the mean over users of forecast(edited) - forecast(as it was). It
is an answer about the model. It may be read as an effect on users only where
who got which event, and when, came about as if by chance given what the model
sees: a sale for everyone on days chosen without an eye on demand comes close.
It may not where users were selected (households are invited to a campaign
because they respond to campaigns), where something unseen moves both event and
behaviour (a holiday and its sale), or where the edit leaves what the training
data hold (a campaign type at a time of year that never had one). Training
fits forecasts, not interventions. See docs/what_if.md.

History stays as it happened: from the origin on the edited calendar holds,
before it the real one, since users lived under that.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import pipeline
from lumos_jax.data import schema as schema_lib
from lumos_jax.evaluators import base, bootstrap

_OVER = ("all", "changed")


class PlaceboError(RuntimeError):
  """A calendar edit after the horizon changed a forecast."""


class Spliced:
  """The real calendar before a day and an edited one from it on.

  Offers what `pipeline.Example` reads of a calendar.
  """

  def __init__(
    self,
    before: calendar_lib.Calendar,
    after: calendar_lib.Calendar,
    day: int,
  ):
    """Both calendars have the same columns; `day` is the first of `after`."""
    self._before, self._after, self._day = before, after, day
    self.late = before.late or after.late
    self.width, self.columns = before.width, before.columns
    self.date_columns = before.date_columns

  def rows(
    self,
    first_day: int,
    last_day: int,
    groups: Iterable[int] = (),
    known_at: int | None = None,
  ) -> np.ndarray:
    """As `Calendar.rows`."""
    groups, day = list(groups), self._day
    parts = []
    if first_day < day:
      end = min(last_day, day)
      parts.append(self._before.rows(first_day, end, groups, known_at))
    if last_day > day:
      start = max(first_day, day)
      parts.append(self._after.rows(start, last_day, groups, known_at))
    return np.concatenate(parts) if parts else self._before.rows(0, 0)


def placebo_edits(
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

  Metrics are "edited/task" with "/low" and "/high", and for a sweep
  "moved_+7_days/task" and so on. predictions/<name>.json holds the same as
  curves. For regression tasks the model's mean is compared, not its median.
  """

  def __init__(
    self,
    *args,
    edits: Sequence[Mapping[str, Any]] = (),
    sweep_days: Sequence[int] = (),
    over: str = "all",
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
      n_resamples, seed: Of the bootstrap over users.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    key = f"config.evals.{self.name}"
    if over not in _OVER:
      raise ValueError(f"{key}.over = {over!r}; use one of {_OVER}")
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
    self._over, self._n, self._seed = over, n_resamples, seed
    real = self.records.calendar
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
    end = self.origin + pipeline.horizon_days(self.tasks)
    self._placebo = self._calendar(placebo_edits(real, end))

  def _calendar(self, edits) -> Spliced:
    real = self.records.calendar
    return Spliced(real, real.edited(edits), self.origin)

  def _forecast(self, params, calendar):
    batches = self.batches(self.predictor, calendar)
    found = self.predictor(params, batches)
    p = {
      t.name: found.p.get(f"{t.name}/mean", found.p[t.name]).astype(np.float64)
      for t in self.tasks
    }
    return found, p

  def run(self, params) -> base.Metrics:
    """Yields effects, users_changed and placebo_max_abs.

    Raises:
      PlaceboError: The placebo changed a forecast.
    """
    params = self.predictor.place(params)
    found, real = self._forecast(params, None)
    doc: dict[str, Any] = {
      "origin": self.origin,
      "edits": [dataclasses.asdict(e) for e in self._edits],
      "over": self._over,
      "questions": {},
    }
    for question, calendar in self._questions.items():
      _, edited = self._forecast(params, calendar)
      changed = np.any([edited[t] != real[t] for t in real], 0)
      if not changed.any():
        logging.warning(
          "%s: %s changes no forecast: no entry that it touches lies in the "
          "horizon of a user, or is known by the origin",
          self.name,
          question,
        )
      yield f"{question}/users_changed", float(changed.sum())
      effects = {}
      for m, t in enumerate(self.tasks):
        use = found.mask[:, m] & (changed | (self._over == "all"))
        x = edited[t.name][use] - real[t.name][use]
        effects[t.name] = e = bootstrap.mean(x, self._n, self._seed)
        yield f"{question}/{t.name}", e.value
        yield f"{question}/{t.name}/low", e.low
        yield f"{question}/{t.name}/high", e.high
      doc["questions"][question] = {
        "days": self._days.get(question),
        "users_changed": int(changed.sum()),
        "effect": {
          t: {k: v if np.isfinite(v) else None for k, v in e._asdict().items()}
          for t, e in effects.items()
        },
      }
    _, placebo = self._forecast(params, self._placebo)
    worst = max(float(np.abs(placebo[t] - real[t]).max()) for t in real)
    doc["placebo_max_abs"] = worst
    self.save_text(json.dumps(doc, indent=1))
    yield "placebo_max_abs", worst
    if worst:
      users = int(np.any([placebo[t] != real[t] for t in real], 0).sum())
      raise PlaceboError(
        f"config.evals.{self.name}: calendar entries after the horizon changed "
        f"the forecast of {users} users by up to {worst:g}: something that lies "
        "after it reaches the model, and no effect above may be believed"
      )
