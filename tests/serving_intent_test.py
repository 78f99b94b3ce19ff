"""/intent: a session as clicks or as a vector, refusals, checkpoints."""

import dataclasses
import math
import pathlib
import types

import fake_sessions
import numpy as np
import pytest

pytest.importorskip("fastapi", reason='needs pip install -e ".[serve]"')

import serving  # noqa: E402

from lumos_jax.intents import student as student_lib  # noqa: E402
from lumos_jax.serving import watch  # noqa: E402

WIDTH = 16
IDS = ("i01", "i02", "i03")


def student(model_hash, threshold=0.3, width=WIDTH):
  rng = np.random.default_rng(0)
  layer = lambda a, b: (
    rng.normal(size=(a, b)).astype(np.float32),
    np.zeros(b, np.float32),
  )
  return student_lib.Student(
    (layer(width, 8), layer(8, 3)),
    np.zeros(width, np.float32),
    np.ones(width, np.float32),
    1.0,
    0.0,
    threshold,
    0.0,
    IDS,
    ("a", "b", "c"),
    model_hash,
  )


def made_run(folder, count):
  module = types.SimpleNamespace(
    Records=lambda users: fake_sessions.Records(sessions=users),
    config=fake_sessions.config,
  )
  return serving.made_run(folder, module, users=count)


def put(made, workdir):
  folder = pathlib.Path(workdir) / "intents"
  folder.mkdir(exist_ok=True)
  made.save(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("served")
  return made_run(folder, 21)


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
  workdir, records, loaded = run
  put(student(loaded.predictor.model_hash), workdir)
  folder = tmp_path_factory.mktemp("store")
  with serving.serving(workdir, folder, records) as (client, core):
    yield client, core, records, loaded


def clicks(record):
  """A record's clicks as a client says them."""
  schema = fake_sessions.schema()
  out = []
  for time, ids, (dwell,) in zip(
    record["time"], record["categorical"], record["numeric"], strict=True
  ):
    words = [
      f.values[i - 2] for f, i in zip(schema.categorical("activity"), ids)
    ]
    fields = dict(zip(("page", "part1", "event"), words, strict=True))
    fields["dwell_seconds"] = None if math.isnan(dwell) else float(dwell)
    at = np.datetime64("2020-01-01", "us") + np.timedelta64(int(time), "us")
    out.append({"time": f"{at}Z", "fields": fields})
  return out


def test_clicks_and_their_vector_have_the_same_intents(made):
  client, core, records, loaded = made
  before = core.store.size(), len(core.users)
  for record in list(records.source("train"))[:8]:
    status, found = client.post("/intent", events=clicks(record))
    assert status == 200, found
    vector = loaded.embed(users=[record["key"]])["embedding"].to_numpy()[0]
    status, again = client.post("/intent", vector=vector.tolist())
    assert status == 200
    assert found["confidences"] == pytest.approx(again["confidences"], abs=1e-3)
    p = core.live.model.student.confidences(vector[None])[0]
    assert again["confidences"] == pytest.approx(dict(zip(IDS, p.tolist())))
    given = [x["confidence"] for x in again["intents"]]
    assert given == sorted(given, reverse=True)
    assert len(given) == (p >= 0.3).sum()
    first = again["intents"][0]["id"] if given else "other"
    assert again["intent"] == first
    assert again["model"]["hash"] == loaded.predictor.model_hash
  assert (core.store.size(), len(core.users)) == before


def test_many_at_a_time(made):
  client, _, records, _ = made
  asked = [{"events": clicks(r)} for r in list(records.source("train"))[:12]]
  alone = [client.post("/intent", **x)[1] for x in asked]
  found = client.many([("POST", "/intent", {"json": x}) for x in asked])
  for a, b in zip(alone, found, strict=True):
    assert b.json()["confidences"] == pytest.approx(a["confidences"], abs=1e-5)


@pytest.mark.parametrize(
  "body, status, text",
  [
    ({}, 422, "either events or a vector"),
    (
      {"vector": [0.0] * WIDTH, "events": [serving.event("01-01")]},
      422,
      "either",
    ),
    ({"vector": [0.0] * 3}, 422, "16 numbers"),
    ({"vector": []}, 422, "16 numbers"),
    ({"vector": [1e300] * WIDTH}, 422, "too large"),
    ({"vector": ["1"] * WIDTH}, 422, "vector[0]"),
    ({"vector": [True] * WIDTH}, 422, "vector[0]"),
    ({"vector": [0.0] * WIDTH, "user_id": "x"}, 422, "user_id"),
    ({"events": [serving.event("01-01")]}, 422, "events[0]"),
  ],
)
def test_what_is_wrong_is_refused(made, body, status, text):
  found = made[0]("POST", "/intent", json=body)
  assert found.status_code == status
  assert text in found.json()["reason"]


def test_numbers_that_are_none_are_refused(made):
  body = b'{"vector": [NaN' + b", 0.0" * (WIDTH - 1) + b"]}"
  headers = {"content-type": "application/json"}
  found = made[0]("POST", "/intent", content=body, headers=headers)
  assert found.status_code == 422


def test_a_run_of_sessions_answers_the_rest_or_says_why_not(made):
  client, _, records, loaded = made
  key = records.source("train")[2]["key"]
  _, about = client("GET", "/about").status_code, client("GET", "/about").json()
  assert about["answers"] == ["history", "intent", "embedding"]
  assert about["kind"] == "none"
  status, found = client.post("/embedding", user_id=key)
  wanted = loaded.embed(users=[key])["embedding"].to_numpy()[0]
  assert status == 200
  np.testing.assert_allclose(
    found["embedding"]["embedding"], wanted, rtol=1e-3, atol=1e-4
  )
  for path in ("/score", "/next", "/forecast"):
    assert client.post(path, user_id=key)[0] == 422
  assert client.post("/history", user_id=key)[0] == 200


def test_clicks_out_of_order_are_refused(made):
  client, _, records, _ = made
  events = clicks(records.source("train")[4])
  status, found = client.post("/intent", events=events[::-1])
  assert status == 409 and "order" in found["reason"]


def test_another_checkpoints_intents_are_of_vectors_alone(run, tmp_path):
  workdir, records, loaded = run
  put(student("0" * 16), workdir)
  with serving.serving(workdir, tmp_path, records) as (client, _):
    body = {"events": clicks(records.source("train")[2])}
    status, found = client.post("/intent", **body)
    assert status == 409 and "another checkpoint" in found["reason"]
    assert client.post("/intent", vector=[0.0] * WIDTH)[0] == 200
  put(student(loaded.predictor.model_hash), workdir)


def test_without_intents(tmp_path):
  workdir, records, _ = made_run(tmp_path, 7)
  with serving.serving(workdir, tmp_path / "s", records) as (client, _):
    status, found = client.post("/intent", vector=[0.0])
    assert status == 409 and "lumos intents" in found["reason"]
    assert "intent" not in client("GET", "/about").json()["answers"]


def test_a_new_student_is_taken_while_the_service_runs(run, tmp_path):
  workdir, records, loaded = run
  hashed = loaded.predictor.model_hash
  put(student(hashed), workdir)
  with serving.serving(workdir, tmp_path, records) as (client, core):
    ask = lambda: client.post("/intent", vector=[0.1] * WIDTH)[1]["intents"]
    assert ask()
    looks = watch.Watch(
      workdir, None, core.swap, None, 3600.0, lambda: core.live.model
    )
    assert looks.look_for_student() and not looks.look_for_student()
    assert not looks.look()  # No other checkpoint is asked for.
    # One of another length: no label is ever sure enough.
    put(dataclasses.replace(student(hashed), threshold=1.01), workdir)
    assert ask() and looks.look_for_student() and not ask()
    # A damaged one is told, and the present one goes on.
    (pathlib.Path(workdir) / "intents" / "student.json").write_text("{")
    assert not looks.look_for_student() and not ask()
    looks.close()
  put(student(hashed), workdir)
