"""k-means over session vectors, k by silhouette, and representatives.

Vectors are centred and scaled to length 1 first: a mean of a transformer's states
has a large common part, which says nothing of the session.
"""

import dataclasses
import io

import numpy as np

from lumos_jax.intents import sessions as sessions_lib

KS = (8, 12, 16, 24, 32, 48, 64)
_SCORED = 3000  # Sessions of a silhouette: its cost grows with the square.
_MEAN_TOP = 0.7  # Confidence of the nearest cluster, mean over sessions.
_FITTED = 10_000  # Sessions of a k-means while k is chosen.


@dataclasses.dataclass(frozen=True)
class Clusters:
  """Fitted clusters.

  Attributes:
    mean: [D], of the fitted vectors.
    centers: [K, D], of centred vectors of length 1.
    spread: Squared distance at which a confidence falls by e; see `soft`.
    silhouettes: {k: silhouette}, of the k's that were tried.
    told: What a reader has to know of how they were made.
  """

  mean: np.ndarray
  centers: np.ndarray
  spread: float
  silhouettes: dict[int, float]
  told: tuple[str, ...] = ()

  def distances(self, vectors: np.ndarray) -> np.ndarray:
    """Squared distances [S, K]."""
    z, c = normal(vectors, self.mean), self.centers
    squares = (z**2).sum(1)[:, None] + (c**2).sum(1)[None]
    return np.maximum(squares - 2.0 * z @ c.T, 0.0)

  def assign(self, vectors: np.ndarray) -> np.ndarray:
    """The nearest cluster, int [S]."""
    return self.distances(vectors).argmin(1)

  def soft(self, vectors: np.ndarray) -> np.ndarray:
    """Confidences [S, K] that add up to 1.

    exp(-distance / spread), where the spread makes the nearest cluster's
    confidence `_MEAN_TOP` on average: distances alone say nothing of doubt.
    """
    return _soft(self.distances(vectors), self.spread)

  def save(self) -> bytes:
    """As a file of NumPy arrays."""
    buffer = io.BytesIO()
    ks = np.asarray(list(self.silhouettes), np.int64)
    np.savez(
      buffer,
      mean=self.mean,
      centers=self.centers,
      spread=np.float64(self.spread),
      ks=ks,
      scores=np.asarray(list(self.silhouettes.values()), np.float64),
      told=np.asarray(self.told, np.str_),
    )
    return buffer.getvalue()

  @classmethod
  def load(cls, content: bytes) -> "Clusters":
    """What `save` made."""
    with np.load(io.BytesIO(content), allow_pickle=False) as x:
      scores = zip(x["ks"].tolist(), x["scores"].tolist(), strict=True)
      told = tuple(x["told"].tolist())
      spread = float(x["spread"])
      return cls(x["mean"], x["centers"], spread, dict(scores), told)


def normal(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
  """Centred vectors of length 1, float32 [S, D]; one at the mean stays 0."""
  z = np.asarray(vectors, np.float32) - mean
  return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9)


def fit(
  vectors: np.ndarray, k: int = 0, seed: int = 0, least: int = 2
) -> Clusters:
  """Clusters of sessions.

  Args:
    vectors: [S, D].
    k: How many; 0 takes that of `KS` with the best silhouette.
    seed: Of all draws.
    least: Of the clusters that are tried where k is 0.
  """
  from sklearn import cluster

  vectors = np.asarray(vectors, np.float32)
  mean = vectors.mean(0)
  z = normal(vectors, mean)
  distinct = len(np.unique(z, axis=0))
  told, scores = [], {}
  if not k:
    k, scores = _choose(z, distinct, seed, least)
    if not scores:
      told.append(f"{distinct} distinct sessions are too few to choose k by")
  elif k > distinct:
    told.append(f"{k} clusters asked for, {distinct} distinct sessions")
  k = min(k, distinct)
  made = cluster.KMeans(k, n_init=5, random_state=seed).fit(z)
  centers = made.cluster_centers_.astype(np.float32)
  found = Clusters(mean, centers, 1.0, scores, tuple(told))
  d = found.distances(vectors[:_SCORED])
  return dataclasses.replace(found, spread=_spread(d))


def _soft(d: np.ndarray, spread: float) -> np.ndarray:
  e = np.exp(-(d - d.min(1, keepdims=True)) / spread)
  return e / e.sum(1, keepdims=True)


def _spread(d: np.ndarray) -> float:
  """By bisection: the wider, the lower is the top confidence."""
  low, high = 1e-4, 1e2
  for _ in range(40):
    middle = float(np.sqrt(low * high))
    sure = _soft(d, middle).max(1).mean() > _MEAN_TOP
    low, high = (middle, high) if sure else (low, middle)
  return low


def _choose(z: np.ndarray, distinct: int, seed: int, least: int):
  """k of the best silhouette on a sample, and all silhouettes."""
  from sklearn import cluster, metrics

  ks = sorted({least, *(k for k in KS if k > least)})
  ks = [k for k in ks if 2 * k <= distinct]
  rng, scores = np.random.default_rng(seed), {}
  some = z[rng.permutation(len(z))[:_FITTED]]
  scored = some[:_SCORED]
  for k in ks:
    made = cluster.KMeans(k, n_init=1, random_state=seed).fit(some)
    labels = made.predict(scored)
    if 1 < len(set(labels.tolist())) < len(scored):
      scores[k] = float(metrics.silhouette_score(scored, labels))
  return (
    max(scores, key=scores.get) if scores else min(distinct, least)
  ), scores


def representatives(
  clusters: Clusters, sessions: sessions_lib.Sessions, most: int = 6
) -> list[list[int]]:
  """Sessions nearest to each centre whose texts differ.

  Returns:
    [K] lists of at most `most` positions; an empty one where no session of the
    cluster has texts.
  """
  d = clusters.distances(sessions.vectors)
  nearest, out = d.argmin(1), []
  for k in range(len(clusters.centers)):
    rows = np.flatnonzero(nearest == k)
    rows = rows[np.argsort(d[rows, k], kind="stable")]
    chosen: dict[tuple[str, ...], int] = {}
    for i in rows.tolist():
      if sessions.pages[i]:
        chosen.setdefault(sessions.pages[i], i)
      if len(chosen) == most:
        break
    out.append(list(chosen.values()))
  return out
