"""Data without a calendar: what-ifs are refused, exports speak of none."""

import dataclasses

import fake
import numpy as np
import pytest
from load_test import saved

from lumos_jax import export, predictor
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import records as records_lib


@pytest.mark.parametrize("there", [False, True])
def test_what_is_said_of_a_calendar(tmp_path, monkeypatch, capsys, there):
  records = fake.Records(users=8)
  if not there:
    records.schema = dataclasses.replace(records.schema, calendar=())
    records.calendar = calendar_lib.empty(records.schema)
    for user in records.users:
      user["groups"] = np.zeros(0, np.int32)
  monkeypatch.setattr(records_lib.Records, "open", lambda path: records)
  config = fake.config(**{"eval_batch_size": 1})
  (tmp_path / "run").mkdir()
  run = saved(tmp_path / "run", config, records)[0]
  if not there:
    edit = dict(op="add", start=140, end=141)
    with pytest.raises(predictor.PredictError, match="data have no calendar"):
      run.what_if([edit])
  export.export(tmp_path / "run", tmp_path / "out", what=["forecasts"])
  said = capsys.readouterr().err
  assert "forecasts of 8 users" in said
  assert ("calendar known by then" in said) == there
