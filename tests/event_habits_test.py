"""PANTHER's e_u: habits by count, and whom the contrastive loss compares."""

import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lumos_jax import recipes
from lumos_jax import state as state_lib
from lumos_jax.data import instants, running, sequences
from lumos_jax.models import event_habits
from lumos_jax.objectives import contrastive

DAY = 86_400 * 1_000_000


def counted(record, stop):
  """The statistics after `stop` events, the plain way."""
  schema = fake_events.schema()
  out = [np.log1p(stop)]
  days = (record["time"][stop - 1] - record["time"][0]) / DAY if stop else 0.0
  out.append(np.log1p(days))
  out = [0.2 * x for x in out]
  for i, f in enumerate(schema.categorical("activity")):
    ids = record["categorical"][:stop, i]
    out += [np.sum(ids == v) / max(stop, 1) for v in range(f.size)]
  return np.asarray(out, np.float32)


def statistics(batch, names=()):
  layer = event_habits.Habits(
    fake_events.schema(),
    4,
    names,
    "relu",
    dtype=jnp.float32,
    rngs=nnx.Rngs(0),
  )
  batch = {k: jnp.asarray(v) for k, v in batch.items() if k != "key"}
  return np.asarray(layer.statistics(batch))


def test_habits_are_of_the_whole_history_in_training_and_evaluation():
  """A later window knows what came before it, and so does a cut example."""
  record = fake_events.record(np.random.default_rng(3), 7, 40)
  cfg = fake_events.config().data
  cut = sequences.Sequences(fake_events.schema(), cfg)
  windows = cut.windows(record)
  assert len(windows) > 3
  start, checked = -1, 0
  for window in windows:
    n = len(window["target"])
    row = {k: v[None] for k, v in window.items()}
    row["segment"] = np.ones((1, n), np.int32)
    row["position"] = np.arange(n)[None]
    found = statistics(instants.split_batch(row))[0]
    for t in range(n):
      expected = counted(record, start + t + 1)
      np.testing.assert_allclose(found[t], expected, atol=2e-6)
      checked += 1
    start += n - cfg.overlap
  assert checked > 40
  example = cut.example(record, "test")
  row = {k: np.asarray(v)[None] for k, v in example.items()}
  last = int(example["last"])
  np.testing.assert_allclose(
    statistics(row)[0, last], counted(record, 39), atol=2e-6
  )


def test_ids_alone_see_neither_times_nor_other_fields():
  record = fake_events.record(np.random.default_rng(3), 7, 9)
  cut = sequences.Sequences(fake_events.schema(), fake_events.config().data)
  example = cut.example(record, "test")
  row = {k: np.asarray(v)[None] for k, v in example.items()}
  found = statistics(row, names=("item",))[0, int(example["last"])]
  expected = counted(record, 8)
  items = fake_events.ITEMS + 2
  expected[1] = expected[2 + items :] = 0.0
  np.testing.assert_allclose(found, expected, atol=2e-6)


def batch_of(lengths, **overrides):
  config = fake_events.config(
    model__profile_as="position",
    objective__contrastive_weight=0.5,
    **overrides,
  )
  records = fake_events.Records(lengths=lengths)
  recipe = recipes.build(config, records, ())
  batch = next(sequences.train_iterator(records, config.data, (), 12, 0))
  return recipe, recipe.init(nnx.Rngs(params=0)), batch


def test_windows_of_one_user_are_not_alike():
  """Two users of the same gender: the only positives are across them."""
  recipe, module, batch = batch_of([40, 5, 40])
  owner = batch["profile_user"][batch["profile_user"] != 0]
  alike = batch["profile_categorical"][..., 0]
  known = {running.user_number(f"user{i}"): i for i in range(3)}
  assert len(owner) > len(set(owner.tolist())) > 1

  users = np.asarray(module.model.latest_users(batch), np.float64)
  rows = [
    (users[b, s], known[batch["profile_user"][b, s]], alike[b, s])
    for b in range(len(users))
    for s in range(batch["segment"][b].max())
  ]
  expected, number = 0.0, 0
  for x, user, gender in rows:
    others = [
      (np.exp(-np.sum((x - y) ** 2)), g == gender)
      for y, u, g in rows
      if u != user
    ]
    mine = sum(e for e, same in others if same)
    if mine:
      expected -= np.log(mine / sum(e for e, _ in others))
      number += 1
  total, count = recipe._contrastive(module.model, batch)
  assert int(count) == number > 1
  np.testing.assert_allclose(total, expected, rtol=1e-4)


def test_one_users_windows_alone_give_no_loss():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
  same, every = jnp.ones((4, 4), bool), jnp.ones(4, bool)
  total, count = contrastive.loss(x, same, every, 1.0, jnp.zeros(4, int))
  assert int(count) == 0 and float(total) == 0.0
  gradient = jax.grad(
    lambda x: contrastive.loss(x, same, every, 1.0, jnp.zeros(4, int))[0]
  )(x)
  assert (np.asarray(gradient) == 0).all()


@pytest.mark.parametrize("weight", (0.1, 0.8))
def test_lambda_weighs_the_two_losses(weight):
  recipe, module, batch = batch_of([20, 5, 40, 9])
  recipe.objective = recipe.objective.copy_and_resolve_references()
  recipe.objective.contrastive_weight = weight
  rngs = nnx.Rngs(dropout=0)
  value, logs = recipe.loss(module, batch, rngs, recipe.totals(batch))
  expected = (1 - weight) * logs["loss/next"] + weight * logs[
    "loss/contrastive"
  ]
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  assert float(logs["contrastive_windows"]) > 0


def test_a_cut_up_batch_is_refused():
  with pytest.raises(ValueError, match="train.accumulate = 1"):
    batch_of([20, 5], train__accumulate=2)


def test_habits_can_be_left_out_and_follow_their_fields():
  config = fake_events.config(
    model__profile_as="position", model__profile_habits=False
  )
  recipe = recipes.build(config, fake_events.Records(8), ())
  _, params = state_lib.split(recipe.init(nnx.Rngs(params=0)))
  assert not [k for k in params if "habits" in k]
