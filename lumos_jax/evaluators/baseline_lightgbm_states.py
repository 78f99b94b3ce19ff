"""LightGBM on what a model says of users, beside the hand-made features.

Of a hybrid it is what the pretrained backbone says: it saw no label, so that all
training points serve. LUMOS learned from the labels of its training origins, and
what it says of them is better than what it will say of others: there the
validation origin trains, and forecasts of that origin are out of fold.

N points, P features of the model.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from lumos_jax.data import scoring
from lumos_jax.evaluators import (
  base,
  baseline_lightgbm,
  features,
  predict,
  targets,
)


class BaselineLightGBMStates(baseline_lightgbm.BaselineLightGBM):
  """LightGBM's models on states and forecasts of a model, and the context."""

  needs_params = True
  slow = 1

  def __init__(self, *args, **kw):
    """Settings are baseline_lightgbm.BaselineLightGBM's.

    Args:
      *args: As base.Evaluator.
      **kw: As baseline_lightgbm.BaselineLightGBM.

    Raises:
      ValueError: The model has no states that saw no labels.
    """
    super().__init__(*args, **kw)
    inputs = self.predictor.inputs
    self._points = isinstance(inputs, scoring.Scoring)
    if self._points and self.predictor.pretrained is None:
      raise ValueError(
        f"config.evals.{self.name} needs a pretrained model: set model.backbone, "
        "or use baseline_lightgbm"
      )
    if self._points and not self.predictor.frozen:
      raise ValueError(
        f"config.evals.{self.name}: a backbone that is tuned has seen the labels, "
        "and what it says of training points flatters it: set model.tune = "
        "'frozen'"
      )
    if not self._points and self.predictor.states is None:
      raise ValueError(
        f"config.evals.{self.name} is of recipes 'hybrid' and 'lumos'"
      )
    self._model_params: Any = None
    self._made: list[features.Table] = []

  def run(self, params=None) -> base.Metrics:
    """As of tabular.Tabular."""
    self._model_params, self._made = params, []
    self._made = self._tables()
    yield from super().run()

  def settings(self) -> list[Any]:
    """As of tabular.Tabular: what the model says, by a digest."""
    digest = hashlib.sha256()
    for table in self._made:
      digest.update(np.ascontiguousarray(table.x).tobytes())
    return [*super().settings(), digest.hexdigest()]

  def _tables(self) -> list[features.Table]:
    if self._made:
      return self._made
    if not self._points:
      return self._of_days()
    parts = ("train", "validation", self.split_name)
    out = []
    for table, part in zip(super()._tables(), parts, strict=True):
      batches = self.predictor.inputs.eval_batches(
        self.records, part, self.predictor.batch_size
      )
      found = self.predictor.pretrained(self._model_params, batches)
      out.append(_with(_taken(table, found.point), found))
    return out

  def _of_days(self) -> list[features.Table]:
    _, validation, test = super()._tables()
    out = []
    for table, batches in (
      (validation, self.validation_batches(self.predictor)),
      (test, self.batches(self.predictor)),
    ):
      found = self.predictor.states(self._model_params, batches)
      order = np.argsort(table.key, kind="stable")
      out.append(_with(_taken(table, order), found))
    return [out[0], *out]

  def _fit(self):
    found, validation, about = super()._fit()
    if self._points:
      return found, validation, about
    return found, self._out_of_fold(), about

  def _out_of_fold(self) -> predict.Predictions:
    """Forecasts of the validation origin's users by models without them."""
    table = self._made[0]
    fold = targets.folds(table.key, self._folds)
    p: dict[str, np.ndarray] = {}
    flat = lambda a: a.reshape(-1, a.shape[-1])
    for k in range(self._folds):
      rows = self._rows(_taken(table, np.flatnonzero(fold != k)))
      held = np.flatnonzero(fold == k)
      wanted = targets.of_tasks(
        self.tasks, flat(rows.table.y), flat(rows.table.mask)
      )
      found = self.forecasts(rows, wanted, [flat(table.x[held])])
      for name, (_, parts) in found.items():
        p.setdefault(name, np.zeros(len(table.key), np.float32))
        p[name][held] = np.mean(parts[0], 0)
    return predict.Predictions(
      table.key, table.y[:, 0], table.mask[:, 0], p
    ).sorted()


def _taken(table: features.Table, rows: np.ndarray) -> features.Table:
  return dataclasses.replace(
    table,
    x=table.x[rows],
    y=table.y[rows],
    mask=table.mask[rows],
    key=table.key[rows],
  )


def _with(table: features.Table, found: predict.Predictions) -> features.Table:
  """The table with what a model says behind its features."""
  if not np.array_equal(table.key, found.key):
    raise ValueError("a model and the features are of other points")
  more, names = [], []
  for name, value in found.p.items():
    value = value.reshape(len(table.key), -1)
    more.append(value)
    names += [f"model/{name}/{i}" for i in range(value.shape[1])]
  x = np.concatenate([table.x[:, 0], *more], 1).astype(np.float32)
  return dataclasses.replace(table, x=x[:, None], names=(*table.names, *names))
