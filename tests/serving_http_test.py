"""The service over HTTP: answers, refusals, limits, secrets."""

import json
import math

import fake_events
import numpy as np
import pytest

pytest.importorskip("fastapi", reason='needs pip install -e ".[serve]"')

import serving  # noqa: E402
from absl import logging as absl_logging  # noqa: E402

from lumos_jax.serving import __main__ as program  # noqa: E402
from lumos_jax.serving import jobs as jobs_lib  # noqa: E402
from lumos_jax.serving import scorer as scorer_lib  # noqa: E402

event = serving.event


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return serving.made_run(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
  workdir, records, loaded = run
  folder = tmp_path_factory.mktemp("store")
  with serving.serving(workdir, folder, records) as (client, core):
    yield client, core, records, loaded


def long_user(records):
  return max(records.users, key=lambda u: len(u["day"]))


def test_next_events_and_embeddings_are_pythons(made):
  client, _, records, loaded = made
  user = records.users[4]
  status, found = client.post("/next", user_id=user["key"], k=7)
  assert status == 200
  wanted = loaded.next_events(k=7, users=[user["key"]])
  assert [x["value"]["item"] for x in found["next"]] == wanted["item"].to_list()
  p = [x["probability"] for x in found["next"]]
  np.testing.assert_allclose(p, wanted["probability"], rtol=1e-4)
  assert found["model"] == {
    "step": 3,
    "hash": loaded.predictor.model_hash,
  }
  status, found = client.post("/embedding", user_id=user["key"])
  wanted = loaded.embed(users=[user["key"]])["embedding"].to_numpy()[0]
  np.testing.assert_allclose(
    found["embedding"]["embedding"], wanted, rtol=1e-3, atol=1e-4
  )


def test_a_score_is_of_the_last_event_and_stores_nothing(made):
  client, core, records, _ = made
  user = long_user(records)["key"]
  a, b = event("04-20", item="i5"), event("04-21", item="i6")
  _, first = client.post("/score", user_id=user, events=[a])
  _, again = client.post("/score", user_id=user, events=[a])
  assert first == again
  _, both = client.post("/score", user_id=user, events=[a, b])
  assert both["kind"] == "deviation" and len(both["events"]) == 2
  # A batch of another size sums in another order.
  assert both["events"][0] == pytest.approx(first["events"][0], rel=1e-5)
  assert both["scores"]["anomaly"] == -both["events"][1]["log_probability"]
  assert client.post("/events", user_id=user, events=[a])[1]["accepted"] == 1
  _, second = client.post("/score", user_id=user, events=[b])
  assert second["scores"]["anomaly"] == pytest.approx(
    both["scores"]["anomaly"], rel=1e-4
  )
  # An item that training did not see counts as the least likely.
  _, new = client.post("/score", user_id=user, events=[event("04-21", "new")])
  assert math.isfinite(new["scores"]["anomaly"])
  assert new["scores"]["anomaly"] >= second["scores"]["anomaly"]


def test_appended_in_parts_or_at_once_the_state_is_the_same(made):
  client, core, _, _ = made
  rng = np.random.default_rng(0)
  days = np.sort(rng.integers(1, 29, 30)).tolist()
  # More than the window holds: its end is crossed.
  events = [event(f"02-{d:02d}", item=f"i{rng.integers(30)}") for d in days]
  for user, sizes in (("parts", [1, 2, 3, 24]), ("whole", [30])):
    start = 0
    for n in sizes:
      part = events[start : start + n]
      status, found = client.post("/events", user_id=user, events=part)
      assert (status, found["accepted"]) == (200, n)
      start += n
    assert found["events"] == 30
  ask = dict(events=[event("03-05")])
  a, b = (
    client.post("/score", user_id=u, **ask)[1] for u in ("parts", "whole")
  )
  assert a["scores"]["anomaly"] == pytest.approx(b["scores"]["anomaly"], 1e-4)
  # As a service that has nothing in memory makes it.
  for key in ("parts", "whole"):
    core._evict(core.keys.user(key))
  c = client.post("/score", user_id="parts", **ask)[1]
  assert c["scores"]["anomaly"] == pytest.approx(b["scores"]["anomaly"], 1e-4)


def test_the_same_request_twice_changes_nothing(made):
  client, *_ = made
  ask = dict(
    user_id="twice", events=[event("01-05")], idempotency_key="order 17"
  )
  assert client.post("/events", **ask)[1]["events"] == 1
  status, found = client.post("/events", **ask)
  assert status == 200
  assert found == {"accepted": 0, "events": 1, "repeated": True}
  other = ask | {"events": [event("01-06")]}
  status, found = client.post("/events", **other)
  assert status == 409 and "idempotency key" in found["reason"]
  # The key is the user's own.
  assert client.post("/events", **ask | {"user_id": "b"})[1]["accepted"] == 1
  both = [("POST", "/events", dict(json=ask | {"user_id": "c"}))] * 8
  found = [r.json()["accepted"] for r in client.many(both)]
  assert sum(found) == 1


def test_requests_that_arrive_together_share_calls_and_keep_their_own(made):
  client, core, records, _ = made
  users = [u["key"] for u in records.users if len(u["day"])]
  asks = [
    ("POST", "/score", dict(json=dict(user_id=u, events=[event("06-01")])))
    for u in users
  ] * 4
  one = [client(*a[:2], **a[2]).json()["scores"] for a in asks[: len(users)]]
  before = core.asks.batches
  found = [r.json()["scores"] for r in client.many(asks)]
  assert core.asks.batches - before < len(asks)
  for i, x in enumerate(found):
    assert x["anomaly"] == pytest.approx(one[i % len(users)]["anomaly"], 1e-4)


def test_a_day_is_refused_where_events_are_scored(made):
  client, _, records, _ = made
  ask = dict(user_id=records.users[4]["key"], events=[event("06-01")])
  assert client.post("/score", **ask)[0] == 200
  status, found = client.post("/score", **ask, as_of="2020-05-01")
  assert status == 422 and "as_of: this run scores events" in found["reason"]


def body(**change):
  return json.dumps({"user_id": "bad", "events": [event("01-05")]} | change)


def amount(value):
  return body().replace("3.5", value)


BAD = [
  ("{", 422, "Invalid JSON"),
  ("[]", 422, "body"),
  ("", 422, "body"),
  ("null", 422, "body"),
  (b"\xff\xfe", 422, "Invalid JSON"),
  (amount("NaN"), 422, r"events[0].fields.amount: numbers must be finite"),
  (amount("Infinity"), 422, "finite"),
  (amount("-Infinity"), 422, "finite"),
  (amount("1e400"), 422, "finite"),
  (amount("1e39"), 422, "finite"),
  (amount("true"), 422, "'amount' must be a number"),
  (amount('"1e-9"'), 422, "'amount' must be a number"),
  (amount("null"), 422, "must not be null"),
  (amount("[1.0]"), 422, "'amount' must be a number"),
  (amount("{}"), 422, "events[0].fields.amount"),
  (body(user_id=5), 422, "user_id"),
  (body(user_id=""), 422, "user_id"),
  (body(user_id="x" * 513), 422, "user_id"),
  (body(more=1), 422, "more"),
  (body(events=[]), 422, "events"),
  (body(events=[event("01-05")] * 10_000), 422, "events"),
  (body(events=[{"time": "2020-01-05"}]), 422, "events[0].fields"),
  (body(events=[event("01-05") | {"x": 1}]), 422, "events[0].x"),
  (body(events=[event("2099-01-01T00:00:00Z")]), 422, "lies in the future"),
  (body(events=[event("01-05"), event("01-04")]), 409, "order of time"),
  (body(events=[event("0001-01-01T00:00:00Z", amount=0)]), 200, ""),
  (body(events=[event("99-99")]), 422, "events[0].time: no ISO 8601"),
  (body(profile={"gender": "f"}), 422, "'age' is absent"),
  (body(profile={"gender": "f", "age": "old"}), 422, "'age' must be a number"),
  (body(groups=["vip"]), 422, "no such group"),
  (body(idempotency_key=""), 422, "idempotency_key"),
]


@pytest.mark.parametrize("content,status,words", BAD)
def test_bad_input_is_a_4xx_with_its_reason(made, content, status, words):
  client, core, *_ = made
  found = client(
    "POST",
    "/events",
    content=content,
    headers={"content-type": "application/json"},
  )
  assert found.status_code == status, found.text
  if status != 200:
    assert words in found.json()["reason"]
    assert core.lookup([core.keys.user("bad")]) == {}
  else:
    assert client("DELETE", "/users/bad").status_code == 204


def test_wrong_fields_types_and_users_are_named(made):
  client, _, records, _ = made
  user = records.users[4]["key"]
  wrong = {"time": "2020-05-01", "fields": {"itm": "i1"}}
  status, found = client.post("/score", user_id=user, events=[wrong])
  assert status == 422 and "did you mean 'item'" in found["reason"]
  assert client.post("/score", user_id="nobody")[0] == 404
  assert client("DELETE", "/users/nobody").status_code == 404
  assert client("DELETE", "/users/" + "x" * 600).status_code == 422
  status, found = client.post("/score", user_id=user, events=[])
  assert status == 422 and "at least one" in found["reason"]
  status, found = client.post("/score", user_id=user, events=[event("01-01")])
  assert status == 409 and "order of time" in found["reason"]
  found = client("POST", "/score", content=body(), headers={})
  assert found.status_code == 415
  found = client(
    "POST", "/score", content=body(), headers={"content-type": "text/plain"}
  )
  assert found.status_code == 415
  assert client("GET", "/score").status_code == 405
  assert client("GET", "/nowhere").status_code == 404
  status, found = client.post("/forecast", user_id=user)
  assert status == 422 and "/next" in found["reason"]
  for k in (0, 51, 1.5, "5", True, None):
    assert client.post("/next", user_id=user, k=k)[0] == 422
  for day in ("soon", 10**7, "2020-13-01", True, 1.5, "2300-01-01"):
    assert client.post("/embedding", user_id=user, as_of=day)[0] == 422


def test_a_deleted_user_is_gone_from_store_and_memory(made):
  client, core, *_ = made
  client.post("/events", user_id="gone", events=[event("01-05")])
  client.post("/score", user_id="gone", events=[event("01-06")])
  key = core.keys.user("gone")
  assert core.users.get(key) and core.live.states.get(key)
  assert client("DELETE", "/users/gone").status_code == 204
  assert (
    client.post("/score", user_id="gone", events=[event("01-06")])[0] == 404
  )
  assert core.users.get(key) is None and core.live.states.get(key) is None
  assert core.store.read([key]) == [{}]
  # Who comes back is new.
  client.post("/events", user_id="gone", events=[event("01-02", item="i9")])
  _, found = client.post("/history", user_id="gone")
  assert found["total"] == 1
  assert found["events"][0]["values"]["item"] == "i9"


def test_history_is_told_in_words(made):
  client, *_ = made
  profile = {"gender": "f", "age": 31}
  events = [event("01-05"), event("01-06", item="other", channel=None)]
  client.post("/events", user_id="words", events=events, profile=profile)
  _, found = client.post("/history", user_id="words", last=1)
  assert found["total"] == 2 and found["profile"] == profile
  (row,) = found["events"]
  assert row["time"] == "2020-01-06T10:00:00Z"
  assert row["values"] == {
    "item": "(unknown)",
    "channel": "(missing)",
    "amount": 3.5,
  }
  again = dict(user_id="words", events=[event("01-07")], profile=profile)
  assert client.post("/events", **again)[0] == 409


def test_counters_hold_no_id_and_count_by_route(made):
  client, *_ = made
  client("DELETE", "/users/a-secret-name")
  text = client("GET", "/metrics").text
  assert 'route="/users/{user_id}",status="404"' in text
  assert "a-secret-name" not in text and "lumos_step 3.0" in text
  client("GET", "/a-secret-path")
  assert "a-secret-path" not in client("GET", "/metrics").text


def test_tokens_are_asked_for_where_they_are_set(made):
  _, core, *_ = made
  guarded = guarded_by(core, token="0123456789abcdef")
  ask = dict(json=dict(user_id="nobody"))
  for header in (
    None,
    "Bearer",
    "Bearer wrong",
    "0123456789abcdef",
    "Basic 0123456789abcdef",
    "Bearer 0123456789abcde",
    "Bearer \xe9",
  ):
    headers = {"authorization": header.encode("latin-1")} if header else {}
    found = guarded("POST", "/score", headers=headers, **ask)
    assert found.status_code == 401
    assert found.headers["www-authenticate"] == "Bearer"
  good = {"authorization": "Bearer 0123456789abcdef"}
  assert guarded("POST", "/score", headers=good, **ask).status_code == 404
  for path in ("/metrics", "/docs", "/openapi.json", "/about"):
    assert guarded("GET", path).status_code == 401
    assert guarded("GET", path, headers=good).status_code == 200
  for path in ("/", "/health", "/ready"):
    assert guarded("GET", path).status_code == 200


def guarded_by(core, **limits):
  from lumos_jax.serving import app, metrics

  service = app.Service()
  service.scorer = core
  return serving.Client(app.make(service, metrics.Metrics(), **limits))


def test_limits_of_size_rate_and_number(made, monkeypatch):
  _, core, *_ = made
  small = guarded_by(core, most_bytes=100)
  long = json.dumps(dict(user_id="x" * 200)).encode()
  kind = {"content-type": "application/json"}
  assert small("POST", "/score", content=long, headers=kind).status_code == 413

  async def pieces():  # Without a length beforehand.
    for i in range(0, len(long), 10):
      yield long[i : i + 10]

  found = small("POST", "/score", content=pieces(), headers=kind)
  assert found.status_code == 413
  slow = guarded_by(core, per_second=2.0)
  found = [slow("GET", "/health").status_code for _ in range(5)]
  assert found[:2] == [200, 200] and set(found[2:]) == {429}
  few = guarded_by(core, most_requests=3)
  asks = [("POST", "/score", dict(json=dict(user_id="nobody")))] * 20
  found = few.many(asks)
  assert {r.status_code for r in found} == {404, 503}
  busy = next(r for r in found if r.status_code == 503)
  assert busy.headers["retry-after"] == "1"


def test_a_failure_is_told_without_what_the_client_sent(made, monkeypatch):
  client, core, *_ = made
  lines = []
  monkeypatch.setattr(
    absl_logging, "error", lambda text, *a: lines.append(text % a)
  )

  def fails(*_):
    raise KeyError("a-secret-name")

  monkeypatch.setattr(core.keys, "user", fails)
  found = client("POST", "/score", json=dict(user_id="a-secret-name"))
  assert found.status_code == 500
  assert "secret" not in found.text and "secret" not in "".join(lines)
  assert "/score" in lines[0] and "KeyError" in lines[0]


def test_a_full_store_is_a_503_and_nothing_is_acknowledged(run, tmp_path):
  workdir, *_ = run
  with serving.serving(workdir, tmp_path) as (client, core):
    core.store.close()
    core.store._map_bytes = 200_000
    core.store._lock_file = None
    core.store._env = core.store._open()
    found, kept = 200, 0
    for i in range(400):
      events = [event("01-05")] * 100
      found, answer = client.post("/events", user_id=f"u{i}", events=events)
      if found != 200:
        break
      kept += 1
    assert found == 503 and "full" in answer["reason"]
    assert len(list(core.store.users())) == kept
    core.users = scorer_lib.cache.Cache(1, lambda u: 1)
    assert client.post("/history", user_id="u0")[1]["total"] == 100


def test_beyond_loopback_a_token_is_needed(tmp_path):
  program.check_open("127.0.0.1", "", False)
  program.check_open("::1", "", False)
  program.check_open("localhost", "", False)
  program.check_open("0.0.0.0", "x" * 16, False)
  program.check_open("0.0.0.0", "", True)
  for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
    with pytest.raises(program.ServeError, match="--token_file"):
      program.check_open(host, "", False)


def test_a_token_comes_from_a_private_file_or_the_environment(
  tmp_path, monkeypatch
):
  monkeypatch.delenv(program.TOKEN, raising=False)
  assert program.token_of(None) == ""
  file = tmp_path / "token"
  file.write_text("0123456789abcdef\n")
  file.chmod(0o644)
  with pytest.raises(program.ServeError, match="chmod 600"):
    program.token_of(str(file))
  file.chmod(0o600)
  assert program.token_of(str(file)) == "0123456789abcdef"
  monkeypatch.setenv(program.TOKEN, "short")
  with pytest.raises(program.ServeError, match="16 ASCII") as e:
    program.token_of(None)
  assert "short" not in str(e.value)


def test_the_window_bounds_what_is_kept(run, tmp_path):
  workdir, *_ = run
  settings = jobs_lib.Settings(window=12)
  with serving.serving(workdir, tmp_path, settings=settings) as (client, core):
    for i in range(1, 26):
      client.post("/events", user_id="a", events=[event(f"01-{i:02d}")])
    (user,) = core.lookup([core.keys.user("a")]).values()
    assert len(user.rows) == 12 and user.events == 25
    core._evict(core.keys.user("a"))
    (user,) = core.lookup([core.keys.user("a")]).values()
    assert len(user.rows) == 12 and user.events == 25
    assert client.post("/history", user_id="a")[1]["total"] == 25
  with pytest.raises(ValueError, match="--keep=12"):
    serving.serving(
      workdir, tmp_path / "b", settings=jobs_lib.Settings(window=11)
    ).__enter__()
  assert fake_events.config().data.sequence_length == 12


@pytest.mark.parametrize(
  "unit", ["event", pytest.param("user", marks=pytest.mark.slow)]
)
def test_a_hybrids_risk_is_its_calibrated_score(unit, tmp_path):
  import tiny_hybrid

  config = tiny_hybrid.config(unit=unit)
  workdir, records, loaded = serving.made_run(tmp_path, config=config)
  with serving.serving(workdir, tmp_path / "store", records) as (client, core):
    assert client("GET", "/about").json()["kind"] == "risk"
    user = long_user(records)
    events = [event("04-20", item="i5"), event("04-21", item="i6")]
    ask = dict(user_id=user["key"], events=events)
    status, found = client.post("/score", **ask)
    assert status == 200 and found["kind"] == "risk", found
    assert 0.0 < found["scores"]["buys"] < 1.0
    model = core.live.model
    (known,) = core.lookup([core.keys.user(user["key"])]).values()
    rows = core.encode(known, events)
    record = core.extended(known, rows).record(model.layout)
    place = len(record["day"]) - 1
    if unit == "user":
      place = max(core.default_day, int(record["day"][-1]) + 1)
      assert found["events"] == []
      alone = client.post("/score", user_id=user["key"])[1]["scores"]["buys"]
      wanted = loaded.forecast(users=[user["key"]])["buys"][0]
      assert alone == pytest.approx(wanted, rel=1e-4)
    else:
      assert found["events"][-1] == found["scores"]
      assert client.post("/score", user_id=user["key"])[0] == 422
    (wanted,) = model.risk([record], [place])
    assert found["scores"]["buys"] == pytest.approx(wanted["buys"], rel=1e-4)
    for path in ("/next", "/forecast", "/embedding"):
      assert client.post(path, user_id=user["key"])[0] == 422
