"""How high the next event stands among all values of its field."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lumos_jax.data import sequences
from lumos_jax.evaluators import base, predict

_CUTOFFS = (1, 5, 10, 50)
_HISTORY = 1  # Label column of sequences.eval_batches.


def of_ranks(rank: np.ndarray) -> Iterator[tuple[str, float]]:
  """Metrics of ranks [U] from 1; one relevant value, so HitRate = Recall.

  NDCG@10 = 1 / log2(1 + rank) up to rank 10, else 0.
  """
  if not len(rank):
    return
  for k in _CUTOFFS:
    yield f"hit_rate@{k}", float(np.mean(rank <= k))
  gain = np.where(rank <= 10, 1.0 / np.log2(1.0 + rank), 0.0)
  yield "ndcg@10", float(np.mean(gain))
  yield "mrr", float(np.mean(1.0 / rank))


def of_groups(
  rank: np.ndarray, history: np.ndarray, edges: Sequence[int]
) -> Iterator[tuple[str, float]]:
  """Metrics of all users, then of groups by the length of their history.

  Args:
    rank: [U].
    history: int [U], events before the target.
    edges: Ascending; groups are 0 (cold start), 1..edges[0], ...
  """
  yield from of_ranks(rank)
  yield "users", float(len(rank))
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
    yield from ((f"{name}/{k}", v) for k, v in of_ranks(rank[mine]))


class NextEvent(base.Evaluator):
  """HitRate@k, NDCG@10 and MRR over the full vocabulary.

  Leaves predictions/<name>.npz with each user's rank.
  """

  # Whose next event it is, and when, data.holdout says.
  without = ("origin", "mean_tasks")

  def __init__(self, *args, history_groups: Sequence[int] = (5, 20), **kw):
    """Settings beside base.Evaluator's.

    Args:
      *args: As base.Evaluator.
      history_groups: Lengths of history where groups of users end.
      **kw: As base.Evaluator.
    """
    super().__init__(*args, **kw)
    self._edges = tuple(history_groups)
    sequences.some_example(self.records, self.data_cfg, self.split_name)

  def batches(self, predictor: predict.Predictor, calendar=None):
    """Batches of the users that have a target."""
    del calendar
    return sequences.eval_batches(
      self.records, self.data_cfg, self.split_name, predictor.batch_size
    )

  def ranks(self, params) -> Mapping[str, np.ndarray]:
    """{name: rank [U]} of each ranking; sets `predictions`."""
    self.predictions = self.predictor(params, self.batches(self.predictor))
    return {"": self.predictions.p["rank"]}

  def run(self, params) -> base.Metrics:
    """Yields metrics, of all users and of groups by length of history."""
    found = self.ranks(params)
    history = self.predictions.y[:, _HISTORY]
    for name, rank in found.items():
      prefix = f"{name}/" if name else ""
      for metric, value in of_groups(rank, history, self._edges):
        yield f"{prefix}{metric}", value
    self.save_ranks(found)

  def save_ranks(self, found: Mapping[str, np.ndarray]) -> None:
    """Writes predictions/<name>.npz: key [U], history [U], a rank a model."""
    arrays = {f"rank_{k}" if k else "rank": v for k, v in found.items()}
    self.save_arrays(
      key=self.predictions.key,
      history=self.predictions.y[:, _HISTORY],
      **arrays,
    )
