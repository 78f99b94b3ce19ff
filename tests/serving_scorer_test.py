"""The service's scorer where things go wrong, and hybrids and pointers over HTTP."""

import fake_events
import jax
import numpy as np
import pytest

pytest.importorskip("fastapi", reason='needs pip install -e ".[serve]"')

import serving  # noqa: E402

from lumos_jax.evaluators import calibration  # noqa: E402
from lumos_jax.serving import jobs as jobs_lib  # noqa: E402
from lumos_jax.serving import (
  problems,  # noqa: E402
  watch,  # noqa: E402
)
from lumos_jax.serving import scorer as scorer_lib  # noqa: E402
from lumos_jax.serving import store as store_lib  # noqa: E402

event = serving.event


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return serving.made_run(tmp_path_factory.mktemp("served"))


@pytest.fixture
def made(run, tmp_path):
  with serving.serving(run[0], tmp_path) as (client, core):
    yield client, core


def raw_score(core, record, place):
  """What the model says of a point before it is calibrated."""
  model = core.live.model
  part = model.recipe.inputs.example(record, place)
  found = model._risk({k: np.asarray(v)[None] for k, v in part.items()})
  return np.asarray(jax.device_get(found)["buys"]).reshape(-1)


def record_after(core, user_id, events):
  (known,) = core.lookup([core.keys.user(user_id)]).values()
  rows = core.encode(known, events)
  return core.extended(known, rows).record(core.live.model.layout)


def test_a_hybrids_score_is_calibrated_and_of_the_events_that_are_there(
  tmp_path,
):
  import tiny_hybrid

  config = tiny_hybrid.config(unit="event")
  workdir, records, loaded = serving.made_run(tmp_path, config=config)
  y, p = np.arange(200) % 5 == 0, np.linspace(0.2, 0.8, 200)
  maps = {"buys": calibration.fit("temperature", y, p)}
  mine = {"model_hash": loaded.predictor.model_hash}
  calibration.save(workdir, maps, mine)
  with serving.serving(workdir, tmp_path / "store", records) as (client, core):
    key = max(records.users, key=lambda u: len(u["day"]))["key"]
    first, second = event("04-20", item="i5"), event("04-21", item="i6")

    def score(*events):
      status, found = client.post("/score", user_id=key, events=list(events))
      assert status == 200, found
      return found["scores"]["buys"]

    def wanted(*events):
      record = record_after(core, key, list(events))
      raw = raw_score(core, record, len(record["day"]) - 1)
      return raw, maps["buys"](raw)

    raw, right = wanted(first, second)
    assert abs(raw[0] - right[0]) > 0.1
    assert score(first, second) == pytest.approx(right[0], rel=1e-4)
    # Another event comes than the one that was supposed.
    other = event("04-20", item="i9", amount=77.0)
    assert client.post("/events", user_id=key, events=[other])[0] == 200
    assert score(second) == pytest.approx(wanted(second)[1][0], rel=1e-4)
    # A map that comes after its checkpoint is taken; another's is not.
    looks = watch.Watch(
      workdir, None, core.swap, None, 1e9, lambda: core.live.model
    )
    try:
      assert not looks.look_for_calibration()
      maps["buys"] = calibration.fit("temperature", ~y, p)
      calibration.save(workdir, maps, mine | {"points": 200})
      assert looks.look_for_calibration()
      assert score(second) == pytest.approx(wanted(second)[1][0], rel=1e-4)
      calibration.save(workdir, maps, {"model_hash": "0" * 16})
      assert looks.look_for_calibration()
      assert score(second) == pytest.approx(wanted(second)[1][0], rel=1e-4)
    finally:
      looks.close()
  # Opened now, there is none for this checkpoint.
  with serving.serving(workdir, tmp_path / "other", records) as (client, core):
    assert score(second) == pytest.approx(wanted(second)[0][0], rel=1e-4)


@pytest.mark.parametrize(
  "told", [dict(model__target_time=True), dict(model__tell_later=True), dict()]
)
def test_what_is_told_of_the_time_is_scored(told, tmp_path):
  """As by states alone, of later events and of those at the last one's time."""
  more = dict(model__copy=True, data__filter_seen=False)
  more |= dict(model__time_bias=True, data__start_token=True)
  held = dict(model__time_bias=True, data__holdout="time")
  config = fake_events.config(**(told or more) | held)
  workdir, records, _ = serving.made_run(tmp_path, config=config)
  with serving.serving(workdir, tmp_path / "store", records) as (client, core):
    model = core.live.model
    assert model.direct == ("model__tell_later" in told)
    user = max(records.users, key=lambda u: len(u["day"]))
    times = ("04-20", "2020-04-20T10:00:00Z", "04-21")
    events = [event(t, item=f"i{i}") for i, t in enumerate(times)]
    ask = dict(user_id=user["key"], events=events)
    status, found = client.post("/score", **ask)
    assert status == 200 and len(found["events"]) == 3, found
    (kept,) = core.lookup([core.keys.user(user["key"])]).values()
    rows = core.encode(kept, events)
    arrays = {
      "time": np.asarray([r.time for r in rows]),
      "categorical": np.stack([r.categorical for r in rows]),
      "numeric": np.stack([r.numeric for r in rows]),
    }
    cut = lambda a, b: {k: x[a:b] for k, x in arrays.items()}
    (now,) = model.advanced([kept], [None])
    state = now.state
    for i, said in enumerate(found["events"]):
      (right,) = model.states.deviation([state], [cut(i, i + 1)])
      said = [said[n] for n in model.features]
      np.testing.assert_allclose(said, right, rtol=1e-4, atol=1e-5)
      (state,) = model.states.append([state], [cut(i, i + 1)])


def test_one_request_that_fails_fails_alone(made, monkeypatch):
  client, core = made
  for name in ("a", "b", "c"):
    client.post("/events", user_id=name, events=[event("01-05")])
  bad, encode = core.keys.user("b"), core.encode

  def fails(user, events, future=False):
    if user.rows["day"].size and events[0]["fields"]["amount"] == 13.0:
      raise OverflowError("a date")
    return encode(user, events, future)

  monkeypatch.setattr(core, "encode", fails)
  for path in ("/score", "/events"):
    asked = [
      (
        "POST",
        path,
        dict(
          json=dict(
            user_id=name,
            events=[event("02-05", amount=13.0 if name == "b" else 1.0)],
          )
        ),
      )
      for name in ("a", "b", "c")
    ]
    assert [r.status_code for r in client.many(asked)] == [200, 500, 200]
  assert core.lookup([bad])[bad].events == 1


def test_what_is_deleted_is_compacted_after_a_kill_too(run, tmp_path):
  with serving.serving(run[0], tmp_path) as (client, core):
    client.post("/events", user_id="a/b", events=[event("01-05")])
    client.post("/events", user_id="c", events=[event("01-05")])
    assert client("DELETE", "/users/a%2Fb").status_code == 204
    assert client("DELETE", "/users/a%2Fb").status_code == 404
    assert core.store.get_meta(store_lib.PENDING)
    # As after a kill: nothing is compacted at the end.
    core.deleted_since_compaction = 0
  with serving.serving(run[0], tmp_path) as (client, core):
    assert core.deleted_since_compaction
    compact = core.store.compact

    def full():
      raise store_lib.StoreError("no room")

    core.store.compact = full
    assert core._write([jobs_lib.Compact()])[0].status == 503
    assert core.deleted_since_compaction
    core.store.compact = compact
    assert core._write([jobs_lib.Compact()]) == [True]
    assert not core.deleted_since_compaction
    assert not core.store.get_meta(store_lib.PENDING)
    files = [p for p in tmp_path.rglob("*.mdb*")]
    assert all(p.stat().st_mode & 0o077 == 0 for p in files) and files


def test_a_repeat_stands_and_falls_with_what_it_repeats(made):
  _, core = made
  user = core.keys.user("a")
  job = jobs_lib.Append(user, (event("01-05"),), "a1b2")
  commit = core.store.commit
  core.store.commit = lambda changes: [False] * len(changes)
  found = core._write([job] * 4)
  assert [p.status for p in found] == [503] * 4
  assert core.store.read([user]) == [{}]
  core.store.commit = commit
  found = core._write([job] * 4)
  assert [f["repeated"] for f in found] == [False, True, True, True]
  assert core.lookup([user])[user].events == 1


def test_what_is_written_is_acknowledged(made, monkeypatch):
  client, core = made

  def full(*_):
    raise store_lib.StoreFull("no room")

  monkeypatch.setattr(core.store, "set_meta", full)
  events = [event("12-30")]
  status, found = client.post("/events", user_id="a", events=events)
  assert status == 200 and found["accepted"] == 1
  assert client.post("/history", user_id="a")[1]["total"] == 1


def test_days_without_dates_have_a_future_too(made):
  _, core = made
  user = core._new(jobs_lib.Append(b"", ()))
  core.clock.epoch = ""
  last = core.default_day + scorer_lib._FUTURE_DAYS
  fields = event("01-05")["fields"]
  assert core.encode(user, [dict(time=last, fields=fields)])
  with pytest.raises(problems.Problem, match="366 days beyond"):
    core.encode(user, [dict(time=last + 1, fields=fields)])
