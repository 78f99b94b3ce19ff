"""A missing target, the start token and the mask are three things."""

import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lumos_jax import recipes
from lumos_jax import state as state_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import sequences

MASKED = dict(model__masked=True, model__use_fields=False)


def record(amount, items=(2, schema_lib.MISSING, 3, 2)):
  """A user of a few events; the second one has the amount, and no item."""
  n = len(items)
  out = fake_events.record(np.random.default_rng(0), 0, n)
  out |= fake_events.times(np.arange(n) * 3600)
  out["categorical"] = np.stack([items, [2] * n], 1).astype(np.int32)
  out["numeric"] = np.asarray([[1.0], [amount], [1.0], [1.0]], np.float32)[:n]
  return out


def build(**overrides):
  config = fake_events.config(**overrides)
  recipe = recipes.build(config, fake_events.Records(), ())
  module = recipe.init(nnx.Rngs(params=0))
  cut = sequences.Sequences(fake_events.schema(), config.data)

  def example(record):
    found = cut.example(record, "test")
    drop = ("history", "often", "seen")
    found = {k: jnp.asarray(v)[None] for k, v in found.items() if k not in drop}
    return found | {"seen": jnp.zeros((1, 8), jnp.int32)}

  return recipe, module, example


@pytest.mark.parametrize("form", (dict(), dict(model__time_bias=True)))
def test_a_missing_target_keeps_its_other_fields(form):
  recipe, module, example = build(**form)
  low, high = (
    np.asarray(recipe.probabilities(module, example(record(amount))))
    for amount in (1.0, 900.0)
  )
  assert np.abs(low - high).max() > 1e-5
  # And another channel, and another value than none.
  other = record(1.0)
  other["categorical"][1, 1] = 3
  told = np.asarray(recipe.probabilities(module, example(other)))
  assert np.abs(low - told).max() > 1e-6
  named = record(1.0, (2, 4, 3, 2))
  told = np.asarray(recipe.probabilities(module, example(named)))
  assert np.abs(low - told).max() > 1e-6


def moved(module, batch, change, ids=None, masked=None):
  """How much a change of a parameter changes the states [T]."""
  graph, params = state_lib.split(module)
  states = lambda p: np.asarray(
    state_lib.merge(graph, p)(batch, None, ids, masked)
  )
  name, row = change
  other = params | {name: params[name].at[row].add(1.0)}
  return np.abs(states(other) - states(params))[0].max(-1) > 1e-6


def test_missing_and_start_have_rows_of_their_own():
  _, module, example = build(
    model__attention="pointwise", model__n_encoder_layers=1, model__d_ff=0
  )
  batch = example(record(1.0))  # start, a, (none), b; then padding.
  assert batch["start"][0].tolist() == [True] + [False] * 11
  assert batch["ids"][0, :4, 0].tolist() == [0, 2, 0, 3]
  own = batch["segment"][0] > 0
  start = moved(module.model, batch, ("blank", 0))[own]
  missing = moved(module.model, batch, ("values/table", 0))[own]
  assert start.all()
  assert missing.tolist() == [False, False, True, True]


@pytest.mark.parametrize("amount", (1.0, 900.0))
def test_mask_hides_an_event_and_missing_does_not_look_masked(amount):
  """States where the second event is masked depend on none of its fields."""
  _, module, example = build(**MASKED)
  run = jax.jit(lambda b, ids, m: module.model(b, None, ids, m))
  hidden = jnp.arange(12)[None] == 1

  def states(items, masked):
    batch = example(record(amount, items))
    ids = jnp.pad(batch["ids"][:, 1:, 0], ((0, 0), (0, 1)))
    return np.asarray(run(batch, ids, masked))[0, :3]

  a, b = ((2, item, 3, 2) for item in (4, schema_lib.MISSING))
  np.testing.assert_array_equal(states(a, hidden), states(b, hidden))
  plain = jnp.zeros_like(hidden)
  assert np.abs(states(b, plain) - states(b, hidden)).max() > 1e-4
  assert np.abs(states(a, plain) - states(a, hidden)).max() > 1e-4


def test_masked_training_masks_what_is_asked_alone():
  """A missing value stays what it is; only targets are hidden."""
  recipe, module, _ = build(**MASKED, objective__mask_rate=1.0)
  cut = sequences.Sequences(fake_events.schema(), recipe.data_cfg)
  long = record(1.0, (2, 0, 3, 2))
  more = {k: np.concatenate([long[k]] * 2) for k in ("categorical", "numeric")}
  long |= more | fake_events.times(np.arange(8) * 60)
  window = cut.windows(long)[0]
  batch = {k: jnp.asarray(v)[None] for k, v in window.items()}
  batch["segment"] = jnp.ones_like(batch["target"])
  batch["position"] = jnp.arange(batch["target"].shape[1])[None]
  found = {}

  class Model:
    def __call__(self, batch, rngs, ids, masked):
      found.update(ids=ids, masked=masked)

  class Module:
    model = Model()

  recipe._masked(Module, batch, nnx.Rngs(dropout=0))
  assert batch["target"][0].tolist() == [2, 0, 3, 2, 2, 0]
  np.testing.assert_array_equal(found["masked"], batch["target"] > 0)
  np.testing.assert_array_equal(found["ids"], batch["target"])


def test_embedding_counts_events_without_a_target():
  recipe, module, _ = build()
  cut = sequences.Sequences(fake_events.schema(), recipe.data_cfg)
  (row,) = cut.whole(record(1.0))
  batch = {k: jnp.asarray(v)[None] for k, v in row.items()}
  assert float(recipe.embed(module, batch)["tokens"][0, 0]) == 4


def test_missing_is_never_asked_nor_ranked():
  cfg = fake_events.config(data__filter_seen=False)
  cut = sequences.Sequences(fake_events.schema(), cfg.data)
  user = record(1.0, (2, 0, 1, 0))
  assert cut.asked(user).tolist() == [True, False, False, False]
  recipe, module, example = build(data__filter_seen=False)
  batch = example(user)  # What comes next is missing: behind all.
  size = recipe.schema.activity[0].size
  assert float(recipe.predict(module, batch)["rank"][0, 0]) == size + 1
  assert not np.asarray(recipe.probabilities(module, batch))[0, :2].any()
