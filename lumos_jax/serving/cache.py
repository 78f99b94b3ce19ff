"""Values of users in memory: the newest used stay, up to a number of bytes."""

import collections
import threading
from collections.abc import Callable
from typing import Any


class Cache:
  """{key: (version, value)}; safe to use from threads."""

  def __init__(self, most_bytes: int, cost: Callable[[Any], int]):
    """`cost` says how many bytes a value takes."""
    self._most, self._cost = most_bytes, cost
    self._values: collections.OrderedDict = collections.OrderedDict()
    self._lock = threading.Lock()
    self.bytes = self.hits = self.misses = 0

  def __len__(self) -> int:
    return len(self._values)

  def get(self, key: Any, version: int | None = None) -> Any:
    """The value; None where there is none, or one of another version."""
    with self._lock:
      found = self._values.get(key)
      if found is None or (version is not None and found[0] != version):
        self.misses += 1
        return None
      self._values.move_to_end(key)
      self.hits += 1
      return found[1]

  def put(self, key: Any, version: int, value: Any) -> None:
    """Keeps a value, unless a newer version is there."""
    size = self._cost(value)
    with self._lock:
      found = self._values.get(key)
      if found is not None:
        if found[0] > version:
          return
        self.bytes -= found[2]
      self._values[key] = version, value, size
      self._values.move_to_end(key)
      self.bytes += size
      while self.bytes > self._most and len(self._values) > 1:
        _, (_, _, gone) = self._values.popitem(last=False)
        self.bytes -= gone

  def pop(self, key: Any) -> None:
    """Forgets a value."""
    with self._lock:
      found = self._values.pop(key, None)
      if found is not None:
        self.bytes -= found[2]
