"""One LightGBM model a task on hand-made features: what LUMOS has to beat.

Labels, users and origins are the model's own (data/tasks.py); what is chosen
(rounds, objective) is chosen on the validation origin.
"""

import hashlib
import json
import os
from typing import Any

import numpy as np
from absl import logging

from lumos_jax.evaluators import base, features, metrics, predict

_VERSION = 2  # Of features and training; a change makes cached results stale.
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
_BINARY = ("binary",)
_REGRESSION = ("regression_l1", "regression", "tweedie")


class BaselineLightGBM(base.Evaluator):
  """Task-specific gradient boosting on features.py, same split and labels.

  Results are kept in workdir/baselines under a hash of data and settings, so
  that a resumed run does not train them again. predictions/<name>.json says
  which objective and how many rounds were chosen, and the strongest features.
  """

  needs_params = False

  def __init__(
    self,
    *args,
    without_future: bool = False,
    n_origins: int = 28,
    origin_stride_days: int = 7,
    max_train_users: int = 50_000,
    rounds: int = 800,
    patience: int = 50,
    params: dict[str, Any] | None = None,
    n_threads: int = 2,
    seed: int = 0,
    **kw,
  ):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      without_future: Leave out what the calendar holds after the origin.
      n_origins: Training origins, back from data.train_origin_last.
      origin_stride_days: Days between them.
      max_train_users: More users than this are sampled for training.
      rounds: At most so many trees.
      patience: Rounds without a better validation metric that end training.
      params: LightGBM parameters that replace the defaults above.
      n_threads: Of LightGBM; its sums depend on their number.
      seed: Of LightGBM and of the sample.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    self._future = not without_future
    cfg, last = self.data_cfg, self.data_cfg.train_origin_last
    origins = [last - origin_stride_days * i for i in range(n_origins)]
    self._origins = sorted(o for o in origins if o >= cfg.train_origin_first)
    self._max_users, self._seed = max_train_users, seed
    self._rounds, self._patience = rounds, patience
    self._params = {
      **_PARAMS,
      **(params or {}),
      "num_threads": n_threads,
      "seed": seed,
      "deterministic": True,
      "force_row_wise": True,
      "verbose": -1,
    }

  def _cache(self, version: str):
    settings = [
      _VERSION,
      version,
      self.records.schema.hash,
      (self.records.stats or {}).get("shards"),
      self._calendar_digest(),
      [t.__dict__ for t in self.tasks],
      self._origins,
      [self.data_cfg[f"{s}_split"] for s in ("train", "validation")],
      [self.data_cfg.validation_origin, self.split, self.origin],
      [self._future, self._max_users, self._rounds, self._patience],
      self._params,
    ]
    text = json.dumps(settings, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return self.workdir / "baselines" / f"{self.name}-{digest}"

  def _calendar_digest(self) -> str:
    calendar = self.records.calendar
    digest = hashlib.sha256(repr(calendar.group_names).encode())
    for k in ("group", "start", "end", "announced", "categorical", "numeric"):
      digest.update(getattr(calendar, k).tobytes())
    return digest.hexdigest()

  def run(self, params=None) -> base.Metrics:
    """Yields the metrics of the forecast evaluator."""
    del params
    # Threads that spin while they wait cost a shared machine three times the
    # time. Read when OpenMP is loaded, which is with LightGBM.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
      import lightgbm
    except ImportError as e:
      raise ValueError(
        f"config.evals.{self.name} needs LightGBM: pip install "
        '"lumos-jax[baselines]", or remove it from config.evals'
      ) from e
    path = self._cache(lightgbm.__version__)
    # Not with_suffix, which would cut a name that has a dot.
    table = path.parent / f"{path.name}.npz"
    about = path.parent / f"{path.name}.json"
    if table.exists() and about.exists():
      found, text = predict.Predictions.load(table), about.read_text()
    else:
      found, chosen = self._fit(lightgbm)
      text = json.dumps(chosen, indent=1)
      found.save(table, [t.name for t in self.tasks])
      predict.write_atomic(about, text.encode())
    self.predictions = found
    self.save(found)
    self.save_text(text)
    yield from metrics.of_tasks(
      self.tasks, found.y, found.mask, found.p, self.mean_tasks
    ).items()

  def _tables(self) -> list[features.Table]:
    """Features for training, validation and test; one pass a set of users."""
    cfg = self.data_cfg
    wanted = [
      (cfg.train_split, self._origins, self._max_users),
      (cfg.validation_split, [cfg.validation_origin], 0),
      (self.split, [self.origin], 0),
    ]
    passes: dict[tuple[str, int], set[int]] = {}
    users = []
    for split, origins, most in wanted:
      few = len(self.records.source(split)) <= most
      users.append((split, 0 if few else most))
      passes.setdefault(users[-1], set()).update(origins)
    made = {
      (split, most): features.make(
        self.records,
        self.tasks,
        split,
        sorted(origins),
        future=self._future,
        max_users=most,
        seed=self._seed,
      )
      for (split, most), origins in passes.items()
    }
    return [made[u].at(o) for u, (_, o, _) in zip(users, wanted)]

  def _fit(self, lgb):
    if not self._origins:
      raise ValueError(
        "data.train_origin_last lies before data.train_origin_first: "
        f"config.evals.{self.name} has no origin to train on"
      )
    train, validation, test = self._tables()
    rows = lambda t: t.x.reshape(-1, t.x.shape[-1])
    # Bins are made once, for all tasks; labels are set before each.
    params = dict(self._params)
    count = train.x.shape[0] * train.x.shape[1]
    params["min_data_in_leaf"] = max(
      1, min(params["min_data_in_leaf"], count // 20)
    )
    ids = list(train.categorical)
    dataset = lambda t, reference=None: lgb.Dataset(
      rows(t), reference=reference, categorical_feature=ids, params=params
    ).construct()
    data = dataset(train)
    watched = dataset(validation, data)
    p, chosen = {}, {}
    for m, task in enumerate(self.tasks):
      best = None
      part = lambda t, m=m: (
        t.y.reshape(-1, t.y.shape[-1])[:, m].astype(np.float64),
        t.mask.reshape(-1, t.mask.shape[-1])[:, m],
      )
      for objective in _BINARY if task.kind == "binary" else _REGRESSION:
        y, mask = part(train)
        if not mask.any() or objective == "tweedie" and y[mask].min() < 0:
          continue
        fitted = _train(
          lgb,
          {**params, "objective": objective},
          (data, y, mask),
          (watched, *part(validation)),
          (self._rounds, self._patience),
        )
        least = 0.0 if y[mask].min() >= 0 else -np.inf
        forecast = lambda t, f=fitted, least=least: np.maximum(
          f.predict(rows(t)), least
        )
        last = "auc" if task.kind == "binary" else "wape"
        vy, vmask = part(validation)
        score = metrics.metric(last, vy, forecast(validation), vmask)
        worse = -score if last == "auc" else score
        if best is None or worse < best[0]:
          about = {
            "objective": objective,
            "rounds": fitted.current_iteration(),
            f"validation_{last}": None if np.isnan(score) else score,
            "strongest_features": _strongest(fitted, train.names),
          }
          best = worse, forecast(test).astype(np.float32), about
      if best is None:
        raise ValueError(
          f"config.evals.{self.name}: task {task.name!r} has no label on the "
          "training origins"
        )
      p[task.name], chosen[task.name] = best[1], best[2]
      logging.info(
        "%s: %s: %s, %d rounds",
        self.name,
        task.name,
        chosen[task.name]["objective"],
        chosen[task.name]["rounds"],
      )
    found = predict.Predictions(test.key, test.y[:, 0], test.mask[:, 0], p)
    return found.sorted(), chosen


def _train(lgb, params, data, watched, limits):
  """A model with the rounds that were best on validation."""
  rounds, patience = limits
  for dataset, y, mask in (data, watched):
    dataset.set_label(y)
    dataset.set_weight(None if mask.all() else mask.astype(np.float64))
  _, y, mask = watched
  binary = params["objective"] == "binary"
  params = {**params, "metric": "auc" if binary else "l1"}
  known = y[mask]
  if not len(known) or binary and known.min() == known.max():
    logging.warning("nothing to stop at: validation has one class or no label")
    return lgb.train(params, data[0], rounds)
  stop = lgb.early_stopping(patience, verbose=False)
  best = lgb.train(
    params, data[0], rounds, valid_sets=[watched[0]], callbacks=[stop]
  )
  # Only the trees of the best round are kept and reported.
  return lgb.Booster(
    model_str=best.model_to_string(num_iteration=best.best_iteration)
  )


def _strongest(booster, names, count=10):
  """The features with the largest gain: [[name, share of all gain]]."""
  gain = booster.feature_importance("gain")
  top = np.argsort(-gain, kind="stable")[:count]
  total = max(gain.sum(), 1e-12)
  return [[names[i], round(float(gain[i] / total), 4)] for i in top]
