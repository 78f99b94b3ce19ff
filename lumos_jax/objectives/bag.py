"""A user as a bag of events: one half predicts the other.

A linear denoising autoencoder with multinomial likelihood and one table for both
sides (Liang et al. 2018, arXiv 1802.05814, without its nonlinearity). What comes
next depends on the latest events; which values the same users ever choose, that a
bag knows better, and traits of a user follow from it.

B batch, T tokens of a packed row, S segments (users), W width, V vocabulary.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax import partition, tables
from lumos_jax.data.schema import FIRST_VALUE
from lumos_jax.models import layers
from lumos_jax.objectives import next_event

_DEVIATION = 0.02


class Bag(nnx.Module):
  """Vectors of values, whose sum over a user's events predicts its others."""

  def __init__(self, values: int, width: int, *, rngs: nnx.Rngs):
    """`values` is V, `width` W."""
    self.table = layers.embedding(
      values, width, ("vocab", "embed"), deviation=_DEVIATION, rngs=rngs
    )
    # A user of whom nothing is known: how often each value is chosen at all.
    self.start = layers.zeros((width,), (None,))

  def __call__(self, ids: jax.Array) -> jax.Array:
    """Vectors [B, T, W] of values [B, T]; zeros for reserved ids."""
    found = tables.lookup(self.table[...], ids)
    return jnp.where((ids >= FIRST_VALUE)[..., None], found, 0.0)


def loss_sum(
  bag: Bag,
  ids: jax.Array,
  segment: jax.Array,
  segments: int,
  key: jax.Array,
  chunk: int = 1024,
) -> jax.Array:
  """Sum of cross-entropies of a random half of the events, given the others.

  Args:
    bag: The vectors.
    ids: int32 [B, T], events' values; reserved ones are left out.
    segment: int32 [B, T] from 1; 0 for padding.
    segments: S.
    key: Of the halves.
    chunk: Users at a time, about: logits [chunk, V] are the most there is.

  Returns:
    float32 scalar.
  """
  mesh = partition.current()
  ways = mesh.shape["sequence"] if mesh else 1
  place = jax.nn.one_hot(segment - 1, -(-segments // ways) * ways)
  own = ids >= FIRST_VALUE
  given = own & jax.random.bernoulli(key, 0.5, ids.shape)
  asked = own & ~given
  vectors = bag(ids)
  place_given = place * given[..., None]
  place_asked = place * asked[..., None]
  add_up = lambda at: jnp.einsum("bts,btw->bsw", at, vectors)
  number = jnp.maximum(place_given.sum(1), 1.0)
  users = (
    bag.start[...][None, None] + add_up(place_given) * number[..., None] ** -0.5
  )
  right = jnp.sum(users * add_up(place_asked))
  # One softmax a user serves all that are asked of it: of any one target, whose
  # own logit is taken out again.
  count = place_asked.sum(1)
  any_one = jnp.full(count.shape, FIRST_VALUE)
  total = next_event.softmax_sum(users, bag.table[...], any_one, count, chunk)
  vector = tables.lookup(bag.table[...], any_one)
  return total + jnp.sum(count[..., None] * users * vector) - right
