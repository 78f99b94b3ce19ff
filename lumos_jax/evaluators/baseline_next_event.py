"""What can be said of the next event without a model: floors to clear."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lumos_jax.data import sequences
from lumos_jax.data.schema import FIRST_VALUE
from lumos_jax.evaluators import lists, next_event, predict

_USERS = 1024


class _Scores(NamedTuple):
  """Scores of all values: popularity below 1, and more for a few.

  Attributes:
    ids: int [S], different values with something added.
    added: float [S], whole numbers: popularity orders what is equal in them.
  """

  ids: np.ndarray
  added: np.ndarray


class BaselineNextEvent(next_event.NextEvent):
  """Popularity, first-order Markov, recency and frequency, ranked as a model.

  Counted are training events like those that are asked for (see
  `sequences.Sequences.asked`). Values of equal counts have equal scores, which
  count against each other as a model's do; lists show them by ascending id.

  - popularity: events of a value.
  - markov: transitions from the user's last value; values that never followed
    it by popularity.
  - recency: the user's own values, the latest first, then by popularity.
  - frequency: how often a value was this user's, then by popularity.

  Where values of the history do not compete, recency is popularity again, and
  so is frequency, which is then left out.
  """

  needs_params = False

  def rank(self, params=None) -> Mapping[str, next_event.Ranking]:
    """Ranking of each baseline."""
    del params
    self._count()
    repeats = not self.data_cfg.filter_seen
    names = ["popularity", "markov", "recency"] + ["frequency"] * repeats
    ranks, tops, rows = {k: [] for k in names}, {k: [] for k in names}, []
    nothing = _Scores(np.zeros(0, int), np.zeros(0))
    for batch in sequences.eval_batches(
      self.records, self.data_cfg, self.split_name, _USERS
    ):
      mask, seen = batch["user_mask"], batch["seen"]
      for u in np.flatnonzero(mask).tolist():
        target = int(batch["next"][u])
        real = seen[u] >= FIRST_VALUE
        own = seen[u][real]
        scores = {
          "popularity": nothing,
          "markov": self._markov(own),
          "recency": _Scores(own, 1.0 + np.arange(len(own))),
          "frequency": _Scores(own, batch["often"][u][real] * 1.0),
        }
        without = own[:0] if repeats else own
        for name in names:
          ranks[name].append(self._rank(scores[name], target, without))
          tops[name].append(self._list(scores[name], without))
      rows.append({k: batch[k][mask] for k in ("key", "labels", "label_mask")})
    table = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
    key = predict.hash_keys(table["key"])
    p = {k: np.asarray(v, np.float32) for k, v in ranks.items()}
    self.predictions = predict.Predictions(
      key, table["labels"][:, 0], table["label_mask"][:, 0], p
    ).sorted()
    at = np.argsort(key, kind="stable")
    return {
      k: next_event.Ranking(self.predictions.p[k], np.stack(tops[k])[at])
      for k in names
    }

  def _count(self) -> None:
    """Counts values and transitions of what trains."""
    cut = sequences.Sequences(self.records.schema, self.data_cfg)
    column = sequences.target_column(self.records.schema, self.data_cfg)
    counts = lists.training_counts(self.records, self.data_cfg)
    self._popular = counts / (counts.max() + 1.0)
    self._mark = np.zeros(len(counts), bool)
    self._sorted = np.sort(self._popular[FIRST_VALUE:])
    order = np.argsort(-self._popular[FIRST_VALUE:], kind="stable")
    self._order = order + FIRST_VALUE
    size, before, after = len(counts), [], []
    source = self.records.source(self.data_cfg.train_split)
    for i in range(len(source)):
      record = source[i]
      n = cut.training_events(record)
      events, asked = record["categorical"][:n, column], cut.asked(record)[:n]
      before.append(events[:-1][asked[1:]])
      after.append(events[1:][asked[1:]])
    before, after = np.concatenate(before), np.concatenate(after)
    pairs, number = np.unique(
      before.astype(np.int64) * size + after, return_counts=True
    )
    self._next, self._times = pairs % size, number.astype(np.float64)
    self._start = np.searchsorted(pairs // size, np.arange(size + 1))

  def _markov(self, own: np.ndarray) -> _Scores:
    if not len(own):
      return _Scores(own, np.zeros(0))
    mine = slice(*self._start[own[-1] : own[-1] + 2].tolist())
    return _Scores(self._next[mine], self._times[mine])

  def _rank(self, scores: _Scores, target: int, without: np.ndarray) -> float:
    """Number of competing values whose score is at least the target's."""
    if target < FIRST_VALUE:
      return len(self._popular) + 1.0
    plain = self._popular[scores.ids]
    whole = plain + scores.added
    bar = self._popular[target] + scores.added[scores.ids == target].sum()
    count = len(self._sorted) - np.searchsorted(self._sorted, bar)
    count += np.sum(whole >= bar) - np.sum(plain >= bar)
    # What does not compete is taken away again; the target always competes.
    without = without[without != target]
    rest = without[~self._among(without, scores.ids)]
    count -= np.sum(self._popular[rest] >= bar)
    count -= np.sum(whole[self._among(scores.ids, without)] >= bar)
    return float(count)

  def _among(self, ids: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Whether each id is one of some; much faster than np.isin on few."""
    self._mark[some] = True
    found = self._mark[ids]
    self._mark[some] = False
    return found

  def _list(self, scores: _Scores, without: np.ndarray) -> np.ndarray:
    """The first values, int [K]: equal scores by ascending id."""
    head = self._order[: self.top + len(scores.ids) + len(without)]
    ids = np.concatenate([scores.ids, head[~self._among(head, scores.ids)]])
    score = self._popular[ids]
    score[: len(scores.ids)] += scores.added
    free = ~self._among(ids, without)
    ids, score = ids[free], score[free]
    found = ids[np.lexsort((ids, -score))][: self.top]
    return np.pad(found, (0, self.top - len(found)))
