"""What all evaluators share."""

import abc
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from etils import epath

from lumos_jax import positives
from lumos_jax.data import origins, pipeline, scoring
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import bootstrap, metrics, predict

Metrics = Iterator[tuple[str, float]]
_SPLITS = ("validation", "test")


class Evaluator(abc.ABC):
  """Yields metrics of parameters, or of the data alone.

  Attributes:
    needs_params: False where the result does not depend on the model; such an
      evaluator runs on process 0 only.
    baseline: Whether a model's forecasts are compared with it.
    fits: Whether it fits a model of its own: its `seed` and `members` are then
      the run's, unless config.evals has others.
    slow: Runs behind those with a lower one, which then have their results.
    without: Settings of this class that a kind of evaluator has no use for.
    predictions: Of the last run, where there is one to compare with others.
    peers: Evaluators of the same config by name, this one among them.
  """

  needs_params: ClassVar[bool] = True
  baseline: ClassVar[bool] = False
  fits: ClassVar[bool] = False
  slow: ClassVar[int] = 0
  without: ClassVar[tuple[str, ...]] = ()

  def __init__(
    self,
    predictor: predict.Predictor | None,
    records: Any,
    tasks: Sequence[tasks_lib.Task],
    data_cfg: Any,
    name: str,
    workdir: epath.PathLike,
    *,
    split: str = "test",
    origin: int | None = None,
    seen: bool = False,
    mean_tasks: Sequence[str] | None = None,
  ):
    """Keyword arguments are the settings of config.evals.<name>.

    Args:
      predictor: Runs the model.
      records: An open data set.
      tasks: Declared tasks.
      data_cfg: config.data.
      name: Of the evaluator in config.evals.
      workdir: Results that are more than metrics go to workdir/predictions.
      split: "validation" or "test": users and day of data.<split>_split and
        data.<split>_origin.
      origin: Another day of forecast.
      seen: Allows an origin whose outcomes training or a choice by validation
        has seen: what is measured then is the fit, not a forecast.
      mean_tasks: Tasks that mean_auc and mean_wape go over; default all.
    """
    if split not in _SPLITS:
      raise ValueError(
        f"config.evals.{name}.split = {split!r}; use one of {_SPLITS}"
      )
    unknown = set(mean_tasks or ()) - {t.name for t in tasks}
    if unknown:
      raise ValueError(
        f"config.evals.{name}.mean_tasks: no task {sorted(unknown)}; there are "
        f"{[t.name for t in tasks]}"
      )
    self.predictor, self.records = predictor, records
    self.tasks, self.data_cfg = tuple(tasks), data_cfg
    self.name, self.workdir = name, epath.Path(workdir)
    self.split_name = split
    self.split = data_cfg[f"{split}_split"]
    self.origin = data_cfg[f"{split}_origin"] if origin is None else origin
    if origin is not None and not seen:
      key = f"config.evals.{name}.origin"
      try:
        origins.check_origin(data_cfg, tasks, split, origin, key)
      except ValueError as e:
        raise ValueError(
          f"{e}. To measure the fit, set config.evals.{name}.seen = True"
        ) from e
    self.mean_tasks = mean_tasks
    self.predictions: predict.Predictions | None = None
    self.peers: Mapping[str, Evaluator] = {name: self}

  @abc.abstractmethod
  def run(self, params: predict.Params) -> Metrics:
    """Yields (metric, value); files are written by process 0."""

  def compare(self, other: "Evaluator") -> Mapping[str, bootstrap.Interval]:
    """Paired differences to a baseline that ran beside it; {} where none fits."""
    del other
    return {}

  def check_same_users(self, other: "Evaluator") -> None:
    """Raises ValueError unless both have scored the same users and labels."""
    a, b = self.predictions, other.predictions
    if not np.array_equal(a.key, b.key) or not np.array_equal(a.mask, b.mask):
      raise ValueError(
        f"{self.name} and {other.name} have not scored the same users"
      )

  def score(self, found: predict.Predictions) -> dict[str, float]:
    """Metrics of all tasks, and how many positives they stand on."""
    values = metrics.of_tasks(
      self.tasks, found.y, found.mask, found.p, self.mean_tasks
    )
    return values | positives.counts(self.tasks, found.y, found.mask)

  def batches(self, predictor: predict.Predictor, calendar=None, origin=None):
    """Batches of this evaluator's users at an origin, by default its own.

    Of a recipe that scores points, the points of this evaluator's part.
    """
    if isinstance(predictor.inputs, scoring.Scoring):
      return predictor.inputs.eval_batches(
        self.records, self.split_name, predictor.batch_size
      )
    return pipeline.eval_batches(
      self.records,
      self.data_cfg,
      self.tasks,
      self.split,
      self.origin if origin is None else origin,
      predictor.batch_size,
      calendar,
    )

  def validation_batches(self, predictor: predict.Predictor):
    """Batches of the validation split's users at its origin."""
    if isinstance(predictor.inputs, scoring.Scoring):
      return predictor.inputs.eval_batches(
        self.records, "validation", predictor.batch_size
      )
    cfg = self.data_cfg
    return pipeline.eval_batches(
      self.records,
      cfg,
      self.tasks,
      cfg.validation_split,
      cfg.validation_origin,
      predictor.batch_size,
    )

  def save(self, predictions: predict.Predictions, suffix: str = "") -> None:
    """Writes predictions/<name><suffix>.npz."""
    if jax.process_index() == 0:
      path = self.workdir / "predictions" / f"{self.name}{suffix}.npz"
      predictions.save(path, [t.name for t in self.tasks])

  def save_arrays(self, **arrays: np.ndarray) -> None:
    """Writes predictions/<name>.npz of named arrays."""
    if jax.process_index() == 0:
      buffer = io.BytesIO()
      np.savez_compressed(buffer, **arrays)
      path = self.workdir / "predictions" / f"{self.name}.npz"
      predict.write_atomic(path, buffer.getvalue())

  def save_text(self, text: str) -> None:
    """Writes predictions/<name>.json."""
    if jax.process_index() == 0:
      path = self.workdir / "predictions" / f"{self.name}.json"
      predict.write_atomic(path, text.encode())
