"""Properties of PANTHER's model: no leak, packing, forms that must agree."""

import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lumos_jax import recipes
from lumos_jax import state as state_lib
from lumos_jax.data import sequences
from lumos_jax.models import sprm

FORMS = {
  "sasrec": {},
  "panther": dict(
    model__sprm="paper", model__profile_as="position", model__time_bias=True
  ),
  "release": dict(model__sprm="release", model__profile_as="token"),
  "linear": dict(model__sprm="paper", model__attention="none"),
  "bsarec": dict(model__sprm="bsarec", model__norm="post"),
  "tvrec": dict(
    model__sprm="tvrec", model__attention="none", model__positions="none"
  ),
  "hstu": dict(
    model__attention="pointwise", model__time_bias=True, model__d_ff=0
  ),
  "rotary": dict(model__positions="rotary", model__cosine=True),
  "copying": dict(
    model__copy=True,
    model__time_bias=True,
    model__tell_later=True,
    data__filter_seen=False,
    data__holdout="time",
    data__train_origin_last=60,
    data__validation_origin=60,
    data__test_origin=80,
  ),
}


MASKED = dict(model__masked=True, model__use_fields=False)


def setup(users=40, **overrides):
  """Recipe, parameters, records and states of a batch as a jitted function."""
  config = fake_events.config(**overrides)
  records = fake_events.Records(users)
  recipe = recipes.build(config, records, ())
  graph, params = state_lib.split(recipe.init(nnx.Rngs(params=0)))
  rng = np.random.default_rng(1)
  # Zeros hide mistakes.
  params = {
    k: v + 0.05 * rng.standard_normal(v.shape).astype(np.float32)
    for k, v in params.items()
  }

  @jax.jit
  def states(batch):
    return state_lib.merge(graph, params).model(batch)

  return recipe, graph, params, records, states


def arrays(batch):
  hide = ("key", "labels", "label_mask", "user_mask")
  return {k: jnp.asarray(v) for k, v in batch.items() if k not in hide}


@pytest.mark.parametrize("form", FORMS)
def test_packed_states_equal_unpacked_ones(form):
  """A user's states do not depend on who shares the row, or where it stands."""
  _, _, _, records, states = setup(**FORMS[form])
  cfg = fake_events.config(**FORMS[form]).data
  rows = 12
  packed = next(sequences.train_iterator(records, cfg, (), rows, 0))
  found = np.asarray(states(arrays(packed)))
  checked = 0
  for row in range(rows):
    for s in range(1, packed["segment"][row].max() + 1):
      at = np.flatnonzero(packed["segment"][row] == s)
      alone = {k: np.zeros_like(v[:1]) for k, v in packed.items()}
      for name, value in packed.items():
        if name.startswith("profile"):
          alone[name][0, 0] = value[row, s - 1]
        elif name == "segment":
          alone[name][0, : len(at)] = 1
        else:
          alone[name][0, : len(at)] = value[row, at]
      mine = np.asarray(states(arrays(alone)))[0, : len(at)]
      np.testing.assert_allclose(mine, found[row, at], atol=2e-5)
      checked += s > 1
  assert checked > 1


@pytest.mark.parametrize("form", FORMS)
def test_no_state_sees_what_comes_after_it(form):
  _, _, _, records, states = setup(**FORMS[form])
  cfg = fake_events.config(**FORMS[form]).data
  batch = next(sequences.train_iterator(records, cfg, (), 4, 0))
  before = np.asarray(states(arrays(batch)))
  at = 7
  later = {k: v.copy() for k, v in batch.items()}
  later["ids"][:, at:] = 3
  later["numeric"][:, at:] += 9.0
  later["time"][:, at:, 0] += 1
  later["next_time"][..., 0] += 1
  after = np.asarray(states(arrays(later)))
  np.testing.assert_allclose(before[:, :at], after[:, :at], atol=1e-5)
  assert np.abs(before[:, at:] - after[:, at:]).max() > 1e-3


def test_masked_form_looks_both_ways():
  form = MASKED
  _, _, _, records, states = setup(**form)
  cfg = fake_events.config(**form).data
  batch = next(sequences.train_iterator(records, cfg, (), 4, 0))
  before = np.asarray(states(arrays(batch)))
  later = {k: v.copy() for k, v in batch.items()}
  row = int(np.argmax(batch["segment"][:, 1] == 1))
  later["ids"][row, 1] = 3 + (later["ids"][row, 1] == 3)
  after = np.asarray(states(arrays(later)))
  assert np.abs(before[row, 0] - after[row, 0]).max() > 1e-4


@pytest.mark.parametrize("form", ("panther", "hstu", "linear"))
def test_profile_and_time_change_the_forecast(form):
  """What a form is built to see, it sees."""
  _, _, _, records, states = setup(**FORMS[form])
  cfg = fake_events.config(**FORMS[form]).data
  batch = arrays(next(sequences.train_iterator(records, cfg, (), 4, 0)))
  base = np.asarray(states(batch))
  seen = {}
  for name, change in (
    ("time", lambda x: x * 7),
    ("profile_numeric", lambda x: x + 30.0),
  ):
    other = np.asarray(states(batch | {name: change(batch[name])}))
    seen[name] = np.abs(other - base).max() > 1e-4
  assert seen["time"] == bool(FORMS[form].get("model__time_bias"))
  assert seen["profile_numeric"] == ("model__profile_as" in FORMS[form])


def test_target_time_is_seen_only_where_it_is_asked_for():
  for asked in (False, True):
    form = dict(model__time_bias=True, model__target_time=asked)
    _, _, _, records, states = setup(**form)
    cfg = fake_events.config(**form).data
    batch = arrays(next(sequences.train_iterator(records, cfg, (), 4, 0)))
    told = batch | {"next_time": batch["next_time"].at[..., 0].add(12)}
    moved = np.abs(np.asarray(states(told)) - np.asarray(states(batch)))
    assert (moved > 1e-4).any() == asked


def test_target_time_says_nothing_of_later_targets():
  form = dict(model__time_bias=True, model__target_time=True)
  _, _, _, records, states = setup(**form)
  cfg = fake_events.config(**form).data
  batch = arrays(next(sequences.train_iterator(records, cfg, (), 4, 0)))
  later = batch["next_time"].at[:, 7:, 0].add(12)
  told = np.asarray(states(batch | {"next_time": later}))
  before = np.asarray(states(batch))
  np.testing.assert_allclose(before[:, :7], told[:, :7], atol=1e-5)
  assert np.abs(before[:, 7:] - told[:, 7:]).max() > 1e-4


def test_what_is_told_of_ties_is_seen():
  form = FORMS["copying"]
  _, _, _, records, states = setup(**form)
  cfg = fake_events.config(**form).data
  batch = arrays(next(sequences.train_iterator(records, cfg, (), 4, 0)))
  base = np.asarray(states(batch))
  later = batch["next_time"].at[..., 0].add(1)
  longer = np.asarray(states(batch | {"next_time": later}))
  tie = np.asarray(states(batch | {"next_time": batch["time"]}))
  own = np.asarray(batch["segment"]) > 0
  # How much: not seen.
  np.testing.assert_allclose(base[own], longer[own], atol=1e-5)
  assert np.abs(base - tie)[own].max() > 1e-3


def test_pointer_stays_in_the_history_of_its_user():
  """Shares sum to 1, over earlier values alone; without any, no gate."""
  form = FORMS["copying"]
  recipe, graph, params, records, _ = setup(**form)
  cfg = fake_events.config(**form).data
  batch = arrays(next(sequences.train_iterator(records, cfg, (), 4, 0)))

  @jax.jit
  def run(batch):
    model = state_lib.merge(graph, params).model
    found = model.copied(model(batch), batch)
    every = jnp.arange(2, 40)[None].repeat(4, 0)
    one = found.at(jnp.full(4, 7)).among(every, 40)
    return (
      found.weights,
      found.keep,
      found.give,
      found.of(batch["ids"][..., 0]),
      one,
    )

  weights, keep, give, of, one = map(np.asarray, run(batch))
  ids, segment = np.asarray(batch["ids"][..., 0]), np.asarray(batch["segment"])
  checked = 0
  for b in range(4):
    for t in range(ids.shape[1]):
      mine = np.flatnonzero((segment[b] == segment[b, t]) & (ids[b] >= 2))
      mine = mine[mine <= t]
      outside = np.setdiff1d(np.arange(ids.shape[1]), mine)
      assert (weights[b, t, outside] == 0).all()
      if not len(mine):
        assert keep[b, t] == 0 and of[b, t] == -1e9
        checked += 1
        continue
      np.testing.assert_allclose(weights[b, t].sum(), 1, rtol=1e-5)
      np.testing.assert_allclose(
        np.exp(keep[b, t]) + np.exp(give[b, t]), 1, rtol=1e-5
      )
      if ids[b, t] >= 2:
        share = weights[b, t, mine[ids[b, mine] == ids[b, t]]].sum()
        np.testing.assert_allclose(of[b, t] - give[b, t], np.log(share), 1e-4)
    if ids[b, 7] >= 2:
      total = np.exp(one[b]).sum()
      np.testing.assert_allclose(total, np.exp(give[b, 7]), rtol=1e-4)
  assert checked


def test_depthwise_convolution_equals_the_plain_sum():
  conv = sprm.CausalConv(
    5, 3, 2, depthwise=True, dtype=jnp.float32, rngs=nnx.Rngs(0)
  )
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, 9, 5)).astype(np.float32)
  segment = np.asarray([[1, 1, 1, 1, 1, 2, 2, 2, 2]])
  found = np.asarray(conv(jnp.asarray(x), jnp.asarray(segment)))
  taps = np.asarray(conv.taps[...])
  for t in range(9):
    expected = np.zeros(5)
    for k in range(3):
      s = t - 2 * k
      if s >= 0 and segment[0, s] == segment[0, t]:
        expected += x[0, s] * taps[k]
    np.testing.assert_allclose(found[0, t], expected, atol=1e-6)


def test_values_add_the_mean_of_their_attributes():
  recipe, graph, params, records, _ = setup()
  model = state_lib.merge(graph, params).model
  every = np.asarray(model.values())
  table = np.asarray(params["model/values/table"])
  attributes = np.asarray(params["model/values/attributes"])
  known = records.schema.activity[0].attributes
  for i, mine in enumerate(known):
    expected = table[i + 2] + attributes[list(mine)].mean(0)
    np.testing.assert_allclose(every[i + 2], expected, atol=1e-6)
  np.testing.assert_array_equal(every[:2], table[:2])
  some = jnp.asarray([[4, 2], [9, 0]])
  np.testing.assert_allclose(np.asarray(model.values(some)), every[some])


@pytest.mark.parametrize("form", [*FORMS, "masked"])
@pytest.mark.parametrize("batch_size", (16, 5))
def test_ranks_do_not_depend_on_the_batch(form, batch_size):
  overrides = FORMS.get(form, MASKED)
  recipe, graph, params, records, _ = setup(**overrides)
  cfg = fake_events.config(**overrides).data
  predict = jax.jit(
    lambda b: recipe.predict(state_lib.merge(graph, params), b)["rank"]
  )

  def ranks(size):
    out = {}
    for batch in sequences.eval_batches(records, cfg, "test", size):
      rank = np.asarray(predict(arrays(batch)))[:, 0]
      for i in np.flatnonzero(batch["user_mask"]):
        out[str(batch["key"][i])] = float(rank[i])
    return out

  whole = ranks(40)
  assert len(whole) >= 25 and len(set(whole.values())) > 5
  assert ranks(batch_size) == whole


@pytest.mark.parametrize("form", ("copying", "rotary"))
def test_probabilities_rank_as_evaluation_does(form):
  overrides = dict(FORMS[form], data__filter_seen=False)
  recipe, graph, params, records, _ = setup(**overrides)
  cfg = fake_events.config(**overrides).data
  module = state_lib.merge(graph, params)
  batch = next(sequences.eval_batches(records, cfg, "test", 16))
  target = batch["next"]
  p = np.asarray(jax.jit(recipe.probabilities)(module, arrays(batch)))
  np.testing.assert_allclose(p.sum(1), 1, rtol=1e-4)
  assert (p[:, :2] == 0).all()
  above = p >= np.take_along_axis(p, target[:, None], 1)
  rank = np.asarray(jax.jit(recipe.predict)(module, arrays(batch))["rank"])
  known = target >= 2
  np.testing.assert_array_equal(above[:, 2:].sum(1)[known], rank[known, 0])


@pytest.mark.parametrize(
  "overrides,words",
  [
    (dict(model__attention="none"), "model.sprm = 'none'"),
    (dict(model__sprm="big"), "model.sprm = 'big'"),
    (dict(MASKED, model__sprm="tvrec"), "every filter is here"),
    (
      dict(model__profile_as="token", data__start_token=False),
      "data.start_token = True",
    ),
    (dict(MASKED, model__sprm="paper"), "SPRM is causal"),
    (dict(model__masked=True), "reads the target field alone"),
    (dict(model__target_time=True), "model.time_bias"),
    (dict(model__tell_later=True), "data.holdout = 'time'"),
    (dict(model__copy=True), "data.filter_seen"),
    (
      dict(
        MASKED,
        model__copy=True,
        data__filter_seen=False,
        model__use_attributes=False,
      ),
      "model.masked = False",
    ),
    (
      dict(
        model__copy=True, data__filter_seen=False, objective__loss="sampled"
      ),
      "correct_target = False",
    ),
    (dict(objective__loss="ce"), "objective.loss = 'ce'"),
    (
      dict(
        model__sprm="tvrec",
        model__attention="none",
        model__positions="rotary",
      ),
      "set model.positions = 'learned'",
    ),
    (dict(objective__contrastive_weight=0.5), "model.profile_as"),
    (
      dict(
        objective__contrastive_weight=0.5,
        objective__contrastive_fields=("city",),
        model__profile_as="position",
      ),
      "no profile field 'city'",
    ),
    (dict(model__sprm="paper", model__sprm_scales=((0, 1),)), "sprm_scales"),
    (dict(recipe="pantha"), "recipe = 'pantha'"),
  ],
)
def test_mistakes_are_named(overrides, words):
  with pytest.raises(ValueError, match=words):
    setup(**overrides)
