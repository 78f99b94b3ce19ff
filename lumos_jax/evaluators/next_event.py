"""How well a model ranks the next event among all values of its field.

U users with a next event, K values of a list, V vocabulary.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lumos_jax.data import schema as schema_lib
from lumos_jax.data import sequences
from lumos_jax.evaluators import base, bootstrap, lists, metrics, predict
from lumos_jax.evaluators import next_event_examples as examples_lib

KS = (1, 5, 10)
_DEFAULT_TOP = 10  # Values that a recipe's predict function returns by itself.
_TARGET, _HISTORY = 0, 1  # Label columns of sequences.eval_batches.


@dataclasses.dataclass(frozen=True)
class Ranking:
  """What one ranking says of U users.

  Attributes:
    rank: [U] from 1, of the true value: the number of competing values whose
      score is at least as high. Equal scores count against.
    top: int [U, K], ids of the first K values, 0 where fewer compete.
    probability: float [U, K], theirs; None where a ranking has none.
  """

  rank: np.ndarray
  top: np.ndarray
  probability: np.ndarray | None = None


def per_user(rank: np.ndarray, ks: Sequence[int] = KS) -> dict[str, np.ndarray]:
  """What each user adds to the mean of each metric, float [U].

  One value is relevant, so HitRate@k is Recall@k, and NDCG@k is
  1 / log2(1 + rank) up to rank k, else 0 (NDCG@1 is HitRate@1).
  """
  rank = np.asarray(rank, np.float64)
  out = {f"hit_rate@{k}": (rank <= k) * 1.0 for k in ks}
  gain = 1.0 / np.log2(1.0 + rank)
  out |= {f"ndcg@{k}": np.where(rank <= k, gain, 0.0) for k in ks if k > 1}
  return out | {"mrr": 1.0 / rank}


def of_ranks(
  rank: np.ndarray, ks: Sequence[int] = KS
) -> Iterator[tuple[str, float]]:
  """HitRate@k, NDCG@k and MRR of ranks [U] from 1."""
  if len(rank):
    for name, each in per_user(rank, ks).items():
      yield name, float(np.mean(each))


def of_groups(
  rank: np.ndarray,
  history: np.ndarray,
  edges: Sequence[int],
  ks: Sequence[int] = KS,
) -> Iterator[tuple[str, float]]:
  """Metrics of groups of users by the length of their history.

  Args:
    rank: [U].
    history: int [U], events before the target.
    edges: Ascending; groups are 0 (cold start), 1..edges[0], ...
    ks: Cutoffs.
  """
  bounds = [-1, 0, *edges, np.inf]
  for low, high in zip(bounds, bounds[1:]):
    mine = (history > low) & (history <= high)
    if not mine.any():
      continue
    if high == 0:
      name = "history_0"
    elif np.isinf(high):
      name = f"history_over_{low}"
    else:
      name = f"history_{low + 1}_to_{high}"
    yield f"{name}/users", float(mine.sum())
    yield from ((f"{name}/{k}", v) for k, v in of_ranks(rank[mine], ks))


class NextEvent(base.Evaluator):
  """HitRate@k, NDCG@k and MRR over the full vocabulary, and what lists hold.

  Also coverage@k and novelty@k of the lists, the calibration of the first
  value's probability, and how often each part of a composite token is right.
  predictions/<name>.npz has each user's rank, list and probabilities,
  predictions/<name>.json some users with readable events.
  """

  # Whose next event it is, and when, data.holdout says.
  without = ("origin", "seen", "mean_tasks")

  def __init__(
    self,
    *args,
    ks: Sequence[int] = KS,
    history_groups: Sequence[int] = (5, 20),
    examples: int = 10,
    **kw,
  ):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      ks: Cutoffs k of HitRate@k, NDCG@k, coverage@k and novelty@k.
      history_groups: Lengths of history where groups of users end.
      examples: Users that predictions/<name>.json shows; 0 for none.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    good = all(isinstance(k, int) and k > 0 for k in ks)
    if not ks or not good or len(set(ks)) < len(ks):
      raise ValueError(
        f"config.evals.{self.name}.ks = {tuple(ks)}: give different whole "
        "numbers from 1"
      )
    self.ks, self.top = tuple(sorted(ks)), max(ks)
    self._edges, self._examples = tuple(history_groups), examples
    column = sequences.target_column(self.records.schema, self.data_cfg)
    self.field = self.records.schema.categorical("activity")[column]
    sequences.some_example(self.records, self.data_cfg, self.split_name)

  def batches(self, predictor: predict.Predictor, calendar=None):
    """Batches of the users that have a target."""
    del calendar
    return sequences.eval_batches(
      self.records, self.data_cfg, self.split_name, predictor.batch_size
    )

  @functools.cached_property
  def _ranker(self) -> predict.Predictor:
    if self.top == _DEFAULT_TOP:
      return self.predictor  # Compiled once for all evaluators.
    return self.predictor.derive(lambda f: functools.partial(f, k=self.top))

  def rank(self, params) -> Mapping[str, Ranking]:
    """{name: Ranking} of each ranking; sets `predictions`."""
    ranker = self._ranker
    self.predictions = found = ranker(params, self.batches(ranker))
    users = len(found.key)
    top = found.p["value"].reshape(users, -1).astype(np.int32)
    p = found.p["probability"].reshape(users, -1)
    return {"": Ranking(found.p["rank"], top, p)}

  def run(self, params) -> base.Metrics:
    """Yields metrics, of all users and of groups by length of history."""
    found = self.rank(params)
    for name, ranking in found.items():
      prefix = f"{name}/" if name else ""
      for metric, value in self._metrics(ranking):
        yield f"{prefix}{metric}", value
    self._save(found)

  def _metrics(self, ranking: Ranking) -> Iterator[tuple[str, float]]:
    target = self.predictions.y[:, _TARGET].astype(np.int64)
    history = self.predictions.y[:, _HISTORY]
    yield from of_ranks(ranking.rank, self.ks)
    counts = lists.training_counts(self.records, self.data_cfg)
    yield from lists.of_lists(ranking.top, counts, self.ks)
    if ranking.probability is not None:
      p = ranking.probability[:, 0]
      right = (ranking.top[:, 0] == target) * 1.0
      error = metrics.metric("calibration_error", right, p)
      yield "top_1/calibration_error", error
      yield "top_1/mean_probability", float(np.mean(p))
      yield "top_1/accuracy", float(np.mean(right))
    yield "users", float(len(target))
    if isinstance(self.field, schema_lib.Composite):
      yield from lists.of_parts(self.field, target, ranking.top[:, 0])
    yield from of_groups(ranking.rank, history, self._edges, self.ks)

  def _save(self, found: Mapping[str, Ranking]) -> None:
    """Writes predictions/<name>.npz and .json; see docs/evaluators.md."""
    p = self.predictions
    arrays = {f"rank_{k}" if k else "rank": r.rank for k, r in found.items()}
    if "" in found:
      arrays["top"] = found[""].top
      arrays["probability"] = found[""].probability
    self.save_arrays(
      key=p.key,
      history=p.y[:, _HISTORY],
      next=p.y[:, _TARGET].astype(np.int32),
      **arrays,
    )
    if "" in found and self._examples:
      some = examples_lib.choose(
        self.records, self.data_cfg, self.split_name, self._examples
      )
      doc = examples_lib.readable(
        some, p.key, found[""], self.records.schema, self.data_cfg.target
      )
      self.save_text(json.dumps(doc, indent=1))

  def compare(self, other: base.Evaluator) -> Mapping[str, bootstrap.Interval]:
    """{"floor/metric": difference} to each floor of a baseline_next_event."""
    same = (self.split_name, self.split) == (other.split_name, other.split)
    if not self.needs_params or other.needs_params or not same:
      return {}
    self.check_same_users(other)
    mine = per_user(self.predictions.p["rank"], self.ks)
    differences = {}
    for floor, rank in other.predictions.p.items():
      theirs = per_user(rank, other.ks)
      differences |= {
        f"{floor}/{m}": mine[m] - theirs[m] for m in mine if m in theirs
      }
    x = np.stack(list(differences.values()), 1)
    return bootstrap.means(x, list(differences))
