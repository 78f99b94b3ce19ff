"""CoLES in the event recipe: two slices of a user, read apart, lie close."""

import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lumos_jax import recipes, train
from lumos_jax import state as state_lib
from lumos_jax.data import sequences
from lumos_jax.objectives import contrastive


def test_slices_cut_each_segment_once():
  segment = np.asarray([[1, 1, 1, 1, 2, 3, 3, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
  position = np.asarray([[0, 1, 2, 3, 0, 0, 1, 0], [*range(8)]])
  cuts = set()
  for seed in range(20):
    new, place = contrastive.slices(
      jnp.asarray(segment), jnp.asarray(position), 3, jax.random.key(seed)
    )
    new, place = np.asarray(new), np.asarray(place)
    np.testing.assert_array_equal((new + 1) // 2, segment)
    for row in range(2):
      for s in range(1, 7):
        mine = place[row, new[row] == s]
        np.testing.assert_array_equal(mine, np.arange(len(mine)))
    assert {1, 2, 3, 5, 6} <= set(new[0]) and 4 not in new[0]
    cuts.add(int((new[1] == 1).sum()))
  assert len(cuts) > 3 and 0 < min(cuts) and max(cuts) < 8


def test_the_loss_is_the_share_of_a_users_other_slice():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((5, 3)).astype(np.float32)
  owner = np.asarray([7, 7, 4, 4, 9])
  known = np.asarray([True, True, True, True, True])
  total, count = contrastive.loss(
    jnp.asarray(x),
    jnp.asarray(owner[:, None] == owner[None]),
    jnp.asarray(known),
    0.5,
    jnp.asarray(owner),
    same_user=True,
  )
  away = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / 0.5)
  np.fill_diagonal(away, 0.0)
  pairs = ((0, 1), (1, 0), (2, 3), (3, 2))
  expected = -sum(np.log(away[i, j] / away[i].sum()) for i, j in pairs)
  assert int(count) == 4
  np.testing.assert_allclose(total, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def setup():
  kw = dict(objective__coles_weight=1.0, train__batch_size=8)
  config = fake_events.config(**kw, optimizer__learning_rate=1e-2)
  records = fake_events.Records()
  recipe = recipes.build(config, records, ())
  batch = next(sequences.train_iterator(records, config.data, (), 8, 0))
  return config, recipe, batch


def test_a_slice_knows_nothing_of_the_other(setup):
  """States of the second slice, with other events in the first."""
  _, recipe, batch = setup
  module = recipe.init(nnx.Rngs(params=0))
  segment, position = contrastive.slices(
    batch["segment"], batch["position"], 4, jax.random.key(0)
  )
  late = np.asarray(segment) % 2 == 0
  changed = batch["ids"].copy()
  changed[~late] = 2 + (changed[~late] + 3) % 20
  graph, params = state_lib.split(module)
  run = jax.jit(lambda p, b: state_lib.merge(graph, p).model(b))
  cut = batch | {"segment": segment, "position": position}
  states = [run(params, cut | {"ids": ids}) for ids in (batch["ids"], changed)]
  own = late & (np.asarray(segment) > 0)
  np.testing.assert_array_equal(states[0][own], states[1][own])
  assert np.abs(states[0] - states[1])[~late].max() > 0


def test_training_brings_a_users_slices_together(setup):
  config, recipe, batch = setup
  trainer = train.Trainer(config, recipe, jax.devices()[:1])
  state, losses = trainer.init([batch]), []
  for _ in range(15):
    state, logs = trainer.step(state, trainer.put(batch))
    losses.append(float(logs["loss/coles"]))
  assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
  assert float(logs["loss"]) == losses[-1]


@pytest.mark.parametrize(
  "words,settings",
  [
    ("train.accumulate = 2 cuts the batch", dict(train__accumulate=2)),
    ("model.profile_as = 'none'", dict(model__profile_as="position")),
  ],
)
def test_what_coles_excludes_is_named(words, settings):
  config = fake_events.config(objective__coles_weight=0.5, **settings)
  with pytest.raises(ValueError, match=words):
    recipes.build(config, fake_events.Records(), ())
