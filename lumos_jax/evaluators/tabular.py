"""What the task-specific baselines on hand-made features share.

Labels and users are the model's own (data/tasks.py), origins a grid of days among
the model's, features are features.py's. Rounds and regularisation are chosen by a
proper loss in folds of training users; the validation origin is only forecast, so
that baselines can be compared and stacked there. N = users x origins, rows; F
features.
"""

import abc
import dataclasses
import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from absl import logging

from lumos_jax.data import pipeline, scoring
from lumos_jax.evaluators import base, features, metrics, predict, targets

Forecast = Callable[[np.ndarray], np.ndarray]  # x [n, F] -> [n].
Fold = tuple[np.ndarray, np.ndarray]  # Rows that train, rows held out.
_VERSION = 4  # Of features and training; a change makes cached results stale.
_PRIMARY = {"binary": "auc", "regression": "wape"}


@dataclasses.dataclass(frozen=True)
class Rows:
  """Training rows of all tasks.

  Attributes:
    x: float32 [N, F].
    fold: int [N], that the user belongs to.
    turn: int [N]: label windows of the rows of one turn do not overlap, so that
      they hold nearly all there is to learn at a fraction of the cost. Members
      take turns.
    table: What they were made of: names, categorical.
  """

  x: np.ndarray
  fold: np.ndarray
  turn: np.ndarray
  table: features.Table

  @property
  def turns(self) -> int:
    """How many there are."""
    return int(self.turn.max()) + 1

  def of_turn(self, target: targets.Target, i: int) -> np.ndarray:
    """Rows with a label that member i trains on; all where one turn has none."""
    rows = np.flatnonzero(target.known & (self.turn == i % self.turns))
    return rows if varied(target, rows) else np.flatnonzero(target.known)


def varied(target: targets.Target, rows: np.ndarray) -> bool:
  """Whether a target takes more than one value on the rows."""
  y = target.y[rows]
  return len(y) > 0 and y.min() < y.max()


def best_round(
  losses: Iterator[float], most: int, patience: int
) -> tuple[int, float]:
  """The round with the least loss, and that loss.

  Args:
    losses: Loss after each round; is asked for one more only when needed.
    most: Rounds at most.
    patience: Rounds without a better one that end it.
  """
  best, least = 1, np.inf
  for i, loss in enumerate(losses, 1):
    if loss < least:
      best, least = i, loss
    if i >= most or i - best >= patience:
      break
  return best, float(least)


class Tabular(base.Evaluator):
  """A model a task (or one of all) on features.py, same split and labels.

  Forecasts are the mean over `members`, which differ in their seed and in the
  origins they see. Results are kept in workdir/baselines under a hash of data
  and settings, so that a resumed run does not train them again.
  predictions/<name>.json says what was chosen, with its loss in the folds, and
  the metric of each member; predictions/<name>.validation.npz are forecasts of
  the validation origin. Metrics are the forecast evaluator's, and
  "spread/<task>/<metric>": the standard deviation over members.
  """

  needs_params = False
  baseline = True
  fits = True
  package: ClassVar[str] = ""  # That does the work, of the `baselines` extra.
  whole: ClassVar[bool] = False  # A member sees all rows, and not one turn's.

  def __init__(
    self,
    *args,
    without_future: bool = False,
    n_origins: int = 28,
    origin_stride_days: int = 7,
    max_train_users: int = 50_000,
    members: int = 1,
    folds: int = 3,
    params: dict[str, Any] | None = None,
    n_threads: int = 2,
    seed: int = 0,
    **kw,
  ):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      without_future: Hide of the calendar what data.ablation's no_future hides.
      n_origins: Training origins, back from data.train_origin_last.
      origin_stride_days: Days between them.
      max_train_users: More users than this are sampled for training.
      members: Whose forecasts are averaged; default as many as the model has.
      folds: Of training users, for what is chosen.
      params: Parameters of the library that replace the class's own.
      n_threads: Of the library; sums depend on their number.
      seed: Of members, folds and sample; default the run's.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    self._future = not without_future
    cfg, last = self.data_cfg, self.data_cfg.train_origin_last
    origins = [last - origin_stride_days * i for i in range(n_origins)]
    self._origins = sorted(o for o in origins if o >= cfg.train_origin_first)
    if members < 1 or folds < 2:
      raise ValueError(
        f"config.evals.{self.name}: members = {members} must be positive and "
        f"folds = {folds} at least 2"
      )
    horizon = pipeline.horizon_days(self.tasks)
    self._turns = max(1, -(-horizon // origin_stride_days))
    self._max_users, self._seed = max_train_users, seed
    self._members, self._folds = members, folds
    self._own, self._threads = dict(params or {}), n_threads
    self.validation: predict.Predictions | None = None

  @abc.abstractmethod
  def forecasts(
    self,
    rows: Rows,
    wanted: Sequence[targets.Target],
    asked: Sequence[np.ndarray],
  ) -> dict[str, tuple[dict[str, Any], list[np.ndarray]]]:
    """What was chosen for each target, and each member's forecasts.

    Args:
      rows: Of training.
      wanted: Targets.
      asked: Features [n, F] to forecast.

    Returns:
      {target's name: (chosen, [members, n] for each of `asked`)}.
    """

  def settings(self) -> list[Any]:
    """What a cached result depends on, beside what all have."""
    return []

  def run(self, params=None) -> base.Metrics:
    """Yields the metrics of the forecast evaluator, and spreads."""
    del params
    version = self._import()
    path = self._cache(version)
    # Not with_suffix, which would cut a name that has a dot.
    files = [path.parent / f"{path.name}{end}" for end in _ENDS]
    if all(f.exists() for f in files):
      found, validation = map(predict.Predictions.load, files[:2])
      text = files[2].read_text()
    else:
      found, validation, about = self._fit()
      text = json.dumps(about, indent=1)
      for table, file in zip((found, validation), files):
        table.save(file, [t.name for t in self.tasks])
      predict.write_atomic(files[2], text.encode())
    self.predictions, self.validation = found, validation
    self.save(found)
    self.save(validation, ".validation")
    self.save_text(text)
    yield from self.score(found).items()
    for task in self.tasks:
      last = _PRIMARY[task.kind]
      each = json.loads(text)[task.name]["members"]
      if len(each) > 1 and None not in each:
        yield f"spread/{task.name}/{last}", float(np.std(each, ddof=1))

  def _import(self) -> str:
    """Version of the package that does the work."""
    try:
      return importlib.import_module(self.package).__version__
    except ImportError as e:
      raise ValueError(
        f"config.evals.{self.name} needs {self.package}: pip install "
        '"lumos-jax[baselines]", or remove it from config.evals'
      ) from e

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
      [self._future, self._max_users, self._turns],
      [self._members, self._folds, self._seed, self._threads, self._own],
      self.settings(),
      self._of_points(),
    ]
    text = json.dumps(settings, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return self.workdir / "baselines" / f"{self.name}-{digest}"

  @property
  def _inputs(self) -> Any:
    """What makes the batches of the model beside it; None without one."""
    return self.predictor.inputs if self.predictor else None

  def _of_points(self) -> list[str]:
    """What scored points depend on beside the rest."""
    scores = "unit" in self.data_cfg
    return [f"{k}={self.data_cfg[k]}" for k in scoring.KEYS] if scores else []

  def _calendar_digest(self) -> str:
    calendar = self.records.calendar
    digest = hashlib.sha256(repr(calendar.group_names).encode())
    for k in ("group", "start", "end", "announced", "categorical", "numeric"):
      digest.update(getattr(calendar, k).tobytes())
    return digest.hexdigest()

  def _tables(self) -> list[features.Table]:
    """Features for training, validation and test; one pass a set of users."""
    cfg = self.data_cfg
    inputs = self._inputs
    if isinstance(inputs, scoring.Scoring):
      return [
        features.of_points(inputs.context, inputs.points(self.records, part))
        for part in ("train", "validation", self.split_name)
      ]
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
        tuple(sorted(origins)),
        future=self._future,
        max_users=most,
        seed=self._seed if most else 0,
      )
      for (split, most), origins in passes.items()
    }
    return [made[u].at(o) for u, (_, o, _) in zip(users, wanted)]

  def _rows(self, train: features.Table) -> Rows:
    users, origins, width = train.x.shape
    turns = min(self._turns, origins)
    turn = np.arange(origins)[::-1] % turns  # The last origin has turn 0.
    fold = targets.folds(train.key, self._folds)
    return Rows(
      train.x.reshape(-1, width),
      np.repeat(fold, origins),
      np.tile(turn, users),
      train,
    )

  def _fit(self):
    """Predictions of test and validation, and what was chosen."""
    if not self._origins and self._inputs in (None, pipeline):
      raise ValueError(
        "data.train_origin_last lies before data.train_origin_first: "
        f"config.evals.{self.name} has no origin to train on"
      )
    train, validation, test = self._tables()
    flat = lambda a: a.reshape(-1, a.shape[-1])
    rows = self._rows(train)
    try:
      wanted = targets.of_tasks(self.tasks, flat(train.y), flat(train.mask))
    except ValueError as e:
      raise ValueError(f"config.evals.{self.name}: {e}") from e
    asked = [flat(t.x) for t in (test, validation)]
    found = self.forecasts(rows, wanted, asked)
    about: dict[str, Any] = {}
    for t in wanted:
      chosen, parts = found[t.name]
      logging.info("%s: %s: %s", self.name, t.name, _shown(chosen))
      task = about.setdefault(t.task.name, {})
      task[t.goal] = chosen
      if t.goal != "mean":
        m = self.tasks.index(t.task)
        y, mask = test.y[:, 0, m], test.mask[:, 0, m]
        each = [
          metrics.metric(_PRIMARY[t.task.kind], y, p, mask) for p in parts[0]
        ]
        task["members"] = [None if np.isnan(v) else v for v in each]

    def predictions(table, i):
      p = {
        name: np.mean(parts[i], 0).astype(np.float32)
        for name, (_, parts) in found.items()
      }
      return predict.Predictions(
        table.key, table.y[:, 0], table.mask[:, 0], p
      ).sorted()

    return predictions(test, 0), predictions(validation, 1), about

  def folds(self, rows: Rows, target: targets.Target) -> list[Fold]:
    """Rows of each fold, a turn each; folds without two classes are left out."""
    out = []
    for k in range(self._folds):
      mine = rows.of_turn(target, k)
      held = rows.fold[mine] == k
      train, out_of_it = mine[~held], mine[held]
      if varied(target, train) and len(out_of_it):
        out.append((train, out_of_it))
    return out


_ENDS = (".npz", ".validation.npz", ".json")


def _shown(chosen: dict[str, Any]) -> str:
  """Numbers and words of what was chosen, without lists."""
  return ", ".join(
    f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}"
    for k, v in chosen.items()
    if not isinstance(v, list)
  )
