"""Users that are asked for by their ids: who is not there, and in what order."""

import fake_events
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
