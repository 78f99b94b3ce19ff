"""Several tasks in one loss; amounts alone are in amounts_test.py."""

import fake
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.objectives import multitask, regression


def test_weightings_follow_their_formulas():
  tasks = tasks_lib.from_config(fake.config().tasks)
  losses = jnp.array([0.5, 0.2, 3.0])
  counts = jnp.array([4, 0, 2])  # The second task has no label in the batch.
  s = jnp.array([0.1, 5.0, -0.3])
  combine = lambda w, b: float(multitask.combine(losses, counts, tasks, w, b))
  np.testing.assert_allclose(combine("sum", None), 3.5, rtol=1e-6)
  kendall = np.exp(-0.1) * 0.501 + 0.05 + 0.5 * np.exp(0.3) * 3.001 - 0.15
  np.testing.assert_allclose(combine("uncertainty", s), kendall, rtol=1e-6)
  w = np.asarray(jax.nn.softmax(s))
  np.testing.assert_allclose(
    combine("learned", s), 3 * (w[0] * 0.5 + w[2] * 3.0), rtol=1e-6
  )


def test_daily_forecasts_add_up_to_the_window():
  tasks = tasks_lib.from_config(fake.config().tasks)
  amounts = regression.Distribution(3)
  z = jax.random.normal(jax.random.key(0), (2, 1, 14, 3, amounts.outputs))
  out = multitask.forecasts(z[None], tasks, amounts, np.ones((1, 3)))
  p = jax.nn.sigmoid(z[..., 0])
  any7 = 1 - np.prod(1 - np.asarray(p[:, :, :7, 0]), -1)
  np.testing.assert_allclose(out["active"], any7, rtol=1e-5)
  none14 = np.prod(1 - np.asarray(p[..., 1]), -1)
  np.testing.assert_allclose(out["churn"], none14, rtol=1e-4)
  mean = amounts.forecast(2, z[None, ..., 2, :], np.ones(1))["mean"].sum(-1)
  np.testing.assert_allclose(out["spend"], mean, rtol=1e-5)
  assert set(out) == {"active", "churn", "spend"}  # Quantiles do not add up.


def test_members_are_trained_apart_and_forecast_together():
  tasks = tasks_lib.from_config(fake.config().tasks)
  amounts = regression.Distribution(3)
  z = jax.random.normal(jax.random.key(0), (3, 4, 2, 3, amounts.outputs))
  batch = dict(labels=jnp.ones((4, 2, 3)), label_mask=jnp.ones((4, 2, 3), bool))
  totals = multitask.totals(batch, tasks, False, type(amounts))
  loss = lambda z: multitask.task_losses(z, batch, tasks, amounts, totals)
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
  out = multitask.forecasts(z, tasks, amounts, weights)
  one = np.ones((1, 3))
  for name in ("active", "churn", "spend"):
    value = out[name]
    alone = [multitask.forecasts(z[i : i + 1], tasks, amounts, one)[name]
             for i in range(3)]  # fmt: skip
    w = weights[:, 1 if name == "churn" else 0]
    np.testing.assert_allclose(
      value, np.tensordot(w, np.stack(alone), 1), rtol=1e-5
    )
