"""Sums over the segments of packed rows.

B batch, T tokens of a row, S segments of a row, D width.
"""

import jax
import jax.numpy as jnp


def members(segment: jax.Array, count: int, own: jax.Array) -> jax.Array:
  """Which tokens each segment has: bool [B, S, T].

  Args:
    segment: int32 [B, T], 1 to `count`; 0 is padding.
    count: S.
    own: bool [B, T], tokens that count.
  """
  place = jnp.arange(1, count + 1)[None, :, None]
  return (segment[:, None] == place) & own[:, None]


def mean(values: jax.Array, mine: jax.Array) -> jax.Array:
  """Mean over each segment's tokens, zeros where it has none: [B, S, D].

  Args:
    values: float32 [B, T, D].
    mine: [B, S, T], of `members`.
  """
  weight = mine.astype(jnp.float32)
  total = jnp.einsum("bst,btd->bsd", weight, values)
  return total / jnp.maximum(jnp.sum(weight, -1, keepdims=True), 1.0)
