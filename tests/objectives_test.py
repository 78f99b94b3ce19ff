"""Losses against their formulas, and minimisers against what they forecast."""

import fake
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.objectives import multitask, regression


def _fit(name, y, steps=3000):
  """Outputs of a constant model fitted to the targets."""
  tx = optax.adam(2e-2)
  y = jnp.asarray(y)
  mask = y > 0 if name in regression.NON_ZERO_ONLY else jnp.ones_like(y, bool)

  def loss(z):
    wide = jnp.broadcast_to(z[None], (y.size, z.size))
    values = regression.LOSSES[name](wide, y, y.mean())
    return jnp.where(mask, values, 0).mean()

  def body(carry, _):
    z, opt = carry
    updates, opt = tx.update(jax.grad(loss)(z), opt)
    return (optax.apply_updates(z, updates), opt), None

  z = jnp.ones(regression.OUTPUTS[name])
  (z, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, length=steps))(
    (z, tx.init(z))
  )
  return [float(v) for v in regression.FORECASTS[name](z)]


def test_each_loss_is_minimised_by_what_it_says_to_forecast():
  rng = np.random.default_rng(0)
  y = np.exp(rng.normal(2.0, 0.7, 4001)) * (rng.random(4001) < 0.7)
  y = y.astype(np.float32)
  median, mean = np.median(y), y.mean()
  got = {name: _fit(name, y) for name in regression.LOSSES}
  np.testing.assert_allclose(got["l1"][0], median, rtol=0.03)
  np.testing.assert_allclose(got["tweedie"][1], mean, rtol=0.03)
  np.testing.assert_allclose(got["hurdle"], [median, mean], rtol=0.06)
  geometric = np.expm1(np.log1p(y[y > 0]).mean())
  np.testing.assert_allclose(got["mse_nonzero"][0], geometric, rtol=0.03)


def test_hurdle_median_is_zero_where_zero_is_likelier():
  median, mean = regression.FORECASTS["hurdle"](jnp.array([-1.0, 3.0, 0.0]))
  assert median == 0 and mean > 0


@pytest.mark.parametrize("name", regression.LOSSES)
def test_start_is_the_best_constant(name):
  rng = np.random.default_rng(0)
  y = np.exp(rng.normal(2.0, 0.7, 2001)) * (rng.random(2001) < 0.7)
  y, mask = jnp.asarray(y), jnp.arange(y.size) < 1500
  got = regression.FORECASTS[name](regression.start(name, y, mask))
  np.testing.assert_allclose(got, _fit(name, y[:1500]), rtol=0.06)
  nothing = regression.start(name, y, jnp.zeros_like(mask))
  assert np.all(np.isfinite(nothing))


@pytest.mark.parametrize("name", regression.LOSSES)
def test_losses_stay_finite_for_wild_outputs(name):
  z = jnp.full((1, regression.OUTPUTS[name]), 1e4)
  for sign in (1.0, -1.0):
    f = lambda z, s=sign: regression.LOSSES[name](
      s * z, jnp.array([3.0]), 1.0
    ).sum()
    value, grad = jax.value_and_grad(f)(z)
    assert np.isfinite(value) and np.all(np.isfinite(grad))
    for v in regression.FORECASTS[name](sign * z):
      assert np.all(np.isfinite(v))


def test_weightings_follow_their_formulas():
  tasks = tasks_lib.from_config(fake.config().tasks)
  losses = jnp.array([0.5, 0.2, 3.0])
  counts = jnp.array([4, 0, 2])  # The second task has no label in the batch.
  s = jnp.array([0.1, 5.0, -0.3])
  combine = lambda w, b: float(multitask.combine(losses, counts, tasks, w, b))
  np.testing.assert_allclose(combine("sum", None), 3.5, rtol=1e-6)
  kendall = np.exp(-0.1) * 0.5 + 0.05 + 0.5 * np.exp(0.3) * 3.0 - 0.15
  np.testing.assert_allclose(combine("uncertainty", s), kendall, rtol=1e-6)
  w = np.asarray(jax.nn.softmax(s))
  np.testing.assert_allclose(
    combine("learned", s), 3 * (w[0] * 0.5 + w[2] * 3.0), rtol=1e-6
  )


def test_daily_forecasts_add_up_to_the_window():
  tasks = tasks_lib.from_config(fake.config().tasks)
  z = jax.random.normal(jax.random.key(0), (2, 1, 14, 3, 3))
  out = multitask.forecasts(z[None], tasks, "hurdle", np.ones((1, 3)))
  p = jax.nn.sigmoid(z[..., 0])
  any7 = 1 - np.prod(1 - np.asarray(p[:, :, :7, 0]), -1)
  np.testing.assert_allclose(out["active"], any7, rtol=1e-5)
  none14 = np.prod(1 - np.asarray(p[..., 1]), -1)
  np.testing.assert_allclose(out["churn"], none14, rtol=1e-4)
  mean = regression.FORECASTS["hurdle"](z[..., 2, :])[1].sum(-1)
  np.testing.assert_allclose(out["spend"], mean, rtol=1e-5)


def test_members_are_trained_apart_and_forecast_together():
  tasks = tasks_lib.from_config(fake.config().tasks)
  z = jax.random.normal(jax.random.key(0), (3, 4, 2, 3, 3))
  batch = dict(labels=jnp.ones((4, 2, 3)), label_mask=jnp.ones((4, 2, 3), bool))
  totals = multitask.totals(batch, tasks, False)
  loss = lambda z: multitask.task_losses(z, batch, tasks, "hurdle", totals)
  each = jnp.stack([loss(z[i : i + 1]) for i in range(3)])
  np.testing.assert_allclose(loss(z), each.mean(0), rtol=1e-5)
  views = ("states", "all", "all")
  weights = multitask.view_weights(views, tasks, {"churn": ("all",)})
  np.testing.assert_allclose(weights[:, 0], [0.5, 0.25, 0.25])
  np.testing.assert_allclose(weights[:, 1], [0.0, 0.5, 0.5])
  with pytest.raises(ValueError, match="names .'chrun'"):
    multitask.view_weights(views, tasks, {"chrun": ("all",)})
  with pytest.raises(ValueError, match="churn = .*linear.*only"):
    multitask.view_weights(views, tasks, {"churn": ("linear",)})
  out = multitask.forecasts(z, tasks, "hurdle", weights)
  one = np.ones((1, 3))
  for name, value in out.items():
    alone = [multitask.forecasts(z[i : i + 1], tasks, "hurdle", one)[name]
             for i in range(3)]  # fmt: skip
    w = weights[:, 1 if name == "churn" else 0]
    np.testing.assert_allclose(
      value, np.tensordot(w, np.stack(alone), 1), rtol=1e-5
    )
