"""What a user's habits are counted from: totals over the events before a row.

A batch holds windows of a user's events. How often a user did what is a matter of
the whole history, so each window carries the totals of the events before it;
models add those of its own rows (models/event_habits.py).

W values of all counted fields.
"""

import zlib

import numpy as np

from lumos_jax.data import instants
from lumos_jax.data import schema as schema_lib

_MOST_VALUES = 64  # A field of more says little by the share of each.
# Before the counts of values: events, and days since the first of them.
FIRST_COUNT = 2


def counted(schema: schema_lib.Schema) -> list[int]:
  """Columns of the activity's `categorical` whose values are counted."""
  fields = schema.categorical("activity")
  return [i for i, f in enumerate(fields) if f.size <= _MOST_VALUES]


class Running:
  """Totals of a record's first events."""

  def __init__(self, schema: schema_lib.Schema):
    """Of all fields that are counted; a model takes those that it sees."""
    fields = schema.categorical("activity")
    self._columns = counted(schema)
    self._sizes = [fields[i].size for i in self._columns]
    self.width = FIRST_COUNT + sum(self._sizes)

  def before(self, record, stop: int) -> np.ndarray:
    """Of events [0, stop): float32 [2 + W].

    Events; days from the first event to that at `stop` (to the last where there
    is none), rounded once; how often each value of each counted field occurred.
    """
    out = np.zeros(self.width, np.float32)
    if stop <= 0:
      return out
    time = record["time"]
    micros = int(time[min(stop, len(time) - 1)]) - int(time[0])
    out[:FIRST_COUNT] = stop, micros / (instants.DAY_SECONDS * 1e6)
    out[FIRST_COUNT:] = self.values(record["categorical"][:stop])
    return out

  def values(self, categorical: np.ndarray) -> np.ndarray:
    """How often each value of each counted field occurs: float32 [W]."""
    out, start = np.zeros(self.width - FIRST_COUNT, np.float32), 0
    for column, size in zip(self._columns, self._sizes, strict=True):
      found = np.bincount(categorical[:, column], minlength=size)
      out[start : start + size] = found
      start += size
    return out


def user_number(key: str) -> np.int32:
  """A number that tells users apart: two share one once in 4e9 pairs."""
  return np.uint32(zlib.crc32(key.encode())).astype(np.int32)
