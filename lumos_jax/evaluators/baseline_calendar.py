"""A time-series baseline: the user's own rate times what the calendar adds."""

from collections.abc import Sequence

import numpy as np

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import baseline_linear


class BaselineCalendar(baseline_linear.BaselineLinear):
  """Seasonal regression of the population on the calendar ahead.

  A task's forecast is exp (or, of a probability, the logistic function) of the
  logarithms of the user's own rates of that quantity over past windows, how
  long ago it last was, the calendar before the origin and within the task's
  horizon after it, and the weekday: rates are multiplied by what the calendar
  does to everyone's. Nothing else of the user is seen.
  """

  def columns(self, names: Sequence[str], task: tasks_lib.Task) -> np.ndarray:
    """Own rates of the task's field, calendar and date."""
    rates = (f"{task.field}/", f"{task.field}/days/", "days_active/")
    ahead = [int(n.rpartition("/next_")[2]) for n in names if "/next_" in n]
    within = max([d for d in ahead if d <= task.horizon_days], default=None)

    def seen(name: str) -> bool:
      head, _, window = name.rpartition("/")
      if window.isdigit():
        return f"{head}/" in rates
      if name in ("days_since_active", f"days_since/{task.field}"):
        return True
      if name.startswith("origin_") or window.startswith("past_"):
        return True
      return within is not None and window == f"next_{within}"

    return np.asarray([i for i, n in enumerate(names) if seen(n)], int)
