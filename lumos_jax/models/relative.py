"""Additive attention biases of relative position and real time (HSTU, 2024).

B batch, T tokens, N heads.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.data import instants
from lumos_jax.models import layers

# The last one begins at exp(0.301 * 63) seconds, 5 years.
TIME_BUCKETS = 64
_LOG_STEP = 0.301


def time_bucket(seconds: jax.Array) -> jax.Array:
  """Logarithmic buckets of time differences, int32; 0 for 1 second and less."""
  log = jnp.log(jnp.maximum(seconds, 1).astype(jnp.float32)) / _LOG_STEP
  return jnp.minimum(log.astype(jnp.int32), TIME_BUCKETS - 1)


class RelativeBias(nnx.Module):
  """Bias [B, N, T, T] (or [1, N, T, T]) of position and time differences."""

  def __init__(self, length: int, n_heads: int, *, use_time: bool):
    """`length` is T; with `use_time`, time stamps enter."""
    self.position = layers.zeros((2 * length - 1, n_heads), (None, None))
    if use_time:
      self.time = layers.zeros((TIME_BUCKETS, n_heads), (None, None))
    self.use_time = use_time

  def __call__(
    self,
    query_time: jax.Array,
    key_time: jax.Array,
    step: jax.Array | None = None,
  ) -> jax.Array:
    """Of queries and keys.

    Args:
      query_time, key_time: int32 [B, Q, 3] and [B, T, 3] (data/instants.py).
      step: int32 [B, Q], places of the queries among the keys; by default all
        places, in order.

    Returns:
      [B or 1, N, Q, T].
    """
    length = (self.position[...].shape[0] + 1) // 2
    keys = jnp.arange(key_time.shape[1])
    if step is None:
      away = keys[:, None] - keys[None] + length - 1
      out = _take(self.position[...], away)[None]
    else:
      away = step[..., None] - keys[None, None] + length - 1
      out = jnp.moveaxis(self.position[...][away], -1, 1)
    if self.use_time:
      gap = instants.elapsed(query_time[:, :, None], key_time[:, None])
      gap = jnp.abs(gap)
      bucket = time_bucket(gap)
      if step is None:
        out = out + jnp.moveaxis(_take(self.time[...], bucket), 0, 1)
      else:
        out = out + jnp.moveaxis(self.time[...][bucket], -1, 1)
    return out


def _take(table: jax.Array, at: jax.Array) -> jax.Array:
  """Rows `at` [...] of a table [K, N], as [N, ...].

  A head at a time: a gather of rows would have heads as its last axis, which a
  TPU pads to 128.
  """
  return jax.lax.map(lambda column: column[at], table.T)
