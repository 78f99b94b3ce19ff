"""What can be said without any fit: the past repeats itself."""

import numpy as np

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import base, metrics, predict

_PRIOR_WINDOWS = 1.0  # Weight of the population's rate, in windows.


class BaselineNaive(base.Evaluator):
  """The user's own past windows, and the population's.

  A regression task is forecast by the same quantity in the horizon_days before
  the origin; a binary task by the share of the user's past windows of that
  length where it was true, smoothed towards that of all users. Under
  "population/task/metric": the same number for everyone, the rate (of
  amounts the mean, and the median for absolute errors) of the last training
  origin. Tasks of labels that hold whatever the origin, or
  whose past is not shown to the model, get the population's number too.
  """

  needs_params = False
  baseline = True

  def __init__(self, *args, max_windows: int = 12, **kw):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      max_windows: Past windows that a rate goes over.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    self._max_windows = max_windows

  def run(self, params=None) -> base.Metrics:
    """Yields the metrics of the forecast evaluator, twice (see the class)."""
    del params
    constant, middle = self._population()
    y, mask, own, keys = [], [], [], []
    for record in _each(self.records.source(self.split)):
      labels = tasks_lib.labels(
        self.tasks, self.records.schema, record, np.asarray([self.origin])
      )
      y.append(labels[0][0])
      mask.append(labels[1][0])
      own.append([self._own(t, record) for t in self.tasks])
      keys.append(record["key"])
    y, mask, own = np.stack(y), np.stack(mask), np.asarray(own, np.float64)
    p = {}
    for m, t in enumerate(self.tasks):
      hits, windows = own[:, m].T
      if t.kind == "regression":
        p[t.name] = np.where(windows > 0, hits, constant[m])
        p[f"{t.name}/median"] = np.where(windows > 0, hits, middle[m])
      else:
        prior = (hits.sum() + constant[m]) / (windows.sum() + 1.0)
        p[t.name] = (hits + _PRIOR_WINDOWS * prior) / (windows + _PRIOR_WINDOWS)
    hashed = predict.hash_keys(keys)
    self.predictions = predict.Predictions(hashed, y, mask, p).sorted()
    self.save(self.predictions)
    yield from self.score(self.predictions).items()
    flat = {}
    for m, t in enumerate(self.tasks):
      flat[t.name] = np.full(len(y), constant[m])
      if t.kind == "regression":
        flat[f"{t.name}/median"] = np.full(len(y), middle[m])
    same = metrics.of_tasks(self.tasks, y, mask, flat, self.mean_tasks)
    yield from ((f"population/{name}", v) for name, v in same.items())

  def _population(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and median of each task at the last training origin: [M] each."""
    origin = np.asarray([self.data_cfg.train_origin_last])
    found = [
      tasks_lib.labels(self.tasks, self.records.schema, record, origin)
      for record in _each(self.records.source(self.data_cfg.train_split))
    ]
    y, mask = (np.stack([f[i][0] for f in found]) for i in (0, 1))
    known = [y[mask[:, m], m].astype(np.float64) for m in range(y.shape[1])]
    known = [x if len(x) else np.zeros(1) for x in known]
    mean, median = ([f(x) for x in known] for f in (np.mean, np.median))
    return np.asarray(mean), np.asarray(median)

  def _own(self, task, record) -> tuple[float, int]:
    """(sum or number of true windows, number of windows) before the origin."""
    if not task.field:
      return 0.0, 0
    h = task.horizon_days
    first = max(self.records.schema.first_day, int(record["span"][0]))
    n = min((self.origin - first) // h, self._max_windows)
    n = min(n, 1) if task.kind == "regression" else n
    if n < 1:
      return 0.0, 0
    values = tasks_lib.daily_values(
      task, self.records.schema, record, self.origin - n * h, self.origin
    )
    if task.kind == "regression":
      return float(values.sum()), 1
    some = (values.reshape(n, h) != 0).any(1)
    hits = some.sum() if task.reduce == "any" else n - some.sum()
    return float(hits), n


def _each(source):
  return (source[i] for i in range(len(source)))
