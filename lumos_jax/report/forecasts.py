"""The report's look at single forecasts: curves, calibration, lift, what-if."""

import math
from typing import Any

from lumos_jax.report import bins, charts, load, page, rank_charts


def _series(run: load.Run, task: str, baselines: int):
  """{name: (y, forecast)} of the model and its first baselines for a task."""
  out = {}
  for e in [run.model, *run.rivals[:baselines]]:
    pred = run.predictions.get(e or "")
    if pred is not None and task in pred.tasks:
      y, p = pred.of(task)
      if len(y) >= 10:
        out[run.title(e)] = (y, p)
  return out


def discrimination(run: load.Run) -> page.Html:
  """ROC and precision-recall curves of the binary tasks."""
  figures = []
  for task, kind in run.tasks.items():
    series = _series(run, task, baselines=2) if kind == "binary" else {}
    # Without both classes there is no curve.
    series = {n: x for n, x in series.items() if 0 < (x[0] > 0).mean() < 1}
    if series:
      figures.append(page.figure(f"{task}: ROC", rank_charts.roc(series)))
      spec = rank_charts.precision_recall(series)
      figures.append(page.figure(f"{task}: precision and recall", spec))
  if not figures:
    why = run.absent.get("predictions", "no binary task has both outcomes.")
    return page.missing("ROC and precision-recall curves", why)
  return page.join(
    [
      page.paragraph(
        "For each threshold of the forecast, the users above it. ROC: the share "
        "of all positives and of all negatives among them; chance is the "
        "diagonal. Precision is the share of positives among them, recall the "
        "share of all positives found; chance is the base rate, dotted."
      ),
      page.grid(figures, pairs=True),
    ]
  )


def calibration(run: load.Run) -> page.Html:
  """Forecast against outcome in bins of users."""
  figures, rows = [], []
  for task in run.tasks:
    # A weak baseline's far-off forecasts would squeeze the others.
    series = _series(run, task, baselines=1)
    if not series:
      continue
    rare = any(bins.is_rare(y) for y, _ in series.values())
    title = f"{task} (rare: logarithmic axes)" if rare else task
    figures.append(page.figure(title, bins.reliability(series)))
    y, p = next(iter(series.values()))
    rows += _bin_rows(task, (bins.halving if rare else bins.equal_mass)(y, p))
  if not figures:
    return page.missing("Calibration", run.absent.get("predictions", ""))
  head = ["task", "users", "mean forecast", "mean outcome", "95 % interval"]
  return page.join(
    [
      page.paragraph(
        "Users are sorted by forecast into up to ten bins of equal size; for a "
        "rare outcome each bin is half as large as the one below it, and an "
        "open mark at the foot is a bin without a positive. On the dotted line "
        "a forecast comes true as often (or as much) as it says; bars are 95 % "
        "intervals of the model's bins."
      ),
      page.grid(figures),
      page.details("Bins of the model", page.table(head, rows)),
    ]
  )


def _bin_rows(task: str, b) -> list[list[Any]]:
  rows = zip(*(b[k] for k in ("users", "forecast", "outcome", "low", "high")))
  return [
    [
      task,
      page.num(int(users)),
      page.num(forecast),
      page.num(outcome),
      page.Num(f"{page.number(low)} to {page.number(high)}"),
    ]
    for users, forecast, outcome, low, high in rows
  ]


def lift(run: load.Run) -> page.Html:
  """How much more of the outcome the highest forecasts hold."""
  figures = []
  for task in run.tasks:
    series = _series(run, task, baselines=2)
    if series:
      figures.append(page.figure(task, charts.lift(series)))
  if not figures:
    return page.missing("Lift", run.absent.get("predictions", ""))
  return page.join(
    [
      page.paragraph(
        "Mean outcome of each tenth of the users, highest forecasts first, "
        "over the mean of all: 3 in the first decile means three times as many "
        "(or as much) as among users picked at random."
      ),
      page.grid(figures),
    ]
  )


def what_if(run: load.Run) -> page.Html:
  """Effects of edited calendars beside what can show them wrong."""
  parts = []
  for e in run.of_kind("what_if"):
    questions: dict[str, dict[str, load.Difference]] = {}
    for name, d in load.differences(run.evals[e]).items():
      question, _, task = name.partition("/")
      if task:
        questions.setdefault(question, {})[task] = d
    if questions:
      first = [q for q in ("edited", "control", "calibrated") if q in questions]
      questions = {q: questions[q] for q in [*first, *questions]}
      parts += _what_if(run, e, questions)
  if not parts:
    return page.missing("What-if", "no evaluator of type what_if ran.")
  return page.join(
    [
      page.paragraph(
        "The mean change of the forecast when the same users are shown an "
        "edited calendar: of a probability for binary tasks, of the expected "
        "value for the others. It is what the model expects, and the event's "
        "effect only where past events came to users as if by chance, given "
        "what the model sees. In the control the same entries begin when a "
        "task's window has ended, so its true effect is 0; a task whose window "
        "ends with the calendar that is shown has none."
      ),
      *parts,
    ]
  )


def _what_if(run, evaluator, questions) -> list[page.Html]:
  doc = run.documents.get(evaluator, {})
  days = {
    name: q["days"]
    for name, q in doc.get("questions", {}).items()
    if q.get("days") is not None
  }
  parts = [page.tag("h3", evaluator.replace("_", " "))]
  if doc.get("edits"):
    said = [page.tag("li", _said(edit)) for edit in doc["edits"]]
    parts.append(page.tag("ul", *said))
  if doc.get("over") == "changed":
    parts.append(page.paragraph("Mean over users whose forecast changed."))
  head = ["task", *(q.replace("_", " ") for q in questions)]
  rows = [
    [t, *_effects([effects.get(t) for effects in questions.values()])]
    for t in run.tasks
  ]
  changed = [
    run.value(evaluator, f"{question}/users_changed") for question in questions
  ]
  if None not in changed:
    rows.append(["users affected", *(page.num(int(n)) for n in changed)])
  parts.append(page.table(head, rows))
  parts += [page.paragraph(text) for text in _verdicts(run, evaluator, doc)]
  sweep = {n: d for n, d in days.items() if n in questions}
  if len(sweep) > 1:
    figures = []
    for task in run.tasks:
      points = sorted(
        (d, questions[n][task])
        for n, d in sweep.items()
        if task in questions[n]
      )
      if points:
        figures.append(page.figure(task, charts.sweep(points)))
    parts.append(page.grid(figures))
  else:
    parts.append(_effects_chart(run, questions))
  return parts


def _verdicts(run, evaluator, doc) -> list[str]:
  """What else was found of an effect, in sentences."""
  out = []
  if members := doc.get("members"):
    out.append(
      f"Intervals of {doc.get('level', 0.95):.0%} over users and over "
      f"{members['count']} members: {members['are']}."
    )
  auc = load.differences(run.evals[evaluator]).get("assignment_auc")
  if auc is None:
    out.append(
      "Not checked: no earlier entry of this kind that some users had and "
      "others had not lies at an origin with known outcomes."
    )
  else:
    said = (
      f"Whether a user had the last such entry can be told from history with AUC "
      f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]"
    )
    out.append(
      f'{said}: as good as by chance. "Calibrated" is the effect times how '
      "right the model was about that entry."
      if run.value(evaluator, "identified")
      else f"{said}: the effect is not identified, since those who had it "
      "differ from the others in what they did before."
    )
  unused = run.value(evaluator, "unused_entry_max_abs")
  if unused is not None:
    out.append(
      "An entry beyond the horizon changes no forecast, as it must be."
      if not unused
      else "An entry beyond the horizon changes a forecast by "
      f"{page.number(unused)}: something after it reaches the model, and no "
      "effect above may be believed."
    )
  return out


def _effects(row: list[load.Difference | None]) -> list[page.Num]:
  """Cells of one task; three digits of its largest effect decide for all."""
  largest = max((abs(d.value) for d in row if d), default=0.0)
  digits = 4
  if largest:
    digits = min(7, max(1, 2 - math.floor(math.log10(largest))))
  cells = []
  for d in row:
    if d is None:
      cells.append(page.Num("–"))
      continue
    ends = f"[{page.signed(d.low, digits)}, {page.signed(d.high, digits)}]"
    below = page.tag(
      "div", page.tag("span", ends, class_="ends"), class_="change"
    )
    shown = page.join([page.signed(d.value, digits), below])
    cells.append(page.Num(shown, d.value))
  return cells


def _effects_chart(run, questions) -> page.Html:
  # Probabilities share an axis; each regression task has its own unit.
  binary = [t for t, kind in run.tasks.items() if kind == "binary"]
  groups = {}
  for question, effects in questions.items():
    rows = [
      (t, effects[t].value, effects[t].low, effects[t].high)
      for t in binary
      if t in effects
    ]
    if rows:
      groups[question] = rows
  if not groups:
    return page.Html("")
  spec = charts.intervals(groups, "change of probability")
  return page.grid([page.figure("Binary tasks", spec)])


def _said(edit: dict[str, Any]) -> str:
  """An edit of the calendar in words."""

  def pairs(values):
    return ", ".join(f"{k} = {v}" for k, v in values.items())

  if edit.get("op") == "add":
    whom = edit.get("group") or "everyone"
    return (
      f"add for {whom}, days {edit.get('start')} to {edit.get('end', 1) - 1}: "
      f"{pairs(edit.get('values') or {}) or 'an entry'}"
    )
  what = pairs(edit.get("match") or {}) or "all"
  if edit.get("op") == "move":
    return f"move entries by {edit.get('days', 0):+d} days: {what}"
  return f"{edit.get('op')} entries: {what}"
