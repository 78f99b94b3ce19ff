"""Signals that stop a run: it saves first."""

import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import jax

T = TypeVar("T")


class Stopped(RuntimeError):
  """A signal asked to stop; the state was saved."""


class Interrupted(BaseException):
  """Ends what `StopSignal.at_once` runs; not an error."""


class StopSignal:
  """Notes SIGTERM and SIGINT, so that the loop saves before it stops.

  Processes of one run must stop at the same step, also where one alone is told
  to: there jax has SIGTERM, and lets all know (`reached_preemption`).
  """

  def __enter__(self):
    self.name, self._count, self._ends = "", 0, False
    self._old = {}
    self._many = jax.process_count() > 1
    try:
      for s in (signal.SIGINT, signal.SIGTERM):
        jaxs = self._many and s == signal.SIGTERM
        self._old[s] = signal.SIG_DFL if jaxs else signal.signal(s, self._note)
    except ValueError:  # Not the main thread (a notebook's worker, a test).
      pass
    return self

  def _note(self, number, frame):
    del frame
    self._count += 1
    if self._many:
      signal.raise_signal(signal.SIGTERM)
    else:
      self.name = signal.Signals(number).name
    if self._count == 1:
      print("stopping: saves after this step", file=sys.stderr)
    if self._count == 2:  # Often the same stroke, told to the group as well.
      print("saving first; once more stops without it", file=sys.stderr)
    if self._count > 2:
      raise KeyboardInterrupt
    if self._ends:
      self._ends = False  # A second stroke must not end what cleans up.
      raise Interrupted

  def at_once(self, run: Callable[[], T]) -> T | None:
    """What `run` gives; None where a signal ended it, or came before.

    For what changes no state, as evaluators do: whoever sends SIGTERM often kills
    half a minute later. Processes of one run must stop together, so there it is
    run to its end.
    """
    if self.name:
      return None
    self._ends = not self._many and bool(self._old)
    try:
      return run()
    except Interrupted:
      return None
    finally:
      self._ends = False

  def release(self):
    """Gives the signals back to whoever had them."""
    while self._old:
      signal.signal(*self._old.popitem())

  def __exit__(self, *exc):
    self.release()
