"""Contrastive losses over users: like ones lie close.

Like are users of like profiles (PANTHER, sec. 3.3), or two slices of one user
(CoLES, arXiv 2002.08232).

U users, D width of the embeddings.
"""

import jax
import jax.numpy as jnp

_FAR = -1e9
_LEAST = 1e-12  # Of a squared length.


def loss(
  users: jax.Array,
  alike: jax.Array,
  known: jax.Array,
  temperature: float,
  owner: jax.Array,
  same_user: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """-log of the share of a user's likes in exp(-|e_i - e_j|^2 / tau).

  Two rows of one user (windows of a long history) are neither positives nor
  negatives of each other: that they lie close says nothing of other users.

  Args:
    users: [U, D].
    alike: bool [U, U], positives.
    known: bool [U], False for padding.
    temperature: tau.
    owner: int [U], whose row it is.
    same_user: Rows of one user are compared, too.

  Returns:
    The sum over rows that have a positive, float32, and how many they are.
  """
  x = users.astype(jnp.float32)
  square = jnp.sum(x * x, -1)
  away = square[:, None] + square[None] - 2.0 * x @ x.T
  other = owner[:, None] != owner[None]
  if same_user:
    other = ~jnp.eye(len(owner), dtype=bool)
  other = known[:, None] & known[None] & other
  logits = jnp.where(other, -jnp.maximum(away, 0.0) / temperature, _FAR)
  alike = alike & other
  all_of = jax.nn.logsumexp(logits, -1)
  mine = jax.nn.logsumexp(jnp.where(alike, logits, _FAR), -1)
  some = alike.any(-1)
  return jnp.sum(jnp.where(some, all_of - mine, 0.0)), jnp.sum(some)


def unit(x: jax.Array) -> jax.Array:
  """Vectors [..., D] of length 1; zeros stay."""
  square = jnp.sum(x * x, -1, keepdims=True)
  return x * jax.lax.rsqrt(square + _LEAST)


def of_slices(
  vectors: jax.Array, known: jax.Array, owner: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
  """CoLES' loss: the slices of one owner lie close, those of others do not.

  Args:
    vectors: [B, 2 S, D], of the slices that `slices` cut.
    known: bool [B, 2 S], slices that hold a token.
    owner: int [B * S], of the segments.
    temperature: As of `loss`.

  Returns:
    As of `loss`.
  """
  owner = jnp.repeat(owner, 2)
  return loss(
    unit(vectors).reshape(-1, vectors.shape[-1]),
    owner[:, None] == owner[None],
    known.reshape(-1),
    temperature,
    owner,
    same_user=True,
  )


def slices(
  segment: jax.Array, position: jax.Array, count: int, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Cuts each segment in two at a place that is drawn: CoLES' pairs.

  Args:
    segment: int32 [B, T], 1 to `count`; 0 is padding.
    position: int32 [B, T], from 0 in each segment.
    count: S, segments of a row at most.
    key: Of the draw.

  Returns:
    Segments 1 to 2 S, two a segment, and positions within them. A segment of
    one token has one slice.
  """
  place = jnp.arange(1, count + 1)[None, :, None]
  length = jnp.sum(segment[:, None] == place, -1)
  drawn = jax.random.uniform(key, length.shape)
  cut = 1 + jnp.floor(drawn * (length - 1)).astype(jnp.int32)
  cut = jnp.take_along_axis(cut, jnp.maximum(segment - 1, 0), 1)
  late = position >= cut
  new = jnp.where(segment > 0, 2 * segment - 1 + late, 0)
  return new, jnp.where(late, position - cut, position)
