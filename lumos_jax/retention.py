"""Which checkpoints a run retains."""

from collections.abc import Sequence
from typing import Any

from orbax.checkpoint import checkpoint_managers


class Held(checkpoint_managers.PreservationPolicy):
  """Preserves one step; it may change.

  Attributes:
    step: Which; None for none.
  """

  step: int | None = None

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    """Whether each checkpoint stays."""
    del context
    return [c.step == self.step for c in checkpoints]


def policy(
  keep: int, keep_every: int, held: Held
) -> checkpoint_managers.PreservationPolicy:
  """The newest `keep`, each step that divides by `keep_every`, the held one."""
  policies = [checkpoint_managers.LatestN(keep), held]
  if keep_every:
    policies.append(checkpoint_managers.EveryNSteps(keep_every))
  return checkpoint_managers.AnyPreservationPolicy(policies)
