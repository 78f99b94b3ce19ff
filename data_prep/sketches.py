"""Counts of numbers that merge: quantiles and products of any number of rows.

Exact up to a number of different values, which most fields never reach: amounts
have cents. Beyond it memory stays, and what is lost is known and told.
"""

import numpy as np


def _merged(parts) -> tuple[np.ndarray, np.ndarray]:
  """Values, ascending, and their counts, of parts of the same form."""
  if len(parts) == 1:
    return parts[0]
  values = np.concatenate([v for v, _ in parts])
  counts = np.concatenate([c for _, c in parts])
  order = np.argsort(values, kind="stable")
  values, counts = values[order], counts[order]
  first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
  if not len(values):
    return values, counts
  return values[first], np.add.reduceat(counts, first)


class Quantiles:
  """The distribution of numbers, added in pieces.

  Attributes:
    count: Numbers added.
    low, high: Least and greatest.
    rank_error: Ranks by which a quantile may be off; 0 where it is exact.
  """

  def __init__(self, most_values: int = 1 << 21):
    """`most_values` different numbers are kept apart, 16 bytes each."""
    self._most = most_values
    self._parts: list[tuple[np.ndarray, np.ndarray]] = []
    self._pending = 0
    self._raw: np.ndarray | None = None
    self.count, self.rank_error = 0, 0
    self.low = self.high = None

  def add(self, x: np.ndarray) -> None:
    """Adds finite numbers x [R]."""
    if not len(x):
      return
    low, high = float(x.min()) + 0.0, float(x.max()) + 0.0  # No -0.0.
    self.low = low if self.low is None else min(low, self.low)
    self.high = high if self.high is None else max(high, self.high)
    if not self.count:
      self._raw = x  # One piece needs no counts: twice as fast.
    else:
      self.compact()
      self._count(x)
    self.count += len(x)

  def _count(self, x: np.ndarray) -> None:
    self._parts.append(np.unique(x, return_counts=True))
    self._pending += len(self._parts[-1][0])
    self._fit()

  def _fit(self) -> None:
    if self._pending > 2 * self._most:
      self._parts = [self._shortened(*_merged(self._parts))]
      self._pending = len(self._parts[0][0])

  def compact(self) -> None:
    """Keeps counts alone."""
    if self._raw is not None:
      self._count(self._raw)
      self._raw = None

  def merge(self, other: "Quantiles") -> None:
    """Adds what another has seen, which is not used any more."""
    if not other.count:
      return
    if not self.count:
      self.__dict__.update(other.__dict__ | {"_most": self._most})
      return
    self.compact()
    other.compact()
    self._parts += other._parts
    self._pending += other._pending
    self.count += other.count
    self.rank_error += other.rank_error
    self.low = min(self.low, other.low)
    self.high = max(self.high, other.high)
    self._fit()

  def _shortened(self, values, counts):
    """Half of the room: neighbours become the greatest of them."""
    if len(values) <= self._most:
      return values, counts
    rank = np.cumsum(counts)
    step = -(-rank[-1] // max(1, self._most // 2))
    last = np.flatnonzero(np.append(rank[1:] // step > rank[:-1] // step, True))
    groups = np.diff(rank[last], prepend=0)
    # A number's rank is off by what its group holds beside it, at most.
    self.rank_error += int((groups - counts[last]).max())
    return values[last], groups

  def at(self, share: np.ndarray) -> np.ndarray:
    """Numbers of the data at these shares, as np.quantile's method "higher"."""
    if self._raw is not None:
      return np.quantile(self._raw, share, method="higher")
    values, counts = _merged(self._parts)
    rank = np.ceil((self.count - 1) * np.asarray(share)).astype(np.int64)
    place = np.searchsorted(np.cumsum(counts), rank, side="right")
    return values[place]


class Products:
  """How often each of many integers occurs, added in pieces.

  Attributes:
    rows: Numbers added.
    short: Rows by which a count may be short; 0 where all are exact.
  """

  def __init__(self, most_values: int = 1 << 24, least_users: int = 0):
    """`most_values` different integers are kept, 16 bytes each.

    Those of fewer than `least_users` users are left out of `counts`; all numbers of
    a user are added at once.
    """
    self._users = Products(most_values) if least_users else None
    self._least = least_users
    self._most, self._parts, self._pending = most_values, [], 0
    self.rows, self.short = 0, 0

  def add(self, numbers: np.ndarray, user: np.ndarray | None = None) -> None:
    """Adds int64 [R] of users [R]."""
    if self._users is not None:
      order = np.lexsort((user, numbers))
      pairs = numbers[order], user[order]
      new = np.ones(len(order), bool)
      new[1:] = (np.diff(pairs[0]) != 0) | (np.diff(pairs[1]) != 0)
      self._users.add(pairs[0][new])
    self.rows += len(numbers)
    self._parts.append(np.unique(numbers, return_counts=True))
    self._pending += len(self._parts[-1][0])
    self._fit()

  def merge(self, other: "Products") -> None:
    """Adds what another has counted."""
    self.rows += other.rows
    self.short += other.short
    self._parts += other._parts
    self._pending += other._pending
    if self._users is not None:
      self._users.merge(other._users)
    self._fit()

  def _fit(self) -> None:
    if len(self._parts) > 1 and self._pending > self._most:
      values, counts = _merged(self._parts)
      if len(values) > self._most:  # Forgets the rarest half.
        order = np.argsort(-counts, kind="stable")
        kept = self._most // 2
        self.short += int(counts[order[kept]])
        order = np.sort(order[:kept])
        values, counts = values[order], counts[order]
      self._parts, self._pending = [(values, counts)], len(values)

  def counts(self) -> tuple[np.ndarray, np.ndarray]:
    """The integers, ascending, and how often each occurs."""
    empty = np.zeros(0, np.int64)
    numbers, counts = _merged(self._parts or [(empty, empty)])
    if self._users is not None:
      held, users = self._users.counts()
      enough = np.isin(numbers, held[users >= self._least])
      numbers, counts = numbers[enough], counts[enough]
    return numbers, counts
