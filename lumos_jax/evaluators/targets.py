"""What a tabular baseline learns: a task's probability, median or mean.

A median is what WAPE and MAE reward, a mean is right in total: a regression
task gets both. Each is chosen by its own proper loss. N training rows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lumos_jax.data import tasks as tasks_lib

TWEEDIE_POWER = 1.5
_LEAST = 1e-6
GOALS = {"binary": ("probability",), "regression": ("median", "mean")}


@dataclasses.dataclass(frozen=True)
class Target:
  """One goal of one task on the training rows.

  Attributes:
    task: The task.
    goal: Of GOALS[task.kind].
    y: float64 [N].
    known: bool [N], rows with a label.
  """

  task: tasks_lib.Task
  goal: str
  y: np.ndarray
  known: np.ndarray

  @property
  def name(self) -> str:
    """As in predict.Predictions.p: "task", or "task/median"."""
    return self.task.name + ("/median" if self.goal == "median" else "")

  @property
  def loss(self) -> str:
    """log_loss, absolute, tweedie (a deviance), or squared (with negatives)."""
    if self.goal == "mean":
      return "tweedie" if self.y[self.known].min() >= 0 else "squared"
    return {"probability": "log_loss", "median": "absolute"}[self.goal]

  def bound(self, p: np.ndarray) -> np.ndarray:
    """Forecasts no larger than any label; not below 0 where no label is."""
    known = self.y[self.known]
    low = 0.0 if known.min() >= 0 else known.min()
    return np.clip(np.nan_to_num(p), low, max(known.max(), 0.0))

  def constant(self, rows: np.ndarray) -> float:
    """The one number that the loss likes best for everyone."""
    middle = np.median if self.goal == "median" else np.mean
    return float(middle(self.y[rows]))


def of_tasks(
  tasks: Sequence[tasks_lib.Task], y: np.ndarray, mask: np.ndarray
) -> list[Target]:
  """The targets of M tasks.

  Args:
    tasks: M tasks.
    y: [N, M].
    mask: bool [N, M].

  Raises:
    ValueError: A task has no label at all.
  """
  out = []
  for m, task in enumerate(tasks):
    if not mask[:, m].any():
      raise ValueError(
        f"task {task.name!r} has no label on the training origins"
      )
    values = y[:, m].astype(np.float64)
    out += [Target(task, g, values, mask[:, m]) for g in GOALS[task.kind]]
  return out


def mean_loss(name: str, y: np.ndarray, p: np.ndarray) -> float:
  """Mean of a proper loss over rows [N].

  Args:
    name: "log_loss", "absolute", "squared", or "tweedie": the deviance of
      power 1.5, up to terms of y alone.
    y, p: Labels and forecasts.
  """
  y, p = np.asarray(y, np.float64), np.asarray(p, np.float64)
  if name == "log_loss":
    p = np.clip(p, _LEAST, 1 - _LEAST)
    return float(-np.mean(np.where(y > 0, np.log(p), np.log1p(-p))))
  if name == "absolute":
    return float(np.mean(np.abs(y - p)))
  if name == "squared":
    return float(np.mean(np.square(y - p)))
  p = np.maximum(p, _LEAST)
  a, b = 1 - TWEEDIE_POWER, 2 - TWEEDIE_POWER
  return float(np.mean(p**b / b - y * p**a / a))


def folds(key: np.ndarray, n: int) -> np.ndarray:
  """A fold 0 to n - 1 for each row, by its user's hashed key: int [N]."""
  return np.unique(key, return_inverse=True)[1] % n
