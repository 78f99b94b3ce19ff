"""CatBoost: boosting of oblivious trees (Prokhorenkova et al., NeurIPS 2018)."""

from typing import Any

import numpy as np

from lumos_jax.evaluators import boosted, tabular, targets

_PARAMS = dict(
  learning_rate=0.06,
  depth=6,
  l2_leaf_reg=5.0,
  rsm=0.3,
  bootstrap_type="Bernoulli",
  subsample=0.7,
  border_count=63,
)
_LOSSES = {
  "log_loss": "Logloss",
  "absolute": "MAE",
  "tweedie": f"Tweedie:variance_power={targets.TWEEDIE_POWER}",
  "squared": "RMSE",
}


def _scale(target: targets.Target) -> float:
  """Divisor of labels: trees with a log link begin at exp(0) = 1."""
  if target.loss != "tweedie":
    return 1.0
  return max(float(target.y[target.known].mean()), 1e-12)


class BaselineCatBoost(boosted.Boosted):
  """CatBoost's models; ids are its categorical features."""

  package = "catboost"

  def __init__(self, *args, rounds: int = 500, patience: int = 30, **kw):
    """As boosted.Boosted, with fewer and larger steps."""
    super().__init__(*args, rounds=rounds, patience=patience, **kw)

  def _model(self, target: targets.Target, rounds: int, seed: int, **kw):
    import catboost

    params = {**_PARAMS, **self._own, **kw}
    return catboost.CatBoost(
      dict(
        params,
        loss_function=_LOSSES[target.loss],
        iterations=rounds,
        random_seed=seed,
        boost_from_average=target.loss != "tweedie",
        thread_count=self._threads,
        allow_writing_files=False,
        logging_level="Silent",
      )
    )

  def prepare(self, rows: tabular.Rows):
    """The rows, and which of the columns are ids."""
    return rows.x, list(rows.table.categorical)

  def choose(self, state, target, folds) -> dict[str, Any]:
    """Rounds by the folds' mean loss, as far as all folds came."""
    x, ids = state
    y = target.y / _scale(target)
    curves, weights = [], []
    for train, held in folds:
      model = self._model(
        target, self._rounds, self._seed, od_type="Iter", od_wait=self._patience
      )
      model.fit(
        _pool(x[train], ids, y[train]),
        eval_set=_pool(x[held], ids, y[held]),
        use_best_model=False,
      )
      (curve,) = model.get_evals_result()["validation"].values()
      curves.append(curve)
      weights.append(len(held))
    shortest = min(map(len, curves))
    mean = np.average([c[:shortest] for c in curves], 0, weights)
    rounds, loss = tabular.best_round(iter(mean), self._rounds, shortest)
    return {"rounds": rounds, "loss": loss}

  def member(self, state, target, chosen, rows, seed) -> tabular.Forecast:
    """One model."""
    x, ids = state
    scale, loss, threads = _scale(target), target.loss, self._threads
    model = self._model(target, chosen["rounds"], seed)
    model.fit(_pool(x[rows], ids, target.y[rows] / scale))

    def forecast(x):
      raw = model.predict(_pool(x, ids), thread_count=threads)
      if loss == "log_loss":
        return 1.0 / (1.0 + np.exp(-raw))
      return np.exp(raw) * scale if loss == "tweedie" else raw

    return forecast


def _pool(x: np.ndarray, ids: list[int], y: np.ndarray | None = None):
  """Rows as CatBoost takes them: numbers and ids apart."""
  import catboost

  numbers = np.delete(x, ids, axis=1)
  texts = x[:, ids].astype(int).astype(str).astype("S").astype(object)
  data = catboost.FeaturesData(
    num_feature_data=np.ascontiguousarray(numbers, np.float32),
    cat_feature_data=texts if ids else None,
  )
  return catboost.Pool(data, y)
