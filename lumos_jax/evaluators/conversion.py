"""Whether a session's first clicks tell its outcome: vector against counts.

U sessions, E embedding width, V pages.
"""

from collections.abc import Mapping

import jax
import numpy as np

from lumos_jax.data import pages as pages_lib
from lumos_jax.data import sessions
from lumos_jax.evaluators import base, bootstrap, metrics, predict

_COUNTS, _EMBEDDING, _BOTH, _TEXT = "counts", "embedding", "both", "text"
_STRENGTHS = (0.01, 0.1, 1.0)  # C of logistic regression.
_DRAWS = 1000  # Of the paired bootstrap.


class Conversion(base.Evaluator):
  """Outcome of a session by simple models on its frozen vector.

  Models are fitted on the training split's sessions. Beside the embedding:
  counts (how often each page occurs, and how many clicks there were), both, text
  (the mean of the pages' text vectors, where there are such) and `tables` of one's
  own (labels of a taxonomy). Yields
  "FEATURES/MODEL/auc", ".../log_loss", ".../micro_f1" (of two classes, one a
  session: the accuracy) and ".../macro_f1" at probability 1/2, and
  "FEATURES_vs_counts/MODEL/auc" with the bounds of a paired 95 % bootstrap
  interval over the sessions of the split.
  """

  slow = True
  without = ("origin", "seen", "mean_tasks")

  def __init__(
    self,
    *args,
    label: str = "",
    clicks: int = 0,
    models: tuple[str, ...] = ("logistic",),
    tables: Mapping[str, str] | None = None,
    seed: int = 0,
    **kw,
  ):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      label: Outcome of the session, a label of the schema.
      clicks: First clicks that are known, of sessions that have more: what was
        decided by then is no question. 0 for whole sessions.
      models: Among "logistic" and "lightgbm".
      tables: {name: Parquet file} of further features: column key, and numbers or
        one list of numbers. They must be made of the same first clicks.
      seed: Of LightGBM.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    key = f"config.evals.{self.name}"
    names = [x.name for x in self.records.schema.labels]
    if label not in names:
      raise ValueError(f"{key}.label = {label!r}; the data have {names}")
    if set(models) - set(_MODELS) or not models:
      raise ValueError(f"{key}.models = {models}; use some of {list(_MODELS)}")
    if clicks < 0:
      raise ValueError(f"{key}.clicks = {clicks} must be 0 or more")
    if self.predictor is not None and self.predictor.inputs is not sessions:
      raise ValueError(f"{key}.type = 'conversion' is of recipe 'intent'")
    self._label, self._clicks = names.index(label), clicks
    self._models, self._seed = tuple(models), seed
    self._tables = dict(tables or {})

  def run(self, params) -> base.Metrics:
    """Yields metrics; needs the `baselines` extra."""
    if jax.process_count() > 1:
      raise ValueError(f"config.evals.{self.name}: it runs on one process")
    if self.data_cfg.train_split == self.split_name:
      raise ValueError(
        f"config.evals.{self.name}: data.{self.split}_split is the training "
        "split, and outcomes are asked of sessions that fitted nothing"
      )
    chooses = self.data_cfg.validation_split not in (
      self.data_cfg.train_split,
      self.split_name,
    )
    splits = ("train", *(("validation",) if chooses else ()), self.split)
    parts = [self._split(params, name) for name in splits]
    for _, y, _ in parts:
      if len(np.unique(y)) < 2:
        raise ValueError(
          f"config.evals.{self.name}: all sessions of a split have one outcome"
        )
    (_, y_train, _), (_, y, key) = parts[0], parts[-1]
    yield "sessions", float(len(y))
    yield "training_sessions", float(len(y_train))
    yield "positive_share", float(np.mean(y))
    scores: dict[tuple[str, str], np.ndarray] = {}
    for features in parts[0][0]:
      tables = [(x[features], outcome) for x, outcome, _ in parts]
      for model in self._models:
        p = _MODELS[model](tables, self._seed)
        scores[features, model] = p
        for metric, value in quality(y, p).items():
          yield f"{features}/{model}/{metric}", value
    yield from self._against_counts(y, scores)
    self.save_arrays(
      key=key, outcome=y, **{"_".join(k): p for k, p in scores.items()}
    )

  def _split(self, params, split: str):
    """{features: table [U, W]}, outcome [U] and key [U] of a split."""
    from scipy import sparse

    embedder = self.predictor.embedder
    batches = sessions.embed_batches(
      self.records, self.data_cfg, split, embedder.batch_size, self._clicks
    )
    found = embedder(params, batches)
    counts, y, known = self._counts(split, found.key)
    vectors = found.p["embedding"].astype(np.float64)
    # Means say what clicks are like; how many there were stands beside them.
    length = np.asarray(counts[:, -1].todense())
    out = {
      _COUNTS: counts,
      _EMBEDDING: np.concatenate([vectors, length], 1),
      _BOTH: sparse.hstack([sparse.csr_matrix(vectors), counts], format="csr"),
    }
    pages = pages_lib.Pages.load(self.records.path)
    if pages is not None and pages.vector.shape[1]:
      # What the titles alone say, in the mean.
      text = counts[:, :-1] @ pages.vector.astype(np.float32)
      out[_TEXT] = np.concatenate([text / np.maximum(length, 1), length], 1)
    out = {name: x[known] for name, x in out.items()}
    for name, path in self._tables.items():
      out[name] = _table(path, found.key[known], f"{self.name}.{name}")
    return out, y[known], found.key[known]

  def _counts(self, split: str, keys: np.ndarray):
    """Counts [U, V + 1] (sparse), outcome [U], and whether it is known [U]."""
    from scipy import sparse

    schema = self.records.schema
    column = sessions.target_column(schema, self.data_cfg)
    size = schema.categorical("activity")[column].size
    source = self.records.source(self.data_cfg[f"{split}_split"])
    place = {k: i for i, k in enumerate(keys.tolist())}
    y, known = np.zeros(len(keys)), np.zeros(len(keys), bool)
    counts = sparse.lil_matrix((len(keys), size + 1), dtype=np.float32)
    for i in range(len(source)):
      record = source[i]
      at = place.get(predict.hash_keys([record["key"]])[0])
      if at is None:
        continue
      mine = record["label_id"] == self._label
      if mine.any():
        y[at], known[at] = record["label_value"][mine][-1], True
      ids = record["categorical"][: self._clicks or None, column]
      for value, times in zip(*np.unique(ids, return_counts=True)):
        counts[at, int(value)] = times
      counts[at, size] = len(ids)
    return counts.tocsr(), y.astype(int), known

  def _against_counts(self, y, scores) -> base.Metrics:
    """Paired intervals over the sessions, see the class."""
    known = np.ones(len(y), bool)
    auc = lambda p: metrics.statistic("auc", y * 1.0, p, known)
    for (features, model), mine in scores.items():
      if features == _COUNTS:
        continue
      a, b = auc(mine), auc(scores[_COUNTS, model])
      one = np.ones((1, len(y)))
      drawn = [a(w) - b(w) for w in bootstrap.draws(len(y), _DRAWS, 0)]
      found = bootstrap.interval((a(one) - b(one))[0], np.concatenate(drawn))
      name = f"{features}_vs_counts/{model}/auc"
      yield from bootstrap.flat({name: found}).items()


def quality(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
  """AUC, log loss, micro and macro F1 at 1/2 of labels and probabilities [U]."""
  from sklearn import metrics as sk_metrics

  at = (p >= 0.5).astype(int)
  return {
    "auc": float(sk_metrics.roc_auc_score(y, p)),
    "log_loss": float(sk_metrics.log_loss(y, p, labels=[0, 1])),
    "micro_f1": float(sk_metrics.f1_score(y, at, average="micro")),
    "macro_f1": float(sk_metrics.f1_score(y, at, average="macro")),
  }


def _logistic(tables, seed: int) -> np.ndarray:
  """Probabilities [U] on the last table; strength chosen on the middle one.

  Args:
    tables: (x [U, W] dense or sparse, y [U]) of training, perhaps validation, and
      test.
    seed: Not used.
  """
  from scipy import sparse
  from sklearn import linear_model, preprocessing

  del seed
  (x, y), *_, (x_test, _) = tables
  # Sparse counts keep their zeros.
  scaler = preprocessing.StandardScaler(with_mean=not sparse.issparse(x))
  if sparse.issparse(x):
    scaler = preprocessing.MaxAbsScaler()
  x = scaler.fit_transform(x)
  best, chosen = np.inf, None
  for strength in _STRENGTHS if len(tables) > 2 else (1.0,):
    model = linear_model.LogisticRegression(C=strength, max_iter=300).fit(x, y)
    loss = 0.0
    if len(tables) > 2:
      held, outcome = tables[1]
      p = np.clip(model.predict_proba(scaler.transform(held))[:, 1], 1e-9, 1)
      loss = -np.mean(np.log(np.where(outcome, p, np.clip(1 - p, 1e-9, 1))))
    if loss < best:
      best, chosen = loss, model
  return chosen.predict_proba(scaler.transform(x_test))[:, 1]


def _lightgbm(tables, seed: int) -> np.ndarray:
  """As `_logistic`, of boosted trees that stop early on the middle table."""
  import lightgbm

  (x, y), *middle, (x_test, _) = tables
  model = lightgbm.LGBMClassifier(
    n_estimators=300,
    learning_rate=0.05,
    num_leaves=31,
    min_child_samples=20,
    verbosity=-1,
    random_state=seed,
  )
  stop = [lightgbm.early_stopping(20, verbose=False)] if middle else None
  model.fit(x, y, eval_set=middle or None, callbacks=stop)
  return model.predict_proba(x_test)[:, 1]


_MODELS = {"logistic": _logistic, "lightgbm": _lightgbm}


def _table(path: str, keys: np.ndarray, name: str) -> np.ndarray:
  """Rows of a Parquet file [U, W], in the order of hashed keys."""
  import polars as pl

  frame = pl.read_parquet(path)
  if "key" not in frame.columns:
    raise ValueError(f"config.evals.{name}: {path} has no column 'key'")
  columns = [c for c in frame.columns if c != "key"]
  parts = []
  for c in columns:
    x = frame[c]
    if isinstance(x.dtype, pl.List | pl.Array):
      parts.append(np.asarray(x.to_list(), np.float64))
    elif x.dtype.is_numeric():
      parts.append(x.cast(pl.Float64).to_numpy()[:, None])
  if not parts:
    raise ValueError(f"config.evals.{name}: {path} has no numbers")
  place = {
    k: i
    for i, k in enumerate(predict.hash_keys(frame["key"].to_list()).tolist())
  }
  lost = sum(k not in place for k in keys.tolist())
  if lost:
    raise ValueError(
      f"config.evals.{name}: {path} lacks {lost:,} of {len(keys):,} sessions"
    )
  return np.concatenate(parts, 1)[[place[k] for k in keys.tolist()]]
