"""Filters over time: what the papers' layers give, and finite gradients.

That none looks ahead or into another user's events: tests/panther_test.py.
"""

import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lumos_jax import recipes
from lumos_jax import state as state_lib
from lumos_jax.data import sequences
from lumos_jax.models import attention, filters

T, D = 12, 5


def rows(events):
  """States of a user's events at the end of a row, and who may look where."""
  x = np.random.default_rng(0).standard_normal((1, T, D)).astype(np.float32)
  segment = (np.arange(T) >= T - events).astype(np.int32)[None]
  x = np.where(segment[..., None] > 0, x, 0.0)
  segment = jnp.asarray(segment)
  return x, attention.Look(segment, segment, causal=True)


@pytest.mark.parametrize("events", (T, 5, 1))
@pytest.mark.parametrize("frequencies", (1, 3, T // 2 + 1))
def test_low_pass_is_the_fourier_transforms_at_the_last_place(
  events, frequencies
):
  """BSARec filters a row that is padded on the left, and reads its last place."""
  layer = filters.LowPass(D, T, frequencies, rngs=nnx.Rngs(0))
  x, look = rows(events)
  found = np.asarray(layer(jnp.asarray(x), look, None))[0, -1]
  spectrum = np.fft.rfft(x, axis=1, norm="ortho")
  spectrum[:, frequencies:] = 0
  low = np.fft.irfft(spectrum, n=T, axis=1, norm="ortho")
  beta = np.asarray(layer.beta[...])
  expected = low + beta**2 * (x - low)
  np.testing.assert_allclose(found, expected[0, -1], atol=1e-5)
  if frequencies == T // 2 + 1:
    np.testing.assert_allclose(found, x[0, -1], atol=1e-5)


def test_time_variant_taps_are_those_of_the_place():
  layer = filters.TimeVariant(T, 3, rngs=nnx.Rngs(0))
  x, look = rows(7)
  position = np.maximum(np.arange(T) - (T - 7), 0)
  found = layer(jnp.asarray(x), look, jnp.asarray(position)[None])
  basis, mixture = (np.asarray(p[...]) for p in (layer.basis, layer.mixture))
  taps = mixture @ (basis / np.linalg.norm(basis, axis=1, keepdims=True))
  assert not np.allclose(taps[0], taps[1])
  for t in range(T - 7, T):
    p = position[t]
    expected = sum(taps[p, k] * x[0, t - k] for k in range(p + 1))
    np.testing.assert_allclose(found[0, t], expected, atol=1e-7)


def test_share_weighs_filter_and_attention():
  """alpha = 0 is attention alone; alpha = 1 does not see it."""

  def states(**overrides):
    config = fake_events.config(model__sprm="bsarec", **overrides)
    records = fake_events.Records(16)
    recipe = recipes.build(config, records, ())
    module = recipe.init(nnx.Rngs(params=0))
    batch = next(sequences.train_iterator(records, config.data, (), 2, 0))
    graph, params = state_lib.split(module)

    def run(scale):
      mine = {
        k: v * scale if "attention/value" in k else v for k, v in params.items()
      }
      return state_lib.merge(graph, mine).model(batch)

    return np.asarray(jax.jit(run)(1.0) - jax.jit(run)(2.0))

  assert np.abs(states(model__filter_share=1.0)).max() == 0
  assert np.abs(states(model__filter_share=0.7)).max() > 1e-4


@pytest.mark.parametrize("kind", filters.KINDS)
@pytest.mark.parametrize("kernel", ("softmax", "none"))
def test_gradients_are_finite_and_reach_the_filter(kind, kernel):
  config = fake_events.config(model__sprm=kind, model__attention=kernel)
  records = fake_events.Records(16)
  recipe = recipes.build(config, records, ())
  graph, params = state_lib.split(recipe.init(nnx.Rngs(params=0)))
  batch = next(sequences.train_iterator(records, config.data, (), 4, 0))

  def loss(params):
    module = state_lib.merge(graph, params)
    rngs = nnx.Rngs(dropout=0)
    return recipe.loss(module, batch, rngs, recipe.totals(batch))[0]

  found = jax.jit(jax.grad(loss))(params)
  assert all(np.isfinite(g).all() for g in found.values())
  mine = [k for k in found if "/filter/" in k]
  assert mine
  assert all(np.abs(found[k]).max() > 0 for k in mine)


def test_more_frequencies_than_there_are_is_an_error():
  with pytest.raises(ValueError, match="filter_frequencies = 8 .* 1 to 7"):
    filters.LowPass(D, T, 8, rngs=nnx.Rngs(0))
