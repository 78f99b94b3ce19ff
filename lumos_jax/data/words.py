"""Encoded rows of the activity table in words."""

import math
from typing import Any

import numpy as np

from lumos_jax.data import schema as schema_lib


class Words:
  """Says what a schema's encoded rows mean."""

  def __init__(self, schema: schema_lib.Schema):
    """Takes the schema of the rows."""
    self._schema, self._daily = schema, schema.rows == "day"
    self._ids = [
      (i, f.name)
      for i, f in enumerate(schema.categorical("activity"))
      if not isinstance(f, schema_lib.Composite)
    ]
    self._numbers = [
      (schema.numeric_column("activity", f.name), f.name)
      for f in schema.dense("activity")
      if schema_lib.width(f) == 1
    ]

  def values(
    self, categorical: np.ndarray, numeric: np.ndarray
  ) -> dict[str, Any]:
    """A row's values by field; missing numbers are left out.

    Args:
      categorical: int [C].
      numeric: float [N].
    """
    out: dict[str, Any] = {}
    for i, name in self._ids:
      out |= self._schema.token(name, int(categorical[i]))
    for column, name in self._numbers:
      x = float(numeric[column])
      # Days have a column a value; those that are 0 say nothing.
      if math.isfinite(x) and (x or not self._daily):
        out[name] = x
    return out
