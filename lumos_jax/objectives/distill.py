"""Distillation: an event model meets the vectors that another model made of users.

LATTE's idea (a sequence encoder that a language model's vectors supervise), with
a cosine as the distance. B rows, T tokens, S users of a row, W numbers of a
teacher's vector.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.data import teacher
from lumos_jax.models import segments
from lumos_jax.objectives import contrastive


def known(batch) -> jax.Array:
  """Windows of the batch whose user has a vector: float32 scalar."""
  return jnp.sum(batch[teacher.KNOWN])


def loss_sum(head: nnx.Linear, vectors: jax.Array, batch) -> jax.Array:
  """Summed 1 - cosine to the teacher's vector, of windows that have one.

  Args:
    head: From the mean of a user's event vectors to the teacher's space.
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
  mine = segments.members(batch["segment"], taught.shape[1], ~batch["start"])
  found = head(segments.mean(vectors.astype(jnp.float32), mine))
  width = batch[teacher.VECTOR].shape[-1]
  if found.shape[-1] != width:
    raise ValueError(
      f"data.teacher has vectors of {width} numbers: set "
      f"objective.distill_width to it (now {found.shape[-1]})"
    )
  cosine = jnp.sum(contrastive.unit(found) * batch[teacher.VECTOR], -1)
  return jnp.sum((1.0 - cosine) * taught * mine.any(-1))
