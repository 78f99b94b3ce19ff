"""How many positives a metric stands on: below 30 it is marked wherever shown.

A rank metric of a handful of positives is one user's luck: with 3 positives an
AUC moves by .3 when one of them changes its place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEAST = 30
_RANKED = ("auc", "average_precision")


def counts(
  tasks: Sequence[Any], y: np.ndarray, mask: np.ndarray
) -> dict[str, float]:
  """{"task/positives": users whose label is not 0} of the binary tasks.

  Args:
    tasks: M of data.tasks.Task.
    y: [U, M].
    mask: bool [U, M].
  """
  return {
    f"{t.name}/positives": float(np.sum((y[:, m] != 0) & mask[:, m]))
    for m, t in enumerate(tasks)
    if t.kind == "binary"
  }


def few(values: Mapping[str, float | None], metric: str) -> int | None:
  """The positives of a rank metric where they are too few, else None.

  Args:
    values: An evaluator's metrics, with "task/positives".
    metric: "task/auc", or any other.
  """
  task, _, last = metric.rpartition("/")
  found = values.get(f"{task}/positives")
  if last not in _RANKED or found is None or found >= LEAST:
    return None
  return int(found)
