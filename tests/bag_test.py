"""Half of a user's events predict the other half."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lumos_jax import state as state_lib
from lumos_jax.objectives import bag as bag_lib

V, W, S = 12, 4, 3
IDS = np.asarray([[2, 5, 5, 7, 11, 0, 3, 1], [4, 9, 9, 6, 8, 2, 10, 3]])
SEGMENT = np.asarray([[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 2, 2, 2, 3, 3, 3]])


def module(seed=0):
  bag = bag_lib.Bag(V, W, rngs=nnx.Rngs(params=seed))
  bag.table[...] = jax.random.normal(jax.random.key(1), (V, W))
  bag.start[...] = jnp.arange(W) / W
  return bag


def plain(table, start, given, asked):
  """Users one after another, whole logits."""
  total = 0.0
  for row in range(len(IDS)):
    for s in range(1, S + 1):
      mine = (SEGMENT[row] == s) & (IDS[row] >= 2)
      a, b = (IDS[row][mine & x[row]] for x in (given, asked))
      user = start + table[a].sum(0) / np.sqrt(max(len(a), 1))
      logits = np.asarray(user @ table.T, np.float64)
      log_z = np.log(np.exp(logits[2:]).sum())
      total += (log_z - logits[b]).sum()
  return total


@pytest.mark.parametrize("chunk", (2, 1024))
def test_loss_equals_the_plain_formula(chunk):
  bag, key = module(), jax.random.key(3)
  value = bag_lib.loss_sum(bag, IDS, SEGMENT, S, key, chunk)
  given = np.asarray(jax.random.bernoulli(key, 0.5, IDS.shape))
  expected = plain(np.asarray(bag.table), np.asarray(bag.start), given, ~given)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_gradient_equals_that_of_the_plain_formula():
  graph, params = state_lib.split(module())
  key = jax.random.key(3)
  given = jax.random.bernoulli(key, 0.5, IDS.shape)

  def loss(params):
    bag = state_lib.merge(graph, params)
    return bag_lib.loss_sum(bag, IDS, SEGMENT, S, key)

  def whole(params):
    table, total = params["table"], 0.0
    for s in range(1, S + 1):
      mine = (SEGMENT == s) & (IDS >= 2)
      a, b = mine & given, mine & ~given
      add = lambda at: jnp.where(at[..., None], table[IDS], 0.0).sum(1)
      n = jnp.maximum(a.sum(1), 1)[:, None]
      user = params["start"][None] + add(a) / jnp.sqrt(n)
      log_z = jax.nn.logsumexp(user @ table[2:].T, -1)
      total += jnp.sum(b.sum(1) * log_z) - jnp.sum(user * add(b))
    return total

  found, expected = jax.grad(loss)(params), jax.grad(whole)(params)
  for name in ("table", "start"):
    np.testing.assert_allclose(
      found[name], expected[name], rtol=1e-4, atol=1e-4
    )


def test_values_of_the_same_users_come_together():
  """Users choose among one of two sets: vectors tell which."""
  rng = np.random.default_rng(0)
  sides = np.arange(64) % 2
  ids = 2 + 5 * sides[:, None] + rng.integers(0, 5, (64, 12))
  segment = np.ones_like(ids)
  graph, params = state_lib.split(bag_lib.Bag(V, W, rngs=nnx.Rngs(params=0)))
  tx = optax.adam(0.03)
  opt = tx.init(params)

  @jax.jit
  def step(params, opt, key):
    def loss(params):
      bag = state_lib.merge(graph, params)
      return bag_lib.loss_sum(bag, ids, segment, 1, key) / ids.size

    value, grads = jax.value_and_grad(loss)(params)
    updates, opt = tx.update(grads, opt)
    return optax.apply_updates(params, updates), opt, value

  for i in range(80):
    params, opt, value = step(params, opt, jax.random.key(i))
  # Half of all events are asked for; who knows the side chooses among five.
  assert value < 0.5 * (np.log(5) + 0.3)
  likes = params["table"][2:] @ params["table"][2:].T
  same = np.arange(10)[:, None] // 5 == np.arange(10)[None] // 5
  assert np.min(likes[same]) > np.max(likes[~same])
