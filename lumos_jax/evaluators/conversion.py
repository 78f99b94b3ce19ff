"""Whether a session's first clicks tell its outcome: vector against counts."""

import numpy as np

from lumos_jax.evaluators import base, bootstrap, metrics, session_probe


class Conversion(session_probe.SessionProbe):
  """Outcome of two kinds: AUC, log loss, micro and macro F1.

  Micro F1 is of both kinds, one of which each session has: the accuracy.
  """

  def about(self, y: np.ndarray) -> base.Metrics:
    """Yields the share of sessions with the outcome."""
    if self._outcomes != 2:
      raise ValueError(
        f"config.evals.{self.name}: the label has {self._outcomes} values; "
        "'conversion' asks for two, 'tiles' for more"
      )
    yield "positive_share", float(np.mean(y))

  def quality(self, y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Metrics of outcomes [U] and probabilities [U, 2]."""
    return quality(y, p[:, 1])

  def against(self, y, mine, theirs) -> dict[str, bootstrap.Interval]:
    """Difference of AUC, paired over sessions."""
    known = np.ones(len(y), bool)
    a, b = (
      metrics.statistic("auc", y * 1.0, p[:, 1], known) for p in (mine, theirs)
    )
    one = np.ones((1, len(y)))
    drawn = [
      a(w) - b(w) for w in bootstrap.draws(len(y), session_probe.DRAWS, 0)
    ]
    found = bootstrap.interval((a(one) - b(one))[0], np.concatenate(drawn))
    return {"auc": found}


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
