"""Stacked blocks: scanned, unrolled and rematerialised are one computation."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lumos_jax import config as config_lib
from lumos_jax.models import attention, blocks, stack


def build(count=3, **settings):
  cfg = config_lib.default().model
  cfg.update(d_model=8, d_ff=16, n_heads=2, dropout=0.25, **settings)
  make = lambda r: blocks.Block(
    cfg, use_rotary=False, dtype=jnp.float32, rngs=r
  )
  return stack.Stack(make, count, cfg, nnx.Rngs(params=0))


def run(module, x, training=True):
  ids = jnp.zeros((2, 5), jnp.int32)
  look = attention.Look(ids, ids)
  time = jnp.zeros((2, 5))
  rngs = nnx.Rngs(dropout=1) if training else None
  step = lambda block, x, r: block(x, None, look, time, time, r)
  return module(step, x, rngs)


def gradients(module, x):
  graph, params = nnx.split(module)
  loss = lambda p: jnp.sum(run(nnx.merge(graph, p), x) ** 2)
  return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize("scan", (False, True))
@pytest.mark.parametrize("remat", list(stack.REMAT))
def test_forms_agree(scan, remat):
  x = jax.random.normal(jax.random.key(0), (2, 5, 8))
  value, expected = gradients(build(), x)
  again, found = gradients(build(scan_layers=scan, remat=remat), x)
  np.testing.assert_allclose(again, value, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-4)


def test_blocks_differ_and_follow_each_other():
  module = build()
  kernel = np.asarray(module.blocks.ff_in.kernel[...])
  assert kernel.shape == (3, 8, 16)
  assert np.abs(kernel[0] - kernel[1]).max() > 0.1
  x = jax.random.normal(jax.random.key(0), (2, 5, 8))
  ids, time = jnp.zeros((2, 5), jnp.int32), jnp.zeros((2, 5))
  look = attention.Look(ids, ids)
  graph, params = nnx.split(module.blocks)
  expected = x
  for i in range(3):
    block = nnx.merge(graph, jax.tree.map(operator.itemgetter(i), params))
    expected = block(expected, None, look, time, time, None)
  np.testing.assert_allclose(run(module, x, False), expected, atol=1e-5)


def test_layers_drop_differently():
  """Equal blocks with equal streams would drop the same channels."""
  module = build(count=2)

  def step(block, x, rngs):
    del block
    return x * jax.random.bernoulli(rngs.dropout(), 0.5, x.shape)

  x = jnp.ones((4, 16, 8))
  left = module(step, x, nnx.Rngs(dropout=0)).mean()
  assert 0.2 < float(left) < 0.3


def test_no_block_passes_through():
  x = jnp.ones((2, 5, 8))
  assert run(build(count=0), x) is x


def test_unknown_remat_is_named():
  cfg = config_lib.default().model
  cfg.remat = "some"
  with pytest.raises(ValueError, match="model.remat = 'some'"):
    stack.check_config(cfg)
