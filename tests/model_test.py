"""Properties of the LUMOS model: no leakage, masks, forms that must agree."""

import types

import fake
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lumos_jax import config as config_lib
from lumos_jax import recipes
from lumos_jax import state as state_lib
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import pipeline, targets
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib

NO_HABITS = dict(
  model__habit_days=(), model__state_members=0, model__sparsity=0.0
)
PAPER = NO_HABITS | dict(
  model__causal=False,
  model__patch_days=1,
  model__positions="learned",
  model__norm="post",
  model__members=1,
  data__origins_per_example=1,
)
SEQUENCE = NO_HABITS | dict(
  model__head="sequence",
  data__daily_labels=True,
)
FORMS = {"causal": {}, "paper": PAPER, "sequence": SEQUENCE}


def setup(rows="day", **overrides):
  """Recipe, parameters, jitted forecast of one record at some origins."""
  c = fake.config(**overrides)
  records = fake.Records(rows=rows)
  tasks = tasks_lib.from_config(c.tasks)
  recipe = recipes.build(c, records, tasks)
  graph, params = state_lib.split(recipe.init(nnx.Rngs(params=0)))
  example = pipeline.Example(
    records.schema,
    records.calendar,
    tasks,
    c.data.history_days,
    c.data.daily_labels,
  )

  @jax.jit
  def predict(params, batch):
    return recipe.predict(state_lib.merge(graph, params), batch)

  def forecast(record, origins):
    batch = jax.tree.map(lambda x: x[None], example(record, np.array(origins)))
    return {k: np.asarray(v[0]) for k, v in predict(params, batch).items()}

  return records, recipe, graph, params, forecast


def perturbed(record, day):
  """The record with every activity row at or after the day changed."""
  out = {k: np.copy(v) if k != "key" else v for k, v in record.items()}
  late = record["day"] >= day
  assert late.any()
  out["numeric"][late] = out["numeric"][late] * 7 + 100
  out["categorical"][late] = 1
  return out


@pytest.mark.parametrize("rows", ["day", "event"])
@pytest.mark.parametrize("form", FORMS)
def test_rows_after_the_origin_change_nothing(form, rows):
  overrides = dict(FORMS[form])
  if rows == "event":
    overrides |= NO_HABITS | dict(model__patch_days=1)
  origins = [84] if form == "paper" else [70, 77, 84]
  records, *_, forecast = setup(rows, **overrides)
  for record in records.users[5:8]:
    for i, origin in enumerate(origins):
      before = forecast(record, origins)
      after = forecast(perturbed(record, origin), origins)
      for name in before:
        np.testing.assert_array_equal(before[name][i], after[name][i])
  # The same change before the origin is seen: the check can fail.
  after = forecast(perturbed(record, origins[0] - 14), origins)
  assert any(np.any(before[n][0] != after[n][0]) for n in before)


def test_gradient_of_an_origin_ends_at_the_origin():
  records, recipe, graph, params, _ = setup()
  example = pipeline.Example(records.schema, records.calendar, recipe.tasks, 56)
  origins = np.array([70, 77, 84])
  batch = jax.tree.map(lambda x: x[None], example(records.users[7], origins))

  def middle(numeric):
    module = state_lib.merge(graph, params)
    z = module.model(batch | {"history_numeric": numeric})
    return z[0, 0, 1].sum()

  numeric = jnp.nan_to_num(jnp.asarray(batch["history_numeric"]))
  days = np.abs(np.asarray(jax.jit(jax.grad(middle))(numeric)))[0].sum(-1)
  first = 84 - 56
  assert np.all(days[77 - first :] == 0)
  assert np.all(days[: 77 - first].reshape(-1, 7).sum(-1) > 0)


def test_an_origin_does_not_depend_on_its_neighbours():
  records, *_, forecast = setup(model__habit_days=(7, 28))
  many = forecast(records.users[6], [70, 77, 84])
  alone = forecast(records.users[6], [84])
  for name in many:
    np.testing.assert_allclose(many[name][-1], alone[name][0], rtol=1e-5)


def test_habits_take_their_scale_from_the_first_batch():
  c = fake.config()
  records, recipe, *_ = setup()
  batch = next(
    pipeline.train_iterator(records, c.data, recipe.tasks, 8, c.seed)
  )
  plain = recipe.init(nnx.Rngs(params=0)).model.habits
  fitted = recipe.init(nnx.Rngs(params=0), batch).model.habits
  x, y = plain(batch), np.asarray(fitted(batch))
  assert x.shape == (8, 4, plain.width)
  np.testing.assert_allclose(
    fitted.mean[...], plain._features(batch).mean((0, 1)), rtol=1e-5, atol=1e-6
  )
  inside = np.abs(y).max((0, 1)) < 5.0  # The rest is clipped.
  assert inside.mean() > 0.8
  np.testing.assert_allclose(y.mean((0, 1))[inside], 0, atol=1e-4)
  assert y.std((0, 1))[inside].max() < 1.0 + 1e-4

  # Not trained: nothing flows back.
  graph, params = state_lib.split(recipe.init(nnx.Rngs(params=0), batch))
  total = lambda p: state_lib.merge(graph, p).model(batch).sum()
  grads = jax.jit(jax.grad(total))(params)
  for name in ("mean", "deviation"):
    assert not np.any(grads[f"model/habits/{name}"])
  assert np.any(grads["model/head/mix/kernel"])


def test_views_see_what_they_say():
  """Members of states see no habits, the linear row nothing but them."""
  records, recipe, *_ = setup(model__members=4, model__state_members=2)
  rngs = nnx.Rngs(params=0)
  head = recipe.init(rngs).model.head
  assert head.views == ("states", "states", "all", "all", "linear")
  key = jax.random.split(jax.random.key(0), 4)
  head.linear[...] = jax.random.normal(key[3], head.linear.shape)
  states, extra = head.inputs
  width = states // 3  # A horizon of 14 days in weeks, and the last state.
  queries = jax.random.normal(key[0], (1, 1, 2, width))
  last = jax.random.normal(key[1], (1, 1, width))
  habits = jax.random.normal(key[2], (1, 1, extra))
  out = np.asarray(head(queries, last, habits, None))
  moved = lambda *x: np.abs(np.asarray(head(*x, None)) - out).max((1, 2, 3, 4))
  no_habits = moved(queries, last, jnp.zeros_like(habits))
  assert not no_habits[:2].any() and no_habits[2:].all()
  no_states = moved(jnp.zeros_like(queries), jnp.zeros_like(last), habits)
  assert no_states[:4].all() and not no_states[4]
  shift = moved(queries, last, 2 * habits)[4]
  np.testing.assert_allclose(shift, np.abs(out[4]).max(), rtol=1e-5)
  weights = np.abs(head._STEP * head.linear[...]).reshape(extra, 3, -1)
  np.testing.assert_allclose(
    head.penalty(), 0.01 / 5 * weights.sum((0, 2)) / [1, 1, 32], rtol=1e-5
  )


def test_amounts_start_from_the_mean_of_training_labels():
  c = fake.config()
  records, recipe, *_ = setup()
  batch = next(
    pipeline.train_iterator(records, c.data, recipe.tasks, 8, c.seed)
  )
  module = recipe.init(nnx.Rngs(params=0), batch)
  bias = module.model.head._STEP * module.model.head.bias[...]
  y = targets.sample(records, c.data, recipe.tasks)["spend"]
  found = module.amounts.forecast(2, bias[:, 2], np.full(3, 1 / 3))
  np.testing.assert_allclose(found["mean"], y.mean(), rtol=1e-3)
  assert not np.any(bias[:, :2])


def test_entry_is_unknown_before_its_announcement():
  # The last sale starts on day 120 and is announced on day 110.
  records, *_ = setup()
  make = lambda o: pipeline.Example(
    records.schema,
    records.calendar,
    tasks_lib.from_config(fake.config().tasks),
    56,
  )(records.users[0], np.array([o]))
  sale = records.calendar.columns.index("type=sale")
  assert make(109)["future_calendar"][0, :, sale].sum() == 0
  assert make(110)["future_calendar"][0, :, sale].sum() == 4
  assert make(112)["future_calendar"][0, :, sale].sum() == 6


def test_padding_rows_and_batch_size_change_nothing():
  records, recipe, graph, params, _ = setup()
  c, tasks = fake.config(), recipe.tasks
  predict = jax.jit(lambda p, b: recipe.predict(state_lib.merge(graph, p), b))

  def all_users(batch_size):
    out = {}
    for b in pipeline.eval_batches(
      records, c.data, tasks, "train", 98, batch_size
    ):
      b = dict(b)
      keys, mask = b.pop("key"), b.pop("user_mask")
      p = np.asarray(predict(params, b)["spend"])
      out |= {k: v for k, v, m in zip(keys, p[:, 0], mask, strict=True) if m}
    return out

  a, b = all_users(5), all_users(8)
  assert len(a) == len(records.users) and a.keys() == b.keys()
  for k in a:
    np.testing.assert_allclose(a[k], b[k], rtol=1e-5)


@pytest.mark.parametrize("name", ["no_future", "no_past", "no_context"])
def test_ablated_model_ignores_the_part(name):
  records, *_, forecast = setup(model__ablate=(name,))
  _, *_, whole = setup()
  record = records.users[7]
  changed = perturbed(record, 20)
  groups = dict(record, groups=np.array([], np.int32))
  past = [forecast(r, [84]) for r in (record, changed)]
  future = [forecast(r, [84]) for r in (record, groups)]
  same = lambda pair: all(
    np.array_equal(pair[0][k], pair[1][k]) for k in pair[0]
  )
  assert same(past) == (name == "no_past")
  # The vip sale lies in days 80 to 100: past and future of origin 84.
  assert same(future) == (name == "no_context")
  assert not same([whole(r, [84]) for r in (record, groups)])


def test_user_without_activity_gets_finite_forecasts():
  records, *_, forecast = setup()
  empty = dict(
    records.users[0],
    day=np.zeros(0, np.int32),
    numeric=np.zeros((0, 3), np.float32),
    categorical=np.zeros((0, 1), np.int32),
  )
  for origins in ([84], [28]):
    for v in forecast(empty, origins).values():
      assert np.all(np.isfinite(v))


def _paper_records():
  """The paper's widths: 13 activity, 32 calendar, 9 static numbers."""
  numbers = lambda n: tuple(schema_lib.Numeric(f"x{i}") for i in range(n))
  s = schema_lib.Schema(
    name="paper",
    activity=numbers(13),
    calendar=numbers(31),  # And the relative day.
    profile=numbers(9),
    last_day=400,
  )
  empty = np.zeros((0, 1))
  calendar = calendar_lib.Calendar(s, ("",), *[empty[:, 0]] * 4, empty, empty)
  return types.SimpleNamespace(schema=s, calendar=calendar)


@pytest.mark.parametrize(
  "size,parameters",
  [
    ("tiny", 43_922),
    ("base", 659_050),
    ("paper", 14_334_474),  # 14.7 M in the public port.
    ("large", 205_473_290),
  ],
)
def test_golden_parameter_counts(size, parameters):
  """The paper's form: 360 days, 7 days ahead, 5 targets."""
  c = fake.config(**PAPER, model__regression_loss="mse_nonzero")
  config_lib.set_size(c, size)
  c.data.update(history_days=360, eval_history_days=360)
  tasks = [
    tasks_lib.Task(f"t{i}", "regression", 7, field=f"x{i}") for i in range(5)
  ]
  recipe = recipes.build(c, _paper_records(), tasks)
  module = nnx.eval_shape(lambda: recipe.init(nnx.Rngs(params=0)))
  _, state = nnx.split(module)
  count = sum(np.prod(v.shape) for _, v in nnx.to_flat_state(state))
  assert count == parameters


@pytest.mark.parametrize(
  "overrides,words",
  [
    (dict(model__patch_days=5), "data.history_days"),
    (dict(model__causal=False), "origins_per_example = 1"),
    (dict(model__positions="absolute"), "model.positions"),
    (dict(model__head="other"), "model.head"),
    (dict(model__n_heads=3), "model.n_heads"),
    (dict(model__regression_loss="mae"), "model.regression_loss"),
    (dict(model__weighting="mean"), "model.weighting"),
    (dict(model__norm="none"), "model.norm"),
    (dict(data__daily_labels=True), "data.daily_labels"),
    (dict(recipe="other"), "recipe"),
    (
      dict(model__positions="learned", data__eval_history_days=28),
      "eval_history_days",
    ),
  ],
)
def test_settings_that_exclude_each_other_are_named(overrides, words):
  c = fake.config(**overrides)
  with pytest.raises(ValueError, match=words):
    recipe = recipes.build(
      c, fake.Records(users=1), tasks_lib.from_config(c.tasks)
    )
    recipe.init(nnx.Rngs(params=0))
