"""Work on one core while another does the next.

Threads suffice: Polars, NumPy, zstd and files let go of the interpreter. Results
and errors come in the order of the work, whatever thread was faster.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Pieces of a table in memory at a time, each in the hands of a thread.
PIECES = 2


def each(
  work: Callable[[T], R], items: Iterable[T], threads: int = PIECES
) -> Iterator[R]:
  """`work` of each item, in order, at most `threads` of them at a time.

  The first error ends it; what had begun is waited for.
  """
  begun: collections.deque[futures.Future] = collections.deque()
  with futures.ThreadPoolExecutor(threads) as pool:
    for item in items:
      if len(begun) == threads:
        yield begun.popleft().result()
      begun.append(pool.submit(work, item))
    while begun:
      yield begun.popleft().result()


class Behind:
  """Does work in order in a thread, one piece of it behind the caller.

  As a context it waits for the last piece; an error is raised where the next
  piece is given, or at the end.
  """

  def __init__(self):
    self._pool = futures.ThreadPoolExecutor(1)
    self._last: futures.Future | None = None

  def __call__(self, work: Callable[..., None], *arguments) -> None:
    """Begins a piece when the one before it has ended."""
    self.wait()
    self._last = self._pool.submit(work, *arguments)

  def wait(self) -> None:
    """Returns when all work is done.

    Raises:
      Exception: What a piece of it raised.
    """
    last, self._last = self._last, None
    if last is not None:
      last.result()

  def __enter__(self) -> "Behind":
    return self

  def __exit__(self, kind, error, trace) -> None:
    try:
      if kind is None:
        self.wait()
    finally:
      self._pool.shutdown()
