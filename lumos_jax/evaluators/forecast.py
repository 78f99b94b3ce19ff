"""The model's forecasts scored on all users of a split."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from lumos_jax.evaluators import base, bootstrap
from lumos_jax.evaluators import segments as segments_lib


class Forecast(base.Evaluator):
  """Per task: AUC, average precision, ... or WAPE, bias, RMSE, coverage, ...

  With `segments` also AUC or WAPE of groups of users, see segments.of_tasks.
  Leaves predictions/<name>.npz with each user's label and forecast.
  """

  def __init__(
    self,
    *args,
    segments: Sequence[str] = (),
    min_positives: int = 20,
    **kw,
  ):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      segments: Profile fields, or "history", by which users are grouped.
      min_positives: A segment with fewer positives has no metrics.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    self._segments = tuple(segments)
    self._least = min_positives
    self.params_id = 0  # Of the parameters that `predictions` are of.
    key = f"config.evals.{self.name}.segments"
    segments_lib.check(self._segments, self.records.schema, key)

  @functools.cached_property
  def _of_users(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return segments_lib.of_users(
      self._segments, self.records, self.split, self.origin
    )

  def run(self, params) -> base.Metrics:
    """Yields "task/metric", "mean_auc" and "mean_wape", then segments.

    Before them "users", those with a label, and "users_left_out": those who are
    not at risk on this day, or whose label windows are not observed.
    """
    found = self.predictor(params, self.batches(self.predictor))
    self.predictions, self.params_id = found, id(params)
    self.save(found)
    scored = int(found.mask.any(1).sum())
    left_out = len(found.mask) - scored
    if left_out:
      logging.info(
        "%s: %d of %d users have no label on day %d: they have not entered, have "
        "left, or are not observed for so long",
        self.name,
        left_out,
        len(found.mask),
        self.origin,
      )
    yield "users", float(scored)
    yield "users_left_out", float(left_out)
    yield from self.score(found).items()
    if self._segments:
      key, groups = self._of_users
      at = np.searchsorted(key, found.key)
      groups = {n: g[at] for n, g in groups.items()}
      yield from segments_lib.of_tasks(
        groups, self.tasks, found.y, found.mask, found.p, self._least
      )

  def compare(self, other: base.Evaluator) -> Mapping[str, bootstrap.Interval]:
    """{"task/metric": difference} to a baseline of the same users and day."""
    same = (self.split, self.origin) == (other.split, other.origin)
    if not other.baseline or not same:
      return {}
    self.check_same_users(other)
    a, b = self.predictions, other.predictions
    return bootstrap.compare_tasks(
      self.tasks, a.y, a.mask, a.p, b.p, self.mean_tasks, key=a.key
    )
