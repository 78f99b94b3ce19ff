"""Why a score is as it is: the events and features that moved it, in words.

Of runs of recipe hybrid, by `lumos_jax.why`: the score without each event takes
as many calls of the model as there are events, so these questions have a queue of
their own and no score waits for them.
"""

import math
from typing import Any

import numpy as np

from lumos_jax import why as why_lib
from lumos_jax.serving import history, problems, words
from lumos_jax.serving import model as model_lib

MOST_EVENTS = 100  # That are left out one by one.
Document = dict[str, Any]


def task_of(model: model_lib.Model, name: str) -> str:
  """The task that is meant; "" means the only one.

  Raises:
    Problem: The run scores no such task, several, or nothing (422).
  """
  if not model.risks:
    raise problems.wrong("only runs of recipe 'hybrid' say why; see GET /about")
  names = [t.name for t in model.tasks]
  if name in names:
    return name
  if name or len(names) > 1:
    raise problems.wrong(f"task: this run scores {', '.join(names)}")
  return names[0]


def explain(
  model: model_lib.Model,
  say: words.Words,
  user: history.User,
  place: int,
  task: str,
  method: str,
  last: int,
) -> Document:
  """What moved a score's logit, the largest parts first.

  Args:
    model: Of recipe hybrid.
    say: Puts rows into words.
    user: With the events that are asked about.
    place: Day, or the scored event's position among the rows that are kept.
    task: Of the run.
    method: without or gradients.
    last: Most events to name.

  Raises:
    Problem: The method does not fit the backbone (422), or a number is not
      finite (503).
  """
  rows = user.all_rows(model.layout)
  record, of = user.record(model.layout, rows), model.predictor.why
  if method == "gradients" and not of.gradual:
    raise problems.wrong(f"method: {why_lib.NOT_GRADUAL}")
  if method == "gradients":
    found = of.gradients(record, place, task)
  else:
    found = of.without(record, place, task, MOST_EVENTS)
  order = np.argsort(-np.abs(found.of_events), kind="stable")[:last]
  events = found.events[order]
  out = {
    "task": task,
    "method": method,
    "score": found.score,
    "read": len(found.events),
    "events": [
      {"event": user.dropped + int(i), "moved": float(x), **shown}
      for i, x, shown in zip(
        events, found.of_events[order], say.rows(rows[events]), strict=True
      )
    ],
  }
  if method == "gradients":
    out |= {
      "baseline": found.baseline,
      "context": dict(
        sorted(found.of_context.items(), key=lambda x: -abs(x[1]))
      ),
      "profile": found.of_profile,
      "residual": found.residual,
    }
  numbers = [x["moved"] for x in out["events"]]
  numbers += [found.score, found.of_profile, *found.of_context.values()]
  if method == "gradients":
    numbers += [found.baseline, found.residual]
  if not all(map(math.isfinite, numbers)):
    raise problems.busy("the model gives no finite number")
  return out
