"""Looks for what is new of a run; the service answers with it.

Newer checkpoints, their calibration, and intents.
"""

import threading
from collections.abc import Callable

from absl import logging
from etils import epath

from lumos_jax.evaluators import calibration
from lumos_jax.intents import student as student_lib
from lumos_jax.serving import intent
from lumos_jax.serving import model as model_lib

_TRIES = 3  # Of a checkpoint that cannot be opened.


def newest(workdir: epath.PathLike) -> int | None:
  """Step of the newest complete checkpoint; None for none."""
  path = epath.Path(workdir) / "checkpoints"
  # A checkpoint gets its name when it is complete.
  names = [p.name for p in path.iterdir()] if path.exists() else []
  return max((int(n) for n in names if n.isdecimal()), default=None)


_STUDENT = f"{intent.FOLDER}/{student_lib.ABOUT}"


def stamp(workdir: epath.PathLike, file: str = _STUDENT) -> tuple | None:
  """Tells one file of a run from a later one; None for none."""
  path = epath.Path(workdir) / file
  try:
    found = path.stat()
  except FileNotFoundError:
    return None
  return found.mtime, found.length


class Watch:
  """A thread that looks every so many seconds."""

  def __init__(
    self,
    workdir: epath.PathLike,
    step: int | None,
    swap: Callable[[model_lib.Model], None],
    make: Callable[[int], model_lib.Model],
    seconds: float,
    live: Callable[[], model_lib.Model] | None = None,
  ):
    """Starts to look.

    Args:
      workdir: Of the run.
      step: In use; None where no other checkpoint is to be taken.
      swap: Takes a compiled model.
      make: Opens a checkpoint.
      seconds: Between looks.
      live: The model in use, which gets a new student and calibration; None for
        no such look.
    """
    self._workdir, self._step, self._seconds = workdir, step, seconds
    self._swap, self._make, self._live = swap, make, live
    # The model in use has read its calibration; a student may have come since.
    self._stamps = {calibration.FILE: stamp(workdir, calibration.FILE)}
    self._failed: dict[int, int] = {}
    self._end = threading.Event()
    self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
    self._thread.start()

  def _run(self):
    while not self._end.wait(self._seconds):
      self.look()
      self.look_for_student()
      self.look_for_calibration()

  def _changed(self, file: str) -> bool:
    """Whether a file of the run is another one than at the last look."""
    try:
      found = stamp(self._workdir, file)
    except OSError as e:
      logging.warning("%s of the run cannot be looked at: %s", file, e)
      return False
    if self._live is None or found in (None, self._stamps.get(file)):
      return False
    self._stamps[file] = found
    return True

  def look_for_calibration(self) -> bool:
    """Reads the run's calibration where it has changed; whether it did.

    Evaluators write it after the checkpoint that it belongs to.
    """
    if not self._changed(calibration.FILE):
      return False
    try:
      self._live().predictor.read_calibration()
    except ValueError as e:  # The one in use goes on.
      logging.warning("%s", e)
      return False
    logging.info("scores are calibrated by the run's newest map for them")
    return True

  def look_for_student(self) -> bool:
    """Takes the run's student where it has changed; whether it did.

    One that cannot be read is told once, and the present one goes on.
    """
    if not self._changed(_STUDENT):
      return False
    student = intent.student_of(self._workdir)
    if student is None:
      return False
    self._live().student = student
    logging.info("intents come from a student of %d labels", len(student.ids))
    return True

  def look(self) -> bool:
    """Takes a newer checkpoint if there is one; whether it did."""
    if self._step is None:
      return False
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
