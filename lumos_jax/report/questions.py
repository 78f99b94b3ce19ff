"""What was asked of the model: date, horizon, users, each task in words."""

from collections.abc import Mapping
from typing import Any

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.report import cells, load, page


def forecasts(run: load.Run) -> page.Html:
  """The declared tasks, each with its window, users and positives."""
  if not run.tasks:
    return page.missing("Tasks", "config.json declares none.")
  given, rows = run.config["tasks"], []
  pred = run.predictions.get(run.model or "")
  for task in run.tasks:
    users = positives = mean = page.Num("–")
    if pred is not None and task in pred.tasks:
      y, _ = pred.of(task)
      users, positives = page.num(len(y)), page.num(int((y != 0).sum()))
      if len(y):
        mean = page.num(float(y.mean()), 3)
    said = meaning(given[task], run.schema, run.origin)
    rows.append([task, said, users, positives, mean])
  parts = []
  if run.origin is not None:
    parts.append(
      page.paragraph(
        "Forecasts are made at the start of ",
        page.tag("b", cells.day(run.schema, run.origin)),
        ": the model sees each user's activity before that day, and of the "
        "calendar after it what was known by then. Positives are users whose "
        "outcome is not 0.",
      )
    )
  head = ["task", "meaning", "users", "positives", "mean outcome"]
  parts.append(page.table(head, rows))
  return page.join(parts)


def meaning(
  task: Mapping[str, Any], schema: Mapping[str, Any], origin: int | None
) -> str:
  """A task in words.

  Args:
    task: Of config.tasks.
    schema: Of schema.json, or {}.
    origin: Day of forecast; None where it is not known.
  """
  what = task.get("field") or task.get("label") or "?"
  reduce = task.get("reduce", tasks_lib.Task.reduce)
  equals = f" is {task['equals']}" if task.get("equals") else ""
  if reduce == "static":
    return f"{what}{equals or ' of the user'}, whatever the date"
  horizon = int(task.get("horizon_days", tasks_lib.Task.horizon_days))
  when = f"the {horizon} days"
  if origin is not None:
    first = cells.day(schema, origin)
    when += f" from {first} to {cells.day(schema, origin + horizon - 1)}"
  if reduce == "sum":
    return f"sum of {what} over {when}"
  amount = "no" if reduce == "none" else "any"
  return f"{amount} {what}{equals} in {when}"


def next_event(run: load.Run) -> page.Html:
  """Whose next event is ranked, when it is, and among how many values."""
  data = run.config.get("data") or {}
  target = data.get("target") or "the target field"
  if data.get("holdout") == "time" and run.origin is not None:
    which = f"first event from {cells.day(run.schema, run.origin)} on"
  else:
    which = "last event"
  users = run.value(run.model, "users")
  field = next(
    (f for f in run.schema.get("activity") or () if f.get("name") == target), {}
  )
  many = f"all {len(field['values']):,}" if field.get("values") else "all"
  rest = (
    "values of the user's history left out"
    if data.get("filter_seen", True)
    else "values of the user's history included"
  )
  whose = f"{int(users):,} users" if users else "users"
  parts = [
    f"The {which} of {whose} is ranked among {many} values of {target}, {rest}."
  ]
  if field.get("of"):
    parts.append(f" A token is made of {', '.join(field['of'])}.")
  return page.paragraph(*parts)
