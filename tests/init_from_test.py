"""A new run begins at another's parameters, matched by value and column."""

import dataclasses
import json

import fake
import fake_events
import jax
import numpy as np
import pytest
from train_test import build

from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import identity, init_from, recipes, train
from lumos_jax import state as state_lib
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.data.schema import (
  Binned,
  Categorical,
  Composite,
  Numeric,
  Schema,
)
from lumos_jax.models import fields


class Grown(fake.Records):
  """The fake data with another order of values and columns, and new ones."""

  def __init__(self, rows="day", **kw):
    super().__init__(rows=rows, **kw)
    s = self.schema
    channel = Categorical("channel", values=("shop", "app", "web"))
    sales, visits, rating = s.activity[1:]
    self.schema = dataclasses.replace(
      s,
      # Another order; another scale; a number more.
      activity=(
        channel,
        visits,
        dataclasses.replace(sales, offset=3.0, divisor=4.0),
        Numeric("clicks"),
        rating,
      ),
      last_day=s.last_day + 7,
    )
    self.calendar = fake.calendar(self.schema)


def fresh(config, records):
  tasks = tasks_lib.from_config(config.tasks)
  recipe = recipes.build(config, records, tasks)
  import flax.nnx as nnx

  module = recipe.init(nnx.Rngs(params=1))
  return {
    k: np.asarray(v) for k, v in state_lib.split(module)[1].items()
  }, recipe


def merged(config, records, other_config=None, other=None):
  other_config, other = other_config or fake.config(), other or fake.Records()
  old, _ = fresh(other_config, other)
  old = {k: v + np.float32(0.25) for k, v in old.items()}
  meta = identity.make_meta(other_config, other.schema, other.calendar.columns)
  new, _ = fresh(config, records)
  meta = json.loads(json.dumps(meta))
  return old, new, *init_from.merge(config, new, records, old, meta)


def test_equal_data_and_tasks_load_everything():
  old, _, out, lines = merged(fake.config(), fake.Records())
  assert lines == [f"loaded {len(out)} of {len(out)} parameters"]
  for k in out:
    np.testing.assert_array_equal(out[k], old[k])


def test_rows_follow_their_values_and_inputs_their_columns():
  config = fake.config(model__habit_days=(), model__state_members=0)
  config.model.sparsity = 0.0
  old, new, out, lines = merged(config, Grown(), config)
  table = "model/activity/tables/0"
  # Reserved, reserved, web, app there; reserved, reserved, shop, app, web here.
  np.testing.assert_array_equal(
    out[table][[0, 1, 3, 4]], old[table][[0, 1, 3, 2]]
  )
  np.testing.assert_allclose(out[table][2], old[table][2:].mean(0))
  kernel = "model/activity/mlp/layers/0/kernel"
  # sales, visits, rating, rating missing, channel (4 columns) there.
  a, b = old[kernel], out[kernel]
  np.testing.assert_array_equal(b[0], a[1])  # visits
  np.testing.assert_allclose(b[1], a[0] * 4.0 / 2.0)  # sales, rescaled
  np.testing.assert_array_equal(b[2], 0 * a[0])  # clicks
  np.testing.assert_array_equal(b[3:5], a[2:4])
  np.testing.assert_array_equal(b[5:], a[4:])
  text = "\n".join(lines)
  assert "1 new values of 'channel'" in text
  assert "new inputs of activity clicks" in text and "rescaled sales" in text


def test_grown_data_give_what_the_other_run_gave():
  """New columns and another scale change no vector of an old row."""
  config = fake.config(model__habit_days=(), model__state_members=0)
  config.model.sparsity = 0.0
  before, now = fake.Records(), Grown()
  old, _, out, _ = merged(config, now, config, before)

  def rows(records, params, ids, numbers):
    _, recipe = fresh(config, records)
    graph, _ = state_lib.structure(recipe)
    module = state_lib.merge(
      graph, {k: np.asarray(v) for k, v in params.items()}
    )
    return np.asarray(
      module.model.activity(np.asarray(ids), np.asarray(numbers, np.float32))
    )

  web, app = rows(before, old, [[2], [3]], [[30.0, 2.0, 4.0], [10.0, 1.0, 5.0]])
  same = rows(
    now, out, [[4], [3]], [[2.0, 30.0, 9.0, 4.0], [1.0, 10.0, 7.0, 5.0]]
  )
  np.testing.assert_allclose(np.stack([web, app]), same, rtol=1e-4, atol=1e-5)


def test_other_tasks_begin_their_heads_anew():
  config = fake.config()
  with config.unlocked():
    del config.tasks["churn"]
  old, new, out, lines = merged(config, fake.Records())
  for k in out:
    begun = ("model/head/", "model/hab", "amounts/", "bal")
    expected = new if k.startswith(begun) else old
    np.testing.assert_array_equal(out[k], expected[k], err_msg=k)
  assert any(x.startswith("new: ") and "(other tasks)" in x for x in lines)


def test_what_nothing_explains_is_an_error_unless_declared():
  config = fake.config(model__patch_days=1)
  with pytest.raises(checkpoint_lib.CheckpointError, match="init_new"):
    merged(config, fake.Records())
  config = fake.config(model__positions="learned")
  with pytest.raises(
    checkpoint_lib.CheckpointError, match="model/positions .*absent there"
  ):
    merged(config, fake.Records())
  config = fake.config(model__positions="learned", init_new=("model/posit",))
  *_, out, lines = merged(config, fake.Records())
  assert "new: model/positions (config.init_new)" in lines


def event_schema(values, tokens, edges=(1.0,)):
  return Schema(
    name="events",
    activity=(
      Categorical("item", values=values),
      Binned("amount", of="amount", edges=edges),
      Composite("token", of=("item", "amount"), values=tokens),
    ),
    rows="event",
  )


class Events:
  """Events of a composite token, in a schema alone."""

  def __init__(self, schema):
    self.schema = schema
    self.calendar = calendar_lib.Calendar(
      schema, ("",), group=[], start=[], end=[], announced=[],
      categorical=np.zeros((0, 0)), numeric=np.zeros((0, 0)),
    )  # fmt: skip
    self.stats = {}


def test_tokens_are_matched_by_what_they_say():
  config = fake_events.config(
    data__target="token", objective__attribute_weight=0.5
  )
  # Items a, b; bins low, high. Tokens: a-low, b-low, b-high.
  before = event_schema(("a", "b"), ((2, 2), (3, 2), (3, 3)))
  # Items b, c, a: b-high, a-low, c-high (new), b-low.
  now = event_schema(("b", "c", "a"), ((2, 3), (4, 2), (3, 3), (2, 2)))
  old, new, out, lines = merged(config, Events(now), config, Events(before))
  a, b = old["model/values/table"], out["model/values/table"]
  np.testing.assert_array_equal(b[[0, 1]], a[[0, 1]])
  np.testing.assert_array_equal(b[[2, 3, 5]], a[[4, 2, 3]])
  np.testing.assert_allclose(b[4], a[4])  # c-high shares "high" with b-high.
  head = "attribute_heads/0/kernel"
  np.testing.assert_array_equal(out[head][:, [2, 4]], old[head][:, [3, 2]])
  np.testing.assert_allclose(
    out[head][:, 3], old[head][:, 2:].mean(1), rtol=1e-5
  )
  assert out["attribute_heads/0/bias"].shape == (5,)
  assert any("1 new values of 'token'" in x for x in lines)


def test_a_run_begins_where_another_one_ended(tmp_path, capsys):
  # One program, however many steps.
  same = dict(train__ema_decay=0.9, optimizer__schedule="constant")
  c, records, recipe, tasks = build(**same)
  device = jax.devices()[:1]
  ended = train.train(c, tmp_path / "a", records, recipe, tasks, None, device)
  c = fake.config(**same, init_from=str(tmp_path / "a"), train__steps=3)
  first = {}

  def look(step, params, last):
    if step == 0:
      first.update(jax.device_get(params))
    return {}

  train.train(c, tmp_path / "b", records, recipe, tasks, look, device)
  for k, x in jax.device_get(ended["ema"]).items():
    np.testing.assert_array_equal(first[k], x)
  said = capsys.readouterr().err
  assert "step 6" in said and f"loaded {len(first)} of {len(first)}" in said
  # A resume reads its own checkpoints, also where the other run has gone.
  c = fake.config(**same, init_from="gone", train__steps=4)
  train.train(c, tmp_path / "b", records, recipe, tasks, look, device)
  c = fake.config(init_from=str(tmp_path / "none"))
  with pytest.raises(checkpoint_lib.CheckpointError, match="no such directory"):
    train.train(c, tmp_path / "c", records, recipe, tasks, look, device)


def test_a_wider_vector_leaves_what_was_known():
  """A larger vocabulary may have wider vectors (models/fields.py)."""
  before, now = fake.Records(), fake.Records()
  small = tuple(f"v{i}" for i in range(20))
  large = (*small, *(f"w{i}" for i in range(300)))
  change = lambda s, v: dataclasses.replace(
    s, activity=(Categorical("channel", values=v), *s.activity[1:])
  )
  before.schema = change(before.schema, small)
  now.schema = change(now.schema, large)
  config = fake.config()
  old, new, out, _ = merged(config, now, config, before)
  table, kernel = (
    "model/activity/tables/0",
    "model/activity/mlp/layers/0/kernel",
  )
  width = old[table].shape[1]
  assert out[table].shape[1] == fields.embedding_width(322) > width
  np.testing.assert_array_equal(out[table][:22, :width], old[table])
  np.testing.assert_array_equal(out[kernel][4 : 4 + width], old[kernel][4:])
  np.testing.assert_array_equal(out[kernel][4 + width :], 0.0)
