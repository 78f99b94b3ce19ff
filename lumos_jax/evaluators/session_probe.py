"""What outcomes of sessions are asked: frozen vectors against counts.

U sessions, E embedding width, V pages, K outcomes.
"""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lumos_jax import progress
from lumos_jax.data import pages as pages_lib
from lumos_jax.data import sessions
from lumos_jax.evaluators import base, bootstrap, predict, softmax

_COUNTS, _EMBEDDING, _BOTH, _TEXT = "counts", "embedding", "both", "text"
DRAWS = 1000  # Of the paired bootstrap.
_MOST = 40_000  # Training sessions that fit a model; more are drawn from.


class SessionProbe(base.Evaluator):
  """Outcome of a session by simple models on its frozen vector.

  Models are fitted on the training split's sessions, at most 40,000, their
  strength chosen on the validation split's where that is another one. Beside the
  embedding: counts (how often each page occurs, how many clicks there were, sums
  of the clicks' numbers),
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
    # Of the parameters that were asked last, splits that peers may read too.
    self._held: tuple[Any, dict[str, _Read]] | None = None

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
    parts[0] = _drawn(*parts[0])
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
    """{features: blocks [U, W]}, outcome [U] and key [U] of a split."""
    found = self._read(params, split)
    y = found.outcome[:, self._label]
    known = ~np.isnan(y)
    # Means say what clicks are like; how many there were stands beside them.
    length = found.numbers[:, -1:]
    out = {
      _COUNTS: (found.pages, found.numbers),
      _EMBEDDING: (found.embedding, length),
      _BOTH: (found.embedding, found.pages, found.numbers),
    }
    pages = pages_lib.Pages.load(self.records.path)
    if pages is not None and pages.vector.shape[1]:
      # What the mean of the titles says.
      text = found.pages @ pages.vector.astype(np.float32)
      out[_TEXT] = (text / np.maximum(length, 1), length)
    out = {name: [x[known] for x in blocks] for name, blocks in out.items()}
    key = found.key[known]
    for name, path in self._tables.items():
      out[name] = [_table(path, key, f"{self.name}.{name}")]
    return out, y[known].astype(int), key

  def _read(self, params, split: str) -> "_Read":
    """All sessions of a split, read once for all evaluators of its clicks."""
    for peer in self.peers.values():
      held = getattr(peer, "_held", None)
      if held and held[0] is params and peer._clicks == self._clicks:
        if split in held[1]:
          return held[1][split]
    if self._held is None or self._held[0] is not params:
      self._held = params, {}
    from scipy import sparse

    rows: list[tuple] = []
    schema, clicks = self.records.schema, self._clicks
    column = sessions.target_column(schema, self.data_cfg)
    embedder, size = self.predictor.embedder, self.predictor.embedder.batch_size

    def noted():
      blocks = sessions.blocks(self.records.source(split), size)
      for some in sessions.groups(blocks, size, clicks):
        rows.extend(_row(r, column, len(schema.labels)) for r in some)
        yield some

    batches = sessions.batches_of(
      schema, self.data_cfg, noted(), size, short=True
    )
    # Of each split its own count: the stage's is of the one that is asked.
    total = self.records.stats["splits"][split]["users"]
    with progress.stage(f"evaluating {self.name}: reading {split}", total):
      found = embedder(params, batches)
    key = predict.hash_keys([r[0] for r in rows])
    rows = [rows[i] for i in np.argsort(key, kind="stable")]
    pages = [r[1] for r in rows]
    row = np.repeat(np.arange(len(rows)), [len(x) for x in pages])
    shape = len(rows), schema.categorical("activity")[column].size
    self._held[1][split] = _Read(
      found.key,
      found.p["embedding"],
      # Equal places are summed.
      sparse.csr_matrix(
        (np.ones(len(row), np.float32), (row, np.concatenate(pages))), shape
      ),
      np.stack([r[2] for r in rows]),
      np.stack([r[3] for r in rows]),
    )
    return self._held[1][split]


def _drawn(tables, y: np.ndarray, key: np.ndarray):
  """At most _MOST of the sessions: the first by hashed key, which are any."""
  tables = {n: [x[:_MOST] for x in blocks] for n, blocks in tables.items()}
  return tables, y[:_MOST], key[:_MOST]


class _Read(NamedTuple):
  """Sessions of a split, by key.

  Attributes:
    key: bytes [U].
    embedding: float32 [U, E].
    pages: sparse [U, V], how often each page occurs.
    numbers: float32 [U, N + 1], sums of the clicks' numbers; at the end, clicks.
    outcome: float32 [U, labels]; NaN where it is not known.
  """

  key: np.ndarray
  embedding: np.ndarray
  pages: Any
  numbers: np.ndarray
  outcome: np.ndarray


def _row(record, column: int, labels: int) -> tuple:
  """Key, pages, sums of numbers with the count, and outcomes of a session."""
  pages, outcome = record["categorical"][:, column], np.full(labels, np.nan)
  outcome[record["label_id"]] = record["label_value"]
  sums = np.nan_to_num(record["numeric"]).sum(0)
  numbers = np.append(sums, len(pages)).astype(np.float32)
  return record["key"], pages, numbers, outcome


def _logistic(tables, seed: int, outcomes: int) -> np.ndarray:
  """Probabilities [U, K] on the last table; strength chosen on the middle one.

  Args:
    tables: (blocks, y [U]) of training, perhaps validation, and test.
    seed: Not used.
    outcomes: K.
  """
  del seed
  return softmax.chosen(tables, outcomes)[0]


def _lightgbm(tables, seed: int, outcomes: int) -> np.ndarray:
  """As `_logistic`, of boosted trees that stop early on the middle table."""
  import lightgbm
  from scipy import sparse

  join = lambda blocks: sparse.hstack(
    [sparse.csr_matrix(x, dtype=np.float64) for x in blocks], format="csr"
  )
  (x, y), *middle, (x_test, _) = [(join(x), y) for x, y in tables]
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
  p = np.zeros((x_test.shape[0], outcomes))
  # Outcomes that training has not have 0.
  p[:, model.classes_.astype(int)] = model.predict_proba(x_test)
  return p


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
