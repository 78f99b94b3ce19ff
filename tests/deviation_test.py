"""How far an event was from what was expected, against plain formulas."""

import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lumos_jax import recipes
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import sequences
from lumos_jax.objectives import deviation
from lumos_jax.recipes import expected

ANY = schema_lib.ANY


def composite():
  return schema_lib.Schema(
    name="products",
    activity=(
      schema_lib.Categorical("shop", values=("a", "b")),
      schema_lib.Categorical("channel", values=("x", "y", "z")),
      schema_lib.Composite(
        "token",
        of=("shop", "channel"),
        backoff=("shop",),
        values=((2, 2), (2, 3), (3, 2), (3, 4), (2, ANY), (3, ANY)),
      ),
    ),
    rows="event",
  )


def parts_of(schema):
  return deviation.part_ids(schema, "token")


def test_parts_are_the_schemas():
  schema = composite()
  assert deviation.part_fields(schema, "token") == ("shop", "channel")
  assert deviation.part_columns(schema, "token") == (0, 1)
  assert deviation.part_fields(schema, "shop") == ()
  parts = parts_of(schema)
  assert parts.shape == (8, 2)
  assert (parts[:2] == ANY).all()
  np.testing.assert_array_equal(parts[2:4], [[2, 2], [2, 3]])


def test_numbers_are_those_of_the_plain_distribution():
  schema, rng = composite(), np.random.default_rng(0)
  table = rng.standard_normal((8, 5)).astype(np.float32)
  states = rng.standard_normal((4, 5)).astype(np.float32)
  target = np.asarray([2, 5, 6, 1])
  # The third is a smaller token: its event has a channel that it does not say.
  observed = np.asarray([[2, 2], [3, 4], [2, 4], [1, 3]])
  found = deviation.of_values(states, table, target, parts_of(schema), observed)
  logits = states @ table.T
  p = np.exp(logits[:, 2:])
  p /= p.sum(1, keepdims=True)
  log_p = np.log(p)
  own = [log_p[0, 0], log_p[1, 3], log_p[2, 4], log_p[3].min()]
  np.testing.assert_allclose(found.log_probability, own, rtol=1e-5)
  ranks = [1 + (log_p[i] > own[i]).sum() for i in range(3)] + [9]
  np.testing.assert_array_equal(found.rank, ranks)
  np.testing.assert_allclose(found.entropy, -(p * log_p).sum(1), rtol=1e-5)
  said = p[:, :4].sum(1)
  channel = [
    -np.log((p[0, 0] + p[0, 2]) / said[0]),
    -np.log(p[1, 3] / said[1]),
    -np.log(p[2, 3] / said[2]),
    -np.log(p[3, 1] / said[3]),
  ]
  np.testing.assert_allclose(found.surprise[:, 1], channel, rtol=1e-4)
  # No token has an unknown shop: as unlikely as the least likely token.
  shop = -np.log(p[3].min())
  np.testing.assert_allclose(found.surprise[3, 0], shop, rtol=1e-4)


def test_ties_and_numbers_that_are_none_count_against_the_observed():
  same = deviation.of_values(
    jnp.zeros((1, 3)), jnp.ones((6, 3)), jnp.asarray([4])
  )
  assert float(same.rank[0]) == 4.0
  assert same.surprise.shape == (1, 0)
  bad = deviation.of_values(
    jnp.full((1, 3), jnp.nan), jnp.ones((6, 3)), jnp.asarray([4])
  )
  assert float(bad.rank[0]) == 4.0


def test_many_tokens_are_cut_into_pieces(monkeypatch):
  rng = np.random.default_rng(1)
  table = rng.standard_normal((9, 4)).astype(np.float32)
  states = rng.standard_normal((23, 4)).astype(np.float32)
  target = rng.integers(0, 9, 23)
  whole = deviation.of_values(states, table, target)
  monkeypatch.setattr(deviation, "_AT_A_TIME", 36)
  for x, y in zip(
    whole, deviation.of_values(states, table, target), strict=True
  ):
    np.testing.assert_allclose(x, y, rtol=1e-6)


def test_what_is_expected_does_not_depend_on_what_comes():
  rng = np.random.default_rng(2)
  table = rng.standard_normal((50, 4)).astype(np.float32)
  states = np.repeat(rng.standard_normal((1, 4)).astype(np.float32), 48, 0)
  found = deviation.of_values(states, table, np.arange(2, 50))
  assert len(np.unique(found.entropy)) == 1
  total = np.exp(found.log_probability).sum()
  np.testing.assert_allclose(total, 1.0, rtol=1e-5)
  assert sorted(found.rank) == list(range(1, 49))


@pytest.fixture(scope="module", params=["plain", "more"])
def made(request):
  records = fake_events.Records(users=12)
  more = {}
  if request.param == "more":
    more = dict(
      objective__gap_weight=0.1,
      objective__attribute_weight=0.1,
      model__copy=True,
      data__filter_seen=False,
    )
  config = fake_events.config(**more)
  recipe = recipes.build(config, records, ())
  module = recipe.init(nnx.Rngs(params=0))
  batch = next(sequences.embed_batches(records, config.data, "train", 12))
  inputs = ("key", "user_mask", "labels", "label_mask")
  batch = {k: jnp.asarray(v) for k, v in batch.items() if k not in inputs}
  return recipe, module, batch


def test_a_batchs_features_are_each_events_own(made):
  recipe, module, batch = made
  expected.check(recipe)
  states = module.model(batch)
  found, known = jax.jit(lambda b, s: expected.of_batch(recipe, module, b, s))(
    batch, states
  )
  names = expected.names(recipe)
  assert found.shape == (*batch["segment"].shape, len(names))
  # A later window begins with an event that no token of it comes before.
  own = (batch["segment"] > 0) & (batch["position"] > 0)
  np.testing.assert_array_equal(known, own)
  assert not np.asarray(found)[~np.asarray(known)].any()
  b, t = np.argwhere(np.asarray(own))[-1]
  p = recipe.probabilities
  row = {k: v[b : b + 1] for k, v in batch.items()}
  row["last"] = jnp.asarray([t - 1])
  p = np.asarray(p(module, row))[0]
  right = int(batch["ids"][b, t, 0])
  features = dict(zip(names, np.asarray(found[b, t]), strict=True))
  np.testing.assert_allclose(
    features["log_probability"], np.log(p[right]), rtol=1e-4
  )
  entropy = -(p[2:] * np.log(p[2:])).sum()
  np.testing.assert_allclose(features["entropy"], entropy, rtol=1e-4)
  assert np.exp(features["log_rank"]) == pytest.approx((p >= p[right]).sum())
  if "gap" in features:
    assert "expected/channel" in features
    gap = np.diff(np.asarray(batch["time"][b, t - 1 : t + 1]), axis=0)[0]
    gap = gap[0] * 86_400 + gap[1]
    said = float(module.gap_head(states[b, t - 1])[0])
    assert features["gap"] == pytest.approx(np.log1p(gap) - said, rel=1e-4)


def test_what_expects_no_event_is_named():
  config = fake_events.config(model__masked=True, model__use_fields=False)
  recipe = recipes.build(config, fake_events.Records(users=1), ())
  with pytest.raises(ValueError, match="model.masked"):
    expected.check(recipe)
  with pytest.raises(ValueError, match="recipe 'panther'"):
    expected.check(object())
