"""Requests that arrive together share one call.

A thread takes what waits, up to a batch, and works it off; what arrives meanwhile
is the next batch. So nothing waits where nothing else does, and a batch grows with
the load.
"""

import asyncio
import collections
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from lumos_jax.serving import problems

Run = Callable[[Sequence[Any]], Sequence[Any]]


class Batcher:
  """A queue, and the thread that works it off.

  Attributes:
    done, batches: How many jobs and batches were worked off.
  """

  def __init__(
    self,
    name: str,
    run: Run,
    most: int,
    waiting: int,
    deadline_seconds: float,
  ):
    """Starts the thread.

    Args:
      name: Of the thread.
      run: Jobs -> for each its result, or the exception that is its answer.
      most: Jobs of a batch.
      waiting: Jobs that may wait; more are refused.
      deadline_seconds: A job that waited longer is not worked off: nobody waits
        for it any more.
    """
    self._run, self._most, self._waiting = run, most, waiting
    self._deadline = deadline_seconds
    self._jobs: collections.deque = collections.deque()
    self._ready = threading.Condition()
    self._closed = False
    self.done = self.batches = 0
    self._thread = threading.Thread(target=self._work, name=name, daemon=True)
    self._thread.start()

  def __len__(self) -> int:
    return len(self._jobs)

  async def __call__(self, job: Any) -> Any:
    """The job's result; raises what is its answer.

    Raises:
      Problem: Too many wait, or it waited too long (503).
    """
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    self._put(job, future, loop)
    return await future

  def post(self, job: Any) -> None:
    """Has a job worked off that nobody waits for."""
    self._put(job, None, None)

  def _put(self, job, future, loop):
    with self._ready:
      if self._closed:
        raise problems.busy("the service is closing")
      if future is not None and len(self._jobs) >= self._waiting:
        raise problems.busy("too many requests wait")
      self._jobs.append((job, future, loop, time.monotonic()))
      self._ready.notify()

  def _take(self):
    with self._ready:
      self._ready.wait_for(lambda: self._jobs or self._closed)
      count = min(len(self._jobs), self._most)
      return [self._jobs.popleft() for _ in range(count)]

  def _work(self):
    while taken := self._take():
      now = time.monotonic()
      live, answers = [], []
      for entry in taken:
        if entry[1] is not None and now - entry[3] > self._deadline:
          late = problems.busy("the request waited too long")
          answers.append((*entry[1:3], late))
        else:
          live.append(entry)
      if live:
        try:
          found = self._run([x[0] for x in live])
        except Exception as e:  # One answer for all: the thread goes on.
          found = [e] * len(live)
        answers += [
          (future, loop, result)
          for (_, future, loop, _), result in zip(live, found, strict=True)
          if future is not None
        ]
        self.done += len(live)
        self.batches += 1
      # One loop asks, or several: each is woken once.
      by_loop: dict[Any, list] = {}
      for future, loop, result in answers:
        by_loop.setdefault(loop, []).append((future, result))
      for loop, mine in by_loop.items():
        try:
          loop.call_soon_threadsafe(_resolve, mine)
        except RuntimeError:  # The loop has ended: nobody waits.
          pass

  def close(self) -> None:
    """Works off what waits, and ends the thread."""
    with self._ready:
      self._closed = True
      self._ready.notify_all()
    self._thread.join()


def _resolve(answers) -> None:
  for future, result in answers:
    if future.done():  # The client went away.
      continue
    if isinstance(result, BaseException):
      future.set_exception(result)
    else:
      future.set_result(result)
