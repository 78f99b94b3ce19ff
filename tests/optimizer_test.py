"""What is frozen stays, under every optimizer, and has no moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumos_jax import config as config_lib
from lumos_jax import optimizer


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_frozen_matrix_stays_and_keeps_no_moments(name):
  c = config_lib.default("panther")
  with c.unlocked():
    c.optimizer.name = name
  axes = {k: ("embed", "mlp") for k in ("a/kernel", "b/kernel")}
  params = {k: jnp.ones((3, 4)) for k in axes}
  sizes = {}
  for frozen in ((), ("b/kernel",)):
    tx = optimizer.make(c.optimizer, 10, axes, frozen)
    state = tx.init(params)
    sizes[frozen] = sum(x.size for x in jax.tree.leaves(state))
    updates, state = tx.update(params, state, params)  # The first rate is 0.
    updates, _ = tx.update(params, state, params)
    assert np.any(updates["a/kernel"])
    assert np.any(updates["b/kernel"]) == (not frozen)
  assert sizes[("b/kernel",)] <= sizes[()] - params["b/kernel"].size
