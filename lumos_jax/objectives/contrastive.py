"""Contrastive loss over users: like profiles lie close (PANTHER, sec. 3.3).

U users, D width of the embeddings.
"""

import jax
import jax.numpy as jnp

_FAR = -1e9


def loss(
  users: jax.Array,
  alike: jax.Array,
  known: jax.Array,
  temperature: float,
  owner: jax.Array,
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

  Returns:
    The sum over rows that have a positive, float32, and how many they are.
  """
  x = users.astype(jnp.float32)
  square = jnp.sum(x * x, -1)
  away = square[:, None] + square[None] - 2.0 * x @ x.T
  other = known[:, None] & known[None] & (owner[:, None] != owner[None])
  logits = jnp.where(other, -jnp.maximum(away, 0.0) / temperature, _FAR)
  alike = alike & other
  all_of = jax.nn.logsumexp(logits, -1)
  mine = jax.nn.logsumexp(jnp.where(alike, logits, _FAR), -1)
  some = alike.any(-1)
  return jnp.sum(jnp.where(some, all_of - mine, 0.0)), jnp.sum(some)
