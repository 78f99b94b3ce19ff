"""The users of a data set, over its splits, in one order."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from absl import logging

from lumos_jax import ids

_BLOCK = 1024  # Records read at a time where all keys are wanted.


class Population:
  """All users of some splits: by position, and by id.

  Attributes:
    splits: Their names; users come split by split.
  """

  def __init__(self, records: Any, splits: Sequence[str] = ()):
    """Opens the splits.

    Args:
      records: An open `Records`, or what looks like one.
      splits: Default all.
    """
    self.splits = tuple(splits or records.splits)
    self._sources = [records.source(s) for s in self.splits]
    self._ends = np.cumsum([len(s) for s in self._sources])
    self._stats = getattr(records, "stats", {})

  def __len__(self) -> int:
    return int(self._ends[-1])

  def read(self, positions: Iterable[int]) -> list[dict[str, Any]]:
    """Records at positions, in their order."""
    wanted = np.asarray(list(positions), np.int64)
    owner = np.searchsorted(self._ends, wanted, side="right")
    out: list = [None] * len(wanted)
    for s in np.unique(owner).tolist():
      mine = np.flatnonzero(owner == s)
      first = self._ends[s] - len(self._sources[s])
      found = _read(self._sources[s], (wanted[mine] - first).tolist())
      for at, record in zip(mine.tolist(), found, strict=True):
        out[at] = record
    return out

  def find(self, keys: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """Positions of users, in the order asked for, and the ids nobody has.

    Ids are those of the raw tables; where the data set holds keyed hashes, the
    key is taken from the environment (lumos_jax/ids.py).
    """
    asked = list(dict.fromkeys(map(str, keys)))
    keys = ids.stored(asked, self._stats)
    found: dict[str, int] = {}
    for source, end in zip(self._sources, self._ends.tolist(), strict=True):
      first = end - len(source)
      left = [k for k in keys if k not in found]
      for key, place in _places(source, left).items():
        found[key] = first + place
    positions = np.asarray([found[k] for k in keys if k in found], np.int64)
    unknown = [a for a, k in zip(asked, keys, strict=True) if k not in found]
    return positions, unknown


class Entered:
  """A population as of a day: users that enter later are not there yet.

  A user enters on a declared day, or on the day after its first event
  (data_prep/side_tables.py).
  """

  def __init__(self, people: Population, day: int):
    self._people, self._day, self._later = people, day, 0

  def read(self, positions: Iterable[int]) -> list[dict[str, Any]]:
    """Records at positions, in their order, of users that have entered."""
    found = self._people.read(positions)
    there = [r for r in found if r["span"][0] <= self._day]
    self._later += len(found) - len(there)
    return there

  def tell(self) -> None:
    """Logs how many users were left out."""
    if self._later:
      logging.warning(
        "%d users have not entered by day %d and get no row: their first event "
        "or declared day of entry comes later",
        self._later,
        self._day,
      )


def _read(source, positions: list[int]) -> list[dict[str, Any]]:
  if hasattr(source, "__getitems__"):
    return source.__getitems__(positions)
  return [source[i] for i in positions]


def _places(source, keys: Sequence[str]) -> dict[str, int]:
  """Positions of the keys that a source has.

  Where users stand in the order of a hash of their key, as shards hold them, few
  are found by bisection; otherwise all keys are read.
  """
  out = {}
  digest = lambda key: hashlib.sha256(key.encode()).digest()
  few = len(keys) * len(source).bit_length() < len(source)
  if few and getattr(source, "ordered_by_hash", False):
    for key in keys:
      low, high, wanted = 0, len(source), digest(key)
      while low < high:
        middle = (low + high) // 2
        if digest(str(source[middle]["key"])) < wanted:
          low = middle + 1
        else:
          high = middle
      if low < len(source) and str(source[low]["key"]) == key:
        out[key] = low
    return out
  left = set(keys)
  for start in range(0, len(source), _BLOCK):
    if not left:
      break
    some = range(start, min(start + _BLOCK, len(source)))
    for place, record in zip(some, _read(source, list(some)), strict=True):
      if (key := str(record["key"])) in left:
        out[key] = place
        left.remove(key)
  return out
