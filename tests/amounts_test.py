"""Amounts: bins, their distribution, and a loss that cannot run away."""

import types

import fake
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lumos_jax import recipes, train
from lumos_jax.data import targets
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import metrics
from lumos_jax.objectives import bins as bins_lib
from lumos_jax.objectives import multitask, regression

SPEND = tasks_lib.Task("spend", "regression", field="sales")
ONE = np.ones(1)


def sparse(n=6000, seed=0):
  """86 % zeros, heavy-tailed amounts, and the rate that explains them [N]."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=n)
  some = rng.random(n) < 1 / (1 + np.exp(2.4 - 1.5 * x))
  return x, np.where(some, np.exp(rng.normal(4.0 + 0.5 * x, 1.2)), 0.0)


def fitted(y, task=SPEND):
  """A distribution fitted to labels, and the outputs that it starts from."""
  amounts = regression.Distribution(1)
  return amounts, jnp.asarray(amounts.fit([task], {task.name: y})[0])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_bins_are_right_in_total_and_keep_zero_apart(sign):
  y = sign * sparse(60_000)[1].astype(np.float32)
  found = bins_lib.fit(y, 32)
  index = (y[:, None] > found.threshold).sum(1)
  np.testing.assert_allclose(found.mean[index].sum(), y.sum(), rtol=1e-5)
  np.testing.assert_array_equal(found.mean[index] == 0, y == 0)
  assert np.all((found.low[index] <= y) & (y <= found.high[index]))
  used = found.threshold < bins_lib.NEVER
  np.testing.assert_allclose(
    found.rate[used], (y[:, None] > found.threshold[used]).mean(0)
  )
  # No bin has a tenth of the total, and none a single label.
  share = np.bincount(index, y, 33) / y.sum()
  assert share.max() < 0.1
  count = np.bincount(index, minlength=33)
  assert count[count > 0].min() >= 10


def test_equal_values_share_a_bin_and_both_signs_have_one():
  y = np.concatenate([np.repeat([0.0, 1.0, 2.0], 100), np.full(3, -5.0)])
  found = bins_lib.fit(y, 32)
  assert found.low[:5].tolist() == [-5.0, 0.0, 1.0, 2.0, 2.0]
  assert found.threshold[:3].tolist() == [-5.0, 0.0, 1.0]
  assert np.all(found.threshold[3:] == bins_lib.NEVER)
  same = bins_lib.fit(np.full(50, 7.0), 32)
  assert np.all(same.mean == 7.0) and np.all(same.threshold == bins_lib.NEVER)
  nothing = bins_lib.fit(np.zeros(0), 32)
  assert not nothing.mean.any()


@pytest.mark.parametrize("seed", [0, 1])
def test_mean_and_quantiles_are_those_of_the_labels(seed):
  """The best constant forecast: at the outputs where training starts."""
  rng = np.random.default_rng(seed)
  y = np.exp(rng.normal(2.0, 0.7, 4001)) * (rng.random(4001) < 0.7)
  y = np.where(rng.random(4001) < 0.05, -y, y)  # Refunds.
  amounts, start = fitted(y)
  found = amounts.forecast(0, start[None], ONE)
  np.testing.assert_allclose(found["mean"], y.mean(), rtol=1e-4)
  for name, q in regression.QUANTILES.items():
    np.testing.assert_allclose(found[name], np.quantile(y, q), rtol=0.03)
  # No other output has a smaller loss.
  loss = lambda z: amounts.loss(
    0, jnp.broadcast_to(z[None], (y.size, z.size)), jnp.asarray(y, jnp.float32)
  ).mean()
  assert np.abs(jax.grad(loss)(start)).max() < 1e-4


def test_quantiles_are_in_order_whatever_the_outputs():
  y = np.where(np.arange(3000) % 5 == 0, -1.0, sparse(3000)[1])
  amounts, _ = fitted(y)
  z = 3 * jax.random.normal(jax.random.key(0), (2, 50, 32))  # Not in order.
  found = amounts.forecast(0, z, np.asarray([0.5, 0.5]))
  low, median, high = (found[k] for k in ("low", "median", "high"))
  assert np.all(low <= median) and np.all(median <= high)
  assert np.all(y.min() <= low) and np.all(high <= y.max() * 1.0001)
  for sign in (1.0, -1.0):  # Finite for wild outputs.
    wild = jnp.full((1, 32), sign * 1e4)
    f = lambda z: amounts.loss(0, z, jnp.asarray([3.0])).sum()
    value, grad = jax.value_and_grad(f)(wild)
    assert np.isfinite(value) and np.all(np.isfinite(grad))
    every = amounts.forecast(0, wild, ONE).values()
    assert all(np.isfinite(v) for v in every)


def test_rows_are_mixed_before_quantiles_are_taken():
  """Half say 1, half say 3: the interval holds both."""
  amounts, _ = fitted(np.repeat([1.0, 2.0, 3.0], 50))
  z = jnp.asarray([[-20.0, -20.0], [20.0, 20.0]])
  z = jnp.pad(z, ((0, 0), (0, 30)))
  found = amounts.forecast(0, z, np.asarray([0.5, 0.5]))
  assert (found["low"], found["high"]) == (1.0, 3.0)
  np.testing.assert_allclose(found["mean"], 2.0, rtol=1e-6)


def train_head(y, x, weighting="uncertainty", steps=400):
  """A linear head trained on amounts alone; its forecasts and balance."""
  amounts, start = fitted(y)
  tasks = [SPEND]
  y, x = jnp.asarray(y, jnp.float32), jnp.asarray(x, jnp.float32)
  batch = {
    "labels": y[:, None, None],
    "label_mask": jnp.ones((len(y), 1, 1), bool),
  }
  totals = multitask.totals(batch, tasks, False, type(amounts))
  params = {
    "bias": start + 0.0,
    "slope": jnp.zeros_like(start),
    "balance": jnp.zeros(1),
  }
  out = lambda p: p["bias"][None] + x[:, None] * p["slope"][None]

  def loss(p):
    z = out(p)[None, :, None, None]  # [R, B, O, M, Z]
    losses = multitask.task_losses(z, batch, tasks, amounts, totals)
    return multitask.combine(
      losses, totals["count"], tasks, weighting, p["balance"]
    )

  tx = optax.adam(2e-2)

  def body(carry, _):
    p, opt = carry
    value, grads = jax.value_and_grad(loss)(p)
    updates, opt = tx.update(grads, opt)
    return (optax.apply_updates(p, updates), opt), value

  (params, _), values = jax.jit(lambda c: jax.lax.scan(body, c, length=steps))(
    (params, tx.init(params))
  )
  found = amounts.forecast(0, out(params)[None], ONE)
  found = {k: np.asarray(v, np.float64) for k, v in found.items()}
  return found, values, params


def test_sparse_amounts_are_right_in_total_and_on_other_users():
  x, y = sparse(20_000)
  assert 0.8 < (y == 0).mean() < 0.9
  found, *_ = train_head(y[:10_000], x[:10_000])
  np.testing.assert_allclose(found["mean"].sum(), y[:10_000].sum(), rtol=0.01)
  p = {"spend": found["mean"]} | {f"spend/{k}": found[k] for k in found}
  named = lambda k: metrics.metric(k, y[:10_000], metrics.scored(k, "spend", p))
  assert 0.8 <= named("coverage_80") < 0.95  # Zeros are more than their 80 %.
  assert named("spearman") > 0.3
  zeros = metrics.metric("rmse", y[:10_000], np.zeros(10_000))
  assert named("rmse") < 0.97 * zeros and named("wape") <= 1.0


def test_refunds_are_forecast_below_zero():
  rng = np.random.default_rng(0)
  x = rng.normal(size=4000)
  y = np.where(x < -1, -rng.gamma(2.0, 5.0, 4000), rng.gamma(2.0, 20.0, 4000))
  found, *_ = train_head(y, x)
  assert found["low"][x < -1.5].max() < 0 < found["median"][x > 0].min()
  np.testing.assert_allclose(found["mean"].sum(), y.sum(), rtol=0.02)


@pytest.mark.parametrize("y", ["near", "same", "zeros"])
def test_no_weight_runs_away_where_amounts_hardly_vary(y):
  rng = np.random.default_rng(0)
  y = {
    "near": 10.0 * (1 + 0.02 * rng.normal(size=500)),
    "same": np.full(500, 10.0),
    "zeros": np.zeros(500),
  }[y]
  found, values, params = train_head(y, rng.normal(size=500), steps=2000)
  assert np.all(np.isfinite(values))
  # The balance is a log-variance: weights are exp(-balance) / 2.
  assert 0.5 * np.exp(-params["balance"][0]) <= 550
  np.testing.assert_allclose(found["mean"], y.mean(), rtol=0.02)
  # Any balance has a loss above that of the best one.
  tasks, count = [SPEND], jnp.ones(1)
  s = jnp.linspace(-40.0, 40.0, 161)
  loss = lambda s: multitask.combine(
    jnp.zeros(1), count, tasks, "uncertainty", s[None]
  )
  assert -3.0 < jax.vmap(loss)(s).min() and jax.vmap(loss)(s)[0] > 1e10


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_is_fitted_on_training_labels_and_keeps_its_bins(optimizer):
  c = fake.config(
    train__ema_decay=0.9,
    optimizer__name=optimizer,
    optimizer__weight_decay=0.5,
  )
  records, tasks = fake.Records(), tasks_lib.from_config(c.tasks)
  recipe = recipes.build(c, records, tasks)
  batch = next(recipe.inputs.train_iterator(records, c.data, tasks, 8, c.seed))
  trainer = train.Trainer(c, recipe, jax.devices()[:1])
  state = trainer.init([batch])
  y = targets.sample(records, c.data, tasks)["spend"]
  want = []
  for user in records.users:
    for o in range(28, 85, 7):
      day = user["day"]
      want.append(user["numeric"][(day >= o) & (day < o + 14), 0].sum())
  np.testing.assert_allclose(y, want, rtol=1e-6)
  bins = bins_lib.fit(y, 32)
  habits = np.asarray(state["params"]["model/habits/mean"])
  for _ in range(3):
    state, _ = trainer.step(state, trainer.put(batch))
  np.testing.assert_array_equal(state["params"]["model/habits/mean"], habits)
  for part in ("params", "ema"):
    for name in ("threshold", "low", "high", "mean"):
      found = state[part][f"amounts/{name}"][2]
      np.testing.assert_array_equal(found, getattr(bins, name))
  # What comes after the last label window of training is not looked at.
  for user in records.users:
    user["numeric"][user["day"] >= 84 + 14] *= 100
  again = recipe.init(nnx.Rngs(params=0), batch).amounts
  np.testing.assert_array_equal(again.mean[...][2], bins.mean)
  assert "records" not in vars(again)


def test_names_beside_a_task_cannot_be_taken():
  c = fake.config()
  with c.unlocked():
    c.tasks.spend_low = dict(kind="regression", field="sales", horizon_days=14)
  with pytest.raises(ValueError, match="spend_low is how a column"):
    recipes.build(c, fake.Records(users=1), tasks_lib.from_config(c.tasks))


def test_days_of_the_sequence_head_are_fitted_by_day():
  c = fake.config()
  records, tasks = fake.Records(users=4), tasks_lib.from_config(c.tasks)
  cfg = types.SimpleNamespace(**c.data.to_dict() | {"daily_labels": True})
  y = targets.sample(records, cfg, tasks)["spend"]
  want = sum(
    r["numeric"][(r["day"] >= 28) & (r["day"] <= 84), 0].sum()
    for r in records.users
  )
  assert len(y) == 4 * 57
  np.testing.assert_allclose(y.sum(), want, rtol=1e-6)


def test_the_sequence_head_starts_from_the_days_mean():
  c = fake.config(
    model__head="sequence",
    data__daily_labels=True,
    model__habit_days=(),
    model__state_members=0,
    model__sparsity=0.0,
  )
  records, tasks = fake.Records(users=8), tasks_lib.from_config(c.tasks)
  recipe = recipes.build(c, records, tasks)
  batch = next(recipe.inputs.train_iterator(records, c.data, tasks, 8, c.seed))
  module = recipe.init(nnx.Rngs(params=0), batch)
  kernel = module.model.head.out.kernel
  kernel[...] = jnp.zeros_like(kernel[...])
  found = recipe.predict(module, batch)
  assert set(found) == {"active", "churn", "spend"}
  mean = targets.sample(records, c.data, tasks)["spend"].mean()
  np.testing.assert_allclose(found["spend"], 14 * mean, rtol=1e-3)
  totals = recipe.totals(batch)
  value, logs = recipe.loss(module, batch, None, totals)
  assert np.isfinite(value) and 0 < logs["loss/spend"] < 1


def test_the_papers_loss_takes_amounts_of_both_signs():
  tasks, amounts = [SPEND], regression.NonZero(1)
  y = jnp.asarray([-20.0, 0.0, 5.0])[:, None, None]
  batch = {"labels": y, "label_mask": jnp.ones((3, 1, 1), bool)}
  totals = multitask.totals(batch, tasks, False, regression.NonZero)
  assert totals["count"] == 3 and totals["trained"] == 2
  z = jnp.zeros((1, 3, 1, 1, 1))
  f = lambda z: multitask.task_losses(z, batch, tasks, amounts, totals).sum()
  value, grad = jax.value_and_grad(f)(z)
  want = (np.log(21.0) ** 2 + np.log(6.0) ** 2) / 2
  np.testing.assert_allclose(value, want, rtol=1e-6)
  assert np.all(np.isfinite(grad)) and grad[0, 1] == 0
  start = amounts.fit(tasks, {"spend": np.asarray([-20.0, 0.0, 5.0])})
  np.testing.assert_allclose(start[0], (np.log(6.0) - np.log(21.0)) / 2)
  found = amounts.forecast(0, jnp.asarray([[[np.log(6.0)]]]), ONE)
  np.testing.assert_allclose(found["mean"], 5.0, rtol=1e-5)
