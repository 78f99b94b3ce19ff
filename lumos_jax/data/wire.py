"""Many records of one form, taken out of their protocol buffers at once.

A record is a tf.train.Example whose features are single byte strings. In
https://protobuf.dev/programming-guides/encoding that is fields within fields,
each a tag, a length and so many bytes:

  Example    {1: Features}
  Features   {1: entry, once a feature}
  entry      {1: name, 2: Feature}
  Feature    {1: BytesList}
  BytesList  {1: bytes}

Records of a shard list the same features in the same order, so that one step in
all of them is a few NumPy calls. What is of another form is left to Protobuf.
"""

from collections.abc import Sequence

import numpy as np

_FIRST, _SECOND = 0x0A, 0x12  # Tags: (field << 3) | 2, where 2 is "has length".
_LENGTH_BYTES = 4  # Of a length's varint: up to 256 MiB.


class FormError(ValueError):
  """Records that are not all of the form that is read here."""


def byte_features(
  records: Sequence[bytes],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Where each feature's bytes lie: its first place and size in every record.

  Args:
    records: Serialized tf.train.Examples.

  Raises:
    FormError: They are not of one form, or not of this one.
  """
  sizes = np.fromiter(map(len, records), np.int64, len(records))
  starts = np.cumsum(sizes) - sizes
  walk = _Walk(records, starts)
  ends = starts + sizes
  _expect(np.array_equal(walk.enter(_FIRST), ends))
  out = {}
  while (walk.at < ends).all():
    entry = walk.enter(_FIRST)
    name = walk.same_bytes(walk.enter(_FIRST))
    for tag in (_SECOND, _FIRST, _FIRST):  # Feature, BytesList, bytes.
      stop = walk.enter(tag)
      _expect(np.array_equal(stop, entry))
    out[name.decode()] = walk.at - starts, stop - walk.at
    walk.at = stop
  _expect(np.array_equal(walk.at, ends))
  return out


class _Walk:
  """Goes through all records in step; `at` is where it stands in each."""

  def __init__(self, records: Sequence[bytes], starts: np.ndarray):
    # Zeros behind the end, so that a length may be read from there.
    data = b"".join([*records, bytes(_LENGTH_BYTES + 1)])
    self._bytes = np.frombuffer(data, np.uint8)
    self._end = len(data) - _LENGTH_BYTES - 1
    self.at = starts

  def enter(self, tag: int) -> np.ndarray:
    """Passes a tag and a length; returns where what follows ends."""
    _expect((self._bytes[self.at] == tag).all())
    at = self.at + 1
    byte = self._bytes[at]
    length = (byte & 0x7F).astype(np.int64)
    at += 1
    for i in range(1, _LENGTH_BYTES):
      more = byte >= 0x80
      if not more.any():
        break
      byte = np.where(more, self._bytes[at], 0)
      length += (byte & 0x7F).astype(np.int64) << 7 * i
      at += more
    _expect(not (byte >= 0x80).any())
    self.at, stop = at, at + length
    _expect(int(stop.max(initial=0)) <= self._end)
    return stop

  def same_bytes(self, stop: np.ndarray) -> bytes:
    """Passes a string that is the same in all records."""
    size = int(stop[0] - self.at[0])
    _expect((stop - self.at == size).all())
    found = self._bytes[self.at[:, None] + np.arange(size)]
    _expect((found == found[0]).all())
    self.at = stop
    return found[0].tobytes()


def _expect(true: bool) -> None:
  if not true:
    raise FormError("records of another form")
