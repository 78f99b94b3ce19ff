"""Losses of next-event prediction over a large vocabulary.

N targets (tokens of all rows), V vocabulary, D model width, K negatives. The
reserved ids (missing, not seen in training) are never candidates.
"""

import functools

import jax
import jax.numpy as jnp

from lumos_jax.data.schema import FIRST_VALUE

LOSSES = ("softmax", "sampled", "gbce")
_FAR = -1e9


def _chunks(x: jax.Array, size: int) -> jax.Array:
  pad = -x.shape[0] % size
  x = jnp.pad(x, ((0, pad),) + ((0, 0),) * (x.ndim - 1))
  return x.reshape(-1, size, *x.shape[1:])


def _forward(states, table, target, weight, chunk, gradients):
  """Sum of weighted losses and, if asked, its gradients, in blocks of N."""
  at = jnp.arange(table.shape[0])
  reserved = jnp.where(at < FIRST_VALUE, _FAR, 0.0)[None]

  def block(carry, item):
    h, t, w = item
    logits = jnp.dot(h, table.T, preferred_element_type=jnp.float32) + reserved
    log_z = jax.nn.logsumexp(logits, -1)
    mine = jnp.take_along_axis(logits, t[:, None], 1)[:, 0]
    value = jnp.sum(w * (log_z - mine))
    if not gradients:
      return carry + value, None
    total, d_table = carry
    p = jnp.exp(logits - log_z[:, None]) * w[:, None]
    p = p.at[jnp.arange(len(t)), t].add(-w).astype(table.dtype)
    d_h = jnp.dot(p, table, preferred_element_type=jnp.float32)
    d_table = d_table + jnp.dot(p.T, h, preferred_element_type=jnp.float32)
    return (total + value, d_table), d_h.astype(h.dtype)

  items = tuple(_chunks(x, chunk) for x in (states, target, weight))
  if not gradients:
    return jax.lax.scan(block, jnp.zeros(()), items)[0], None, None
  zero = jnp.zeros(()), jnp.zeros(table.shape, jnp.float32)
  (total, d_table), d_h = jax.lax.scan(block, zero, items)
  d_h = d_h.reshape(-1, states.shape[-1])[: states.shape[0]]
  return total, d_h, d_table


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def softmax_sum(states, table, target, weight, chunk=1024):
  """Sum of weighted cross-entropies over the whole vocabulary.

  Logits exist for `chunk` targets at a time; the gradients are made in the same
  sweep, so nothing is computed twice.

  Args:
    states: [N, D].
    table: [V, D], the vectors of all values.
    target: int32 [N], ids.
    weight: float32 [N], 0 where there is no target.
    chunk: Targets at a time.

  Returns:
    float32 scalar; differentiable in states and table only.
  """
  return _forward(states, table, target, weight, chunk, False)[0]


def _softmax_fwd(states, table, target, weight, chunk):
  total, d_states, d_table = _forward(
    states, table, target, weight, chunk, True
  )
  return total, (d_states, d_table.astype(table.dtype))


def _softmax_bwd(chunk, saved, g):
  del chunk
  d_states, d_table = saved
  scale = lambda x: (x * g).astype(x.dtype)
  return scale(d_states), scale(d_table), None, None


softmax_sum.defvjp(_softmax_fwd, _softmax_bwd)


def draw_negatives(
  key: jax.Array, vocabulary: int, count: int, by_frequency: bool
) -> tuple[jax.Array, jax.Array]:
  """Candidate ids and the logarithm of how likely each was drawn.

  Args:
    key: Of the draw.
    vocabulary: V.
    count: K, drawn with repetition and shared by all targets of a batch.
    by_frequency: Log-uniform in the id, as vocabularies are ordered by
      frequency (a Zipf law); else uniform.

  Returns:
    ids int32 [K], log Q float32 [V].
  """
  values = vocabulary - FIRST_VALUE
  rank = jnp.arange(vocabulary, dtype=jnp.float32) - FIRST_VALUE
  if by_frequency:
    u = jax.random.uniform(key, (count,))
    found = jnp.exp(u * jnp.log(values + 1.0)).astype(jnp.int32) - 1
    found = jnp.clip(found, 0, values - 1)
    rank = jnp.maximum(rank, 0.0)
    log_q = jnp.log(jnp.log1p(1.0 / (rank + 1.0)) / jnp.log(values + 1.0))
  else:
    found = jax.random.randint(key, (count,), 0, values)
    log_q = jnp.full((vocabulary,), -jnp.log(float(values)))
  return found + FIRST_VALUE, log_q


def sampled_softmax(
  states: jax.Array,
  positive: jax.Array,
  negative: jax.Array,
  target: jax.Array,
  ids: jax.Array,
  log_q: jax.Array,
  correct_target: bool,
) -> jax.Array:
  """Softmax over the target and K candidates, corrected by log Q.

  With `correct_target` (Bengio & Senecal 2008, Jean et al. 2015), each logit is
  lessened by the logarithm of how often its value is expected among the
  candidates: which of them is the true one is asked of the candidate set.
  Without, the candidates' sum, each divided by K Q, estimates the sum over all
  values but the target, and the loss tends to the full softmax as K grows.

  Args:
    states: [N, D].
    positive: [N, D], vectors of the targets.
    negative: [K, D], vectors of the candidates.
    target: int32 [N].
    ids: int32 [K].
    log_q: float32 [V].
    correct_target: See above.

  Returns:
    float32 [N]. Candidates that are the target are left out.
  """
  expected = log_q + jnp.log(float(ids.shape[0]))
  mine = jnp.sum(states * positive, -1, dtype=jnp.float32)
  logits = jnp.dot(states, negative.T, preferred_element_type=jnp.float32)
  logits = logits - expected[ids][None]
  if correct_target:
    mine = mine - expected[target]
  logits = jnp.where(ids[None] == target[:, None], _FAR, logits)
  every = jnp.concatenate([mine[:, None], logits], 1)
  return jax.nn.logsumexp(every, -1) - mine


def gbce(
  states: jax.Array,
  positive: jax.Array,
  negative: jax.Array,
  target: jax.Array,
  ids: jax.Array,
  vocabulary: int,
  calibration: float,
) -> jax.Array:
  """Generalised binary cross-entropy (gSASRec, arXiv 2308.07192, eq. 8-10).

  The positive's probability is raised to beta, which undoes the overconfidence
  that sampling K of V - 1 negatives brings. Negatives are shared by a batch.

  Args:
    states, positive: [N, D].
    negative: [K, D].
    target: int32 [N].
    ids: int32 [K].
    vocabulary: V, reserved ids included.
    calibration: t from 0 (plain BCE) to 1 (fully calibrated).

  Returns:
    float32 [N], mean over the K + 1 terms.
  """
  count = ids.shape[0]
  rate = count / (vocabulary - FIRST_VALUE - 1.0)
  beta = rate * (calibration * (1.0 - 1.0 / rate) + 1.0 / rate)
  mine = jnp.sum(states * positive, -1, dtype=jnp.float32)
  logits = jnp.dot(states, negative.T, preferred_element_type=jnp.float32)
  other = ids[None] != target[:, None]
  wrong = jnp.sum(jnp.where(other, jax.nn.softplus(logits), 0.0), -1)
  return (beta * jax.nn.softplus(-mine) + wrong) / (count + 1.0)


def ranks(
  states: jax.Array,
  table: jax.Array,
  target: jax.Array,
  seen: jax.Array,
  block: int = 8192,
) -> jax.Array:
  """Rank of each target among all values, in blocks of the vocabulary.

  Args:
    states: [B, D].
    table: [V, D].
    target: int32 [B].
    seen: int32 [B, S] different ids that do not compete (0 for none); the
      target always does.
    block: Values at a time.

  Returns:
    float32 [B] from 1; equal scores count against the target, so that a model
    that says nothing gains nothing. V + 1 where the target is a reserved id or
    a score is not a number.
  """
  b, v = states.shape[0], table.shape[0]
  block = min(block, v)
  mine = jnp.sum(states * table[target], -1, dtype=jnp.float32)
  taken = jnp.where(seen == target[:, None], 0, seen)

  def count(total, item):
    i, part = item
    ids = i * block + jnp.arange(block)
    score = jnp.dot(states, part.T, preferred_element_type=jnp.float32)
    free = ((ids >= FIRST_VALUE) & (ids < v))[None]
    above = free & (ids[None] != target[:, None]) & ~(score < mine[:, None])
    # The same products again, so that what was counted is taken away.
    inside = (taken >= FIRST_VALUE) & (taken // block == i)
    own = jnp.take_along_axis(score, jnp.where(inside, taken % block, 0), 1)
    lost = inside & ~(own < mine[:, None])
    return total + jnp.sum(above, -1) - jnp.sum(lost, -1), None

  blocks = _chunks(table, block)
  steps = jnp.arange(blocks.shape[0])
  total, _ = jax.lax.scan(count, jnp.zeros(b, jnp.int32), (steps, blocks))
  lost = (target < FIRST_VALUE) | ~jnp.isfinite(mine)
  return jnp.where(lost, v + 1.0, 1.0 + total.astype(jnp.float32))
