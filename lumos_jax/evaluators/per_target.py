"""Baselines that train a model of its own for each target.

Models of the last training are kept: other test days of a run, which train on
the same rows, ask them again. N rows, F features.
"""

import abc
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lumos_jax.evaluators import targets
from lumos_jax.evaluators.tabular import Fold, Forecast, Rows, Tabular

# {class: (digest of its training, its models)}, of the last training alone.
_LAST: dict[type, tuple[str, Any]] = {}


class PerTarget(Tabular):
  """A model of its own for each target."""

  @abc.abstractmethod
  def prepare(self, rows: Rows) -> Any:
    """State that all targets share: what `choose` and `member` are given."""

  @abc.abstractmethod
  def choose(
    self, state: Any, target: targets.Target, folds: Sequence[Fold]
  ) -> dict[str, Any]:
    """Settings (for json) with the least loss in the folds."""

  @abc.abstractmethod
  def member(
    self,
    state: Any,
    target: targets.Target,
    chosen: dict[str, Any],
    rows: np.ndarray,
    seed: int,
  ) -> Forecast:
    """A model that trained on some rows."""

  def forecasts(
    self,
    rows: Rows,
    wanted: Sequence[targets.Target],
    asked: Sequence[np.ndarray],
  ) -> dict[str, tuple[dict[str, Any], list[np.ndarray]]]:
    """As of Tabular."""
    name = self._training(rows, wanted)
    # Other test days of the same run ask the same models.
    if _LAST.get(type(self), ("",))[0] != name:
      _LAST[type(self)] = name, self._train(rows, wanted)
    out = {}
    for target in wanted:
      chosen, models = _LAST[type(self)][1][target.name]
      if models:
        bound = lambda m, x, t=target: t.bound(m(x))
        parts = [np.stack([bound(m, x) for m in models]) for x in asked]
      else:
        parts = [np.full((1, len(x)), chosen["constant"]) for x in asked]
      out[target.name] = chosen, parts
    return out

  def _training(self, rows: Rows, wanted: Sequence[targets.Target]) -> str:
    """A digest of all that the trained models depend on."""
    own = [self._members, self._folds, self._seed, self._threads, self._own]
    digest = hashlib.sha256(repr([own, self.settings()]).encode())
    digest.update(repr([t.name for t in wanted]).encode())
    digest.update(repr([rows.table.names, rows.table.categorical]).encode())
    for a in (rows.x, rows.fold, rows.turn):
      digest.update(np.ascontiguousarray(a).data)
    for t in wanted:
      digest.update(repr([t.loss, t.goal]).encode())
      digest.update(np.ascontiguousarray(t.y).data)
      digest.update(np.ascontiguousarray(t.known).data)
    return digest.hexdigest()

  def _train(
    self, rows: Rows, wanted: Sequence[targets.Target]
  ) -> dict[str, tuple[dict[str, Any], list[Forecast]]]:
    """{target's name: (chosen, its members)}; no member for a constant."""
    state, out = self.prepare(rows), {}
    for target in wanted:
      folds = self.folds(rows, target)
      if not folds:  # Nothing can be learned of what does not vary.
        value = target.constant(np.flatnonzero(target.known))
        out[target.name] = {"constant": value}, []
        continue
      chosen, models = self.choose(state, target, folds), []
      for i in range(self._members):
        mine = np.flatnonzero(target.known)
        if not self.whole:
          mine = rows.of_turn(target, i)
        seed = self._seed * 1000 + i
        models.append(self.member(state, target, chosen, mine, seed))
      out[target.name] = chosen, models
    return out
