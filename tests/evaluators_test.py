"""Properties of evaluators: devices, padding, leakage, cadence, placebo."""

import dataclasses
import json
import subprocess
import sys

import fake
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import evaluate, evaluators, recipes
from lumos_jax import state as state_lib
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import pipeline
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import features, predict, what_if

EVALS = dict(
  validation=dict(type="forecast", split="validation", every_steps=2),
  forecast=dict(type="forecast"),
  baseline_lightgbm=dict(type="baseline_lightgbm", n_origins=4, rounds=5),
  baseline_naive=dict(type="baseline_naive"),
  ablation=dict(type="ablation", ablations=["no_future"], n_resamples=20),
  what_if=dict(
    type="what_if",
    edits=[dict(op="move", match=dict(type="sale"), days=4)],
    sweep_days=(-8,),
    n_resamples=20,
  ),
)


def build(records=None, **overrides):
  c = fake.config(**overrides)
  with c.unlocked():
    c.evals = EVALS
    c.eval_batch_size = 4
  records = records or fake.Records()
  tasks = tasks_lib.from_config(c.tasks)
  return c, records, tasks, recipes.build(c, records, tasks)


def simple(params, batch):
  """A forecast that reads all that a model may read."""
  past = jnp.nan_to_num(batch["history_numeric"]).sum((1, 2))
  context = batch["history_calendar"].sum((1, 2)) + batch["origin_day"][:, 0]
  future = batch["future_calendar"].sum((1, 2, 3))
  x = params["w"] * (past + context + 10.0 * future)[:, None]
  return {"active": jax.nn.sigmoid(x / 1e3), "churn": -x, "spend": x}


PARAMS = {"w": jnp.ones(())}


def batches(size, records=None, origin=112):
  c, records, tasks, _ = build(records)
  return pipeline.eval_batches(records, c.data, tasks, "train", origin, size)


def assert_same(a, b, tolerance=0.0):
  for x, y in zip(
    jax.tree.leaves(dataclasses.asdict(a)),
    jax.tree.leaves(dataclasses.asdict(b)),
    strict=True,
  ):
    if x.dtype == np.float32:
      np.testing.assert_allclose(x, y, rtol=tolerance, atol=0)
    else:
      np.testing.assert_array_equal(x, y)


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


def evaluator(name, predict_fn=simple, tmp_path="unused", records=None, **kw):
  c, records, tasks, _ = build(records)
  predictor = predict.Predictor(predict_fn, 3)
  evals = {name: EVALS[name] | kw}
  built = evaluators.build(evals, predictor, records, tasks, c.data, tmp_path)
  return built[name]


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
  low, high = (
    value[f"no_future/churn/auc/difference/{x}"] for x in ("low", "high")
  )
  assert low <= change <= high
  value = seen[past_only]
  assert value["no_future/spend/wape/difference"] == 0.0
  assert value["no_past/spend/wape"] == 1.0
  assert (tmp_path / "predictions" / "ablation.no_past.npz").exists()


def test_what_if_effects_and_intervals(tmp_path):
  e = evaluator("what_if", tmp_path=tmp_path)
  out = dict(e.run(PARAMS))
  assert out["placebo_max_abs"] == 0.0
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


def test_placebo_finds_a_model_that_looks_too_far():
  records = fake.Records()
  e = evaluator("what_if", records=records)
  e.save_text = lambda text: None
  # The placebo begins where the horizon ends: a window a day too long sees it.
  e._placebo = e._calendar(what_if.placebo_edits(records.calendar, 112 + 13))
  got = {}
  with pytest.raises(what_if.PlaceboError, match="24 users"):
    for k, v in e.run(PARAMS):
      got[k] = v
  assert got["placebo_max_abs"] > 0 and "edited/spend" in got


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
      late = record["time"] >= o * (86400 if rows == "event" else 1)
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
  past = record["time"] < o
  window = past & (record["time"] >= o - 28)
  sales, visits, rating = record["numeric"].T
  assert x["sales/28"] == sales[window].sum()
  assert x["visits/365"] == visits[past].sum()
  assert x["days_active/28"] == window.sum()
  assert x["days_since_active"] == o - record["time"][past].max()
  assert x["days_since_first"] == o - record["time"].min()
  total = np.nansum(rating[past])
  np.testing.assert_allclose(x["rating/365"], total, rtol=1e-5)
  assert x["profile/age"] == 23.0 and x["profile/region"] == 3
  # The vip sale runs on days 80-100: 18 of them before and 2 after day 98.
  assert x["type=sale/past_28"] == 18 and x["type=sale/next_7"] == 2
  assert x["origin_weekday"] == (98 + 2) % 7  # Day 0 is a Wednesday.
  blind = features.Maker(records.schema, records.calendar, tasks, False)
  assert not [n for n in blind.names if "/next_" in n]
  empty = {
    k: v[:0] if k in ("time", "numeric") else v for k, v in record.items()
  }
  x = dict(zip(maker.names, maker(empty, np.asarray([o]))[0]))
  assert np.isnan(x["days_since_active"]) and x["sales/28"] == 0


def test_lightgbm_runs_once_and_repeats(tmp_path):
  kw = dict(tmp_path=tmp_path, records=fake.Records(60), n_threads=1)
  e = evaluator("baseline_lightgbm", **kw)
  first = dict(e.run(None))
  assert first["active/auc"] > 0.6 and "mean_wape" in first
  about = json.loads(
    (tmp_path / "predictions" / "baseline_lightgbm.json").read_text()
  )
  assert about["spend"]["objective"] and about["churn"]["strongest_features"]
  again = evaluator("baseline_lightgbm", **kw)
  again._fit = None  # Would fail: the result is there.
  assert dict(again.run(None)) == first
  other = evaluator("baseline_lightgbm", **kw, without_future=True)
  assert other._cache("") != e._cache("")
  fresh = evaluator("baseline_lightgbm", **kw | dict(tmp_path=tmp_path / "b"))
  assert dict(fresh.run(None)) == first


def test_naive_repeats_the_past(tmp_path):
  records = fake.Records()
  out = dict(evaluator("baseline_naive", tmp_path=tmp_path).run(None))
  found = predict.Predictions.load(
    tmp_path / "predictions" / "baseline_naive.npz"
  )
  record = records.users[4]
  at = np.flatnonzero(found.key == predict.hash_keys(["user4"]))[0]
  inside = (record["time"] >= 98) & (record["time"] < 112)
  assert found.p["spend"][at] == record["numeric"][inside, 0].sum()
  assert out["population/active/auc"] == 0.5
  assert out["active/auc"] > 0.55


def session(tmp_path, only=()):
  c, records, tasks, recipe = build()
  s = evaluate.Session(c, tmp_path, records, recipe, tasks, only)
  init = jax.jit(lambda: state_lib.init(recipe, optax.identity(), 0, False))
  return c, records, recipe, s, init()


def test_whole_evaluation_in_the_loop_and_as_a_program(tmp_path, monkeypatch):
  c, records, recipe, s, state = session(tmp_path)
  params = state["params"]
  assert s.evaluate(0, params, False) == {} == s.evaluate(1, params, False)
  some = s.evaluate(2, params, False)
  assert some and all(k.startswith("validation/") for k in some)
  assert not (tmp_path / "eval.json").exists()
  evaluate.write(tmp_path, {"gone": {"x": 1.0}, "steps": {"gone": 4}})
  logged = s.evaluate(6, params, True)
  found = json.loads((tmp_path / "eval.json").read_text())
  assert set(found) == {
    *EVALS,
    "steps",
    "forecast_vs_baseline_lightgbm",
    "forecast_vs_baseline_naive",
  }
  assert logged["forecast/active/auc"] == found["forecast"]["active/auc"]
  pair = found["forecast_vs_baseline_naive"]
  difference = (
    found["forecast"]["mean_wape"] - found["baseline_naive"]["mean_wape"]
  )
  np.testing.assert_allclose(pair["mean_wape/difference"], difference)
  assert pair["mean_wape/low"] <= difference <= pair["mean_wape/high"]
  assert found["steps"]["ablation"] == 6 and "gone" not in found["steps"]
  whole = found["ablation"]["no_future/active/auc"]
  change = found["ablation"]["no_future/active/auc/difference"]
  np.testing.assert_allclose(whole - change, found["forecast"]["active/auc"])

  one = evaluate.Session(
    c, tmp_path / "b", records, recipe, s.tasks, ["forecast"], jax.devices()[:1]
  )
  one.evaluate(6, params, True)
  assert_same(
    s.evaluators["forecast"].predictions, one.evaluators["forecast"].predictions
  )

  # The program reads the checkpoint and comes to the same numbers.
  store = checkpoint_lib.Checkpoints(tmp_path)
  meta = checkpoint_lib.make_meta(c, records.schema, records.calendar.columns)
  store.save(6, state, "{}", meta)
  store.close()
  (tmp_path / "config.json").write_text(c.to_json_best_effort())
  monkeypatch.setattr(
    evaluate.records_lib.Records, "open", lambda path: fake.Records()
  )
  evaluate.run(tmp_path, only=["forecast", "what_if"])
  again = json.loads((tmp_path / "eval.json").read_text())
  assert again == found
  with pytest.raises(checkpoint_lib.CheckpointError, match="no step 5"):
    evaluate.run(tmp_path, 5)
  with pytest.raises(ValueError, match="config.evals has no .*typo"):
    evaluate.run(tmp_path, only=["typo"])


def test_program_names_what_is_wrong(tmp_path):
  command = [sys.executable, "-m", "lumos_jax.evaluate"]
  done = subprocess.run(
    [*command, f"--workdir={tmp_path}"], capture_output=True, text=True
  )
  assert done.returncode == 1
  assert done.stderr.strip().endswith("there is no config.json")
  assert "Traceback" not in done.stderr


def test_stored_config_comes_back(tmp_path):
  c, *_ = build()
  (tmp_path / "config.json").write_text(c.to_json_best_effort())
  again = evaluate.load_config(tmp_path)
  assert (
    again.to_dict() == json.loads(json.dumps(c.to_dict())) | again.to_dict()
  )
  assert again.model.ablate == () and again.evals.forecast.type == "forecast"
  with pytest.raises(FileNotFoundError, match="holds no run"):
    evaluate.load_config(tmp_path / "elsewhere")


@pytest.mark.parametrize(
  "evals,words",
  [
    (dict(a=dict(type="forcast")), "config.evals.a.type = 'forcast'"),
    (dict(a=dict(type="forecast", spilt="test")), "config.evals.a.spilt"),
    (dict(a=dict(type="forecast", split="dev")), "config.evals.a.split"),
    (
      dict(a=dict(type="forecast", mean_tasks=["x"])),
      "config.evals.a.mean_tasks",
    ),
    (
      dict(a=dict(type="ablation", ablations=["no_x"])),
      "config.evals.a.ablations",
    ),
    (dict(a=dict(type="what_if")), "config.evals.a.edits"),
    (
      dict(a=dict(type="what_if", edits=[dict(op="move", by=7)])),
      "config.evals.a.edits: no .*by",
    ),
  ],
)
def test_bad_settings_are_named(evals, words, tmp_path):
  c, records, tasks, _ = build()
  predictor = predict.Predictor(simple)
  with pytest.raises(ValueError, match=words):
    evaluators.build(evals, predictor, records, tasks, c.data, tmp_path)


def test_an_edit_that_finds_nothing_is_named(tmp_path):
  edits = [dict(op="move", match=dict(start=7), days=1)]
  with pytest.raises(schema_lib.SchemaError, match="finds no entry"):
    evaluator("what_if", edits=edits)
