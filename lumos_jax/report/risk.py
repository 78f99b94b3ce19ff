"""The report's table of a score: ranking, money and calibration, with intervals."""

from collections.abc import Mapping
from typing import Any

from lumos_jax.report import cells, load, page

_READING = (
  "On raw scores, with 95 % bootstrap intervals over users. Recall at the top is "
  "the share of all positives among the highest scores, recall at a false-positive "
  "rate before so many negatives are flagged, money the share of the positives' "
  "amount. Calibrated values are after a map that was fitted on validation."
)
_MOST_FIELDS = 8  # Of a table.
_MARKS = {
  "random_split": "These points were split at random, not by time: the model has "
  "learned from what came later, and the numbers are better than use will be.",
  "balanced": "As many points without the label as with it: average precision, "
  "recall at the top and calibration are not those of use.",
}


_EXAMPLES = (
  "The highest scores of the test points, one a user; users are the beginnings of "
  "hashes of their ids. An event moved the score's logit by so much: the point was "
  "scored again without it. This does not say what would happen if a user acted "
  "otherwise."
)


def reasons(run: load.Run) -> page.Html:
  """Some of the highest scores with the events that moved them."""
  doc = run.documents.get(run.model or "") or {}
  found = doc.get("examples") or []
  if not found:
    return page.missing(
      "Reasons", "evaluator 'risk' left no examples in predictions/."
    )
  parts = [_example(run, i, x) for i, x in enumerate(found)]
  return page.join([page.paragraph(_EXAMPLES), *parts])


def _example(run: load.Run, i: int, x: Mapping[str, Any]) -> page.Html:
  outcome = {None: "label not known", 0.0: "negative"}.get(
    x["label"], "positive"
  )
  day = cells.day(run.schema, x["day"])
  summary = (
    f"{x['task']}: {x['user'][:8]}, {day}, score {page.number(x['score'])}, "
    f"{outcome}"
  )
  rows = list(x["events"])
  if x["event"]:
    rows.append(x["event"])
  fields = list(dict.fromkeys(f for e in rows for f in e["values"]))
  fields = fields[:_MOST_FIELDS]
  shown = []
  for e in rows:
    value = page.tag("b", "scored")
    if "moved" in e:
      value = page.Num(page.signed(e["moved"]), e["moved"])
    cell = [_shown(e["values"].get(f)) for f in fields]
    shown.append([cells.day(run.schema, e["day"]), value, *cell])
  caption = f"Of the {x['read']} latest events, those that moved it most."
  table = page.table(["day", "moved", *fields], shown, caption)
  # The first is open, to show what there is.
  opened = "open" if i == 0 else None
  return page.tag("details", page.tag("summary", summary), table, open=opened)


def _shown(value: Any) -> Any:
  if value is None:
    return "–"
  return page.num(value) if isinstance(value, float) else value


def warnings(run: load.Run) -> list[page.Html]:
  """What is to be said of how the points were chosen; mostly nothing."""
  found = run.evals.get(run.model or "", {})
  return [
    page.tag("p", page.tag("strong", text))
    for mark, text in _MARKS.items()
    if found.get(mark)
  ]


def section(run: load.Run) -> page.Html:
  """A table a task."""
  found = run.evals.get(run.model or "", {})
  intervals = load.differences(found)
  parts = [page.paragraph(_READING), *warnings(run)]
  for task in run.tasks:
    rows = []
    for metric, value in found.items():
      name = metric.removeprefix(f"{task}/")
      if name == metric or name.endswith(("/low", "/high")) or value is None:
        continue
      x = intervals.get(metric)
      ends = f"{page.number(x.low)} to {page.number(x.high)}" if x else ""
      shown = cells.metric_label(metric)
      rows.append((shown, page.num(value), ends))
    if rows:
      parts.append(page.tag("h3", task))
      parts.append(page.table(("Metric", "Value", "95 % interval"), rows))
  if len(parts) == 1:
    return page.missing("Risk", run.absent.get("evals", "no evaluator ran."))
  return page.join(parts)
