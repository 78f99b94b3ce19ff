"""Tabular baselines: what they see, how they are chosen, members, cache."""

import dataclasses
import json
import warnings

import fake
import lightgbm
import numpy as np
import pytest
from fake_evals import EVALS, build, evaluator

from lumos_jax import evaluators
from lumos_jax.data import ablation, aggregates, pipeline
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import (
  baseline_linear,
  features,
  tabm,
  tabular,
  targets,
)

TASKS = tasks_lib.from_config(fake.config().tasks)
SMALL = dict(n_origins=4, members=2, folds=2, n_threads=1)
KINDS = dict(
  baseline_lightgbm=dict(rounds=8),
  baseline_catboost=dict(rounds=8),
  baseline_linear=dict(penalties=(10.0, 1.0, 0.1)),
  baseline_calendar=dict(penalties=(10.0, 1.0, 0.1)),
  baseline_tabm=dict(epochs=3, params=dict(width=16, batch_size=32)),
)


def make(kind, tmp_path, records=None, **kw):
  c, records, tasks, _ = build(records)
  settings = {"type": kind, **SMALL, **KINDS[kind], **kw}
  return evaluators.build(
    {kind: settings}, None, records, tasks, c.data, tmp_path
  )[kind]


def prepared(e):
  """Rows and targets of an evaluator, and what it would be asked."""
  train, validation, test = e._tables()
  flat = lambda a: a.reshape(-1, a.shape[-1])
  wanted = targets.of_tasks(e.tasks, flat(train.y), flat(train.mask))
  return e._rows(train), wanted, [flat(t.x) for t in (test, validation)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_forecasts_both_origins_and_repeats(kind, tmp_path):
  records = fake.Records(200)
  e = make(kind, tmp_path, records)
  first = dict(e.run())
  assert first["active/auc"] > 0.6 and 0 < first["spend/wape"] < 1.2
  assert first["active/positives"] == e.predictions.y[:, 0].sum()
  for found in (e.predictions, e.validation):
    assert len(found.key) == 200 and np.isfinite(found.p["spend/median"]).all()
    assert 0 <= found.p["churn"].min() <= found.p["churn"].max() <= 1
    assert found.p["spend"].min() >= 0
  # The mean is right in total, within what 200 users allow.
  total = e.validation.p["spend"].sum() / e.validation.y[:, 2].sum()
  assert 0.6 < total < 1.6
  assert (tmp_path / "predictions" / f"{kind}.validation.npz").exists()
  again = make(kind, tmp_path, records)
  again._fit = None  # Would fail: the result is there.
  assert dict(again.run()) == first
  fresh = make(kind, tmp_path / "b", records)
  assert dict(fresh.run()) == first


def test_a_cached_result_is_not_that_of_other_settings(tmp_path):
  digests = {
    make("baseline_lightgbm", tmp_path, **kw)._cache("1").name
    for kw in (
      {}, dict(seed=1), dict(members=3), dict(folds=3), dict(rounds=9),
      dict(without_future=True), dict(params=dict(max_bin=31)),
      dict(n_threads=2), dict(origin_stride_days=14),
    )
  }  # fmt: skip
  assert len(digests) == 9
  assert make("baseline_lightgbm", tmp_path)._cache("2").name not in digests


def test_three_validation_positives_do_not_decide_the_rounds(tmp_path):
  """Rounds come from the training users; validation may hold what it likes."""
  chosen = []
  for few in (False, True):
    records = fake.Records(60)
    if few:  # 57 users do nothing at all in the validation windows.
      for r in records.users[3:]:
        late = (r["day"] >= 98) & (r["day"] < 112)
        for k in ("day", "numeric", "categorical"):
          r[k] = r[k][~late]
    e = make("baseline_lightgbm", tmp_path / str(few), records, rounds=12)
    list(e.run())
    if few:
      assert e.validation.y[:, 0].sum() <= 3
    path = tmp_path / str(few) / "predictions" / "baseline_lightgbm.json"
    about = json.loads(path.read_text())
    chosen.append({t: about[t]["probability"]["rounds"] for t in ("active",)})
  assert chosen[0] == chosen[1] and chosen[0]["active"] > 3


def test_members_differ_in_seed_and_are_averaged(tmp_path):
  records = fake.Records(60)
  e = make("baseline_lightgbm", tmp_path, records)
  found = e.forecasts(*prepared(e))
  _, (test, _) = found["active"]
  assert test.shape == (2, 60) and np.abs(test[0] - test[1]).max() > 1e-3
  spread = dict(e.run())["spread/active/auc"]
  order = np.argsort(e._tables()[2].key)
  np.testing.assert_allclose(
    e.predictions.p["active"], test.mean(0)[order], rtol=1e-5
  )
  about = json.loads(
    (tmp_path / "predictions" / "baseline_lightgbm.json").read_text()
  )
  assert spread == pytest.approx(np.std(about["active"]["members"], ddof=1))
  other = make("baseline_lightgbm", tmp_path, records, seed=1)
  _, (moved, _) = other.forecasts(*prepared(other))["active"]
  each = np.concatenate([test, moved])
  assert len({tuple(p) for p in each.round(6)}) == 4


def test_seed_and_members_are_the_runs_unless_set(tmp_path):
  c, records, tasks, _ = build()
  evals = {
    "a": EVALS["baseline_lightgbm"],
    "b": EVALS["baseline_lightgbm"] | dict(seed=5, members=3),
    "naive": EVALS["baseline_naive"],
  }
  args = None, records, tasks, c.data, tmp_path, dict(seed=2, members=8)
  found = evaluators.build(evals, *args)
  assert (found["a"]._seed, found["a"]._members) == (2, 8)
  assert (found["b"]._seed, found["b"]._members) == (5, 3)


def test_rounds_are_chosen_by_log_loss_of_users_held_out(tmp_path):
  e = make("baseline_lightgbm", tmp_path, fake.Records(60), rounds=12)
  rows, wanted, _ = prepared(e)
  target = next(t for t in wanted if t.name == "active")
  assert target.loss == "log_loss"
  folds = e.folds(rows, target)
  user = np.repeat(np.arange(60), 4)
  for train, held in folds:
    assert not set(user[train]) & set(user[held])
    # One turn: label windows of 14 days, origins 14 days apart.
    assert len(train) + len(held) == 60 * 2
  state = e.prepare(rows)
  chosen = e.choose(state, target, folds)

  def loss(rounds):
    found = []
    for train, held in folds:
      data = lightgbm.Dataset(
        rows.x[train], target.y[train], reference=state[0]
      )
      params = e._params(target, len(train), 0)
      booster = lightgbm.train(params, data, rounds)
      p = booster.predict(rows.x[held])
      found.append(targets.mean_loss("log_loss", target.y[held], p))
    return np.mean(found)

  assert chosen["loss"] == pytest.approx(loss(chosen["rounds"]), rel=1e-6)
  assert 3 < chosen["rounds"] <= 12
  for rounds in (1, chosen["rounds"] - 1, 12):
    assert loss(rounds) >= chosen["loss"] - 1e-9


def test_best_round_stops_when_nothing_gets_better():
  asked = []

  def losses():
    for v in (3.0, 2.0, 2.5, 2.4, 2.6, 0.0):
      asked.append(v)
      yield v

  assert tabular.best_round(losses(), 10, 3) == (2, 2.0)
  assert len(asked) == 5
  assert tabular.best_round(iter([3.0, 2.0, 1.0]), 2, 9) == (2, 2.0)


def test_losses_are_least_at_the_truth():
  rng = np.random.default_rng(0)
  y = rng.gamma(0.5, 4.0, 2000) * (rng.random(2000) < 0.3)
  at = lambda name, p: targets.mean_loss(name, y, np.full(2000, p))
  for name, best in (("tweedie", y.mean()), ("squared", y.mean())):
    assert at(name, best) < min(at(name, best * 1.1), at(name, best / 1.1))
  b = (y > 0) * 1.0
  loss = targets.mean_loss("log_loss", b, np.full(2000, b.mean()))
  q = b.mean()
  assert loss == pytest.approx(-q * np.log(q) - (1 - q) * np.log(1 - q))


def test_what_does_not_vary_is_forecast_as_it_is(tmp_path):
  records = fake.Records(20)
  for r in records.users:
    r["numeric"] = r["numeric"].copy()
    r["numeric"][:, 0] = 0.0
  e = make("baseline_linear", tmp_path, records)
  list(e.run())
  assert not e.predictions.p["spend"].any()


@pytest.mark.parametrize("rows", ["day", "event"])
def test_frequent_values_are_counted_in_windows(rows):
  records = fake.Records(rows=rows)
  maker = features.Maker(records.schema, records.calendar, TASKS)
  record, o = records.users[3], 98
  x = dict(zip(maker.names, maker(record, np.asarray([o]))[0]))
  for value, i in (("web", 2), ("app", 3)):
    for w in (28, 91, 365):
      inside = (record["day"] < o) & (record["day"] >= o - w)
      expected = np.sum(record["categorical"][inside, 0] == i)
      assert x[f"channel={value}/{w}"] == expected
  assert x["channel=web/91"] > 0 < x["channel=app/91"]


def test_only_the_most_frequent_values_are_counted():
  records = fake.Records()
  field = dataclasses.replace(
    records.schema.activity[0], values=tuple("abcdefghijklm")
  )
  schema = dataclasses.replace(
    records.schema, activity=(field, *records.schema.activity[1:])
  )
  maker = features.Maker(schema, records.calendar, TASKS)
  counted = [n for n in maker.names if n.startswith("channel=")]
  assert len(counted) == 3 * aggregates.COUNTED_VALUES
  assert counted[0] == "channel=a/28" and counted[-1] == "channel=j/365"


@pytest.mark.parametrize("hidden", [True, False])
def test_baseline_and_model_are_blind_to_the_same_future(hidden):
  """A sale that runs on day 98 ends later, another one comes: who notices?"""
  records, origin = fake.Records(), 98
  real = records.calendar
  ends = real.end.copy()
  ends[1] = 118
  table = {k: getattr(real, k) for k in ("group", "start", "announced")}
  longer = calendar_lib.Calendar(
    real.schema,
    real.group_names,
    end=ends,
    categorical=real.categorical,
    numeric=real.numeric,
    spanning=real.spanning,
    **table,
  )
  more = calendar_lib.Edit("add", start=103, end=105, values={"coupons": 3.0})
  longer = longer.edited([more])
  vip = records.users[1]
  seen, arrays = [], []
  for calendar in (real, longer):
    maker = features.Maker(records.schema, calendar, TASKS, not hidden)
    seen.append(maker(vip, np.asarray([origin])))
    batch = pipeline.Example(records.schema, calendar, TASKS, 56)(
      vip, np.asarray([origin])
    )
    batch = {k: np.asarray(v)[None] for k, v in batch.items()}
    if hidden:
      columns = ablation.Columns.of(calendar)
      batch = ablation.apply(batch, "no_future", columns)
    arrays.append(batch)
  alike = all(
    np.array_equal(arrays[0][k], arrays[1][k])
    for k in ("history_calendar", "future_calendar")
  )
  same = np.array_equal(seen[0], seen[1], equal_nan=True)
  assert alike == same == hidden
  kept = ablation.Columns.of(real).kept("no_future")
  maker = features.Maker(records.schema, real, TASKS, False)
  past = [n for n in maker.names if n.endswith("/past_28")]
  assert past == [
    f"{c}/past_28"
    for c, k in zip(real.columns[: -real.date_columns], kept[0])
    if k
  ]
  assert not [n for n in past if ":left" in n]


def test_pieces_gaps_and_values_by_hand():
  x = np.asarray([[0, 2], [1, 3], [2, 2], [3, 3], [4, 2]], np.float32)
  x = np.concatenate([x, np.asarray([[np.nan, 3]], np.float32)])
  e = tabm.Encoding.of(x, [1], 2)
  # Number 0 between 0, 2 and 4; whether it is missing; values 2 and 3 of id 1.
  assert e.source.tolist() == [0, 0, 0, 1, 1]
  z = np.asarray(e(np.asarray([[1, 2], [3, 3], [9, 5], [np.nan, 2]], "f4")))
  assert z.tolist() == [
    [0.5, 0, 0, 1, 0],
    [1, 0.5, 0, 0, 1],
    [1, 1, 0, 0, 0],
    [0, 0, 1, 1, 0],
  ]


def test_submodels_share_weights_and_differ():
  import jax

  params = tabm.init(jax.random.key(0), np.asarray([0, 0, 1]), 2, 4, 8, 2)
  assert params["w0"].shape == (3, 8) and params["w1"].shape == (8, 8)
  # One scale a feature: the two pieces of feature 0 have the same.
  np.testing.assert_array_equal(params["r0"][:, 0], params["r0"][:, 1])
  out = tabm.apply(params, np.ones((5, 3), "f4"), 2)
  assert out.shape == (5, 4, 2)
  assert len({float(v) for v in out[0, :, 0]}) == 4


def test_the_calendar_baseline_sees_rates_and_calendar_alone(tmp_path):
  e = make("baseline_calendar", tmp_path)
  rows, _, _ = prepared(e)
  names = rows.table.names
  seen = [names[i] for i in e.columns(names, e.tasks[0])]  # 7 days of visits.
  assert {"visits/28", "visits/days/28", "type=sale/next_7"} <= set(seen)
  assert "origin_weekday" in seen and "days_since/visits" in seen
  for absent in ("sales/28", "profile/age", "type=sale/next_14"):
    assert absent in names and absent not in seen


def test_evaluator_helper_still_builds(tmp_path):
  assert evaluator("baseline_lightgbm", tmp_path=tmp_path)._members == 1


def test_fits_that_stop_early_are_told_in_one_line(
  tmp_path, monkeypatch, caplog
):
  from sklearn import exceptions

  regress = baseline_linear.BaselineLinear._regress

  def stopped(self, *args):
    warnings.warn("no", exceptions.ConvergenceWarning, stacklevel=1)
    return regress(self, *args)

  monkeypatch.setattr(baseline_linear.BaselineLinear, "_regress", stopped)
  e = make("baseline_linear", tmp_path, fake.Records(40))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    dict(e.run())
  told = [r.getMessage() for r in caplog.records if "converged" in r.message]
  assert told and "7 of 7 fits" in told[0]
