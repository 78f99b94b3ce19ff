"""The model's forecasts scored on all users of a split."""

from lumos_jax.evaluators import base, metrics


class Forecast(base.Evaluator):
  """Per task: AUC, average precision, ... or MAE, MAPE on non-zero, WAPE.

  Leaves predictions/<name>.npz with each user's label and forecast.
  """

  def run(self, params) -> base.Metrics:
    """Yields "task/metric", "mean_auc" and "mean_wape"."""
    found = self.predictor(params, self.batches(self.predictor))
    self.predictions = found
    self.save(found)
    yield from metrics.of_tasks(
      self.tasks, found.y, found.mask, found.p, self.mean_tasks
    ).items()
