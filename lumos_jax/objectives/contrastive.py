"""Contrastive loss over users: like profiles lie close (PANTHER, sec. 3.3).

U users, D width of the embeddings.
"""

import jax
import jax.numpy as jnp

_FAR = -1e9


def loss(
  users: jax.Array, alike: jax.Array, known: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
  """-log of the share of a user's likes in exp(-|e_i - e_j|^2 / tau).

  Args:
    users: [U, D].
    alike: bool [U, U], positives; the diagonal does not matter.
    known: bool [U], False for padding.
    temperature: tau.

  Returns:
    The sum over users that have a positive, float32, and how many they are.
  """
  x = users.astype(jnp.float32)
  square = jnp.sum(x * x, -1)
  away = square[:, None] + square[None] - 2.0 * x @ x.T
  other = known[:, None] & known[None] & ~jnp.eye(len(x), dtype=bool)
  logits = jnp.where(other, -jnp.maximum(away, 0.0) / temperature, _FAR)
  alike = alike & other
  all_of = jax.nn.logsumexp(logits, -1)
  mine = jax.nn.logsumexp(jnp.where(alike, logits, _FAR), -1)
  some = alike.any(-1)
  return jnp.sum(jnp.where(some, all_of - mine, 0.0)), jnp.sum(some)
