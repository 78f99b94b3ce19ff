"""What outcomes of sessions are asked: frozen vectors against counts.

U sessions, E embedding width, V pages, K outcomes.
"""

import abc
from collections.abc import Mapping

import jax
import numpy as np

from lumos_jax.data import pages as pages_lib
from lumos_jax.data import sessions
from lumos_jax.evaluators import base, bootstrap, predict

_COUNTS, _EMBEDDING, _BOTH, _TEXT = "counts", "embedding", "both", "text"
_STRENGTHS = (0.01, 0.1, 1.0)  # C of logistic regression.
DRAWS = 1000  # Of the paired bootstrap.
_LEAST = 1e-9  # Probability whose logarithm is taken.


class SessionProbe(base.Evaluator):
  """Outcome of a session by simple models on its frozen vector.

  Models are fitted on the training split's sessions, their strength chosen on the
  validation split's where that is another one. Beside the embedding: counts (how
  often each page occurs, how many clicks there were, sums of the clicks' numbers),
  both, text (the mean of the pages' text vectors, where there are such) and
  `tables` of one's own (labels of a taxonomy). Yields "FEATURES/MODEL/METRIC", and
  "FEATURES_vs_counts/MODEL/METRIC" with the bounds of a paired 95 % bootstrap
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
      raise ValueError(
        f"{key}.type reads sessions, as recipe 'intent' has them"
      )
    self._label, self._clicks = names.index(label), clicks
    values = self.records.schema.labels[self._label].values
    self._outcomes = len(values) if values else 2
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
    yield from self.about(y)
    scores: dict[tuple[str, str], np.ndarray] = {}
    for features in parts[0][0]:
      tables = [(x[features], outcome) for x, outcome, _ in parts]
      for model in self._models:
        p = _MODELS[model](tables, self._seed, self._outcomes)
        scores[features, model] = p
        for metric, value in self.quality(y, p).items():
          yield f"{features}/{model}/{metric}", value
    for (features, model), p in scores.items():
      if features != _COUNTS:
        name = f"{features}_vs_counts/{model}"
        found = self.against(y, p, scores[_COUNTS, model])
        found = {f"{name}/{k}": v for k, v in found.items()}
        yield from bootstrap.flat(found).items()
    self.save_arrays(
      key=key, outcome=y, **{"_".join(k): p for k, p in scores.items()}
    )

  @abc.abstractmethod
  def about(self, y: np.ndarray) -> base.Metrics:
    """What is to be told of the outcomes int [U] themselves."""

  @abc.abstractmethod
  def quality(self, y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Metrics of outcomes int [U] and probabilities [U, K]."""

  @abc.abstractmethod
  def against(
    self, y: np.ndarray, mine: np.ndarray, theirs: np.ndarray
  ) -> dict[str, bootstrap.Interval]:
    """Differences of two tables of probabilities [U, K], paired."""

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
      text = counts[:, : len(pages.vector)] @ pages.vector.astype(np.float32)
      out[_TEXT] = np.concatenate([text / np.maximum(length, 1), length], 1)
    out = {name: x[known] for name, x in out.items()}
    for name, path in self._tables.items():
      out[name] = _table(path, found.key[known], f"{self.name}.{name}")
    return out, y[known], found.key[known]

  def _counts(self, split: str, keys: np.ndarray):
    """Counts [U, W] (sparse), outcome [U], and whether it is known [U].

    The last columns are sums of numbers and, at the end, the clicks.
    """
    from scipy import sparse

    schema = self.records.schema
    column = sessions.target_column(schema, self.data_cfg)
    size = schema.categorical("activity")[column].size
    source = self.records.source(self.data_cfg[f"{split}_split"])
    place = {k: i for i, k in enumerate(keys.tolist())}
    y, known = np.zeros(len(keys)), np.zeros(len(keys), bool)
    more = schema.numeric_width("activity")
    pages = [np.zeros(0, np.int64)] * len(keys)
    numbers = np.zeros((len(keys), more + 1), np.float32)
    for i in range(len(source)):
      record = source[i]
      at = place.get(predict.hash_keys([record["key"]])[0])
      if at is None:
        continue
      mine = record["label_id"] == self._label
      if mine.any():
        y[at], known[at] = record["label_value"][mine][-1], True
      pages[at] = record["categorical"][: self._clicks or None, column]
      numeric = record["numeric"][: self._clicks or None]
      numbers[at] = np.append(np.nan_to_num(numeric).sum(0), len(pages[at]))
    row = np.repeat(np.arange(len(keys)), [len(x) for x in pages])
    ones = np.ones(len(row), np.float32)
    shape = len(keys), size
    # Equal places are summed.
    counts = sparse.csr_matrix((ones, (row, np.concatenate(pages))), shape)
    counts = sparse.hstack([counts, numbers], format="csr")
    return counts, y.astype(int), known


def _logistic(tables, seed: int, outcomes: int) -> np.ndarray:
  """Probabilities [U, K] on the last table; strength chosen on the middle one.

  Args:
    tables: (x [U, W] dense or sparse, y [U]) of training, perhaps validation, and
      test.
    seed: Not used.
    outcomes: K; those that training has not have 0.
  """
  from scipy import sparse
  from sklearn import linear_model, preprocessing

  del seed
  (x, y), *_, (x_test, _) = tables
  scaler = preprocessing.StandardScaler()
  if sparse.issparse(x):  # Counts keep their zeros.
    scaler = preprocessing.MaxAbsScaler()
  x = scaler.fit_transform(x)
  best, chosen = np.inf, None
  for strength in _STRENGTHS if len(tables) > 2 else (1.0,):
    model = linear_model.LogisticRegression(C=strength, max_iter=300).fit(x, y)
    loss = 0.0
    if len(tables) > 2:
      held, outcome = tables[1]
      p = _spread(model, scaler.transform(held), outcomes)
      p = np.maximum(p[np.arange(len(outcome)), outcome], _LEAST)
      loss = -np.mean(np.log(p))
    if loss < best:
      best, chosen = loss, model
  return _spread(chosen, scaler.transform(x_test), outcomes)


def _spread(model, x, outcomes: int) -> np.ndarray:
  """Probabilities of all outcomes [U, K]."""
  p = np.zeros((x.shape[0], outcomes))
  p[:, model.classes_.astype(int)] = model.predict_proba(x)
  return p


def _lightgbm(tables, seed: int, outcomes: int) -> np.ndarray:
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
  return _spread(model, x_test, outcomes)


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
