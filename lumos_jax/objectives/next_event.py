"""Losses of next-event prediction over a large vocabulary.

V vocabulary, D model width, K negatives; [...] tokens of all rows. The reserved
ids (missing, not seen in training) are never candidates.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from lumos_jax import partition, tables
from lumos_jax.data.schema import FIRST_VALUE

LOSSES = ("softmax", "sampled", "gbce")
_FAR = -1e9


def _chunks(x: jax.Array, size: int) -> jax.Array:
  pad = -x.shape[0] % size
  x = jnp.pad(x, ((0, pad),) + ((0, 0),) * (x.ndim - 1))
  return x.reshape(-1, size, *x.shape[1:])


def _even(count: int, size: int) -> int:
  """A size near the given one whose multiples hardly pass `count`."""
  parts = max(1, -(-count // size))
  return -(-count // parts // 8) * 8


def _sweep(chunk, gradients, group, states, positive, table, ids, offset, own):
  """Sum of weighted losses and, if asked, its gradients, in blocks of tokens.

  On one device: its tokens, its candidates; `group` reaches the others.
  """
  lies, shape = table.shape, states.shape
  flat = lambda x: x.reshape(-1, *x.shape[len(shape) - 1 :])
  items = tuple(map(flat, (states, positive, *own)))
  n = items[0].shape[0]
  items = tuple(_chunks(x, _even(n, chunk)) for x in items)
  table = group.part(table)
  ids, offset = group.rows(ids, -1), group.rows(offset, _FAR)

  def block(carry, item):
    h, e, t, w, s = item
    mine = jnp.sum(h * e, -1, dtype=jnp.float32) + s
    met, t, weight = group.meet(h), group.meet(t), group.meet(w)
    logits = jnp.dot(met, table.T, preferred_element_type=jnp.float32)
    logits = jnp.where(ids[None] == t[:, None], _FAR, logits + offset[None])
    rest = group.logsumexp(jax.nn.logsumexp(logits, -1))
    log_z = jnp.logaddexp(rest, group.meet(mine))
    own_z = group.own_tokens(log_z)
    value = jnp.sum(w * (own_z - mine))
    if not gradients:
      return carry + value, None
    total, d_table = carry
    p = jnp.exp(logits - log_z[:, None]) * weight[:, None]
    p = p.astype(table.dtype)
    miss = ((jnp.exp(mine - own_z) - 1.0) * w)[:, None]
    d_h = jnp.dot(p, table, preferred_element_type=jnp.float32)
    d_h = group.add_up(d_h) + miss * e
    d_table = d_table + jnp.dot(p.T, met, preferred_element_type=jnp.float32)
    return (total + value, d_table), (
      d_h.astype(h.dtype),
      (miss * h).astype(e.dtype),
    )

  if not gradients:
    return group.total(jax.lax.scan(block, jnp.zeros(()), items)[0])
  zero = jnp.zeros(()), jnp.zeros(table.shape, jnp.float32)
  (total, d_table), rows = jax.lax.scan(block, zero, items)
  d_states, d_positive = (
    x.reshape(-1, x.shape[-1])[:n].reshape(shape) for x in rows
  )
  d_table = group.lay(d_table, lies).astype(table.dtype)
  return group.total(total), d_states, d_positive, d_table


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cross_entropy(chunk, layout, states, positive, table, ids, offset, own):
  """Sum of weighted cross-entropies of targets among candidates.

  Logits exist for `chunk` targets at a time; the gradients are made in the same
  sweep, so nothing is computed twice. On a mesh a device multiplies the tokens
  of its group with its part of the candidates.

  Args:
    chunk: Targets at a time, about.
    layout: How the candidates' table lies.
    states: [..., D], tokens.
    positive: [..., D], vectors of the targets.
    table: [K, D], vectors of the candidates.
    ids: int32 [K]; a candidate that is the target does not count.
    offset: float32 [K], added to the candidates' logits.
    own: target int32 [...], weight [...] (0 where there is no target) and shift
      [...], added to the targets' logits.

  Returns:
    float32 scalar; differentiable in states, positive and table only.
  """
  args = states, positive, table, ids, offset, own
  return _on_mesh(chunk, layout, False)(*args)


def _on_mesh(chunk, layout, gradients):
  group = tables.Candidates(layout, alone=partition.current() is None)
  tokens = partition.TOKENS
  inputs = tokens, tokens, layout.spec, P(), P(), (tokens,) * 3
  outputs = (P(), tokens, tokens, layout.spec) if gradients else P()
  run = functools.partial(_sweep, chunk, gradients, group)
  return partition.on_devices(run, inputs, outputs)


def _cross_entropy_fwd(chunk, layout, *args):
  value, *saved = _on_mesh(chunk, layout, True)(*args)
  return value, saved


def _cross_entropy_bwd(chunk, layout, saved, g):
  del chunk, layout
  return *((x * g).astype(x.dtype) for x in saved), None, None, None


_cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


def softmax_sum(states, table, target, weight, chunk=1024):
  """Sum of weighted cross-entropies over the whole vocabulary.

  Args:
    states: [..., D]; on a mesh [B, T, D].
    table: [V, D], the vectors of all values.
    target: int32 [...], ids.
    weight: float32 [...], 0 where there is no target.
    chunk: Targets at a time, about: logits [chunk, V] are the most there is.

  Returns:
    float32 scalar; differentiable in states and table only.
  """
  ids = jnp.arange(table.shape[0])
  offset = jnp.where(ids < FIRST_VALUE, _FAR, 0.0)
  own = target, weight, jnp.zeros(target.shape)
  positive = tables.lookup(table, target)
  layout = tables.Layout.of(table)
  return _cross_entropy(
    chunk, layout, states, positive, table, ids, offset, own
  )


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


def sampled_sum(
  states: jax.Array,
  positive: jax.Array,
  negative: jax.Array,
  target: jax.Array,
  weight: jax.Array,
  ids: jax.Array,
  log_q: jax.Array,
  correct_target: bool,
  chunk: int = 1024,
) -> jax.Array:
  """Weighted sum of softmax over the target and K candidates, less log Q.

  With `correct_target` (Bengio & Senecal 2008, Jean et al. 2015), each logit is
  lessened by the logarithm of how often its value is expected among the
  candidates: which of them is the true one is asked of the candidate set.
  Without, the candidates' sum, each divided by K Q, estimates the sum over all
  values but the target, and the loss tends to the full softmax as K grows.

  Args:
    states: [..., D]; on a mesh [B, T, D].
    positive: [..., D], vectors of the targets.
    negative: [K, D], vectors of the candidates.
    target: int32 [...].
    weight: float32 [...], 0 where there is no target.
    ids: int32 [K].
    log_q: float32 [V].
    correct_target: See above.
    chunk: Targets at a time, about.

  Returns:
    float32 scalar; differentiable in the vectors. Candidates that are the
    target are left out.
  """
  expected = log_q + jnp.log(float(ids.shape[0]))
  shift = -expected[target] if correct_target else jnp.zeros(target.shape)
  own = target, weight, shift
  whole = tables.Layout()
  return _cross_entropy(
    chunk, whole, states, positive, negative, ids, -expected[ids], own
  )


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
    states, positive: [..., D].
    negative: [K, D].
    target: int32 [...].
    ids: int32 [K].
    vocabulary: V, reserved ids included.
    calibration: t from 0 (plain BCE) to 1 (fully calibrated).

  Returns:
    float32 [...], mean over the K + 1 terms.
  """
  count = ids.shape[0]
  rate = count / (vocabulary - FIRST_VALUE - 1.0)
  beta = rate * (calibration * (1.0 - 1.0 / rate) + 1.0 / rate)
  mine = jnp.sum(states * positive, -1, dtype=jnp.float32)
  logits = jnp.dot(states, negative.T, preferred_element_type=jnp.float32)
  other = ids.reshape((1,) * target.ndim + ids.shape) != target[..., None]
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
