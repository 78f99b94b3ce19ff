"""What a score is made of, against plain formulas."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.models import dcn, numbers


def test_numbers_fill_their_bins():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(500, 3)).astype(np.float32)
  x[:, 1], x[::3, 2] = 0.0, np.nan  # Constant; partly missing.
  for kind in numbers.KINDS:
    module = numbers.Numbers(3, kind, 4, 5, 0.3, rngs=nnx.Rngs(params=0))
    module.fit(jnp.asarray(x))
    edges = np.quantile(x[:, 0], np.linspace(0, 1, 5))
    np.testing.assert_allclose(module.edges[...][0], edges, rtol=1e-5)
    out = module(jnp.asarray(x))
    assert out.shape == (500, 15) and np.isfinite(out).all()
    # What is missing is told apart from every number.
    assert not np.allclose(out[0, 10:], out[1, 10:])
  # Piecewise-linear (2203.05556, eq. 1): full below, a share of its own bin.
  module = numbers.Numbers(1, "piecewise", 4, 5, 0.3, rngs=nnx.Rngs(params=0))
  module.kernel[...] = jnp.eye(5)[None]
  value = module(jnp.asarray([[0.25], [9.0], [-9.0], [np.nan]]))
  np.testing.assert_allclose(value[0], [1, 1, 0.5, 0, 0], atol=1e-6)
  np.testing.assert_array_equal(
    value[1:], [[1] * 4 + [0], [0] * 5, [0] * 4 + [1]]
  )


def test_cross_layers_are_the_papers():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
  for rank in (0, 2):
    module = dcn.Cross(4, 2, rank, rngs=nnx.Rngs(params=0))
    y = x
    for i, up in enumerate(module.up):
      w = up.kernel[...]
      if rank:
        w = module.down[i].kernel[...] @ w
      y = x * (y @ w + up.bias[...][None]) + y
    np.testing.assert_allclose(module(x), y, rtol=1e-5)


def test_convolutions_see_the_users_events_alone():
  rng = np.random.default_rng(0)
  module = dcn.TextCNN(3, (2, 3), 4, rngs=nnx.Rngs(params=0))
  x = jnp.asarray(rng.normal(size=(2, 6, 3)), jnp.float32)
  mask = jnp.asarray([[0, 0, 1, 1, 1, 1], [0] * 6], bool)
  found = module(x, mask)
  other = module(jnp.where(mask[..., None], x, 7.0), mask)
  np.testing.assert_array_equal(found, other)
  np.testing.assert_array_equal(found[1], np.zeros(8))
  # Where the user's events stand in the row does not matter.
  moved = module(jnp.roll(x, -2, 1), jnp.roll(mask, -2, 1))
  np.testing.assert_allclose(found[0], moved[0], rtol=1e-5)
