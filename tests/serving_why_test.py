"""Explanations over HTTP: as Python gives them, in words, and bounded."""

import json

import pytest

pytest.importorskip("fastapi", reason='needs pip install -e ".[serve]"')

import serving  # noqa: E402
import tiny_hybrid  # noqa: E402

from lumos_jax.serving import scorer as scorer_lib  # noqa: E402

event = serving.event


@pytest.fixture(
  scope="module",
  params=["event", pytest.param("user", marks=pytest.mark.slow)],
)
def made(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("why")
  config = tiny_hybrid.config(unit=request.param)
  workdir, records, loaded = serving.made_run(folder, config=config)
  with serving.serving(workdir, folder / "store", records) as (client, core):
    user = max(records.users, key=lambda u: len(u["day"]))
    yield client, core, user, loaded, request.param


def python(loaded, user, unit, method):
  point = dict(event=-1) if unit == "event" else {}
  return loaded.why(user["key"], method=method, **point)


def test_it_is_what_python_says_in_words(made):
  client, _, user, loaded, unit = made
  assert "why" in client("GET", "/about").json()["answers"]
  status, found = client.post("/why", user_id=user["key"], last=5)
  assert status == 200, found
  wanted = python(loaded, user, unit, "without").head(5)
  assert [x["event"] for x in found["events"]] == wanted["event"].to_list()
  moved = [x["moved"] for x in found["events"]]
  assert moved == pytest.approx(wanted["moved"].to_list(), abs=1e-5)
  count = len(user["day"])
  assert (found["task"], found["method"]) == ("buys", "without")
  assert found["read"] == (count - 1 if unit == "event" else count)
  _, past = client.post("/history", user_id=user["key"], last=200)
  for x in found["events"]:
    row = past["events"][count - 1 - x["event"]]
    assert (x["time"], x["values"]) == (row["time"], row["values"])


def test_gradients_add_up(made):
  client, _, user, loaded, unit = made
  ask = dict(user_id=user["key"], last=100, method="gradients")
  status, found = client.post("/why", **ask)
  assert status == 200, found
  assert found["read"] == len(found["events"])
  parts = [x["moved"] for x in found["events"]]
  total = sum(parts) + sum(found["context"].values())
  total += found["profile"] + found["residual"]
  assert total == pytest.approx(found["score"] - found["baseline"], abs=1e-5)
  sizes = [abs(x) for x in found["context"].values()]
  assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0
  wanted = python(loaded, user, unit, "gradients")
  profile = wanted.filter(part="profile")["moved"][0]
  assert found["profile"] == pytest.approx(profile, abs=1e-5)


def test_events_that_are_supposed_are_explained_and_not_stored(made):
  client, core, user, _, unit = made
  ask = dict(user_id=user["key"], events=[event("04-20"), event("04-21", "i6")])
  status, found = client.post("/why", **ask, last=100)
  count = len(user["day"])
  assert status == 200, found
  # Of an event, what was before it moves it; of a user, all events.
  newest = count if unit == "event" else count + 1
  assert max(x["event"] for x in found["events"]) == newest
  _, past = client.post("/history", user_id=user["key"])
  assert past["total"] == count


def body(**change):
  return json.dumps(dict(user_id="?") | change)


BAD = [
  (body(method="magic"), "method"),
  (body(method=None), "method"),
  (body(task=5), "task"),
  (body(task="rent"), "this run scores buys"),
  (body(last=0), "last"),
  (body(last=101), "last"),
  (body(last=True), "last"),
  (body(last=1.5), "last"),
  (body(more=1), "more"),
  (body(events=[event("01-05")] * 33), "events"),
  (body(events=[event("04-20", amount=True)]), "'amount' must be a number"),
  (body(as_of="soon"), "as_of"),
  ("{", "Invalid JSON"),
  (body(last=10).replace("10", "NaN"), "last"),
]


@pytest.mark.parametrize("content,words", BAD)
def test_bad_input_is_a_422_with_its_reason(made, content, words):
  client, _, user, *_ = made
  content = content.replace('"?"', json.dumps(user["key"]))
  kind = {"content-type": "application/json"}
  found = client("POST", "/why", content=content, headers=kind)
  assert found.status_code == 422 and words in found.json()["reason"]


def test_a_day_scores_users_and_is_refused_of_events(made):
  client, core, user, loaded, unit = made
  ask = dict(user_id=user["key"], as_of=60)
  if unit == "event":
    for path in ("/score", "/why"):
      status, found = client.post(path, **ask, events=[event("04-20")])
      assert (
        status == 422 and "as_of: this run scores events" in found["reason"]
      )
    return
  status, found = client.post("/score", **ask)
  p = loaded.forecast(as_of=60, users=[user["key"]])["buys"].to_numpy()
  wanted = loaded.predictor.calibrated("buys", p)[0]
  assert status == 200 and found["scores"]["buys"] == pytest.approx(
    wanted, 1e-4
  )
  later = client.post("/score", user_id=user["key"])[1]["scores"]["buys"]
  assert later != pytest.approx(wanted, 1e-4)


def test_users_without_events_and_unknown_ones(made):
  client, core, user, _, unit = made
  assert client.post("/why", user_id="nobody")[0] == 404
  old = dict(user_id=user["key"], events=[event("01-01")])
  assert client.post("/why", **old)[0] == 409
  client.post("/events", user_id="one", events=[event("01-05")])
  status, found = client.post("/why", user_id="one")
  assert status == 200 and found["read"] == (0 if unit == "event" else 1)
  # Nothing stays in memory that a deletion does not find.
  key = core.keys.user("one")
  core._evict(key)
  client.post("/why", user_id="one")
  assert core.users.get(key) is None


def test_no_score_waits_for_explanations_and_few_of_these_wait(made):
  client, core, user, *_ = made
  ask = ("POST", "/why", dict(json=dict(user_id=user["key"])))
  before = core.whys.done
  found = [r.status_code for r in client.many([ask] * 40)]
  assert set(found) == {200, 503}
  assert core.whys.done - before == found.count(200)
  assert found.count(200) >= scorer_lib._MOST_WHYS


@pytest.mark.slow
def test_answers_are_as_the_document_says(made):
  conform = pytest.importorskip("serving_program_test").conform
  conform(pytest.importorskip("schemathesis"), made[0]._app, 100)


def test_runs_that_score_no_points_refuse(tmp_path):
  workdir, records, _ = serving.made_run(tmp_path)
  with serving.serving(workdir, tmp_path / "store", records) as (client, _):
    status, found = client.post("/why", user_id=records.users[4]["key"])
    assert status == 422 and "recipe 'hybrid'" in found["reason"]


def test_appended_events_are_scored_as_whole_histories(made):
  client, core, user, _, unit = made
  name, model = user["key"], core.live.model
  layout = model.layout
  for i, day in enumerate(("05-01", "05-01", "05-02", "05-04")):
    ask = {} if unit == "user" else {"events": [event(day)]}
    status, found = client.post("/score", user_id=name, **ask)
    assert status == 200, found
    (now,) = core.lookup([core.keys.user(name)]).values()
    if unit == "event":
      now = core.extended(now, core.encode(now, ask["events"]))
    record = now.record(layout)
    place = len(record["day"]) - 1 if unit == "event" else core.default_day
    (wanted,) = model.risk([record], [place])
    assert found["scores"]["buys"] == pytest.approx(wanted["buys"], abs=1e-5)
    sent = client.post("/events", user_id=name, events=[event(day)])
    assert sent[1]["events"] == len(user["day"]) + i + 1
