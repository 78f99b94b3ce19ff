"""Users that are asked for by their ids: who is not there, and in what order."""

import fake_events
import numpy as np
import pytest
from load_test import saved

from lumos_jax import predictor


@pytest.fixture(scope="module")
def panther(tmp_path_factory):
  records = fake_events.Records(lengths=[3, 5, 9, 0, 4])
  workdir = tmp_path_factory.mktemp("panther")
  run = saved(workdir, fake_events.config(), records)[0]
  run._opened[""] = records
  return run


def test_ids_that_are_not_there_are_named(panther):
  with pytest.raises(predictor.PredictError) as e:
    panther.embed(users=["user1", "8", "07"])
  assert "not in the data: '8', '07' (2 of 3 asked for)" in str(e.value)
  with pytest.raises(predictor.PredictError, match="'x9' and 5 more .15 of 15"):
    panther.embed(users=[f"x{i}" for i in range(15)])
  with pytest.raises(predictor.PredictError, match="users is empty"):
    panther.embed(users=[])


def test_rows_follow_the_order_that_is_asked_for(panther):
  asked = ["user4", "user0", "user3", "user2", "user0"]
  found = panther.embed(users=iter(asked))
  assert found["key"].to_list() == asked[:-1]
  alone = panther.embed(users=["user2"])
  np.testing.assert_allclose(
    found["embedding"].to_numpy()[3], alone["embedding"].to_numpy()[0], 1e-5
  )
  events = panther.embed(users=asked, per_event=True)
  assert events["key"].unique(maintain_order=True).to_list() == [
    "user4", "user0", "user2"
  ]  # fmt: skip
