"""LightGBM: an ensemble of gradient boosting a task (Ke et al., NeurIPS 2017)."""

import os
from typing import Any

import numpy as np

from lumos_jax.evaluators import boosted, tabular, targets

_PARAMS = dict(
  learning_rate=0.03,
  num_leaves=31,
  min_data_in_leaf=100,
  feature_fraction=0.5,
  bagging_fraction=0.7,
  bagging_freq=1,
  lambda_l2=5.0,
  max_bin=63,  # Half the time of 255, and no worse on validation.
)
# Loss of a target -> objective and metric.
_OBJECTIVES = {
  "log_loss": ("binary", "binary_logloss"),
  "absolute": ("regression_l1", "l1"),
  "tweedie": ("tweedie", "tweedie"),
  "squared": ("regression", "l2"),
}
_FEWEST_LEAVES = 20  # That min_data_in_leaf leaves room for.


class BaselineLightGBM(boosted.Boosted):
  """LightGBM's models; predictions/<name>.json has the strongest features."""

  package = "lightgbm"

  def _import(self) -> str:
    # Threads that spin while they wait cost a shared machine three times the
    # time. Read when OpenMP is loaded, which is with LightGBM.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return super()._import()

  def _common(self) -> dict[str, Any]:
    """Parameters of bins and trees that no target changes."""
    return {
      **_PARAMS,
      **self._own,
      "num_threads": self._threads,
      "deterministic": True,
      "force_row_wise": True,
      "feature_pre_filter": False,  # Fewer rows need less in a leaf.
      "verbose": -1,
    }

  def _params(self, target: targets.Target, rows: int, seed: int):
    objective, metric = _OBJECTIVES[target.loss]
    params = self._common() | dict(
      objective=objective,
      metric=metric,
      tweedie_variance_power=targets.TWEEDIE_POWER,
      seed=seed,
    )
    least = min(params["min_data_in_leaf"], rows // _FEWEST_LEAVES)
    params["min_data_in_leaf"] = max(1, least)
    return params

  def prepare(self, rows: tabular.Rows):
    """A data set whose bins all targets and folds share."""
    import lightgbm

    data = lightgbm.Dataset(
      rows.x,
      categorical_feature=list(rows.table.categorical),
      params=self._common(),
      free_raw_data=False,
    )
    return data.construct(), rows.table.names

  def choose(self, state, target, folds) -> dict[str, Any]:
    """Rounds by the folds' mean loss, all folds a round at a time."""
    import lightgbm

    data, _ = state
    boosters = []
    for train, held in folds:
      params = self._params(target, len(train), self._seed)
      booster = lightgbm.Booster(params, _part(data, target, train))
      booster.add_valid(_part(data, target, held), "held_out")
      boosters.append((booster, len(held)))

    def losses():
      weights = [n for _, n in boosters]
      while True:
        found = []
        for booster, _ in boosters:
          booster.update()
          found.append(booster.eval_valid()[0][2])
        yield float(np.average(found, weights=weights))

    rounds, loss = tabular.best_round(losses(), self._rounds, self._patience)
    return {"rounds": rounds, "loss": loss, "strongest_features": []}

  def member(self, state, target, chosen, rows, seed) -> tabular.Forecast:
    """One booster; the first one's strongest features are told."""
    import lightgbm

    data, names = state
    params = self._params(target, len(rows), seed)
    booster = lightgbm.train(
      params, _part(data, target, rows), chosen["rounds"]
    )
    if not chosen["strongest_features"]:
      chosen["strongest_features"] = _strongest(booster, names)
    threads = self._threads  # The model is kept, and not the evaluator.
    return lambda x: booster.predict(x, num_threads=threads)


def _part(data, target: targets.Target, rows: np.ndarray):
  """The rows of a data set, with the target as label."""
  data.set_label(target.y)
  return data.subset(np.sort(rows))


def _strongest(booster, names, count=10):
  """The features with the largest gain: [[name, share of all gain]]."""
  gain = booster.feature_importance("gain")
  top = np.argsort(-gain, kind="stable")[:count]
  total = max(gain.sum(), 1e-12)
  return [[names[i], round(float(gain[i] / total), 4)] for i in top]
