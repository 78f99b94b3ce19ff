"""Attention's implementations against the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumos_jax import partition
from lumos_jax.models import attention

B, T, N, H = 2, 160, 2, 16


def inputs(seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  q, k, v = (jax.random.normal(key, (B, T, N, H)) for key in keys)
  # Two users and padding in a row.
  lengths = ((70, 60), (160, 0))
  segment = np.zeros((B, T), np.int32)
  for i, (a, b) in enumerate(lengths):
    segment[i, :a], segment[i, a : a + b] = 1, 2
  return q, k, v, jnp.asarray(segment)


def plain(q, k, v, mask):
  scores = np.einsum("bqnh,btnh->bnqt", q, k) / np.sqrt(q.shape[-1])
  scores = np.where(mask[:, None], scores, -np.inf)
  scores = np.exp(scores - scores.max(-1, keepdims=True))
  scores /= scores.sum(-1, keepdims=True)
  return np.einsum("bnqt,btnh->bqnh", scores, v)


def mask_of(segment, causal):
  mask = np.zeros((B, T, T), bool)
  for b in range(B):
    for i in range(T):
      for j in range(T):
        same = segment[b, i] == segment[b, j]
        mask[b, i, j] = same and (j <= i or not causal)
  return mask


@pytest.mark.parametrize("causal", (True, False))
@pytest.mark.parametrize("kernel", ("xla", "splash"))
def test_kernels_equal_the_formula(kernel, causal):
  q, k, v, segment = inputs()
  look = attention.Look(segment, segment, causal=causal)
  expected = plain(q, k, v, mask_of(np.asarray(segment), causal))
  found = attention.attend(q, k, v, look, kernel=kernel, interpret=True)
  np.testing.assert_allclose(found, expected, atol=2e-5)


def test_gradients_of_splash_equal_those_of_xla():
  q, k, v, segment = inputs()
  look = attention.Look(segment, segment, causal=True)
  used = (segment > 0)[..., None, None]

  def loss(qkv, kernel):
    y = attention.attend(*qkv, look, kernel=kernel, interpret=True)
    return jnp.sum(jnp.where(used, y, 0.0) ** 2)

  expected = jax.grad(loss)((q, k, v), "xla")
  found = jax.grad(loss)((q, k, v), "splash")
  for a, b in zip(found, expected):
    np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize("kernel", ("xla", "splash"))
def test_queries_may_lie_over_the_sequence_axis(kernel):
  """Each device asks for its part of a row; keys come to it."""
  q, k, v, segment = inputs()
  used = (segment > 0)[..., None, None]
  sizes = dict(data=2, fsdp=1, sequence=2, tensor=2)
  mesh = partition.make_mesh(sizes)

  def loss(qkv, kernel):
    look = attention.Look(segment, segment, causal=True)
    y = attention.attend(*qkv, look, kernel=kernel, interpret=True)
    return jnp.sum(jnp.where(used, y, 0.0) ** 2)

  @jax.jit
  def on_mesh(qkv):
    with partition.tracing_for(mesh):
      return jax.value_and_grad(loss)(qkv, kernel)

  value, expected = jax.value_and_grad(loss)((q, k, v), "xla")
  again, found = on_mesh((q, k, v))
  np.testing.assert_allclose(again, value, rtol=1e-5)
  for a, b in zip(found, expected):
    np.testing.assert_allclose(a, b, atol=2e-4)


def test_splash_names_heads_that_the_mesh_does_not_divide():
  q, k, v, segment = inputs()
  look = attention.Look(segment, segment)
  mesh = partition.make_mesh(dict(data=2, fsdp=1, sequence=1, tensor=4))
  words = "model.n_heads = 2 does not divide by mesh.tensor = 4"
  with partition.tracing_for(mesh), pytest.raises(ValueError, match=words):
    attention.attend(q, k, v, look, kernel="splash", interpret=True)


def test_auto_takes_another_kernel_where_splash_cannot():
  """Long rows, and heads that the mesh does not divide."""
  q, k, v, segment = inputs()
  long = lambda x: jnp.concatenate([x] * 4, 1)
  look = attention.Look(long(segment), long(segment), causal=True)
  q, k, v = map(long, (q, k, v))
  expected = attention.attend(q, k, v, look, kernel="xla")
  mesh = partition.make_mesh(dict(data=2, fsdp=1, sequence=1, tensor=4))

  @jax.jit
  def run(q, k, v):
    with partition.tracing_for(mesh):
      return attention.attend(q, k, v, look)

  np.testing.assert_allclose(run(q, k, v), expected, atol=1e-5)


def test_limits_hide_what_comes_later():
  q, k, v, _ = inputs()
  query, key = jnp.ones((B, 3), jnp.int32), jnp.ones((B, T), jnp.int32)
  limit = jnp.asarray([[1, 7, T], [2, 2, 9]], jnp.int32)
  look = attention.Look(query, key, limit)
  mask = np.arange(T)[None, None] < np.asarray(limit)[..., None]
  found = attention.attend(q[:, :3], k, v, look)
  np.testing.assert_allclose(found, plain(q[:, :3], k, v, mask), atol=2e-5)


def test_splash_refuses_what_it_cannot():
  q, k, v, segment = inputs()
  look = attention.Look(segment, segment, causal=True)
  with pytest.raises(ValueError, match="model.time_bias = False"):
    attention.attend(q, k, v, look, jnp.zeros((1, N, T, T)), "splash")
