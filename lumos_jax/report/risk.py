"""The report's table of a score: ranking, money and calibration, with intervals."""

from lumos_jax.report import cells, load, page

_READING = (
  "On raw scores, with 95 % bootstrap intervals over users. Recall at the top is "
  "the share of all positives among the highest scores, recall at a false-positive "
  "rate before so many negatives are flagged, money the share of the positives' "
  "amount. Calibrated values are after a map that was fitted on validation."
)
_MARKS = {
  "random_split": "These points were split at random, not by time: the model has "
  "learned from what came later, and the numbers are better than use will be.",
  "balanced": "As many points without the label as with it: average precision, "
  "recall at the top and calibration are not those of use.",
}


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
