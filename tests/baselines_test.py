"""Baselines and their features: leakage, names, repeatability."""

import json

import fake
import numpy as np
import pytest
from fake_evals import evaluator

from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import (
  baseline_linear,
  features,
  per_target,
  predict,
)


@pytest.mark.parametrize("rows", ["day", "event"])
def test_features_see_nothing_at_or_after_the_origin(rows):
  records = fake.Records(rows=rows)
  tasks = tasks_lib.from_config(fake.config().tasks)
  maker = features.Maker(records.schema, records.calendar, tasks)
  rng = np.random.default_rng(1)
  for record in records.users[:6]:
    origins = np.asarray([56, 84, 98])
    x = maker(record, origins)
    assert x.shape == (3, len(maker.names)) and x.dtype == np.float32
    for o, row in zip(origins, x):
      late = record["day"] >= o
      changed = dict(record, numeric=record["numeric"].copy())
      changed["numeric"][late] = rng.random((late.sum(), 3)) * 100
      alone = maker(changed, np.asarray([o]))[0]
      np.testing.assert_allclose(alone, row, rtol=1e-6)


def test_features_are_what_their_names_say():
  records = fake.Records()
  tasks = tasks_lib.from_config(fake.config().tasks)
  maker = features.Maker(records.schema, records.calendar, tasks)
  record, o = records.users[3], 98
  x = dict(zip(maker.names, maker(record, np.asarray([o]))[0]))
  past = record["day"] < o
  window = past & (record["day"] >= o - 28)
  sales, visits, rating = record["numeric"].T
  assert x["sales/28"] == sales[window].sum()
  assert x["visits/365"] == visits[past].sum()
  assert x["days_active/28"] == window.sum()
  assert x["days_since_active"] == o - record["day"][past].max()
  assert x["days_since_first"] == o - record["day"].min()
  total = np.nansum(rating[past])
  np.testing.assert_allclose(x["rating/365"], total, rtol=1e-5)
  assert x["profile/age"] == 23.0 and x["profile/region"] == 3
  # The vip sale runs on days 80-100: 18 of them before and 2 after day 98.
  assert x["type=sale/past_28"] == 18 and x["type=sale/next_7"] == 2
  assert x["origin_weekday"] == (98 + 2) % 7  # Day 0 is a Wednesday.
  blind = features.Maker(records.schema, records.calendar, tasks, False)
  assert not [n for n in blind.names if "/next_" in n]
  rows = ("day", "numeric", "categorical")
  empty = {k: v[:0] if k in rows else v for k, v in record.items()}
  x = dict(zip(maker.names, maker(empty, np.asarray([o]))[0]))
  assert np.isnan(x["days_since_active"]) and x["sales/28"] == 0


def test_lightgbm_runs_once_and_repeats(tmp_path):
  kw = dict(tmp_path=tmp_path, records=fake.Records(200), n_threads=1)
  e = evaluator("baseline_lightgbm", **kw)
  first = dict(e.run(None))
  assert first["active/auc"] > 0.6 and "mean_wape" in first
  about = json.loads(
    (tmp_path / "predictions" / "baseline_lightgbm.json").read_text()
  )
  assert about["spend"]["median"]["rounds"] > 0
  assert about["churn"]["probability"]["strongest_features"]
  again = evaluator("baseline_lightgbm", **kw)
  again._fit = None  # Would fail: the result is there.
  assert dict(again.run(None)) == first
  other = evaluator("baseline_lightgbm", **kw, without_future=True)
  assert other._cache("") != e._cache("")
  per_target._LAST.clear()  # Train again.
  fresh = evaluator("baseline_lightgbm", **kw | dict(tmp_path=tmp_path / "b"))
  assert dict(fresh.run(None)) == first


def test_another_test_day_asks_the_same_models(tmp_path, monkeypatch):
  trained = []
  train = baseline_linear.BaselineLinear._train
  monkeypatch.setattr(
    baseline_linear.BaselineLinear,
    "_train",
    lambda self, *args: trained.append(1) or train(self, *args),
  )

  def run(folder, **kw):
    e = evaluator("baseline_linear", tmp_path=tmp_path / folder, **kw)
    list(e.run(None))
    return e.predictions

  per_target._LAST.clear()
  first = run("a")
  other = run("b", origin=119)
  assert len(trained) == 1
  assert not np.array_equal(first.p["churn"], other.p["churn"])
  run("c", folds=2)
  assert len(trained) == 2
  per_target._LAST.clear()
  alone = run("d", origin=119)
  for task, p in alone.p.items():
    np.testing.assert_array_equal(p, other.p[task])


def test_naive_repeats_the_past(tmp_path):
  records = fake.Records()
  out = dict(evaluator("baseline_naive", tmp_path=tmp_path).run(None))
  found = predict.Predictions.load(
    tmp_path / "predictions" / "baseline_naive.npz"
  )
  record = records.users[4]
  at = np.flatnonzero(found.key == predict.hash_keys(["user4"]))[0]
  inside = (record["day"] >= 98) & (record["day"] < 112)
  assert found.p["spend"][at] == record["numeric"][inside, 0].sum()
  assert out["population/active/auc"] == 0.5
  assert out["active/auc"] > 0.55
