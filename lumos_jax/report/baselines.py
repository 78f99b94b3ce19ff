"""The report's baselines: all of them, their spread, and the stack."""

from lumos_jax import positives
from lumos_jax.report import cells, load, page

_COUNTS = ("users", "users_left_out")


def every(run: load.Run, model: str, rows: list[str]) -> list[page.Html]:
  """Each baseline and the stack, where the best one stands for them above."""
  if not run.of_kind("baseline_best"):
    return []
  each = [b for b in run.of_kind("baseline") if b not in run.rivals]
  names = [model, *each]
  table = [
    [cells.metric_label(m), *(with_spread(run, e, m) for e in names)]
    for m in rows
  ]
  parts = [
    page.paragraph(
      "The best baseline of each task is the one with the lowest loss on the "
      "validation origin. Below: all of them, and ± the standard deviation of "
      "their members, whose mean is what forecasts."
    ),
    page.table(["metric", *map(run.title, names)], table),
  ]
  for stack in run.of_kind("stack"):
    # What says most comes first: a narrow page scrolls to the rest.
    others = [*run.of_kind("baseline_stack"), *run.rivals, model]
    head = ["metric", run.title(stack)]
    head += [f"difference to {run.title(o)}" for o in others]
    body = []
    for m in rows:
      found = [run.difference(stack, o, m) for o in others]
      shown = [cells.interval(d, m) for d in found]
      body.append([cells.metric_label(m), with_spread(run, stack, m), *shown])
    parts += [
      page.tag("h3", "Stack"),
      page.paragraph(
        "A weighted mean of the model's forecast and the baselines', with "
        "weights from the validation origin. A mean of several models often "
        "beats each of them; what the model adds is the difference to the "
        "stack of baselines, which leaves it out."
      ),
      page.table(head, body),
      page.details("Weights", _weights(run, stack)),
    ]
  return parts


def _weights(run: load.Run, stack: str) -> page.Html:
  """What each model has in the stack, task by task."""
  found = {
    tuple(k.split("/")[1:]): v
    for k, v in run.evals[stack].items()
    if k.startswith("weight/") and k.count("/") == 2
  }
  names = list(dict.fromkeys(e for _, e in found))
  rows = [
    [t, *(page.num(found.get((t, e)), 2) for e in names)]
    for t in dict.fromkeys(t for t, _ in found)
  ]
  return page.table(["task", *map(run.title, names)], rows)


def few(run: load.Run, evaluator: str | None, metric: str) -> page.Html | str:
  """What marks a rank metric of few positives; "" where there are enough."""
  count = positives.few(run.evals.get(evaluator or "", {}), metric)
  if count is None:
    return ""
  return page.tag("span", f" few positives ({count})", class_="ends")


def with_spread(
  run: load.Run, evaluator: str, metric: str, class_: str = ""
) -> page.Num:
  """A metric, its members' spread, and a mark if it has few positives."""
  value, spread = run.value(evaluator, metric), run.spread(evaluator, metric)
  if value is not None and metric in _COUNTS:
    value = int(value)
  parts = [page.number(value), few(run, evaluator, metric)]
  chosen = run.chosen(evaluator, metric)
  if chosen and value is not None:
    parts.append(page.tag("span", f" {run.title(chosen)}", class_="ends"))
  if spread is not None:
    mark = page.tag("span", f" ± {page.number(spread)}", class_="ends")
    parts.insert(1, mark)
  return page.Num(page.join(parts), value, class_)
