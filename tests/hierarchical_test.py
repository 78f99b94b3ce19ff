"""Intervals over users, seeds and origins have the width of simulated truth."""

import numpy as np
import pytest

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import bootstrap, hierarchical, predict

TASKS = (
  tasks_lib.Task("spend", "regression", field="x"),
  tasks_lib.Task("buys", "binary", field="x", reduce="any"),
)


def simulate(rng, origins, seeds, users, between, within, noise, common=0.0):
  """[R, O, S] draws and [O, S] points of values whose true mean is 0."""
  effect = between * rng.normal(size=(origins, 1))
  effect = effect + common * rng.normal(size=(1, seeds))
  effect = effect + within * rng.normal(size=(origins, seeds))
  x = noise * rng.normal(size=(origins, 1, users))  # The same for all seeds.
  point = effect + x.mean(2)
  w = rng.multinomial(users, np.full(users, 1 / users), 400) / users
  by_user = effect + np.einsum("ru,osu->ros", w, x)
  return point, by_user


@pytest.mark.parametrize(
  "origins,seeds,between,within,noise",
  [
    (8, 3, 1.0, 0.0, 1.0),  # Origins differ: an interval over users is blind.
    (8, 3, 0.0, 1.0, 1.0),  # Seeds do.
    (8, 3, 0.0, 0.0, 20.0),  # Only users: nothing is counted twice.
    (1, 8, 0.0, 1.0, 1.0),  # One origin: users and seeds.
    (3, 3, 1.0, 0.5, 5.0),
  ],
)
def test_width_is_the_spread_of_repeated_experiments(
  origins, seeds, between, within, noise
):
  rng = np.random.default_rng(0)
  true = []
  widths = []
  for i in range(150):
    point, by_user = simulate(rng, origins, seeds, 60, between, within, noise)
    found = hierarchical.interval(point, by_user, i)
    true.append(found.value)
    widths.append(((found.high - found.low) / 3.92) ** 2)
  ratio = np.mean(widths) / np.var(true)
  # Of variances. Counting users twice would give 2 where only they vary; what is
  # found between origins by chance alone, and never below 0, gives less.
  assert 0.75 < ratio < 1.7


@pytest.mark.parametrize(
  "origins,seeds,between,within,noise,common",
  [
    (3, 8, 0.0, 0.3, 1.0, 1.0),  # A seed is as good at each origin.
    (8, 4, 1.0, 0.0, 1.0, 1.0),
    (8, 8, 0.0, 1.0, 1.0, 0.0),  # Seeds and origins interact, no more.
    (1, 8, 0.0, 1.0, 1.0, 0.0),
  ],
)
def test_a_training_for_all_origins_is_drawn_for_all_of_them(
  origins, seeds, between, within, noise, common
):
  rng = np.random.default_rng(0)
  true, widths = [], {False: [], True: []}
  for i in range(150):
    point, by_user = simulate(
      rng, origins, seeds, 60, between, within, noise, common
    )
    for crossed, out in widths.items():
      found = hierarchical.interval(point, by_user, i, crossed)
      out.append(((found.high - found.low) / 3.92) ** 2)
    true.append(found.value)
  ratio = {k: np.mean(w) / np.var(true) for k, w in widths.items()}
  assert 0.75 < ratio[True] < 1.7
  if common:  # As if each origin had a training of its own: too narrow.
    assert ratio[False] < 0.75 * ratio[True]


def runs(rng, origins=(10, 20, 30), seeds=(0, 1), users=80):
  out = []
  key = np.sort(predict.hash_keys(range(users)))
  for o in origins:
    shift = rng.normal()
    y = rng.gamma(1.0, 10.0, (users, 2)).astype(np.float32)
    y[:, 1] = y[:, 1] > 8
    mask = rng.random((users, 2)) < 0.9
    for s in seeds:
      a, b = (
        predict.Predictions(
          key,
          y,
          mask,
          {
            "spend": y[:, 0] + scale * rng.normal(size=users) + shift,
            "buys": y[:, 1] + scale * rng.normal(size=users),
          },
        )
        for scale in (1.0, 2.0)
      )
      out.append(hierarchical.Run(o, s, a, b))
  return out


def test_value_is_the_mean_over_runs_and_wider_than_over_users():
  found = runs(np.random.default_rng(1))
  pooled = hierarchical.compare(TASKS, found, n=300)
  each = [
    bootstrap.compare_tasks(TASKS, r.a.y, r.a.mask, r.a.p, r.b.p, n=300)
    for r in found
  ]
  for name in ("spend/wape", "buys/auc", "mean_auc"):
    mean = np.mean([e[name].value for e in each])
    assert pooled[name].value == pytest.approx(mean)
    assert pooled[name].low < mean < pooled[name].high
  assert pooled["spend/wape"].high < 0  # a errs half as much.
  flat = hierarchical.flat(pooled, "other")
  assert flat["vs_other/mean_auc/low"] == pooled["mean_auc"].low


def test_one_run_is_the_bootstrap_over_users():
  one = runs(np.random.default_rng(2), origins=(10,), seeds=(0,))
  a = hierarchical.compare(TASKS, one, n=200)
  r = one[0]
  b = bootstrap.compare_tasks(
    TASKS, r.a.y, r.a.mask, r.a.p, r.b.p, only=hierarchical.METRICS, n=200
  )
  for name, x in a.items():
    np.testing.assert_allclose(x, b[name], rtol=1e-9)


def test_a_missing_run_is_named():
  found = runs(np.random.default_rng(3))[:-1]
  with pytest.raises(ValueError, match="5 runs are not each of origins"):
    hierarchical.compare(TASKS, found, n=10)
