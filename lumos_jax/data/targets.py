"""Labels of training users, for what is fitted on their distribution."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lumos_jax.data import tasks as tasks_lib

_MOST_USERS = 20_000
_STRIDE_DAYS = 7


def sample(
  records: Any, cfg: Any, tasks: Sequence[tasks_lib.Task]
) -> dict[str, np.ndarray]:
  """Labels of users of the training split at training origins.

  Origins are a week apart; of more than 20,000 users, as many evenly spaced
  ones are read. The same on every host and at every call.

  Args:
    records: An open `Records`.
    cfg: `config.data`. With `daily_labels`, labels are the days' own values.
    tasks: M tasks.

  Returns:
    {task: float64 [N]}, N labels that count, of the users in their order.
  """
  source = records.source(cfg.train_split)
  users = min(len(source), _MOST_USERS)
  at = np.unique(np.linspace(0, len(source) - 1, users).astype(int))
  first, last = cfg.train_origin_first, cfg.train_origin_last
  origins = np.arange(last, first - 1, -_STRIDE_DAYS)[::-1]
  out: dict[str, list[np.ndarray]] = {t.name: [] for t in tasks}
  for i in at.tolist():
    record = source[i]
    if cfg.daily_labels:
      found = _daily(tasks, records.schema, record, first, last)
    else:
      y, mask = tasks_lib.labels(tasks, records.schema, record, origins)
      found = [y[mask[:, m], m] for m in range(len(tasks))]
    for task, y in zip(tasks, found, strict=True):
      out[task.name].append(y)
  join = lambda x: np.concatenate(x) if x else np.zeros(0)
  return {name: join(x).astype(np.float64) for name, x in out.items()}


def _daily(tasks, schema, record, first, last) -> list[np.ndarray]:
  """Values of the days [first, last] on which the user was there."""
  enter, leave = (int(x) for x in record["span"][:2])
  first, last = max(first, enter), min(last + 1, leave)
  return [
    tasks_lib.daily_values(t, schema, record, first, last)
    if t.reduce != "static"
    else np.zeros(0)
    for t in tasks
  ]
