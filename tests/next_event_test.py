"""Losses over large vocabularies against their plain formulas; ranks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumos_jax.objectives import contrastive, next_event

V, D, N = 37, 8, 21


@pytest.fixture
def parts():
  rng = np.random.default_rng(0)
  make = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  target = jnp.asarray(rng.integers(2, V, N), jnp.int32)
  weight = jnp.asarray(rng.random(N) < 0.8, jnp.float32)
  return make(N, D), make(V, D), target, weight


def sampled(states, table, target, ids, log_q, correct_target):
  """Losses of each target."""
  each = lambda w: next_event.sampled_sum(
    states,
    table[target],
    table[ids],
    target,
    w,
    ids,
    log_q,
    correct_target,
    chunk=8,
  )
  return jax.vmap(each)(jnp.eye(N))


def plain(states, table, target, weight):
  logits = jnp.where(jnp.arange(V)[None] < 2, -1e9, states @ table.T)
  log_p = jax.nn.log_softmax(logits, -1)
  mine = jnp.take_along_axis(log_p, target[:, None], 1)[:, 0]
  return -jnp.sum(weight * mine)


@pytest.mark.parametrize("chunk", (1, 8, 21, 64))
def test_chunked_softmax_equals_the_plain_one(parts, chunk):
  states, table, target, weight = parts
  chunked = lambda h, e: next_event.softmax_sum(h, e, target, weight, chunk)
  simple = lambda h, e: plain(h, e, target, weight)
  np.testing.assert_allclose(
    chunked(states, table), simple(states, table), rtol=1e-5
  )
  found = jax.grad(lambda h, e: 3 * chunked(h, e), (0, 1))(states, table)
  expected = jax.grad(lambda h, e: 3 * simple(h, e), (0, 1))(states, table)
  for a, b in zip(found, expected):
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("chunk", (8, 64))
def test_mixture_equals_the_plain_one(parts, chunk):
  """Loss and gradients of (1 - g) softmax + g share."""
  states, table, target, weight = parts
  rng = np.random.default_rng(8)
  gate = jax.nn.sigmoid(rng.standard_normal(len(target)).astype(np.float32))
  share = rng.random(len(target)).astype(np.float32)
  share[::3] = 0.0

  def chunked(h, e, g):
    some = jnp.where(share > 0, share, 1.0)
    give = jnp.where(share > 0, jnp.log(some) + jnp.log(g), -1e9)
    mixed = jnp.log1p(-g), give
    return next_event.softmax_sum(h, e, target, weight, chunk, mixed)

  def simple(h, e, g):
    logits = jnp.where(jnp.arange(V)[None] < 2, -1e9, h @ e.T)
    # A reserved target competes with all others.
    mine = jnp.sum(h * e[target], -1, keepdims=True)
    hit = jax.nn.one_hot(target, V, dtype=bool)
    p = jax.nn.softmax(jnp.where(hit, mine, logits), -1)
    p = jnp.take_along_axis(p, target[:, None], 1)[:, 0]
    return -jnp.sum(weight * jnp.log((1 - g) * p + g * share))

  args = states, table, gate
  np.testing.assert_allclose(chunked(*args), simple(*args), rtol=1e-5)
  found = jax.grad(lambda *a: 3 * chunked(*a), (0, 1, 2))(*args)
  expected = jax.grad(lambda *a: 3 * simple(*a), (0, 1, 2))(*args)
  for a, b in zip(found, expected):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("by_frequency", (True, False))
def test_draws_follow_their_distribution(by_frequency):
  ids, log_q = next_event.draw_negatives(
    jax.random.key(0), V, 200_000, by_frequency
  )
  assert int(ids.min()) == 2 and int(ids.max()) == V - 1
  share = np.bincount(np.asarray(ids), minlength=V) / len(ids)
  q = np.exp(np.asarray(log_q))
  assert abs(q[2:].sum() - 1) < 1e-3
  np.testing.assert_allclose(share[2:], q[2:], atol=0.004)
  assert (share[2] > 4 * share[-1]) == by_frequency


@pytest.mark.parametrize("by_frequency", (True, False))
def test_log_q_correction_makes_sampling_agree_with_the_whole(
  parts, by_frequency
):
  """With many draws the corrected loss tends to the full one."""
  states, table, target, _ = parts
  ids, log_q = next_event.draw_negatives(
    jax.random.key(1), V, 50_000, by_frequency
  )
  found = sampled(states, table, target, ids, log_q, False)
  expected = [
    plain(states[i : i + 1], table, target[i : i + 1], jnp.ones(1))
    for i in range(N)
  ]
  off = np.asarray(found) - np.asarray(expected)
  assert np.abs(off).max() < 0.1


def test_target_is_corrected_as_the_candidates_are(parts):
  states, table, target, _ = parts
  ids, log_q = next_event.draw_negatives(jax.random.key(1), V, 7, True)
  found = sampled(states, table, target, ids, log_q, True)
  count = np.log(7) + np.asarray(log_q)
  for i, t in enumerate(target.tolist()):
    score = np.asarray(states[i] @ table.T) - count
    every = [score[t], *(score[j] for j in ids.tolist() if j != t)]
    expected = np.log(np.exp(every).sum()) - score[t]
    np.testing.assert_allclose(found[i], expected, rtol=1e-4)


def test_sampled_gradients_are_those_of_the_formula(parts):
  states, table, target, weight = parts
  ids, log_q = next_event.draw_negatives(jax.random.key(1), V, 7, True)
  expected = log_q + jnp.log(7.0)

  def simple(states, positive, negative):
    mine = jnp.sum(states * positive, -1) - expected[target]
    logits = states @ negative.T - expected[ids][None]
    logits = jnp.where(ids[None] == target[:, None], -1e9, logits)
    every = jnp.concatenate([mine[:, None], logits], 1)
    return jnp.sum(weight * (jax.nn.logsumexp(every, -1) - mine))

  def ours(states, positive, negative):
    return next_event.sampled_sum(
      states, positive, negative, target, weight, ids, log_q, True, 8
    )

  at = states, table[target], table[ids]
  for a, b in zip(
    jax.grad(ours, (0, 1, 2))(*at), jax.grad(simple, (0, 1, 2))(*at)
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_gbce_is_plain_bce_without_calibration(parts):
  states, table, target, _ = parts
  ids = jnp.asarray([2, 5, 9, 9, 30], jnp.int32)
  args = (states, table[target], table[ids], target, ids, V)
  found = np.asarray(next_event.gbce(*args, 0.0))
  for i in range(N):
    positive = float(states[i] @ table[target[i]])
    loss = np.log1p(np.exp(-positive))
    for j in ids.tolist():
      if j != int(target[i]):
        loss += np.log1p(np.exp(float(states[i] @ table[j])))
    np.testing.assert_allclose(found[i], loss / 6, rtol=1e-4)
  # Calibration takes weight from the positive.
  assert (np.asarray(next_event.gbce(*args, 1.0)) < found).all()


def slow_rank(score, target, seen):
  if target < 2:
    return V + 1
  free = [i for i in range(2, V) if i != target and i not in seen]
  return 1 + sum(score[i] >= score[target] for i in free)


@pytest.mark.parametrize("block", (8, 37, 4096))
def test_ranks_equal_the_plain_count(block):
  rng = np.random.default_rng(3)
  states = rng.standard_normal((N, D)).astype(np.float32)
  table = rng.standard_normal((V, D)).astype(np.float32)
  target = rng.integers(0, V, N).astype(np.int32)
  seen = np.zeros((N, 6), np.int32)
  for i in range(N):
    some = rng.choice(np.arange(2, V), i % 7, replace=False)
    seen[i, : len(some)] = some
  seen[4, 0] = target[4]
  found = next_event.ranks(states, table, target, seen, block)
  expected = [
    slow_rank(states[i] @ table.T, target[i], set(seen[i].tolist()))
    for i in range(N)
  ]
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("block", (8, 37, 4096))
def test_ranks_of_a_mixture_equal_the_plain_count(block):
  rng = np.random.default_rng(3)
  states = rng.standard_normal((N, D)).astype(np.float32)
  table = rng.standard_normal((V, D)).astype(np.float32)
  target = rng.integers(0, V, N).astype(np.int32)
  gate = rng.random(N).astype(np.float32)
  seen, share = np.zeros((N, 6), np.int32), np.zeros((N, V), np.float32)
  for i in range(N):
    some = rng.choice(np.arange(2, V), i % 7, replace=False)
    seen[i, : len(some)] = some
    share[i, some] = rng.dirichlet(np.ones(len(some))) if len(some) else 0
  gate[share.sum(1) == 0] = 0.0
  seen[4, 0] = target[4] = 9
  share[4, 9] = 0.2
  log = lambda x: np.where(x > 0, np.log(np.maximum(x, 1e-30)), -1e9)
  give = lambda ids: log(gate[:, None] * np.take_along_axis(share, ids, 1))
  mixed = next_event.Mixed(
    jnp.asarray(log(1 - gate)),
    jnp.asarray(give(seen)),
    jnp.asarray(give(target[:, None])[:, 0]),
  )
  found = next_event.ranks(states, table, target, seen, block, mixed)
  logits = np.where(np.arange(V)[None] < 2, -1e9, states @ table.T)
  p = (1 - gate[:, None]) * jax.nn.softmax(logits, -1) + gate[:, None] * share
  expected = [slow_rank(p[i], target[i], ()) for i in range(N)]
  np.testing.assert_array_equal(found, expected)
  assert any(share[i, target[i]] > 0 for i in range(N))


@pytest.mark.parametrize("value", (0.0, np.nan))
def test_a_model_that_says_nothing_ranks_last(value):
  states = np.full((3, D), value, np.float32)
  table = np.ones((V, D), np.float32)
  target = np.asarray([2, 9, 36], np.int32)
  found = np.asarray(
    next_event.ranks(states, table, target, np.zeros((3, 1), np.int32))
  )
  assert (found >= V - 2).all()


def test_contrastive_loss_equals_the_plain_formula():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((6, 4)).astype(np.float32)
  group = np.asarray([0, 0, 1, 1, 2, 0])
  known = np.asarray([1, 1, 1, 1, 1, 0], bool)
  owner = jnp.arange(6)
  alike = group[:, None] == group[None]
  total, count = contrastive.loss(
    jnp.asarray(x), jnp.asarray(alike), jnp.asarray(known), 0.7, owner
  )
  expected = 0.0
  for i in range(4):
    near = lambda j, i=i: np.exp(-((x[i] - x[j]) ** 2).sum() / 0.7)
    others = [j for j in range(5) if j != i]
    mine = [j for j in others if group[j] == group[i]]
    expected -= np.log(sum(map(near, mine)) / sum(map(near, others)))
  assert int(count) == 4
  np.testing.assert_allclose(total, expected, rtol=1e-4)
