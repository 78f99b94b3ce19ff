"""Rows of any table -> vectors: scaling, embedding tables and one MLP a stream.

Follows LUMOS ("three streams, each through its own MLP"); which fields there
are is the schema's business, so a new data set needs no code here.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.data import schema as schema_lib
from lumos_jax.models import layers


def embedding_width(size: int) -> int:
  """Width of a field's embedding: grows with the fourth root of its size."""
  return int(min(64, max(4, round(4 * size**0.25))))


class Scaler:
  """Raw numerics -> model inputs, as the schema was fitted (no parameters)."""

  def __init__(self, schema: schema_lib.Schema, table: str):
    """Reads transforms, offsets and divisors of the table's numerics."""
    log, offset, divisor, nullable = [], [], [], []
    for f in schema.dense(table):
      n = schema_lib.width(f)
      numeric = isinstance(f, schema_lib.Numeric)
      log += [numeric and f.transform == "log1p"] * n
      offset += [f.offset if numeric else 0.0] * n
      divisor += [f.divisor if numeric else 1.0] * n
      nullable += [numeric and f.nullable] * n
    self._log = np.asarray(log, bool)
    self._offset = np.asarray(offset, np.float32)
    self._divisor = np.asarray(divisor, np.float32)
    self._nullable = np.flatnonzero(nullable)
    self.width = len(log) + len(self._nullable)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., N] raw with NaN where missing -> [..., width] float32."""
    if not x.shape[-1]:
      return x
    wide = lambda a: a.reshape((1,) * (x.ndim - 1) + a.shape)
    missing = jnp.isnan(x)
    y = jnp.where(wide(self._log), jnp.sign(x) * jnp.log1p(jnp.abs(x)), x)
    y = (y - wide(self._offset)) / wide(self._divisor)
    y = jnp.where(missing, 0.0, y)
    if not len(self._nullable):
      return y
    flags = missing[..., self._nullable].astype(jnp.float32)
    return jnp.concatenate([y, flags], -1)


class RowEncoder(nnx.Module):
  """One stream: a row's ids and numbers -> a vector of width D."""

  def __init__(
    self,
    schema: schema_lib.Schema,
    table: str,
    width: int,
    *,
    without: str = "",
    activation: str = "relu",
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Encoder of `table` ("activity" or "profile") with output `width`.

    `without` names a categorical field that is left out.
    """
    self.scaler = Scaler(schema, table)
    fields = schema.categorical(table)
    self.columns = tuple(i for i, f in enumerate(fields) if f.name != without)
    fields = [fields[i] for i in self.columns]
    self.tables = nnx.List(
      [
        layers.embedding(
          f.size, embedding_width(f.size), ("vocab", None), rngs=rngs
        )
        for f in fields
      ]
    )
    inputs = self.scaler.width + sum(embedding_width(f.size) for f in fields)
    self.dtype = dtype
    # A table may be empty: its stream is then a constant vector.
    self.mlp = layers.MLP(
      (max(inputs, 1), width, width),
      activation=activation,
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, categorical: jax.Array, numeric: jax.Array) -> jax.Array:
    """categorical int32 [..., C], numeric float32 [..., N] -> [..., width]."""
    parts = [self.scaler(numeric).astype(self.dtype)]
    for i, table in zip(self.columns, self.tables, strict=True):
      parts.append(table[...][categorical[..., i]].astype(self.dtype))
    x = jnp.concatenate(parts, -1)
    if not x.shape[-1]:
      x = jnp.ones(x.shape[:-1] + (1,), self.dtype)
    return self.mlp(x)
