"""lumos_jax: a large user model in JAX.

run = lumos_jax.load("runs/pretrain")
run.forecast(as_of="2017-12-04")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from lumos_jax.run import Run

__version__ = "0.2.0"
__all__ = ["load"]


def load(workdir: str, step: "int | str | None" = None) -> "Run":
  """Opens a trained run to predict with.

  Args:
    workdir: Of the run, as given to lumos_jax.main.
    step: Checkpoint, or "best" where the run keeps one; default the newest.

  Returns:
    A `lumos_jax.run.Run`.
  """
  # Here, so that importing the package stays light.
  from lumos_jax.run import Run

  return Run(workdir, step)
