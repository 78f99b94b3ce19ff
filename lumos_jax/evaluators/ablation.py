"""What the trained model loses when it is not shown a part of its input.

This is ablation at test time: the model was trained with everything and may
miss a part more than a model that never had it. For the other question, train
with config.model.ablate = ("no_future",) and compare the two runs' forecasts.
"""

from collections.abc import Sequence

from lumos_jax.data import ablation as ablation_lib
from lumos_jax.evaluators import base, bootstrap, metrics, predict

_COMPARED = ("auc", "wape")


class Ablation(base.Evaluator):
  """The forecast's metrics without future, past or context.

  Metrics are "no_future/task/auc" and so on; AUC and WAPE also as paired
  difference to the whole model's (ablated minus whole): "difference", "low" and
  "high" of a bootstrap under "no_future/task/auc/".
  """

  def __init__(
    self,
    *args,
    ablations: Sequence[str] = ablation_lib.NAMES,
    n_resamples: int = 1000,
    seed: int = 0,
    **kw,
  ):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      ablations: Names of data.ablation, where they are defined.
      n_resamples: Of the bootstrap; 0 for no differences.
      seed: Of the bootstrap.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    unknown = set(ablations) - set(ablation_lib.NAMES)
    if unknown:
      raise ValueError(
        f"config.evals.{self.name}.ablations: no {sorted(unknown)}; there are "
        f"{ablation_lib.NAMES}"
      )
    self._ablations = tuple(ablations)
    self._n, self._seed = n_resamples, seed
    columns = ablation_lib.Columns.of(self.records.calendar)

    def all_of_them(fn):
      # One pass over the data: the whole model and each ablation.
      def predict_fn(params, batch):
        out = {f"whole:{k}": v for k, v in fn(params, batch).items()}
        for a in self._ablations:
          cut = ablation_lib.apply(batch, a, columns)
          out |= {f"{a}:{k}": v for k, v in fn(params, cut).items()}
        return out

      return predict_fn

    self._all = self.predictor.derive(all_of_them)

  def run(self, params) -> base.Metrics:
    """Yields "ablation/task/metric" and differences."""
    found = self._all(params, self.batches(self._all))

    def part(name):
      return {
        k.partition(":")[2]: v
        for k, v in found.p.items()
        if k.partition(":")[0] == name
      }

    whole = part("whole")
    for a in self._ablations:
      p = part(a)
      self.save(predict.Predictions(found.key, found.y, found.mask, p), f".{a}")
      values = metrics.of_tasks(
        self.tasks, found.y, found.mask, p, self.mean_tasks
      )
      if self._n:
        changes = bootstrap.compare_tasks(
          self.tasks,
          found.y,
          found.mask,
          p,
          whole,
          self.mean_tasks,
          _COMPARED,
          self._n,
          self._seed,
        )
        values |= bootstrap.flat(changes)
      yield from ((f"{a}/{name}", v) for name, v in values.items())
