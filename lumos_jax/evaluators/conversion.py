"""Whether a session's first clicks tell its outcome: vector against counts.

U sessions, E embedding width, V pages.
"""

from collections.abc import Mapping

import jax
import numpy as np

from lumos_jax.data import sessions
from lumos_jax.evaluators import base, bootstrap, metrics, predict, probe

_MODELS = ("logistic", "lightgbm")
_COUNTS, _EMBEDDING, _BOTH = "counts", "embedding", "both"
_DRAWS = 1000  # Of the paired bootstrap.


class Conversion(base.Evaluator):
  """Outcome of a session by simple models on its frozen vector.

  Models are fitted on the training split's sessions. Beside the embedding:
  counts (how often each page occurs, and how many clicks there were), both, and
  `tables` of one's own (labels of a taxonomy). Yields
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
    models: tuple[str, ...] = _MODELS,
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
      raise ValueError(f"{key}.models = {models}; use some of {_MODELS}")
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
    parts = [self._split(params, name) for name in ("train", self.split)]
    (x_train, y_train, _), (x_test, y_test, key) = parts
    if len(np.unique(y_train)) < 2 or len(np.unique(y_test)) < 2:
      raise ValueError(
        f"config.evals.{self.name}: all sessions of a split have one outcome"
      )
    yield "sessions", float(len(y_test))
    yield "training_sessions", float(len(y_train))
    yield "positive_share", float(np.mean(y_test))
    count = len(y_train)
    y = np.concatenate([y_train, y_test])
    scores: dict[tuple[str, str], np.ndarray] = {}
    for features in x_train:
      x = tuple(
        _stacked(a, b)
        for a, b in zip(x_train[features], x_test[features], strict=True)
      )
      for model in self._models:
        fitted = probe.fit(model, x, y, np.arange(count), self._seed)
        p = fitted(x, np.arange(count, len(y)))[:, 1]
        scores[features, model] = p
        for metric, value in quality(y_test, p).items():
          yield f"{features}/{model}/{metric}", value
    yield from self._against_counts(y_test, scores)
    self.save_arrays(
      key=key,
      outcome=y_test,
      **{"_".join(k): p for k, p in scores.items()},
    )

  def _split(self, params, split: str):
    """{features: tables [U, ...]}, outcome [U] and key [U] of a split."""
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
      _COUNTS: (counts[known],),
      _EMBEDDING: (vectors[known], length[known]),
      _BOTH: (vectors[known], counts[known]),
    }
    for name, path in self._tables.items():
      out[name] = (_table(path, found.key[known], f"{self.name}.{name}"),)
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


def _stacked(a, b):
  from scipy import sparse

  if sparse.issparse(a):
    return sparse.vstack([a, b], format="csr")
  return np.concatenate([a, b])


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
