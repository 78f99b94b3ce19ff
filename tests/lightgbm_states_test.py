"""LightGBM on states: of a model that saw labels, out of fold."""

import fake
import jax.numpy as jnp
import numpy as np
import pytest
from fake_evals import PARAMS, build, simple

from lumos_jax import evaluators
from lumos_jax.evaluators import predict


def made(tmp_path, records, states=True):
  """The evaluator beside a model of days that says two numbers of a user."""
  c, records, tasks, _ = build(records)
  predictor = predict.Predictor(simple, 3)
  if states:

    def summary(params, batch):
      x = jnp.nan_to_num(batch["history_numeric"]).sum(1)[:, :2]
      return {"summary": x * params["w"]}

    predictor.states = predictor.of(summary)
  kw = dict(rounds=4, patience=2, n_threads=1, members=1)
  evals = {"states": dict(type="baseline_lightgbm_states", **kw)}
  built = evaluators.build(evals, predictor, records, tasks, c.data, tmp_path)
  return built["states"]


def other(record):
  """The same user, who does something else in the validation's window."""
  late = (record["day"] >= 98) & (record["day"] < 112)
  numeric = record["numeric"].copy()
  numeric[late, :2] = 0.0 if late.any() else numeric[late, :2]
  return dict(record, numeric=numeric)


def test_forecasts_of_the_validation_origin_are_out_of_fold(tmp_path):
  records = fake.Records()
  e = made(tmp_path / "a", records)
  metrics = dict(e.run(PARAMS))
  assert 0 <= metrics["active/auc"] <= 1
  table = e._made[0]
  # The origins that trained the model do not train on what it says of them.
  assert table.origins.tolist() == [98]
  assert table.names[-2:] == ("model/summary/0", "model/summary/1")
  assert table.x.shape == (24, 1, len(table.names))
  changed = fake.Records()
  changed.users[7] = other(changed.users[7])
  again = made(tmp_path / "b", changed)
  dict(again.run(PARAMS))
  at = int(
    np.flatnonzero(e.validation.key == predict.hash_keys(["user7"])[0])[0]
  )
  label = lambda x: x.validation.y[at].tolist()
  assert label(e) != label(again)
  for task in ("active", "churn", "spend"):
    a, b = (x.validation.p[task] for x in (e, again))
    assert a[at] == b[at]  # Its own outcome has not taught its forecast.
  others = [k for k in range(24) if k != at]
  assert any(
    not np.array_equal(e.validation.p[t][others], again.validation.p[t][others])
    for t in ("active", "churn", "spend")
  )


def test_a_model_without_states_is_refused(tmp_path):
  with pytest.raises(ValueError, match="recipes 'hybrid' and 'lumos'"):
    made(tmp_path, fake.Records(), states=False)
