"""Losses of next-event prediction over a large vocabulary.

V vocabulary, D model width, K negatives; [...] tokens of all rows. The reserved
ids (missing, not seen in training) are never candidates.
"""

import functools
from typing import NamedTuple

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


def _sweep(
  chunk, gradients, group, states, positive, table, ids, offset, own, mixed
):
  """Sum of weighted losses and, if asked, its gradients, in blocks of tokens.

  On one device: its tokens, its candidates; `group` reaches the others.
  """
  lies, shape = table.shape, states.shape
  flat = lambda x: x.reshape(-1, *x.shape[len(shape) - 1 :])
  items = tuple(map(flat, (states, positive, *own, *mixed)))
  n = items[0].shape[0]
  items = tuple(_chunks(x, _even(n, chunk)) for x in items)
  table = group.part(table)
  ids, offset = group.rows(ids, -1), group.rows(offset, _FAR)

  def block(carry, item):
    h, e, t, w, s, *other = item
    mine = jnp.sum(h * e, -1, dtype=jnp.float32) + s
    met, t = group.meet(h), group.meet(t)
    logits = jnp.dot(met, table.T, preferred_element_type=jnp.float32)
    logits = jnp.where(ids[None] == t[:, None], _FAR, logits + offset[None])
    rest = group.logsumexp(jax.nn.logsumexp(logits, -1))
    log_z = jnp.logaddexp(rest, group.meet(mine))
    own_z = group.own_tokens(log_z)
    if other:
      keep, give = other
      kept = keep + mine - own_z
      both = jnp.logaddexp(kept, give)
      value = -jnp.sum(w * both)
      # What the logits have to answer for.
      d_give, w = -w * jnp.exp(give - both), w * jnp.exp(kept - both)
    else:
      value = jnp.sum(w * (own_z - mine))
    if not gradients:
      return carry + value, None
    total, d_table = carry
    p = jnp.exp(logits - log_z[:, None]) * group.meet(w)[:, None]
    p = p.astype(table.dtype)
    miss = ((jnp.exp(mine - own_z) - 1.0) * w)[:, None]
    d_h = jnp.dot(p, table, preferred_element_type=jnp.float32)
    d_h = group.add_up(d_h) + miss * e
    d_table = d_table + jnp.dot(p.T, met, preferred_element_type=jnp.float32)
    return (total + value, d_table), (
      d_h.astype(h.dtype),
      (miss * h).astype(e.dtype),
      *((-w, d_give) if other else ()),
    )

  if not gradients:
    return group.total(jax.lax.scan(block, jnp.zeros(()), items)[0])
  zero = jnp.zeros(()), jnp.zeros(table.shape, jnp.float32)
  (total, d_table), rows = jax.lax.scan(block, zero, items)
  whole = lambda x: x.reshape(-1, *x.shape[2:])[:n]
  d_states, d_positive = (whole(x).reshape(shape) for x in rows[:2])
  d_mixed = tuple(whole(x).reshape(shape[:-1]) for x in rows[2:])
  d_table = group.lay(d_table, lies).astype(table.dtype)
  return group.total(total), d_states, d_positive, d_table, d_mixed


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cross_entropy(
  chunk, layout, states, positive, table, ids, offset, own, mixed
):
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
    mixed: () or (keep, give), each [...]: the loss is then the logarithm of
      exp(keep) times the softmax's probability plus exp(give).

  Returns:
    float32 scalar; differentiable in states, positive, table and mixed.
  """
  args = states, positive, table, ids, offset, own, mixed
  return _on_mesh(chunk, layout, False, len(mixed))(*args)


def _on_mesh(chunk, layout, gradients, mixed):
  group = tables.Candidates(layout, alone=partition.current() is None)
  tokens = partition.TOKENS
  mixed = (tokens,) * mixed
  inputs = tokens, tokens, layout.spec, P(), P(), (tokens,) * 3, mixed
  outputs = P()
  if gradients:
    outputs = P(), tokens, tokens, layout.spec, mixed
  run = functools.partial(_sweep, chunk, gradients, group)
  return partition.on_devices(run, inputs, outputs)


def _cross_entropy_fwd(chunk, layout, *args):
  value, *saved = _on_mesh(chunk, layout, True, len(args[-1]))(*args)
  return value, saved


def _cross_entropy_bwd(chunk, layout, saved, g):
  del chunk, layout
  *vectors, mixed = jax.tree.map(lambda x: (x * g).astype(x.dtype), saved)
  return *vectors, None, None, None, mixed


_cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


def softmax_sum(
  states, table, target, weight, chunk=1024, mixed=(), first=FIRST_VALUE
):
  """Sum of weighted cross-entropies over the whole vocabulary.

  Args:
    states: [..., D]; on a mesh [B, T, D].
    table: [V, D], the vectors of all values.
    target: int32 [...], ids.
    weight: float32 [...], 0 where there is no target.
    chunk: Targets at a time, about: logits [chunk, V] are the most there is.
    mixed: () or (keep, give), float32 [...]: logarithms of what the softmax's
      probability is multiplied by and of what is added to it.
    first: The first id that is a candidate; a language model's is 0.

  Returns:
    float32 scalar; differentiable in states, table and mixed only.
  """
  ids = jnp.arange(table.shape[0])
  offset = jnp.where(ids < first, _FAR, 0.0)
  own = target, weight, jnp.zeros(target.shape)
  positive = tables.lookup(table, target)
  layout = tables.Layout.of(table)
  return _cross_entropy(
    chunk, layout, states, positive, table, ids, offset, own, mixed
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
  mixed: tuple[jax.Array, ...] = (),
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
    mixed: As in `softmax_sum`.

  Returns:
    float32 scalar; differentiable in the vectors and in mixed. Candidates that are the
    target are left out.
  """
  expected = log_q + jnp.log(float(ids.shape[0]))
  shift = -expected[target] if correct_target else jnp.zeros(target.shape)
  own = target, weight, shift
  whole = tables.Layout()
  return _cross_entropy(
    chunk, whole, states, positive, negative, ids, -expected[ids], own, mixed
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


class Mixed(NamedTuple):
  """What a mixture adds to the softmax's probabilities, in logarithms.

  Attributes:
    keep: [B], what the softmax's probability is multiplied by.
    seen: [B, S], what is added to the values of the history.
    target: [B], what is added to the target.
  """

  keep: jax.Array
  seen: jax.Array
  target: jax.Array


def ranks(
  states: jax.Array,
  table: jax.Array,
  target: jax.Array,
  seen: jax.Array,
  block: int = 8192,
  mixed: Mixed | None = None,
) -> jax.Array:
  """Rank of each target among all values, in blocks of the vocabulary.

  Args:
    states: [B, D].
    table: [V, D].
    target: int32 [B].
    seen: int32 [B, S] different ids that do not compete (0 for none); the
      target always does. With `mixed` they do.
    block: Values at a time.
    mixed: What else makes the values of `seen` likely.

  Returns:
    float32 [B] from 1; equal scores count against the target, so that a model
    that says nothing gains nothing. V + 1 where the target is a reserved id or
    a score is not a number.
  """
  b, v = states.shape[0], table.shape[0]
  block = min(block, v)
  mine = jnp.sum(states * table[target], -1, dtype=jnp.float32)
  taken = jnp.where(seen == target[:, None], 0, seen)
  blocks = _chunks(table, block)
  steps = jnp.arange(blocks.shape[0])

  def scores(i, part):
    ids = i * block + jnp.arange(block)
    score = jnp.dot(states, part.T, preferred_element_type=jnp.float32)
    return ids[None], score, ((ids >= FIRST_VALUE) & (ids < v))[None]

  bar = mine
  if mixed is not None:

    def add(log_z, item):
      _, score, free = scores(*item)
      more = jax.nn.logsumexp(jnp.where(free, score, _FAR), -1)
      return jnp.logaddexp(log_z, more), None

    log_z, _ = jax.lax.scan(add, jnp.full(b, _FAR), (steps, blocks))
    shift = mixed.keep - log_z
    goal = jnp.logaddexp(mine + shift, mixed.target)
    # What a value without a share of its own needs to reach the target.
    bar = jnp.where(mixed.target > _FAR, goal - shift, mine)

  def count(total, item):
    ids, score, free = scores(*item)
    above = free & (ids != target[:, None]) & ~(score < bar[:, None])
    # The same products again, so that what was counted is taken away.
    i = item[0]
    inside = (taken >= FIRST_VALUE) & (taken // block == i)
    own = jnp.take_along_axis(score, jnp.where(inside, taken % block, 0), 1)
    total = total + jnp.sum(above, -1)
    total = total - jnp.sum(inside & ~(own < bar[:, None]), -1)
    if mixed is not None:
      own = jnp.logaddexp(own + shift[:, None], mixed.seen)
      total = total + jnp.sum(inside & ~(own < goal[:, None]), -1)
    return total, None

  total, _ = jax.lax.scan(count, jnp.zeros(b, jnp.int32), (steps, blocks))
  lost = (target < FIRST_VALUE) | ~jnp.isfinite(mine)
  return jnp.where(lost, v + 1.0, 1.0 + total.astype(jnp.float32))
