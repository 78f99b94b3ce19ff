"""Properties of evaluators: devices, padding, leakage, unseen entries."""

import json

import fake
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_evals import PARAMS, assert_same, batches, evaluator, simple

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.evaluators import predict, what_if


@pytest.mark.parametrize("devices", [3, 8])
def test_any_device_count_and_batch_size_gives_the_same(devices):
  one = predict.Predictor(simple, 5, jax.devices()[:1])
  whole = one(PARAMS, batches(5))
  assert len(whole.key) == 24 and whole.y.shape == (24, 3)
  p = predict.Predictor(simple, 5, jax.devices()[:devices])
  assert p.batch_size == 5 * devices
  assert_same(whole, p(PARAMS, batches(p.batch_size)))
  # A batch that does not divide by the devices is padded.
  assert_same(whole, p(PARAMS, batches(7)), 1e-6)


def test_parameters_come_from_any_mesh():
  mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
  sharding = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec("fsdp")
  )
  params = jax.device_put({"w": jnp.arange(8.0)}, sharding)

  def predict_fn(params, batch):
    return simple({"w": params["w"].sum()}, batch)

  p = predict.Predictor(predict_fn, 3)
  q = predict.Predictor(predict_fn, 3, jax.devices()[:2])
  assert_same(p(params, batches(24)), q(params, batches(6)), 1e-6)


def test_a_model_sees_no_label_and_files_no_key(tmp_path):
  seen = set()

  def predict_fn(params, batch):
    seen.update(batch)
    return simple(params, batch)

  found = predict.Predictor(predict_fn, 3)(PARAMS, batches(24))
  assert not seen & {"labels", "label_mask", "key", "user_mask"}
  tasks = ["active", "churn", "spend"]
  found.save(tmp_path / "p.npz", tasks)
  assert b"user" not in (tmp_path / "p.npz").read_bytes()
  again = predict.Predictions.load(tmp_path / "p.npz")
  np.testing.assert_array_equal(
    again.key,
    predict.hash_keys(f"user{i}" for i in range(24))[
      np.argsort(predict.hash_keys(f"user{i}" for i in range(24)))
    ],
  )
  np.testing.assert_array_equal(again.p["spend"], found.p["spend"])
  with np.load(tmp_path / "p.npz") as z:
    assert z["y"].shape == z["p"].shape == z["mask"].shape == (24, 3)


def test_ablations_take_away_what_they_say(tmp_path):
  seen = {}

  def future_only(params, batch):
    x = batch["future_calendar"][..., :-7].sum((1, 2, 3))[:, None]
    return {"active": jax.nn.sigmoid(x - 1), "churn": x, "spend": x}

  def past_only(params, batch):
    x = jnp.nan_to_num(batch["history_numeric"]).sum((1, 2))[:, None]
    return {"active": x, "churn": -x, "spend": x / 9}

  for fn in (future_only, past_only):
    every = ("no_future", "no_past", "no_context")
    e = evaluator("ablation", fn, tmp_path, ablations=every)
    seen[fn] = dict(e.run(PARAMS))
  value = seen[future_only]
  assert value["no_future/churn/auc"] == 0.5 == value["no_context/churn/auc"]
  assert value["no_past/churn/auc/difference"] == 0.0
  change = value["no_future/churn/auc/difference"]
  low, high = (value[f"no_future/churn/auc/{x}"] for x in ("low", "high"))
  assert low <= change <= high
  value = seen[past_only]
  assert value["no_future/spend/wape/difference"] == 0.0
  assert value["no_past/spend/wape"] == 1.0
  assert (tmp_path / "predictions" / "ablation.no_past.npz").exists()


def test_what_if_effects_and_intervals(tmp_path):
  e = evaluator("what_if", tmp_path=tmp_path)
  out = dict(e.run(PARAMS))
  assert out["unused_entry_max_abs"] == 0.0
  # A sale of everyone on days 120-130 is announced on day 110: moved to 124,
  # two of its days leave the window [112, 126); moved to 112, none.
  effect, low, high = (out[f"edited/spend{x}"] for x in ("", "/low", "/high"))
  assert effect < 0 and low <= effect <= high
  assert out["edited/churn"] == -effect
  assert out["moved_-8_days/spend"] > 0
  assert out["edited/users_changed"] == 24
  doc = json.loads((tmp_path / "predictions" / "what_if.json").read_text())
  assert doc["questions"]["moved_-8_days"]["days"] == -8


def test_what_if_by_hand():
  def count_sales(params, batch):
    x = params["w"] * batch["future_calendar"][..., 0].sum((2,))
    return {"active": x, "churn": -x, "spend": x}

  edit = dict(op="add", start=115, end=118, group="vip")
  edit["values"] = {"type": "sale"}
  e = evaluator("what_if", count_sales, edits=[edit], sweep_days=())
  e.save_text = lambda text: None
  assert dict(e.run(PARAMS))["edited/spend"] == 3 / 2  # Half are "vip".
  e = evaluator(
    "what_if", count_sales, edits=[edit], sweep_days=(), over="changed"
  )
  e.save_text = lambda text: None
  out = dict(e.run(PARAMS))
  assert out["edited/spend"] == 3.0 and out["edited/users_changed"] == 12


def test_history_keeps_the_real_calendar():
  records = fake.Records()
  real = records.calendar
  edits = [calendar_lib.Edit("remove", match={"type": "sale"})]
  spliced = what_if.Spliced(real, real.edited(edits), 90)
  rows = spliced.rows(70, 110, [1])
  np.testing.assert_array_equal(rows[:20], real.rows(70, 90, [1]))
  assert real.rows(90, 100, [1])[:, 0].all()
  assert not rows[20:, 0].any()
  np.testing.assert_array_equal(
    spliced.rows(70, 80, [1]), real.rows(70, 80, [1])
  )


def test_an_unseen_entry_finds_a_model_that_looks_too_far():
  records = fake.Records()
  e = evaluator("what_if", records=records)
  e.save_text = lambda text: None
  # It begins where the horizon ends: a window a day too long sees it.
  e._unused = e._calendar(what_if.unused_edits(records.calendar, 112 + 13))
  got = {}
  with pytest.raises(what_if.UnseenEntryError, match="24 users"):
    for k, v in e.run(PARAMS):
      got[k] = v
  assert got["unused_entry_max_abs"] > 0 and "edited/spend" in got


def test_an_edit_that_finds_nothing_is_named(tmp_path):
  edits = [dict(op="move", match=dict(start=7), days=1)]
  with pytest.raises(schema_lib.SchemaError, match="finds no entry"):
    evaluator("what_if", edits=edits)
