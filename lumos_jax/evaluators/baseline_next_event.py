"""What can be said of the next event without a model: floors to clear."""

from collections.abc import Mapping

import numpy as np

from lumos_jax.data import sequences
from lumos_jax.data.schema import FIRST_VALUE
from lumos_jax.evaluators import next_event, predict

_USERS = 1024


class BaselineNextEvent(next_event.NextEvent):
  """Popularity, first-order Markov and recency, ranked as the model is.

  Counted are training events like those that are asked for (see
  `sequences.Sequences.asked`).

  - popularity: events of a value.
  - markov: transitions from the user's last value; values that never followed
    it by popularity.
  - recency: the user's own values, the latest first, then by popularity.
  - frequency: how often a value was this user's, then by popularity.

  Where values of the history do not compete, recency is popularity again, and
  so is frequency, which is then left out.
  """

  needs_params = False

  def ranks(self, params=None) -> Mapping[str, np.ndarray]:
    """Ranks [U] of each baseline."""
    del params
    size = self._count()
    repeats = not self.data_cfg.filter_seen
    names = ["popularity", "markov", "recency"] + ["frequency"] * repeats
    found, rows = {k: [] for k in names}, []
    # Below 1, so that it only orders what is otherwise equal.
    popular = self._popular / (self._popular.max() + 1.0)
    order = np.argsort(np.argsort(popular, kind="stable")) / (size + 1.0)
    for batch in sequences.eval_batches(
      self.records, self.data_cfg, self.split_name, _USERS
    ):
      mask, seen = batch["user_mask"], batch["seen"]
      for u in np.flatnonzero(mask).tolist():
        target = int(batch["next"][u])
        real = seen[u] >= FIRST_VALUE
        own = seen[u][real]
        scores = {
          "popularity": order,
          "markov": self._markov(own, order),
          "recency": self._own(own, 1.0 + np.arange(len(own)), order),
          "frequency": self._own(own, batch["often"][u][real], order),
        }
        for name, ranks in found.items():
          ranks.append(self._rank(scores[name], target, own))
      rows.append({k: batch[k][mask] for k in ("key", "labels", "label_mask")})
    table = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
    at = predict.hash_keys(table["key"])
    self.predictions = predict.Predictions(
      at,
      table["labels"][:, 0],
      table["label_mask"][:, 0],
      {k: np.asarray(v, np.float32) for k, v in found.items()},
    ).sorted()
    return self.predictions.p

  def _count(self) -> int:
    """Counts values and transitions of what trains; returns V."""
    cut = sequences.Sequences(self.records.schema, self.data_cfg)
    column = sequences.target_column(self.records.schema, self.data_cfg)
    size = self.records.schema.categorical("activity")[column].size
    self._popular = np.zeros(size)
    before, after = [], []
    source = self.records.source(self.data_cfg.train_split)
    for i in range(len(source)):
      record = source[i]
      n = cut.training_events(record)
      events, asked = record["categorical"][:n, column], cut.asked(record)[:n]
      np.add.at(self._popular, events[asked], 1.0)
      before.append(events[:-1][asked[1:]])
      after.append(events[1:][asked[1:]])
    before, after = np.concatenate(before), np.concatenate(after)
    pairs, number = np.unique(
      before.astype(np.int64) * size + after, return_counts=True
    )
    self._next, self._times = pairs % size, number.astype(np.float64)
    self._start = np.searchsorted(pairs // size, np.arange(size + 1))
    return size

  def _markov(self, own: np.ndarray, order: np.ndarray) -> np.ndarray:
    score = order.copy()
    if len(own):
      mine = slice(*self._start[own[-1] : own[-1] + 2].tolist())
      score[self._next[mine]] += self._times[mine]
    return score

  def _own(self, own, weight, order: np.ndarray) -> np.ndarray:
    score = order.copy()
    score[own] += weight
    return score

  def _rank(self, score, target: int, own: np.ndarray) -> float:
    if target < FIRST_VALUE:
      return len(score) + 1.0
    above = score >= score[target]
    above[:FIRST_VALUE] = False
    if self.data_cfg.filter_seen:
      above[own] = False
    above[target] = False
    return 1.0 + float(above.sum())
