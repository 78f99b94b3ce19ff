"""Distillation: an event model meets the vectors that another model made of users.

LATTE's idea (a sequence encoder that a language model's vectors supervise), with
a cosine as the distance. B rows, T tokens, S users of a row, W numbers of a
teacher's vector.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.data import teacher
from lumos_jax.models import layers

_LEAST = 1e-12  # Of a squared length.


class Head(nnx.Module):
  """From the mean of a user's event vectors to the teacher's space; training's."""

  def __init__(self, width: int, taught: int, *, rngs: nnx.Rngs):
    """From `width` numbers to `taught`."""
    kw = dict(dtype=jnp.float32, rngs=rngs)
    self.out = layers.linear(width, taught, ("embed", None), **kw)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., width] -> [..., taught]."""
    return self.out(x)


def known(batch) -> jax.Array:
  """Windows of the batch whose user has a vector: float32 scalar."""
  return jnp.sum(batch[teacher.KNOWN])


def loss_sum(head: Head, vectors: jax.Array, batch) -> jax.Array:
  """Summed 1 - cosine to the teacher's vector, of windows that have one.

  Args:
    head: To the teacher's space.
    vectors: [B, T, D], of each event; a window's is their mean, its start token
      left out.
    batch: Of data/sequences.py with a teacher: `segment`, `start`, and
      teacher.VECTOR [B, S, W], teacher.KNOWN [B, S].

  Returns:
    A scalar.

  Raises:
    ValueError: The head is made for another width.
  """
  taught = batch[teacher.KNOWN].astype(jnp.float32)
  place = jnp.arange(1, taught.shape[1] + 1)[None, :, None]
  mine = (batch["segment"][:, None] == place) & ~batch["start"][:, None]
  mine = mine.astype(jnp.float32)
  count = jnp.sum(mine, -1, keepdims=True)
  total = jnp.einsum("bst,btd->bsd", mine, vectors.astype(jnp.float32))
  found = head(total / jnp.maximum(count, 1.0))
  unit = found * jax.lax.rsqrt(
    jnp.sum(found * found, -1, keepdims=True) + _LEAST
  )
  if found.shape[-1] != batch[teacher.VECTOR].shape[-1]:
    raise ValueError(
      f"data.teacher has vectors of {batch[teacher.VECTOR].shape[-1]} numbers: set "
      f"objective.distill_width to it (now {found.shape[-1]})"
    )
  cosine = jnp.sum(unit * batch[teacher.VECTOR], -1)
  return jnp.sum((1.0 - cosine) * taught * (count[..., 0] > 0))
