"""Which of a fixed set of tiles comes next: a ranking by the session's vector.

U sessions, K tiles.
"""

from collections.abc import Callable

import numpy as np

from lumos_jax.evaluators import base, bootstrap, session_probe

_LEAST = 1e-9  # Probability whose logarithm is taken.


class Tiles(session_probe.SessionProbe):
  """Macro Recall@1, log loss and NDCG over the values of a label.

  The set is the label's values, whether or not they occur. Macro Recall@1 is the
  mean over the tiles that occur; equal scores count against. NDCG goes over all K.
  """

  def about(self, y: np.ndarray) -> base.Metrics:
    """Yields the number of tiles and the share of the most frequent one."""
    yield "tiles", float(self._outcomes)
    yield "largest_share", float(np.bincount(y).max() / len(y))

  def quality(self, y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Metrics of tiles [U] and probabilities [U, K]."""
    one = np.ones((1, len(y)))
    return {k: float(f(one)[0]) for k, f in statistics(y, p).items()}

  def against(self, y, mine, theirs) -> dict[str, bootstrap.Interval]:
    """Differences of all metrics, paired over sessions."""
    a, b = statistics(y, mine), statistics(y, theirs)
    one, out = np.ones((1, len(y))), {}
    draws = list(bootstrap.draws(len(y), session_probe.DRAWS, 0))
    for name in a:
      drawn = np.concatenate([a[name](w) - b[name](w) for w in draws])
      out[name] = bootstrap.interval((a[name](one) - b[name](one))[0], drawn)
    return out


def statistics(
  y: np.ndarray, p: np.ndarray
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
  """{metric: weights of sessions [R, U] -> values [R]}.

  Args:
    y: int [U], the tile that came.
    p: [U, K], probabilities.
  """
  own = p[np.arange(len(y)), y]
  rank = (p >= own[:, None]).sum(1)  # From 1; equal ones count against.
  mean = lambda x: lambda w: w @ x / w.sum(1)
  kinds = np.unique(y)
  among = (y[:, None] == kinds[None]) * 1.0  # [U, tiles that occur].
  first = (rank == 1)[:, None] * among

  def macro(w):
    count = w @ among
    share = np.divide(
      w @ first, count, out=np.full(count.shape, np.nan), where=count > 0
    )
    return np.nanmean(share, 1)

  return {
    "macro_recall@1": macro,
    "recall@1": mean((rank == 1) * 1.0),
    "log_loss": mean(-np.log(np.maximum(own, _LEAST))),
    "ndcg": mean(1.0 / np.log2(1.0 + rank)),
  }
