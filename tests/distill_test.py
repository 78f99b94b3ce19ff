"""Distillation: an event model learns to meet another model's user vectors."""

import fake_events
import jax
import numpy as np
import polars as pl
import pytest
from flax import nnx

from lumos_jax import recipes, train
from lumos_jax import state as state_lib
from lumos_jax.data import sequences, teacher

WIDTH = 5
_MASKED = dict(
  model__masked=True, model__use_fields=False, model__time_bias=False
)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
  """Two directions, by what the users do; one user has none."""
  records = fake_events.Records()
  keys = [r["key"] for r in records.users][1:]
  rng = np.random.default_rng(0)
  ways = rng.standard_normal((2, WIDTH)).astype(np.float32) * 7
  way = [int(key.removeprefix("user")) % 2 for key in keys]
  path = tmp_path_factory.mktemp("teacher") / "part-0.parquet"
  table = {"key": keys, "embedding": ways[way].tolist()}
  pl.DataFrame(table).write_parquet(path)
  return path.parent


def config(vectors, **kw):
  defaults = dict(
    objective__distill_weight=1.0,
    objective__distill_width=WIDTH,
    data__teacher=str(vectors),
    train__batch_size=8,
    optimizer__learning_rate=1e-2,
  )
  return fake_events.config(**defaults | kw)


@pytest.fixture(scope="module")
def setup(vectors):
  c, records = config(vectors), fake_events.Records()
  recipe = recipes.build(c, records, ())
  batch = next(sequences.train_iterator(records, c.data, (), 8, 0))
  return c, recipe, batch


def test_windows_carry_their_users_vector(setup, vectors):
  _, _, batch = setup
  read = teacher.Teacher.read(vectors)
  records = fake_events.Records()
  by_number = {}
  for r in records.users:
    cut = sequences.Sequences(records.schema, setup[0].data)
    by_number[cut.whole(r)[0]["profile_user"][0].tobytes()] = r["key"]
  used = batch["segment"].max(1)
  assert used.sum() > 8
  for row in range(len(used)):
    for place in range(used[row]):
      key = by_number[batch["profile_user"][row, place].tobytes()]
      want = read.of(key)
      np.testing.assert_array_equal(
        batch[teacher.VECTOR][row, place], want[teacher.VECTOR][0]
      )
      assert batch[teacher.KNOWN][row, place] == (key != "user0")
    assert not batch[teacher.KNOWN][row, used[row] :].any()


def test_training_meets_the_teacher(setup):
  c, recipe, batch = setup
  trainer = train.Trainer(c, recipe, jax.devices()[:1])
  state, losses = trainer.init([batch]), []
  for _ in range(25):
    state, logs = trainer.step(state, trainer.put(batch))
    losses.append(float(logs["loss/distill"]))
  assert losses[-1] < 0.5 * losses[0]
  assert float(logs["loss"]) == losses[-1]


def test_the_loss_is_of_events_alone_and_parts_add_up(setup):
  """Padding, start tokens and users without a vector count for nothing."""
  _, recipe, batch = setup
  graph, params = state_lib.split(recipe.init(nnx.Rngs(params=0)))

  @jax.jit
  def loss(part, totals):
    module = state_lib.merge(graph, params)
    return recipe.loss(module, part, nnx.Rngs(dropout=0), totals)[0]

  totals = recipe.totals(batch)
  whole = loss(batch, totals)
  halves = [
    {k: x[h] for k, x in batch.items()} for h in np.split(np.arange(8), 2)
  ]
  np.testing.assert_allclose(
    sum(loss(h, totals) for h in halves), whole, rtol=1e-5
  )
  changed = batch[teacher.VECTOR].copy()
  changed[batch[teacher.KNOWN] == 0] = 9.0
  np.testing.assert_array_equal(
    loss(batch | {teacher.VECTOR: changed}, totals), whole
  )
  ids = batch["ids"].copy()
  ids[batch["segment"] == 0] = 3
  np.testing.assert_array_equal(loss(batch | {"ids": ids}, totals), whole)


@pytest.mark.parametrize(
  "words,settings",
  [
    ("belong together", dict(data__teacher="")),
    ("belong together", dict(objective__distill_width=0)),
    ("model.masked = False", _MASKED),
  ],
)
def test_what_does_not_fit_is_named(vectors, words, settings):
  with pytest.raises(ValueError, match=words):
    recipes.build(config(vectors, **settings), fake_events.Records(), ())


def test_another_width_is_named(setup, vectors):
  c = config(vectors, objective__distill_width=WIDTH + 1)
  recipe = recipes.build(c, fake_events.Records(), ())
  module = recipe.init(nnx.Rngs(params=0))
  batch = setup[2]
  with pytest.raises(ValueError, match=f"vectors of {WIDTH} numbers"):
    recipe.loss(module, batch, nnx.Rngs(dropout=0), recipe.totals(batch))


@pytest.mark.parametrize(
  "table,words",
  [
    ({"key": ["a"], "vector": [[1.0]]}, "columns key and embedding"),
    ({"key": ["a", "a"], "embedding": [[1.0], [2.0]]}, "repeat a user"),
    (
      {"key": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]},
      "have .1, 2. numbers",
    ),
    ({"key": ["a"], "embedding": [[0.0, 0.0]]}, "are 0 or not finite"),
  ],
)
def test_a_bad_table_is_named(tmp_path, table, words):
  pl.DataFrame(table).write_parquet(tmp_path / "t.parquet")
  with pytest.raises(teacher.TeacherError, match=words):
    teacher.Teacher.read(tmp_path / "t.parquet")


def test_lists_and_arrays_are_read_alike(tmp_path):
  table = pl.DataFrame(
    {"key": ["a", "b"], "embedding": [[3.0, 4.0], [0.0, 2.0]]}
  )
  for kind in (pl.List(pl.Float32), pl.Array(pl.Float32, 2)):
    path = tmp_path / "t.parquet"
    table.with_columns(pl.col("embedding").cast(kind)).write_parquet(path)
    found = teacher.Teacher.read(path)
    assert found.width == 2
    np.testing.assert_allclose(found.of("a")[teacher.VECTOR], [[0.6, 0.8]])


def test_no_table_and_no_common_user_are_named(tmp_path):
  with pytest.raises(teacher.TeacherError, match="there is no Parquet file"):
    teacher.Teacher.read(tmp_path / "absent.parquet")
  pl.DataFrame({"key": ["x"], "embedding": [[1.0] * WIDTH]}).write_parquet(
    tmp_path / "t.parquet"
  )
  c, records = config(tmp_path), fake_events.Records()
  with pytest.raises(teacher.TeacherError, match="none of .* users of split"):
    sequences.train_iterator(records, c.data, (), 8, 0)
