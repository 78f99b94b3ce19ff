"""Names of clusters without a model: class-based TF-IDF over page texts.

Terms are whole page texts and their words. A term's weight in a cluster is its
share of the cluster's terms times log(1 + mean terms of a cluster / its count in
all), as in BERTopic (arXiv 2203.05794). Known categories are weighted in the same
way and come first in a name. The same input gives the same names.
"""

import collections
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from lumos_jax.intents import sessions as sessions_lib
from lumos_jax.intents import taxonomy as taxonomy_lib

_WORD = re.compile(r"[^\W\d_]{3,}")
_STOP = frozenset(
  "and are for from has not the this that was were with you your our its into "
  "page home index www com org html http https".split()
)
_TERMS = 3000  # Of the comparison of clusters.
_LEAST_SHARE = 0.25  # Of a cluster's pages, for a category to give its name.


def name(
  sessions: sessions_lib.Sessions,
  assigned: np.ndarray,
  clusters: int,
  labels: int,
) -> taxonomy_lib.Taxonomy:
  """A taxonomy of clusters.

  Args:
    sessions: With texts.
    assigned: Cluster of each, int [S].
    clusters: K.
    labels: At most so many; clusters whose terms are most alike share a label.

  Returns:
    Labels in the order of their sizes, the largest first.
  """
  texts = _counts(sessions.pages, assigned, clusters, _words)
  weights = _weighted(texts)
  known = [collections.Counter() for _ in range(clusters)]
  if sessions.categories is not None:
    known = _counts(sessions.categories, assigned, clusters, lambda x: [x])
  groups = _groups(weights, _weighted(known), clusters, labels)
  sizes = np.bincount(assigned, minlength=clusters)
  groups.sort(key=lambda g: (-int(sizes[g].sum()), g))
  texts = [_sum(texts[k] for k in g) for g in groups]
  pages = [
    _sum(collections.Counter(sessions.pages[i]) for i in _rows(assigned, g))
    for g in groups
  ]
  known = [_sum(known[k] for k in g) for g in groups]
  words, titles = _weighted(texts), _weighted(pages)
  out: list[taxonomy_lib.Label] = []
  for i, g in enumerate(groups):
    found = _name(words[i], known[i], {x.name for x in out})
    out.append(
      taxonomy_lib.Label(
        f"i{i + 1:02d}",
        found,
        _definition(titles[i], words[i], known[i]),
        tuple(g),
      )
    )
  return taxonomy_lib.Taxonomy(tuple(out))


def _words(text: str) -> list[str]:
  """Words, and the whole text where it is more than one word."""
  found = [w for w in _WORD.findall(text.lower()) if w not in _STOP]
  return found + [text] * (len(found) > 1)


def _rows(assigned: np.ndarray, group: Sequence[int]) -> list[int]:
  return np.flatnonzero(np.isin(assigned, group)).tolist()


def _counts(texts, assigned, clusters, parts) -> list[collections.Counter]:
  out = [collections.Counter() for _ in range(clusters)]
  for k, some in zip(assigned.tolist(), texts, strict=True):
    for text in some:
      out[k].update(parts(text))
  return out


def _sum(counters: Iterable[collections.Counter]) -> collections.Counter:
  out: collections.Counter = collections.Counter()
  for x in counters:
    out.update(x)
  return out


def _weighted(counts: list[collections.Counter]) -> list[dict[str, float]]:
  """Class-based TF-IDF of each cluster's terms."""
  every = _sum(counts)
  mean = sum(every.values()) / max(len(counts), 1)
  out = []
  for found in counts:
    total = max(sum(found.values()), 1)
    out.append(
      {t: n / total * math.log1p(mean / every[t]) for t, n in found.items()}
    )
  return out


def _best(weights: dict[str, float], most: int) -> list[str]:
  """Terms of the greatest weight; ties in the order of the alphabet."""
  return sorted(weights, key=lambda t: (-weights[t], t))[:most]


def _groups(words, known, clusters: int, labels: int) -> list[list[int]]:
  """Clusters that share a label: average linkage over cosines of terms."""
  used = [k for k in range(clusters) if words[k] or known[k]]
  empty = [k for k in range(clusters) if k not in used]
  if len(used) <= max(labels, 1):
    groups = [[k] for k in used]
  else:
    from sklearn import cluster

    near = _cosines(words, used)
    if any(known):
      near = (near + _cosines(known, used)) / 2
    made = cluster.AgglomerativeClustering(
      max(labels, 1), metric="precomputed", linkage="average"
    ).fit(1.0 - near)
    groups = [
      [used[i] for i in np.flatnonzero(made.labels_ == n)]
      for n in range(max(labels, 1))
    ]
  # Clusters of sessions without texts have no name to be told apart by.
  return groups + [empty] * bool(empty)


def _cosines(weights: list[dict[str, float]], used: list[int]) -> np.ndarray:
  terms = sorted({t for k in used for t in _best(weights[k], _TERMS)})
  place = {t: i for i, t in enumerate(terms)}
  x = np.zeros((len(used), max(len(terms), 1)))
  for row, k in enumerate(used):
    for t in _best(weights[k], _TERMS):
      x[row, place[t]] = weights[k][t]
  x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  return x @ x.T


def _main(known: collections.Counter) -> list[str]:
  total = max(sum(known.values()), 1)
  found = sorted(known, key=lambda t: (-known[t], t))
  return [t for t in found if known[t] / total >= _LEAST_SHARE][:2]


def _name(words, known, taken: set[str]) -> str:
  """ "Category: word, word", or words alone; never one that is taken."""
  head = " and ".join(_main(known))
  # A whole text and the words of it say the same.
  terms: list[str] = []
  for t in _best(words, 40):
    mine = set(_WORD.findall(t.lower())) or {t}
    if not any(mine & (set(_WORD.findall(o.lower())) or {o}) for o in terms):
      terms.append(t)
  for most in range(2 if head else 3, max(len(terms), 3) + 1):
    found = ": ".join(x for x in (head, ", ".join(terms[:most])) if x)
    found = found[: taxonomy_lib.MOST_NAME]
    if found and found not in taken:
      return found
  base, n = (head or ", ".join(terms) or "pages without texts")[:70], 2
  while (found := base if n == 2 else f"{base} ({n - 1})") in taken:
    n += 1
  return found


def _definition(titles, words, known) -> str:
  parts = []
  if known:
    total = sum(known.values())
    shares = [f"{t} ({known[t] / total:.0%})" for t in _main(known)]
    if shares:
      parts.append(f"Pages mostly of {' and '.join(shares)}.")
  pages = ", ".join(x[:60] for x in _best(titles, 4))
  single = [w for w in _best(words, 20) if " " not in w][:5]
  if pages:
    parts.append(f"Typical pages: {pages}.")
  if single:
    parts.append(f"Typical words: {', '.join(single)}.")
  text = " ".join(parts) or "Sessions whose pages have no text."
  return text[: taxonomy_lib.MOST_DEFINITION]
