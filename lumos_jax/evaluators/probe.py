"""What frozen user embeddings know: a label by simple models, in folds.

U users, D width of the embedding, V values of the target field.
"""

import jax
import numpy as np

from lumos_jax.data import sequences, tasks
from lumos_jax.evaluators import base, bootstrap, metrics, predict

_MODELS = ("logistic", "lightgbm")
_PUBLISHED = "lightgbm_llm4es"
_DRAWS = 1000  # Of the paired bootstrap.
_LIGHTGBM = dict(
  n_estimators=300,
  learning_rate=0.03,
  num_leaves=31,
  min_child_samples=20,
  subsample=0.8,
  subsample_freq=1,
  colsample_bytree=0.3,
  verbosity=-1,
)
# What LLM4ES (arXiv 2508.05688) says of its own: trees, rate, depth.
_LLM4ES = _LIGHTGBM | dict(
  n_estimators=500, learning_rate=0.02, max_depth=7, num_leaves=127
)


class Probe(base.Evaluator):
  """Embedding -> logistic regression and LightGBM, stratified folds.

  Beside the embedding: aggregates (how often each value of the target field
  occurs) and both together. Yields "FEATURES/MODEL/auc" (two classes) or
  ".../accuracy", means over the folds, and the same with "_deviation" between
  them, and "FEATURES_vs_aggregates/MODEL/auc" with its difference and the bounds
  of a paired 95 % bootstrap interval (`difference`).

  A label whose rows have days is an outcome: users without a row did not have it.
  Of other labels they are not known, and left out.
  """

  slow = True
  without = ("origin", "seen", "mean_tasks")

  def __init__(
    self,
    *args,
    label: str = "",
    folds: int = 5,
    models: tuple[str, ...] = _MODELS,
    seed: int = 0,
    **kw,
  ):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      label: A label of the schema that holds for the user as a whole, or an
        outcome that a user has or has not.
      folds: Of the users of the split.
      models: Among "logistic", "lightgbm", and "lightgbm_llm4es", of more and
        smaller steps as in LLM4ES.
      seed: Of the folds and of LightGBM.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    schema, key = self.records.schema, f"config.evals.{self.name}"
    names = [x.name for x in schema.labels]
    if label not in names:
      raise ValueError(f"{key}.label = {label!r}; the data have {names}")
    known = (*_MODELS, _PUBLISHED)
    if set(models) - set(known) or not models:
      raise ValueError(f"{key}.models = {models}; use some of {known}")
    if self.predictor is not None and self.predictor.embedder is None:
      raise ValueError(f"{key}: this recipe has no user embeddings")
    self._column = sequences.target_column(schema, self.data_cfg)
    self._label, self._folds, self._seed = names.index(label), folds, seed
    self._models = tuple(models)
    # An embedding that was given the answer would know it.
    self._told = label in [f.name for f in schema.profile]

  def run(self, params) -> base.Metrics:
    """Yields metrics; needs the `baselines` extra."""
    if jax.process_count() > 1:
      raise ValueError(f"config.evals.{self.name}: a probe runs on one process")
    embedder = self.predictor.embedder
    batches = self.predictor.inputs.embed_batches(
      self.records, self.data_cfg, self.split_name, embedder.batch_size
    )
    keys, embedding = _of_users(embedder(params, batches))
    counts, y, known = self._users(keys)
    yield "users", float(known.sum())
    yield "label_in_profile", float(self._told and embedder.sees_profile)
    tables = {
      "aggregates": counts[known],
      "embedding": embedding[known],
      "both": (counts[known], embedding[known]),
    }
    scores: dict[tuple[str, str], np.ndarray] = {}
    for features, x in tables.items():
      for model in self._models:
        yield from self._scores(features, model, x, y[known], scores)
    yield from self._against_aggregates(y[known], scores)

  def _users(self, keys: np.ndarray):
    """Counts [U, V] (sparse), label [U] and whether it is known [U]."""
    from scipy import sparse

    schema = self.records.schema
    column = self._column
    size = schema.categorical("activity")[column].size
    source = self.records.source(self.data_cfg[f"{self.split_name}_split"])
    place = {k: i for i, k in enumerate(keys.tolist())}
    y, known = np.zeros(len(keys)), np.zeros(len(keys), bool)
    rows, ids, dated = [], [], False
    for i in range(len(source)):
      record = source[i]
      at = place[predict.hash_keys([record["key"]])[0]]
      mine = record["label_id"] == self._label
      if mine.any():
        y[at], known[at] = record["label_value"][mine][0], True
        dated |= bool((record["label_time"][mine] != tasks.NO_TIME).any())
      ids.append(record["categorical"][:, column])
      rows.append(np.full(len(ids[-1]), at))
    rows, ids = np.concatenate(rows), np.concatenate(ids)
    counts = sparse.csr_matrix(
      (np.ones(len(ids), np.float32), (rows, ids)), (len(keys), size)
    )
    known |= dated
    if len(np.unique(y[known])) < 2:
      raise ValueError(
        f"config.evals.{self.name}.label: all {known.sum():,} users of split "
        f"{self.split_name!r} that have it have the same value: nothing to learn"
      )
    # Classes from 0, whatever the values are.
    y[known] = np.unique(y[known], return_inverse=True)[1]
    return counts, y.astype(int), known

  def _splits(self, y):
    return splits(y, self._folds, self._seed)

  def _scores(self, features: str, model: str, x, y, scores) -> base.Metrics:
    """Metrics of one model on one table; its out-of-fold scores go to `scores`."""

    metric, found, out = out_of_fold(model, x, y, self._splits(y), self._seed)
    scores[features, model] = out
    yield f"{features}/{model}/{metric}", float(np.mean(found))
    yield f"{features}/{model}/{metric}_deviation", float(np.std(found))

  def _against_aggregates(self, y, scores) -> base.Metrics:
    """Paired intervals of the mean over folds, see the class."""
    tests = [test for _, test in self._splits(y)] if scores else []
    metric = _metric(y)
    for (features, model), mine in scores.items():
      if features == "aggregates":
        continue
      theirs = scores["aggregates", model]
      found = difference(metric, y, tests, mine, theirs)
      name = f"{features}_vs_aggregates/{model}/{metric}"
      yield from bootstrap.flat({name: found}).items()


def splits(y: np.ndarray, folds: int, seed: int = 0):
  """Rows of training and of test, fold by fold, each class in all of them."""
  from sklearn import model_selection

  found = model_selection.StratifiedKFold(
    folds, shuffle=True, random_state=seed
  )
  return found.split(np.zeros(len(y)), y)


def _metric(y: np.ndarray) -> str:
  return "auc" if len(np.unique(y)) == 2 else "accuracy"


def out_of_fold(model: str, x, y: np.ndarray, folds, seed: int):
  """What a model says of users that it was not fitted on.

  Args:
    model, x, y, seed: As in `fit`.
    folds: Pairs of rows of training and of test.

  Returns:
    "auc" (two classes) or "accuracy"; its value in each fold; and of each user
    [U] the score of class 1, or whether the class was right.
  """
  metric, found = _metric(y), []
  out = np.zeros(len(y), float if metric == "auc" else bool)
  for train, test in folds:
    p = fit(model, x, y, train, seed)(x, test)
    out[test] = p[:, 1] if metric == "auc" else p.argmax(1) == y[test]
    found.append(_statistic(metric, y[test], out[test])(_once(test))[0])
  return metric, np.asarray(found), out


def difference(
  metric: str, y: np.ndarray, tests, p: np.ndarray, q: np.ndarray
) -> bootstrap.Interval:
  """Mean difference p - q over folds, with a paired 95 % bootstrap interval.

  Users are drawn within the folds, whose classifiers stay as they are: the interval
  speaks of other users to ask, not of others to learn from.

  Args:
    metric, p, q: Of `out_of_fold`.
    y: int [U], classes.
    tests: Rows of test of each fold.
  """
  values, draws = [], []
  for seed, t in enumerate(tests):
    a, b = (_statistic(metric, y[t], x[t]) for x in (p, q))
    values.append((a(_once(t)) - b(_once(t)))[0])
    drawn = [a(w) - b(w) for w in bootstrap.draws(len(t), _DRAWS, seed)]
    draws.append(np.concatenate(drawn))
  return bootstrap.interval(np.mean(values), np.mean(draws, 0))


def _statistic(metric: str, y, p) -> metrics.Statistic:
  if metric == "auc":
    return metrics.statistic("auc", y * 1.0, p, np.ones(len(y), bool))
  return lambda w: w @ p / w.sum(1)


def _once(rows) -> np.ndarray:
  """Weights of each user once: [1, U]."""
  return np.ones((1, len(rows)))


def _of_users(found: predict.Predictions) -> tuple[np.ndarray, np.ndarray]:
  """Keys [U], ascending, and vectors [U, D], of rows or of whole users."""
  keys, at = np.unique(found.key, return_inverse=True)
  if "embedding" in found.p:
    return keys, found.p["embedding"][np.argsort(at)].astype(np.float64)
  total = np.zeros((len(keys), found.p["sums"].shape[1]))
  tokens = np.zeros((len(keys), 1))
  np.add.at(total, at, found.p["sums"])
  np.add.at(tokens[:, 0], at, found.p["tokens"])
  return keys, pooled(total, tokens)


def pooled(total: np.ndarray, tokens: np.ndarray) -> np.ndarray:
  """A user's embedding from sums over its events.

  Means say what the events are like. Evidence of a user's traits grows with
  the number of events, slower than in proportion as events are alike: so means
  times its root stand beside them.

  Args:
    total: [U, W].
    tokens: [U, 1], events.

  Returns:
    [U, 2 W + 1]: means, means times root, log of the number.
  """
  tokens = np.maximum(tokens, 1.0)
  mean = total / tokens
  return np.concatenate([mean, mean * np.sqrt(tokens), np.log(tokens)], 1)


def fit(model: str, x, y, train, seed):
  """Fits a classifier.

  Args:
    model: One of a probe's `models`.
    x: [U, W], or a tuple of such tables, dense or sparse.
    y: int [U], classes from 0.
    train: Rows to fit on.
    seed: Of LightGBM.

  Returns:
    (x, rows) -> probabilities [rows, classes].
  """
  x = x if isinstance(x, tuple) else (x,)
  if model in ("lightgbm", _PUBLISHED):
    import lightgbm

    settings = _LIGHTGBM if model == "lightgbm" else _LLM4ES

    join = lambda x, rows: _join([part[rows] for part in x])
    fitted = lightgbm.LGBMClassifier(**settings, random_state=seed)
    fitted.fit(join(x, train), y[train])
  else:
    from sklearn import linear_model, model_selection

    scales = [_scale(part[train]) for part in x]

    def join(x, rows):
      return _join([part[rows] @ s for part, s in zip(x, scales, strict=True)])

    # The strength is chosen within the training rows.
    fitted = model_selection.GridSearchCV(
      linear_model.LogisticRegression(max_iter=500),
      {"C": np.logspace(-4, 1, 8)},
      cv=3,
      scoring="neg_log_loss",
    )
    fitted.fit(join(x, train), y[train])

  def predict_rows(x, rows):
    found = fitted.predict_proba(
      join(x if isinstance(x, tuple) else (x,), rows)
    )
    # A class that no row of training has is one all the same.
    out = np.zeros((len(found), y.max() + 1))
    out[:, fitted.classes_] = found
    return out

  return predict_rows


def _scale(x):
  """A diagonal matrix that gives a table's columns equal weight.

  Dense columns get deviation 1; sparse counts are divided by one number, so that
  rare values do not become loud.
  """
  from scipy import sparse

  if sparse.issparse(x):
    share = float(np.sqrt(x.multiply(x).sum() / x.shape[0]))
    return sparse.identity(x.shape[1], format="csr") / max(share, 1e-9)
  deviation = np.maximum(x.std(0), 1e-6)
  return np.diag(1.0 / (deviation * np.sqrt(x.shape[1])))


def _join(parts):
  from scipy import sparse

  if len(parts) == 1:
    return parts[0]
  return sparse.hstack([sparse.csr_matrix(p) for p in parts], format="csr")
