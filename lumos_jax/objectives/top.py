"""The values that a model finds most likely, and their probabilities."""

import jax
import jax.numpy as jnp

from lumos_jax.data.schema import FIRST_VALUE
from lumos_jax.objectives.next_event import Mixed

_FAR = -1e9


def most_likely(
  states: jax.Array,
  table: jax.Array,
  seen: jax.Array,
  k: int,
  block: int = 8192,
  mixed: Mixed | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The k values of highest probability, in blocks of the vocabulary.

  Args:
    states: [B, D].
    table: [V, D].
    seen: int32 [B, S] different ids that do not compete (0 for none). With
      `mixed` they do.
    k: Values a list.
    block: Values at a time; no more than [B, block] scores are held.
    mixed: What else makes the values of `seen` likely.

  Returns:
    ids int32 [B, k], equal scores by ascending id, and float32 [B, k]:
    softmax over the values that compete, or the mixture's probability. Where
    fewer than k values compete, the rest has id 0 and probability 0.
  """
  b, v = states.shape[0], table.shape[0]
  block = min(block, v)
  pad = -v % block
  blocks = jnp.pad(table, ((0, pad), (0, 0))).reshape(-1, block, table.shape[1])
  steps = jnp.arange(blocks.shape[0])
  row = jnp.arange(b)[:, None]

  def scores(i, part):
    ids = i * block + jnp.arange(block)
    score = jnp.dot(states, part.T, preferred_element_type=jnp.float32)
    return ids, jnp.where((ids >= FIRST_VALUE) & (ids < v), score, _FAR)

  shift = jnp.zeros(b)
  if mixed is not None:

    def add(log_z, item):
      more = jax.nn.logsumexp(scores(*item)[1], -1)
      return jnp.logaddexp(log_z, more), None

    log_z, _ = jax.lax.scan(add, jnp.full(b, _FAR), (steps, blocks))
    shift = mixed.keep - log_z

  def merge(carry, item):
    best, best_ids, log_z = carry
    ids, score = scores(*item)
    score = score + shift[:, None]
    inside = (seen >= FIRST_VALUE) & (seen // block == item[0])
    own = jnp.full(seen.shape, _FAR)
    if mixed is not None:
      own = jnp.take_along_axis(score, seen % block, 1)
      own = jnp.logaddexp(own, mixed.seen)
    at = jnp.where(inside, seen % block, block)  # Of another block: dropped.
    score = score.at[row, at].set(own, mode="drop")
    log_z = jnp.logaddexp(log_z, jax.nn.logsumexp(score, -1))
    score = jnp.concatenate([best, score], 1)
    ids = jnp.concatenate([best_ids, jnp.broadcast_to(ids, (b, block))], 1)
    best, at = jax.lax.top_k(score, k)
    return (best, jnp.take_along_axis(ids, at, 1), log_z), None

  start = jnp.full((b, k), _FAR), jnp.zeros((b, k), jnp.int32)
  (best, ids, log_z), _ = jax.lax.scan(
    merge, (*start, jnp.full(b, _FAR)), (steps, blocks)
  )
  some = ~(best <= 0.5 * _FAR)
  if mixed is None:
    best = best - log_z[:, None]
  return jnp.where(some, ids, 0), jnp.where(some, jnp.exp(best), 0.0)
