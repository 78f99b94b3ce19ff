"""What the two kinds of gradient boosting share: rounds, chosen in folds."""

from typing import Any

from lumos_jax.evaluators import per_target


class Boosted(per_target.PerTarget):
  """Trees whose number is chosen for each target by its loss in the folds."""

  def __init__(self, *args, rounds: int = 800, patience: int = 50, **kw):
    """Settings beside tabular.Tabular's.

    Args:
      *args: As base.Evaluator.
      rounds: At most so many trees.
      patience: Rounds without a lower loss in the folds that end the search.
      **kw: As tabular.Tabular.
    """
    super().__init__(*args, **kw)
    self._rounds, self._patience = rounds, patience

  def settings(self) -> list[Any]:
    """As of tabular.Tabular."""
    return [self._rounds, self._patience]
