"""What-if that can be wrong: controls, assignment, intervals, whole moves."""

import functools
import json

import fake
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_evals import PARAMS, build, evaluator
from flax import nnx

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import edited, pipeline
from lumos_jax.data import schema as schema_lib
from lumos_jax.evaluators import assignment, effects, what_if

VIP = [1]
SALE = 0  # Column of the day rows.


def move(days, **match):
  return calendar_lib.Edit("move", match=match, days=days)


def test_a_running_campaign_moves_whole():
  real = fake.calendar()  # A sale of the group "vip" on days 80 to 99.
  found = edited.splice(real, [move(15, type="sale", start=80)], 90)
  rows = found.rows(70, 120, VIP)
  shown = 70 + np.flatnonzero(rows[:, SALE])
  np.testing.assert_array_equal(shown, range(95, 115))
  # It is as long, and begins anew with age 0.
  age = real.columns.index("type=sale:age")
  np.testing.assert_allclose(
    rows[25:45, age], real.rows(80, 100, VIP)[:, age], atol=1e-6
  )
  # Cut at the origin, as the pipeline asks for it, it is the same.
  parts = [found.rows(70, 90, VIP), found.rows(90, 120, VIP)]
  np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_a_move_does_not_fetch_back_what_is_over():
  real = fake.calendar()  # One more sale on days 10 to 19, everyone's.
  found = edited.splice(real, [move(75, type="sale")], 90)
  assert found.rows(0, 30, VIP)[10:20, SALE].all()
  assert not found.rows(85, 95, VIP)[:, SALE].any()
  with pytest.raises(schema_lib.SchemaError, match="running or ahead"):
    edited.splice(real, [move(3, type="sale", start=10)], 90)


def test_a_campaign_ahead_moves_and_a_removed_one_has_its_past():
  real = fake.calendar()
  found = edited.splice(real, [move(-5, start=80)], 60)
  shown = np.flatnonzero(found.rows(0, 140, VIP)[:, SALE])
  assert 75 in shown and 94 in shown and 95 not in shown
  gone = edited.splice(
    real, [calendar_lib.Edit("remove", match={"start": 80})], 90
  )
  shown = np.flatnonzero(gone.rows(60, 120, VIP)[:, SALE]) + 60
  np.testing.assert_array_equal(shown, range(80, 90))


def until(days):
  """A model that adds up days of sale ahead, of its first `days`."""

  def predict_fn(params, batch):
    sales = batch["future_calendar"][..., SALE]
    near = params["w"] * sales[:, :, :days].sum(2)
    return {"active": near, "churn": near, "spend": params["w"] * sales.sum(2)}

  return predict_fn


def run(predict_fn, params=PARAMS, **kw):
  edits = [dict(op="add", start=114, end=118, values={"type": "sale"})]
  e = evaluator(
    "what_if", predict_fn, edits=edits, sweep_days=(), **kw
  )  # Windows of 7, 14 and 14 days from day 112.
  texts = []
  e.save_text = texts.append
  out = dict(e.run(params))
  return out, json.loads(texts[0])


def test_the_control_finds_what_comes_before_its_cause():
  out, doc = run(until(7))
  assert out["edited/active"] == 4.0
  for end in ("", "/low", "/high"):
    assert out[f"control/active{end}"] == 0.0
  out, doc = run(until(14))  # A week's task that looks two weeks ahead.
  assert out["control/active"] == 4.0 and out["control/active/low"] == 4.0
  assert doc["control"]["active"][0]["starts_after_days"] == 7
  # Its window ends where the calendar does: no control could fail.
  assert "control/churn" not in out and doc["control"]["churn"] == []


def test_members_widen_the_interval():
  one, doc = run(until(7))
  assert one["edited/spend/low"] == one["edited/spend/high"] == 4.0
  assert doc["members"] == {"count": 1, "are": "one training"}
  params = [{"w": jnp.float32(w)} for w in (0.5, 1.0, 1.5)]
  several, doc = run(until(7), params)
  assert doc["members"] == {"count": 3, "are": "trainings"}
  assert several["edited/spend"] == 4.0
  # Members say 2, 4 and 6: their deviation is 2, t of two degrees 4.303.
  np.testing.assert_allclose(several["edited/spend/high"], 4 + 4.303 * 2, 1e-3)
  half, _ = run(until(7), params, level=0.5)
  assert half["edited/spend/high"] < 6


def test_one_member_is_a_bootstrap_over_users():
  x = np.random.default_rng(0).normal(1.0, 2.0, (1, 400))
  found = effects.mean(x, level=0.95)
  np.testing.assert_allclose(found.high - found.low, 2 * 1.96 * 0.1, rtol=0.15)
  assert found.low < 1.0 < found.high


def test_intervals_of_members_hold_what_they_share():
  """Trainings on samples of the same users, around a truth of 0."""
  rng, inside = np.random.default_rng(1), 0
  for _ in range(300):
    shared = rng.normal(0.0, 0.02)  # What the sample of users got wrong.
    own = shared + rng.normal(0.0, 0.02, 4)
    x = own[:, None] + rng.normal(0.0, 0.1, 200)
    found = effects.mean(x, level=0.9, n=200)
    inside += found.low <= 0 <= found.high
  assert inside / 300 >= 0.84


def experiment(rng, by_activity, scale=0.5, users=1500):
  """Histories, who got it, outcomes, and a model half as sure as is right."""
  taste = rng.normal(size=users)
  x = np.stack([taste + rng.normal(0, 0.5, users), rng.normal(size=users)], 1)
  p = 1 / (1 + np.exp(-2.0 * taste)) if by_activity else np.full(users, 0.4)
  got = rng.random(users) < p
  true = 0.10 + 0.05 * (taste > 0)
  base = 0.3 + 0.1 * np.tanh(taste)
  y = (rng.random(users) < base + true * got).astype(float)
  zero = base + rng.normal(0, 0.02, (3, users))
  # What it knows of users apart is noise.
  one = zero + scale * true + rng.normal(0, 0.05, (3, users))
  one += rng.normal(0, 0.01, (3, 1))
  e = assignment.propensity(x, got)
  every = np.ones(users, bool)
  return effects.Evidence(got, e, y, every, zero, one), true


def test_calibration_finds_the_effect_of_an_experiment():
  rng, inside, raw = np.random.default_rng(2), 0, 0
  for _ in range(60):
    evidence, true = experiment(rng, by_activity=False)
    x, use = evidence.everyone - evidence.without, evidence.mask
    found, _ = effects.calibrated(x, use, [evidence], level=0.9, n=200)
    inside += found.low <= true.mean() <= found.high
    plain = effects.mean(x, level=0.9, n=200)
    raw += plain.low <= true.mean() <= plain.high
  assert inside >= 0.85 * 60
  assert raw < 0.5 * 60  # The model alone is half as sure as is right.


def test_assignment_by_activity_is_told_from_chance():
  rng = np.random.default_rng(3)
  for by_activity in (False, True):
    evidence, _ = experiment(rng, by_activity)
    auc = assignment.separation(evidence.got, evidence.propensity)
    assert (auc.low > what_if._PREDICTABLE) == by_activity
    assert auc.low < auc.value < auc.high


def test_evidence_of_an_earlier_entry(monkeypatch):
  """Every second user is "vip"; on day 98 their sale still runs."""
  monkeypatch.setattr(what_if, "_FEWEST", 10)
  records = fake.Records(users=80)
  out, doc = run(until(7), records=records)
  (entry,) = doc["evidence"]["entries"]
  assert (entry["origin"], entry["start"], entry["share"]) == (98, 80, 0.5)
  # The region tells who is "vip", so a difference is no effect.
  assert out["identified"] == 0.0 and out["assignment_auc"] > 0.9
  assert "calibrated/active" not in out and not doc["calibrated"]
  for r in records.users:
    r["profile_categorical"] = np.zeros(1, np.int32)
    r["profile_numeric"] = np.zeros(1, np.float32)
    r["numeric"], r["categorical"] = r["numeric"][:0], r["categorical"][:0]
    r["day"] = r["day"][:0]
  out, doc = run(until(7), records=records)
  assert out["identified"] == 1.0
  # Nobody ever comes, so the truth of the model's effect is none of it.
  assert abs(doc["calibrated"]["spend"]["scale"]) < 0.05


def test_no_evidence_says_so():
  out, doc = run(until(7), evidence_origins=())
  assert "identified" not in out and doc["evidence"]["identified"] is None
  with pytest.raises(ValueError, match=r"evidence_origins.*\[100\].*112"):
    run(until(7), evidence_origins=(100,))


def test_rows_of_an_ensemble_average_to_its_forecast():
  c, records, tasks, recipe = build()
  batch = next(pipeline.eval_batches(records, c.data, tasks, "train", 112, 4))
  batch = {k: v for k, v in batch.items() if k != "key"}
  module = recipe.init(nnx.Rngs(params=0))
  p, rows = jax.jit(
    lambda b: (recipe.predict(module, b), recipe.rows(module, b))
  )(batch)
  for m, t in enumerate(tasks):
    assert rows[t.name].shape == (4, len(recipe.weights))
    np.testing.assert_allclose(
      rows[t.name] @ recipe.weights[:, m], p[t.name][:, 0], rtol=1e-5
    )


def test_with_own_windows_nothing_comes_before_its_cause():
  later = {}
  for own in (False, True):
    c, records, tasks, recipe = build(model__own_window=own)
    batch = next(pipeline.eval_batches(records, c.data, tasks, "train", 112, 4))
    batch = {k: v for k, v in batch.items() if k != "key"}
    module = recipe.init(nnx.Rngs(params=0), batch)
    for x in (module.model.head.linear,):  # Starts at zero.
      x[...] = jnp.ones_like(x[...]) / 10
    predict = jax.jit(functools.partial(recipe.predict, module))
    before = predict(batch)
    other = batch["future_calendar"].copy()
    other[:, :, 7:, :3] += 1.0
    after = predict(batch | {"future_calendar": other})
    later[own] = {
      t.name: float(jnp.abs(after[t.name] - before[t.name]).max())
      for t in tasks
    }
  assert later[False]["active"] > 1e-4  # A week's task.
  assert later[True]["active"] == 0.0
  assert later[True]["churn"] > 1e-4 and later[True]["spend"] > 0
