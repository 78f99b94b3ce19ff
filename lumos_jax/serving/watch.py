"""Looks for a newer checkpoint of the run, and has the service answer with it."""

import threading
from collections.abc import Callable

from absl import logging
from etils import epath

from lumos_jax.serving import model as model_lib

_TRIES = 3  # Of a checkpoint that cannot be opened.


def newest(workdir: epath.PathLike) -> int | None:
  """Step of the newest complete checkpoint; None for none."""
  path = epath.Path(workdir) / "checkpoints"
  # A checkpoint gets its name when it is complete.
  names = [p.name for p in path.iterdir()] if path.exists() else []
  return max((int(n) for n in names if n.isdecimal()), default=None)


class Watch:
  """A thread that looks every so many seconds."""

  def __init__(
    self,
    workdir: epath.PathLike,
    step: int,
    swap: Callable[[model_lib.Model], None],
    make: Callable[[int], model_lib.Model],
    seconds: float,
  ):
    """Starts to look.

    Args:
      workdir: Of the run.
      step: In use.
      swap: Takes a compiled model.
      make: Opens a checkpoint.
      seconds: Between looks.
    """
    self._workdir, self._step, self._seconds = workdir, step, seconds
    self._swap, self._make = swap, make
    self._failed: dict[int, int] = {}
    self._end = threading.Event()
    self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
    self._thread.start()

  def _run(self):
    while not self._end.wait(self._seconds):
      self.look()

  def look(self) -> bool:
    """Takes a newer checkpoint if there is one; whether it did."""
    try:
      step = newest(self._workdir)
    except OSError as e:
      logging.warning("the run's checkpoints cannot be listed: %s", e)
      return False
    if step is None or step <= self._step:
      return False
    if self._failed.get(step, 0) >= _TRIES:
      return False
    try:
      model = self._make(step)
      seconds = model.warm()
      self._swap(model)
    except Exception as e:  # The service goes on with what it has.
      self._failed[step] = self._failed.get(step, 0) + 1
      logging.error(
        "checkpoint %d is not taken, step %d goes on: %s", step, self._step, e
      )
      return False
    self._step = step
    logging.info(
      "answers come from step %d (compiled in %.1f s)", step, seconds
    )
    return True

  def close(self) -> None:
    """Ends the thread, after a look that has begun."""
    self._end.set()
    self._thread.join()
