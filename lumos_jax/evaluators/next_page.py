"""How well sessions tell a page: the last one, of all pages."""

import numpy as np

from lumos_jax.data import sessions
from lumos_jax.evaluators import base, next_event, predict

_KS = 1, 5, 10, 20
_LAST = 20  # Of MRR@20, the measure of session-based recommendation.
_HISTORY = 1  # Label column of sessions.eval_batches.


class NextPage(base.Evaluator):
  """HitRate@k, NDCG@k, MRR and MRR@20 of each session's last page, fully ranked.

  Of a model that looks both ways the last page is hidden; it sees the other
  inputs of that click (event type, device).
  """

  without = ("origin", "seen", "mean_tasks")

  def __init__(self, *args, **kw):
    """As base.Evaluator; ValueError where the recipe reads no sessions."""
    super().__init__(*args, **kw)
    if self.predictor is not None and self.predictor.inputs is not sessions:
      raise ValueError(
        f"config.evals.{self.name}.type = 'next_page' is of recipe 'intent'"
      )

  def batches(self, predictor: predict.Predictor, calendar=None):
    """Batches of the split's sessions of two clicks or more."""
    del calendar
    return sessions.eval_batches(
      self.records, self.data_cfg, self.split, predictor.batch_size
    )

  def run(self, params) -> base.Metrics:
    """Yields metrics, of all sessions and by length."""
    found = self.predictor(params, self.batches(self.predictor))
    rank = found.p["rank"]
    if not len(rank):
      raise ValueError(
        f"config.evals.{self.name}: no session of split {self.split_name!r} has "
        "two clicks, the last one on a known page"
      )
    yield from next_event.of_ranks(rank, _KS)
    yield f"mrr@{_LAST}", float(np.mean(np.where(rank <= _LAST, 1 / rank, 0)))
    yield "sessions", float(len(rank))
    history = found.y[:, _HISTORY]
    yield from next_event.of_groups(rank, history, (2, 5))
    self.save_arrays(key=found.key, rank=rank, history=history.astype(np.int32))
