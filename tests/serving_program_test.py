"""The service as a program: killed, swapped, forgetting; and its document."""

import http.client
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import fake
import fake_events
import numpy as np
import optax
import pytest

pytest.importorskip("fastapi", reason='needs pip install -e ".[serve]"')

import serving  # noqa: E402
from conftest import COMPILER_FLAGS  # noqa: E402

from lumos_jax import checkpoint as checkpoint_lib  # noqa: E402
from lumos_jax import identity, recipes  # noqa: E402
from lumos_jax import state as state_lib  # noqa: E402
from lumos_jax.serving import __main__ as program  # noqa: E402
from lumos_jax.serving import model as model_lib  # noqa: E402
from lumos_jax.serving import store, watch  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
event = serving.event


class Program:
  """A running `lumos serve`."""

  def __init__(self, workdir, *flags, cache):
    env = os.environ | {
      "XLA_FLAGS": COMPILER_FLAGS,
      "JAX_COMPILATION_CACHE_DIR": str(cache),
      "PYTHONPATH": os.pathsep.join(
        [str(ROOT), os.environ.get("PYTHONPATH", "")]
      ),
    }
    argv = [sys.executable, "-m", "lumos_jax.serving", f"--workdir={workdir}"]
    self.process = subprocess.Popen(
      [*argv, "--port=0", "--empty", "--cold", *flags],
      stderr=subprocess.PIPE,
      text=True,
      env=env,
    )
    self.log = []
    for line in self.process.stderr:
      self.log.append(line)
      if " answers at " in line:
        self.port = int(line.split("127.0.0.1:")[1].split()[0])
        break
    else:
      raise AssertionError("".join(self.log))
    self._rest = threading.Thread(target=self._read, daemon=True)
    self._rest.start()

  def _read(self):
    self.log += list(self.process.stderr)

  def post(self, path, **document):
    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
    body, kind = json.dumps(document), {"content-type": "application/json"}
    connection.request("POST", path, body, kind)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found

  def end(self, number=signal.SIGTERM):
    self.process.send_signal(number)
    return self.process.wait(timeout=60)


def appends(running, number, known, sent):
  """Sends events until the service is gone; `known` are acknowledged."""
  rng = random.Random(number)
  while True:
    user = f"user{number}-{rng.randrange(3)}"
    amount = len(sent[number])
    at = f"2020-02-01T{amount // 3600:02d}:{amount // 60 % 60:02d}"
    one = event(f"{at}:{amount % 60:02d}Z", amount=amount)
    sent[number].append((user, amount))
    try:
      status, _ = running.post(
        "/events",
        user_id=user,
        events=[one],
        idempotency_key=f"{number}-{amount}",
      )
    except (OSError, http.client.HTTPException):
      return
    if status == 200:
      known[number].append((user, amount))


def killed(workdir, cache, times):
  """Kills a service during appends so often, and looks at what is there."""
  writers = 4
  sent: list = [[] for _ in range(writers)]
  known: list = [[] for _ in range(writers)]
  for turn in range(times):
    running = Program(workdir, cache=cache)
    threads = [
      threading.Thread(target=appends, args=(running, i, known, sent))
      for i in range(writers)
    ]
    before = sum(map(len, known))
    for t in threads:
      t.start()
    while sum(map(len, known)) - before < 12 + 5 * (turn % 5):
      assert any(t.is_alive() for t in threads)
      time.sleep(0.01)
    running.end(signal.SIGKILL)
    for t in threads:
      t.join()
  running = Program(workdir, cache=cache)
  acknowledged = {x for part in known for x in part}
  asked = {x for part in sent for x in part}
  assert len(acknowledged) > 10 * times
  for user in {u for u, _ in asked}:
    status, found = running.post("/history", user_id=user, last=200)
    if status == 404:
      assert user not in {u for u, _ in acknowledged}
      continue
    there = [int(e["values"]["amount"]) for e in found["events"]]
    # Once each; those that nobody was told of may be there or not.
    assert len(there) == len(set(there)) or found["total"] > 200
    mine = sorted(a for u, a in acknowledged if u == user)[-150:]
    assert set(mine) <= set(there)
    assert {(user, a) for a in there} <= asked
  # Sent again, as a client does that got no answer: still once.
  for number, part in enumerate(sent):
    user, amount = part[-1]
    if part[-1] not in acknowledged:
      at = f"2020-02-01T{amount // 3600:02d}:{amount // 60 % 60:02d}"
      one = event(f"{at}:{amount % 60:02d}Z", amount=amount)
      key = f"{number}-{amount}"
      ask = dict(user_id=user, events=[one], idempotency_key=key)
      assert running.post("/events", **ask)[0] == 200
      assert running.post("/events", **ask)[1]["repeated"]
  assert running.end() == 0
  text = "".join(running.log)
  assert "user0-" not in text and "Traceback" not in text


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return serving.made_run(tmp_path_factory.mktemp("program"))[0]


def test_killed_twice_every_acknowledged_event_is_there_once(workdir, tmp_path):
  killed(workdir, tmp_path, 2)


@pytest.mark.slow
def test_killed_twenty_times_every_acknowledged_event_is_there_once(
  tmp_path,
):
  killed(serving.made_run(tmp_path)[0], tmp_path, 20)


def saved_again(workdir, step, seed):
  """A later checkpoint of a run, of other parameters."""
  config, records = fake_events.config(), fake_events.Records(users=16)
  recipe = recipes.build(config, records, ())
  state = state_lib.init(recipe, optax.identity(), seed, False)
  with checkpoint_lib.Checkpoints(workdir) as kept:
    columns = records.calendar.columns
    meta = identity.make_meta(config, records.schema, columns)
    kept.save(step, state, "{}", meta)


def test_a_newer_checkpoint_is_taken_without_a_dropped_request(tmp_path):
  workdir, records, _ = serving.made_run(tmp_path)
  user = max(records.users, key=lambda u: len(u["day"]))["key"]
  ask = dict(user_id=user, events=[event("04-20")])
  with serving.serving(workdir, tmp_path / "store", records) as (client, core):
    old = client.post("/score", **ask)[1]
    looks = watch.Watch(
      workdir,
      3,
      core.swap,
      lambda n: model_lib.Model(workdir, n, sizes=(1, 8)),
      3600.0,
    )
    assert not looks.look()
    saved_again(workdir, 7, 1)
    found, end = [], threading.Event()

    def asks():
      while not end.is_set():
        found.append(client.post("/score", **ask))

    thread = threading.Thread(target=asks)
    thread.start()
    before = model_lib.Model.warm
    model_lib.Model.warm = lambda self: 0.0  # Programs compile as they come.
    try:
      assert looks.look()
    finally:
      model_lib.Model.warm = before
    new = client.post("/score", **ask)[1]
    end.set()
    thread.join()
    assert new["model"]["step"] == 7 and old["model"]["step"] == 3
    assert new["scores"] != old["scores"]
    assert {s for s, _ in found} == {200}
    # Each answer is whole of one model: states of two are never mixed.
    for _, x in found:
      wanted = old if x["model"]["step"] == 3 else new
      assert x["model"] == wanted["model"]
      assert x["scores"]["anomaly"] == pytest.approx(
        wanted["scores"]["anomaly"], rel=1e-4
      )
    looks.close()
    # What cannot be opened is told, and the service goes on.
    (tmp_path / "run" / "checkpoints" / "9").mkdir()
    looks = watch.Watch(
      workdir, 7, core.swap, lambda n: model_lib.Model(workdir, n), 3600.0
    )
    assert not looks.look()
    again = client.post("/score", **ask)[1]
    assert again["model"] == new["model"]
    assert again["scores"] == pytest.approx(new["scores"], rel=1e-4)
    looks.close()


def test_forget_and_compact_are_commands(tmp_path, capsys):
  workdir, folder = tmp_path / "run", tmp_path / "run" / "serving"
  kept, keys = store.open_store(folder), store.Keys(folder)
  secret = np.random.default_rng(0).bytes(5000)
  for name in ("a", "b"):
    data = {store.HEAD: (1).to_bytes(8, "big"), b"rows": secret[::-1]}
    if name == "a":
      data[b"rows"] = secret
    kept.commit([store.Change(keys.user(name), 0, data)])
  kept.close()
  (tmp_path / "users").write_text("a\nnobody\n\n")
  flags = [f"--workdir={workdir}", f"--users={tmp_path / 'users'}"]
  assert program.main(["forget", *flags]) == 0
  assert "1 of 2 users were there" in capsys.readouterr().out
  data = b"".join(p.read_bytes() for p in folder.iterdir())
  assert secret[:100] not in data and secret[::-1][:100] in data
  assert program.main(["compact", flags[0]]) == 0
  assert program.main(["forget", flags[0]]) == 1
  assert "--users=FILE" in capsys.readouterr().err
  assert program.main([*flags[:1], "--host=0.0.0.0"]) == 1
  assert "--token_file" in capsys.readouterr().err


# The document, and what answers by it.


@pytest.fixture(scope="module")
def lumos(tmp_path_factory):
  folder = tmp_path_factory.mktemp("lumos")
  workdir, records, loaded = serving.made_run(folder, fake)
  patch = pytest.MonkeyPatch()
  patch.setattr(
    model_lib.Model, "_data", lambda self, _: (140, records.calendar)
  )
  with serving.serving(workdir, folder / "store", records) as (client, core):
    yield client, core, records, loaded
  patch.undo()


def test_forecasts_are_pythons(lumos):
  client, _, records, loaded = lumos
  user = records.users[5]["key"]
  status, found = client.post("/forecast", user_id=user)
  assert status == 200 and found["as_of"] == "2020-05-20"
  wanted = loaded.forecast(users=[user]).drop("key", "as_of").row(0, named=True)
  assert found["forecasts"].keys() == wanted.keys()
  for name, x in wanted.items():
    assert found["forecasts"][name] == pytest.approx(x, rel=1e-4)
  assert client.post("/forecast", user_id=user)[1] == found
  _, score = client.post("/score", user_id=user)
  assert score["scores"] == {
    n: found["forecasts"][n] for n in ("active", "churn")
  }
  _, early = client.post("/forecast", user_id=user, as_of=112)
  wanted = loaded.forecast(as_of=112, users=[user])["active"][0]
  assert early["forecasts"]["active"] == pytest.approx(wanted, rel=1e-4)
  _, vectors = client.post("/embedding", user_id=user)
  wanted = loaded.embed(users=[user])["mean"].to_numpy()[0]
  np.testing.assert_allclose(vectors["embedding"]["mean"], wanted, atol=1e-4)
  assert client.post("/next", user_id=user)[0] == 422
  assert client.post("/forecast", user_id=user, as_of="2030-01-01")[0] == 422


def test_a_what_if_is_pythons(lumos):
  client, _, records, loaded = lumos
  user = records.users[5]["key"]
  _, found = client.post("/calendar", user_id=user, as_of=112)
  (sale,) = found["entries"]
  assert (sale["start"], sale["end"]) == (8, 18)
  edits = [dict(op="move", match=sale["match"], days=-5)]
  _, found = client.post("/forecast", user_id=user, as_of=112, edits=edits)
  wanted = loaded.what_if(edits, as_of=112, users=[user])
  for row in wanted.iter_rows(named=True):
    assert found["edited"][row["task"]] == pytest.approx(
      row["edited"], rel=1e-4
    )
  for edits, words in (
    ([dict(op="move", match={"type": "none"})], "no value 'none'"),
    ([dict(op="move", match={"kind": "sale"})], "no categorical field"),
    ([dict(op="drop")], "edits[0].op"),
    ([dict(op="add", start=140, end=130)], "ends on day"),
    ([dict(op="add", values={"coupons": "many"}, start=1, end=2)], "edits"),
    ([dict(op="add", values={"type": 5.0}, start=1, end=2)], "no value"),
  ):
    status, found = client.post("/forecast", user_id=user, edits=edits)
    assert status == 422 and words in found["reason"], found


def test_days_grow_by_their_events(lumos):
  client, _, records, _ = lumos
  status, found = client.post("/about", user_id="x")
  assert status == 405
  about = client("GET", "/about").json()
  # The data set was made without events, as tables of days.
  assert about["fields"] == {} and about["kind"] == "forecast"
  assert about["calendar"] == ["type", "coupons"]


def test_the_document_is_kept_by_every_answer(lumos):
  schemathesis = pytest.importorskip("schemathesis")
  client, core, *_ = lumos
  conform(schemathesis, client._app, 8)


@pytest.mark.slow
def test_the_document_is_kept_by_many_answers(workdir, tmp_path):
  schemathesis = pytest.importorskip("schemathesis")
  with serving.serving(workdir, tmp_path) as (client, core):
    client.post("/events", user_id="0", events=[event("01-05")])
    conform(schemathesis, client._app, 200)


def conform(schemathesis, application, examples):
  import hypothesis

  schema = schemathesis.openapi.from_asgi("/openapi.json", application)
  checks = schemathesis.checks
  every = [
    checks.not_a_server_error,
    *[
      getattr(schemathesis.openapi.checks, n, None)
      for n in (
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
      )
    ],
  ]
  every = [c for c in every if c is not None]
  asked = set()

  for result in schema.get_all_operations():
    operation = result.ok()

    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(
      max_examples=examples,
      deadline=None,
      derandomize=True,
      database=None,
      suppress_health_check=list(hypothesis.HealthCheck),
    )
    def run(case):
      response = case.call()
      case.validate_response(response, checks=every)
      asked.add(case.operation.label)

    run()
  assert {"POST /score", "POST /events", "DELETE /users/{user_id}"} <= asked
