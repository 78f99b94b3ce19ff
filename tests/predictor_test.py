"""What the predictor promises beyond what the Python interface shows."""

import json

import fake
import fake_events
import jax
import numpy as np
import polars as pl
import pytest
from load_test import saved

from lumos_jax import blocks, population, predictor, run
from lumos_jax.recipes import lumos


def test_few_users_take_one_small_batch_of_one_program(tmp_path):
  records = fake.Records()
  config = fake.config(eval_batch_size=16)
  model = saved(tmp_path, config, records)[0].predictor
  people = population.Population(records)

  def forecasts(positions, few):
    (block,) = model.predict(
      predictor.FORECASTS,
      records,
      people,
      [(0, np.asarray(positions))],
      112,
      few=few,
    )
    return block

  whole = forecasts(range(24), few=False)
  for positions in ([3], [5, 9], [0, 1, 2]):
    found = forecasts(positions, few=True)
    assert found.keys == [whole.keys[i] for i in positions]
    for name, x in found.columns.items():
      np.testing.assert_allclose(x, whole.columns[name][positions], rtol=2e-5)
  program, _ = model._program(model._few, predictor.FORECASTS, 10, False)
  assert program.batch_size == 8
  assert len(model._programs) == 2


def test_embedding_of_a_user_silent_for_decades_is_a_number():
  states = jax.numpy.ones((1, 3, 2))
  seen = np.asarray([[True, True, False]])
  time = np.asarray([[-20000.0, -19999.0, 0.0]])
  found = lumos._pooled(states, seen, time)
  np.testing.assert_array_equal(found["ewm"], np.ones((1, 2)))


def test_an_empty_block_has_the_columns_of_a_full_one():
  records = fake_events.Records()
  none = np.zeros(0, np.int32)
  columns = {"rank": none, "value": none, "probability": none * 1.0}
  empty = blocks.Block(0, [], columns)
  found = run.frame(predictor.NEXT_EVENTS, [empty], 50, records.schema, "item")
  assert found.columns == ["key", "as_of", "rank", "item", "probability"]
  assert found["item"].dtype == pl.String


def test_best_is_the_step_that_the_run_marks(tmp_path):
  saved(tmp_path, fake.config(), fake.Records())
  with pytest.raises(ValueError, match="best"):
    predictor.Predictor(tmp_path, "best")
  doc = dict(metric="a/b", mode="max", step=3, value=1.0, evaluations=[])
  (tmp_path / "best.json").write_text(json.dumps(doc))
  assert predictor.Predictor(tmp_path, "best").step == 3
