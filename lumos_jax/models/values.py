"""Vectors of a field's values: a table, and what is known about each value.

V values, D model width, P attributes of a value at most.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax import tables
from lumos_jax.data import schema as schema_lib
from lumos_jax.models import layers

DEVIATION = 0.02  # Of tables that are added to states.


class _Members:
  """Which attributes each value has; no parameters.

  Attributes:
    at: int32 [V, P], padded with `count`.
    number: float32 [V, 1], how many, at least 1.
    count: A, different attributes.
  """

  def __init__(self, field: schema_lib.Categorical):
    known = field.attributes
    self.count = 1 + max((max(a) for a in known if a), default=-1)
    most = max(1, *map(len, known))
    self.at = np.full((field.size, most), self.count, np.int32)
    for i, a in enumerate(known):
      self.at[i + schema_lib.FIRST_VALUE, : len(a)] = a
    number = (self.at < self.count).sum(-1, keepdims=True)
    self.number = np.maximum(number, 1).astype(np.float32)


class Values(nnx.Module):
  """Vectors of the values of a field: a table, and what is known of each.

  A value's vector is its own plus the mean of its attributes', so that a rare
  value learns from its likes. Used at the input and, tied, at the output.
  """

  def __init__(self, field, width: int, use_attributes: bool, *, rngs):
    """`field` has `size` ids and perhaps `attributes`."""
    # Small, so that a rare value is soon what it learned, not how it began.
    kw = dict(deviation=DEVIATION, rngs=rngs)
    self.table = layers.embedding(field.size, width, ("vocab", "embed"), **kw)
    self.members = None
    if use_attributes and getattr(field, "attributes", None):
      self.members = _Members(field)
      self.attributes = layers.embedding(
        self.members.count, width, (None, "embed"), **kw
      )

  def __call__(
    self, ids: jax.Array | None = None, alike: bool = False
  ) -> jax.Array:
    """Vectors of values.

    Args:
      ids: int32 [...] of tokens; None for all.
      alike: `ids` are the same on all devices.

    Returns:
      float32 [..., D]; [V, D] of all.
    """
    take = lambda x: x if ids is None else jnp.asarray(x)[ids]
    out = self.table[...]
    if ids is not None:
      out = tables.lookup(out, ids, alike)
    if self.members is None:
      return out
    rows = jnp.pad(self.attributes[...], ((0, 1), (0, 0)))
    rows = rows[take(self.members.at)]
    return out + jnp.sum(rows, -2) / take(self.members.number)
