"""The order of a user's rows: a written rule, whatever read them.

By user, then instant at the source's full resolution, then the source's own
column `order` where it has one. Rows that still tie are ordered by a hash of their
instant and fields: any permutation of the table, and any cut of it into files,
gives the same order, and the order tells nothing (by frequency or by name, the
first of several would be easy to predict). Rows equal in all of this are
interchangeable.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

from . import encode

_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15)


def of_rows(
  user: np.ndarray,
  keys: list[np.ndarray],
  columns: Mapping[str, encode.Column],
) -> np.ndarray | None:
  """Positions of the rows in their order; None where they stand in it.

  Args:
    user: int [R].
    keys: Integer arrays [R] to order each user's rows by, the instant first.
    columns: The fields' columns, in the schema's order, for ties.
  """
  order = _by_keys(user, keys)
  at = slice(None) if order is None else order
  same = user[at][1:] == user[at][:-1]
  for key in keys:
    same &= key[at][1:] == key[at][:-1]
  if not same.any():
    return order
  order = np.arange(len(user)) if order is None else order
  # Runs of ties: each row that equals the one before or after it.
  tied = np.zeros(len(user), bool)
  tied[1:] |= same
  tied[:-1] |= same
  places = np.flatnonzero(tied)
  rows = order[places]
  run = np.cumsum(~np.append(False, same)[places])
  order[places] = rows[np.lexsort((_hashes(columns, keys[0], rows), run))]
  return None if np.all(order[1:] > order[:-1]) else order


def ties(
  instant: np.ndarray, columns: Mapping[str, encode.Column]
) -> np.ndarray:
  """What orders rows of one instant: uint64 [R], ascending; equal for equal rows.

  For who has a user's rows one by one. A source's own column `order`, where it has
  one, comes before.

  Args:
    instant: int64 [R] microseconds since the epoch.
    columns: As of `of_rows`.
  """
  return _hashes(columns, instant, np.arange(len(instant)))


def _by_keys(user: np.ndarray, keys: list[np.ndarray]) -> np.ndarray | None:
  """Stable order by user, then keys; None where the rows stand in it."""
  first = keys[0]
  ascending = len(keys) == 1 and bool(np.all(first[1:] >= first[:-1]))
  if ascending:
    if np.all(user[1:] >= user[:-1]):
      return None
    if user.max() < 1 << 16:  # A radix sort by user is enough.
      return np.argsort(user.astype(np.uint16), kind="stable")
    return np.argsort(user, kind="stable")
  order = np.lexsort((*keys[::-1], user))
  return None if np.all(order[1:] > order[:-1]) else order


def _hashes(columns, instant: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """uint64 [rows]: of the instant and all fields."""
  out = _mixed(instant[rows].view(np.uint64))
  for column in columns.values():
    for part in _parts(column, rows):
      out = _mixed(out ^ part)
  return out


def _parts(column: encode.Column, rows: np.ndarray):
  """uint64 [rows] of each number that a column holds."""
  if isinstance(column, encode.Coded):
    codes, place = np.unique(column.codes[rows], return_inverse=True)
    text = [column.values[c] if c < len(column.values) else "" for c in codes]
    digest = lambda t: hashlib.blake2b(t.encode(), digest_size=8).digest()
    found = b"".join(map(digest, text))
    found = np.frombuffer(found, "<u8").copy()
    found[codes == len(column.values)] = 0  # Null.
    yield found[place]
  elif column.dtype.kind == "M":
    yield column[rows].astype(np.int64).view(np.uint64)
  else:
    values = column[rows].astype(np.float64).reshape(len(rows), -1)
    values = np.where(np.isnan(values), np.nan, values + 0.0)  # No -0.0.
    for x in values.T:
      yield np.ascontiguousarray(x).view(np.uint64)


def _mixed(x: np.ndarray) -> np.ndarray:
  """Splitmix64's finalizer."""
  a, b, step = (np.uint64(m) for m in _MIX)
  x = x + step
  x = (x ^ (x >> np.uint64(30))) * a
  x = (x ^ (x >> np.uint64(27))) * b
  return x ^ (x >> np.uint64(31))
