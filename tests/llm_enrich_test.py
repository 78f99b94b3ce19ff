"""Enrichment: checks of rewritten texts, an endpoint good and bad, the command."""

import concurrent.futures
import json
import random

import fake_endpoint
import fake_events
import polars as pl
import pytest
import tiny_data

from lumos_jax.data import records as records_lib
from lumos_jax.llm import (
  answers,
  client,
  enrich,
  prepared,
  rewriter,
  rows,
)
from lumos_jax.llm import offline as offline_lib

KEY = "sk-very-secret-key-0123456789"
MESSAGES = [{"role": "user", "content": "hello"}]
NUMBER, TIME = rows.NUMBER, rows.TIME


# The client.


@pytest.fixture
def serve(monkeypatch):
  pytest.importorskip("openai", reason='needs the extra "llm"')
  for name in ("http_proxy", "https_proxy", "all_proxy"):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)
  open_ones = []

  def start(behave):
    open_ones.append(fake_endpoint.Endpoint(behave))
    return open_ones[-1]

  yield start
  for server in open_ones:
    server.close()


def connect(server, folder, waits=None, **kw):
  options = dict(
    price_in=1.0,
    price_out=2.0,
    limit=1.0,
    per_minute=0,
    max_tokens=100,
    retries=2,
  )
  endpoint = client.Endpoint(server.url, "m", KEY, **options | kw)
  kept = answers.Answers(folder / "answers.sqlite")
  return client.Client(
    endpoint, kept, (waits if waits is not None else []).append
  )


def test_an_answer_is_paid_once(serve, tmp_path):
  server = serve(lambda sent, n: fake_endpoint.reply(f"answer {n} \ud800"))
  first = connect(server, tmp_path)
  assert first.ask(MESSAGES) == client.Answer("answer 1 \ud800", False)
  assert first.ask(MESSAGES).cached
  again = connect(server, tmp_path)  # Another process finds it, too.
  assert again.ask(MESSAGES) == client.Answer("answer 1 \ud800", True)
  assert server.paid == 1
  assert again.answers.spent() == pytest.approx((100 + 2 * 50) / 1e6)
  assert server.keys == [f"Bearer {KEY}"]


def test_all_that_is_sent_is_in_the_key(serve, tmp_path):
  server = serve(lambda sent, n: fake_endpoint.reply(str(n)))
  connect(server, tmp_path).ask(MESSAGES)
  schema = {"type": "object"}
  for change in (
    dict(temperature=0.1), dict(seed=3), dict(max_tokens=99),
  ):  # fmt: skip
    assert not connect(server, tmp_path, **change).ask(MESSAGES).cached
  asks = connect(server, tmp_path)
  assert not asks.ask(MESSAGES, schema).cached
  assert not asks.ask([{"role": "user", "content": "hello!"}]).cached
  assert server.paid == 6
  # What is not sent is not in it.
  assert connect(server, tmp_path, timeout_seconds=9.0).ask(MESSAGES).cached


def test_what_is_under_way_is_not_asked_twice(serve, tmp_path):
  server = serve(lambda sent, n: fake_endpoint.reply(str(n)))
  asks = connect(server, tmp_path)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda _: asks.ask(MESSAGES).text, range(16)))
  assert set(found) == {"1"} and server.paid == 1


def test_a_server_that_repeats_a_value_lacks_nothing(serve, tmp_path):
  body = {"error": {"message": "too long: 'the response_format is wrong'"}}
  good = fake_endpoint.reply("good")
  server = serve(lambda sent, n: good if n < 3 else (400, body, {}))
  asks = connect(server, tmp_path)
  asked = lambda i: [{"role": "user", "content": str(i)}]
  for i in range(2):
    asks.ask(asked(i), {"type": "object"})
  with pytest.raises(client.AnswerError, match="HTTP 400"):
    asks.ask(asked(2), {"type": "object"})
  assert len(server.requests) == 3 and not asks.answers.lacks(asks._server)


def test_a_lack_that_is_learned_makes_no_answer_unknown(serve, tmp_path):
  server = serve(lambda sent, n: fake_endpoint.reply(str(n)))
  schema = {"type": "object"}
  connect(server, tmp_path).ask(MESSAGES, schema)
  asks = connect(server, tmp_path)
  for lack in ("response_format", "max_tokens"):
    asks.answers.put_lack(asks._server, lack)
  again = connect(server, tmp_path)
  assert again.ask(MESSAGES, schema).cached and server.paid == 1


@pytest.mark.parametrize(
  "url, key, said",
  [
    ("localhost:8000/v1", "k", "http://"),
    ("http://me:secret@localhost/v1", "k", "user or password"),
    ("http://localhost/v1", "k\n", "no header takes it"),
    ("http://localhost/v1", "cl\u00e9", "no header takes it"),
  ],
)
def test_an_endpoint_that_cannot_be_is_refused(url, key, said):
  with pytest.raises(client.EndpointError, match=said) as e:
    client.Endpoint(url, "m", key)
  assert "secret" not in str(e.value) and "cl\u00e9" not in str(e.value)


@pytest.mark.parametrize("said", ["nan", "inf", "tomorrow"])
def test_a_wait_that_is_none_is_not_waited_for(serve, tmp_path, said):
  bad = fake_endpoint.error(429, **{"retry-after": said})
  server = serve(lambda sent, n: bad if n == 1 else fake_endpoint.reply("good"))
  waits = []
  assert connect(server, tmp_path, waits).ask(MESSAGES).text == "good"
  assert 0 < waits[0] < 3


def test_answers_of_no_use_end_it(serve, tmp_path):
  server = serve(lambda sent, n: fake_endpoint.reply("Sure! Here it is."))
  model = rewriter.Rewriter(connect(server, tmp_path, limit=9.0), 0, workers=2)
  with pytest.raises(client.EndpointError, match="not one of 40 answers"):
    enrich.write(job(150), tmp_path / "out", model)
  assert 40 <= server.paid < 60


@pytest.mark.parametrize(
  "bad, kind",
  [
    (fake_endpoint.reply('{"id": "x", "text": "whole"}', "length"), "cut"),
    (fake_endpoint.reply("x", "content_filter"), "refused"),
    (fake_endpoint.reply(None, refusal="I cannot"), "refused"),
    (fake_endpoint.reply(None), "junk"),
    (fake_endpoint.reply("x", "tool_calls"), "junk"),
    ((200, b"<html>busy</html>", {}), "junk"),
    ((200, {"ok": True}, {}), "junk"),
    ((200, [], {}), "junk"),
    (fake_endpoint.error(400, "too long"), "failed"),
  ],
)
def test_what_is_no_whole_answer_is_no_hit(serve, tmp_path, bad, kind):
  server = serve(lambda sent, n: bad if n == 1 else fake_endpoint.reply("good"))
  asks = connect(server, tmp_path)
  with pytest.raises(client.AnswerError) as e:
    asks.ask(MESSAGES)
  assert e.value.kind == kind and asks.known(MESSAGES) is None
  if kind == "cut":  # Paid, and it would be cut again: asked with more tokens.
    with pytest.raises(client.AnswerError, match="before"):
      asks.ask(MESSAGES)
    assert len(server.requests) == 1
    asks = connect(server, tmp_path, max_tokens=200)
  assert asks.ask(MESSAGES).text == "good"
  if bad[0] == 200:
    assert asks.answers.spent() > 200 / 1e6  # The bad one counts, too.


def test_passing_failures_are_tried_again(serve, tmp_path):
  bad = {
    1: fake_endpoint.error(429, **{"retry-after": "7"}),
    2: fake_endpoint.error(503),
  }
  server = serve(lambda sent, n: bad.get(n, fake_endpoint.reply("good")))
  waits = []
  asks = connect(server, tmp_path, waits)
  assert asks.ask(MESSAGES).text == "good" and server.paid == 1
  assert waits[0] == 7 and 1 <= waits[1] <= 3
  assert asks.answers.spent() == pytest.approx(200 / 1e6)


def test_a_timeout_is_booked_as_paid(serve, tmp_path):
  server = serve(lambda sent, n: ("hang", 0.5, {}))
  asks = connect(server, tmp_path, timeout_seconds=0.1, retries=1)
  with pytest.raises(client.AnswerError, match="a timeout, 2 times"):
    asks.ask(MESSAGES)
  most = client.most_tokens(asks.sent(MESSAGES, None)) + 2 * 100
  assert asks.answers.spent() == pytest.approx(2 * most / 1e6)


def test_a_server_that_is_not_there_costs_nothing_and_ends_it(tmp_path):
  pytest.importorskip("openai", reason='needs the extra "llm"')
  endpoint = client.Endpoint(
    "http://127.0.0.1:9/v1", "m", limit=1.0, price_in=1.0
  )
  kept = answers.Answers(tmp_path / "a.sqlite")
  asks = client.Client(endpoint, kept, lambda _: None)
  for i in range(5):
    kind = client.EndpointError if i == 4 else client.AnswerError
    with pytest.raises(kind, match="no connection, 6 times"):
      asks.ask([{"role": "user", "content": str(i)}])
  assert kept.spent() == 0


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_never_passes_stops_at_once(serve, tmp_path, status):
  server = serve(
    lambda sent, n: fake_endpoint.error(status, f"Incorrect API key {KEY}")
  )
  with pytest.raises(client.EndpointError, match=f"HTTP {status}") as e:
    connect(server, tmp_path).ask(MESSAGES)
  assert len(server.requests) == 1
  assert KEY not in str(e.value) and KEY not in repr(
    connect(server, tmp_path).endpoint
  )


def test_no_call_is_made_beyond_the_limit(serve, tmp_path):
  server = serve(lambda sent, n: fake_endpoint.reply("x", usage=(100, 100)))
  # A call may cost about 0.0004 and does cost 0.0003.
  asks = connect(server, tmp_path, limit=0.001)
  asked = 0
  with pytest.raises(answers.LimitError, match="of the limit 0.001"):
    for asked in range(50):  # noqa: B007
      asks.ask([{"role": "user", "content": str(asked)}])
  assert 1 <= asked == server.paid <= 3
  assert asks.answers.spent() <= 0.001
  assert asks.ask([{"role": "user", "content": "0"}]).cached
  with pytest.raises(answers.LimitError):  # Nor by the next process.
    connect(server, tmp_path, limit=0.001).ask(MESSAGES)
  # An answer that tells no usage costs the most it can.
  server.behave = lambda sent, n: fake_endpoint.reply("x", usage=None)
  before = asks.answers.spent()
  connect(server, tmp_path).ask(MESSAGES)
  assert asks.answers.spent() - before > 0.0003


def test_a_server_without_formats_is_asked_without(serve, tmp_path):
  def behave(sent, n):
    if "response_format" in sent:
      return fake_endpoint.error(400, "response_format is not supported")
    if "max_tokens" in sent:
      return fake_endpoint.error(400, "use max_completion_tokens")
    return fake_endpoint.reply("good")

  server = serve(behave)
  schema = {"type": "object"}
  assert connect(server, tmp_path).ask(MESSAGES, schema).text == "good"
  assert len(server.requests) == 3 and server.paid == 1
  # The next process knows, and finds the answer.
  again = connect(server, tmp_path)
  assert again.known(MESSAGES, schema).text == "good"
  assert again.ask(MESSAGES, schema).cached and len(server.requests) == 3


def test_requests_are_paced(serve, tmp_path):
  server = serve(lambda sent, n: fake_endpoint.reply("x"))
  waits = []
  endpoint = client.Endpoint(server.url, "m", limit=1.0, per_minute=30)
  kept = answers.Answers(tmp_path / "a.sqlite")
  asks = client.Client(endpoint, kept, waits.append, lambda: 0.0)
  for i in range(4):
    asks.ask([{"role": "user", "content": str(i)}])
  assert waits == [2.0, 4.0, 6.0]


def test_a_foreign_file_is_named(tmp_path):
  file = tmp_path / "answers.sqlite"
  file.write_text("not a database, but long enough to be looked at" * 9)
  with pytest.raises(answers.CacheError, match="answers.sqlite"):
    answers.Answers(file)


def test_a_missing_environment_is_told(monkeypatch):
  for name in (client.URL, client.MODEL, client.KEY):
    monkeypatch.delenv(name, raising=False)
  with pytest.raises(
    client.EndpointError, match="OPENAI_BASE_URL, OPENAI_MODEL"
  ):
    client.Endpoint.of_environment()


# Whole jobs.


def job(users=24, **kw):
  data = fake_events.Records(users)
  return enrich.Job(data, "train", {"fields": ["channel", "amount"]}, **kw)


def test_broken_texts_are_dropped_and_counted(serve, tmp_path):
  def behave(sent, n):
    doc = fake_endpoint.rewrite(sent)
    asked = json.loads(sent["messages"][1]["content"])
    first = asked["table"].splitlines()[1].split(", ")
    kind = int(asked["id"], 16) % 4
    if kind == 1:  # As an injected instruction would have it.
      doc["text"] = "I have been told to ignore the table."
    elif kind == 2:
      doc["text"] = doc["text"].replace(first[-1], "31337")
    elif kind == 3:
      doc["id"] = "0" * 12
    return fake_endpoint.reply(json.dumps(doc))

  server = serve(behave)
  asks = connect(server, tmp_path, limit=9.0)
  model = rewriter.Rewriter(asks, seed=1)
  work = job(40)
  manifest = enrich.write(work, tmp_path / "out", model)
  told = manifest["base"]["texts"] - manifest["base"]["empty_texts"]
  counts = manifest["endpoint"]
  assert (
    manifest["complete"] and server.paid == told == manifest["texts"]["base"]
  )
  assert sum(counts.values()) == told
  assert {"rewritten", "dropped: junk"} < set(counts)
  assert any(k.startswith("dropped: broken") for k in counts)
  frame = prepared.read(tmp_path / "out", "train")
  assert frame.columns == ["key", "form", "text", "source"]
  found = frame.filter(pl.col("source") == "endpoint")
  assert len(found) == counts["rewritten"]
  assert not found["text"].str.contains("31337|ignore the table").any()
  # Again, at no price, and the same to the byte.
  before = (tmp_path / "out" / "train-00000.parquet").read_bytes()
  again = rewriter.Rewriter(connect(server, tmp_path, limit=9.0), seed=1)
  known = again.estimate(job(40).each())
  assert known["known"] == known["texts"] == told and known["cost"] == 0
  enrich.write(job(40), tmp_path / "out", again)
  assert server.paid == told
  assert (tmp_path / "out" / "train-00000.parquet").read_bytes() == before


def test_a_stopped_job_goes_on_where_it_was(serve, tmp_path):
  good = lambda sent, n: fake_endpoint.reply(
    json.dumps(fake_endpoint.rewrite(sent))
  )
  server = serve(
    lambda s, n: good(s, n) if n <= 6 else fake_endpoint.error(500)
  )
  asks = connect(server, tmp_path, limit=9.0)
  with pytest.raises(client.EndpointError, match="what it answered is kept"):
    enrich.write(job(), tmp_path / "out", rewriter.Rewriter(asks, 0))
  manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
  assert not manifest["complete"]
  frame = prepared.read(tmp_path / "out", "train")
  assert set(frame["source"]) >= {"base", "offline"}
  server.behave = good
  model = rewriter.Rewriter(connect(server, tmp_path, limit=9.0), 0)
  manifest = enrich.write(job(), tmp_path / "out", model)
  assert server.paid == manifest["texts"]["base"]
  assert model.counts["of these, paid before"] == 6
  assert manifest["texts"]["endpoint"] == manifest["texts"]["base"]


def test_requests_say_nothing_of_who_the_user_is(serve, tmp_path):
  server = serve(
    lambda sent, n: fake_endpoint.reply(json.dumps(fake_endpoint.rewrite(sent)))
  )
  model = rewriter.Rewriter(connect(server, tmp_path, limit=9.0), 0)
  enrich.write(job(), tmp_path / "out", model)
  assert "user" not in json.dumps(
    [r["messages"][1]["content"] for r in server.requests]
  )
  for sent in server.requests:
    fmt = sent["response_format"]["json_schema"]
    assert fmt["strict"] and "text" in fmt["schema"]["required"]


def test_offline_texts_need_no_endpoint(tmp_path):
  work = job(epochs=3, until=70, room=200)
  manifest = enrich.write(work, tmp_path)
  count = manifest["texts"]["base"]
  assert manifest["texts"]["offline"] == 3 * count
  frame = prepared.read(tmp_path, "train")
  assert frame["form"].n_unique() > 5
  days = frame["text"].str.extract_all(r"2020-\d\d-\d\d").explode().drop_nulls()
  assert days.max() < "2020-03-11"  # Day 70 and later are told nowhere.
  assert manifest["base"]["cut_events"] > 0
  assert all(work.count(t) <= 200 for t in frame["text"])
  with pytest.raises(records_lib.DataError, match="split 'train', not 'test'"):
    prepared.read(tmp_path, "test")


def test_nobody_elses_file_is_deleted(tmp_path):
  for name in ("train-mine.parquet", "train-extra-00000.parquet"):
    (tmp_path / name).write_bytes(b"mine")
  (tmp_path / "train-00007.parquet").write_bytes(b"of a killed run")
  enrich.write(job(), tmp_path)
  assert {p.name for p in tmp_path.iterdir()} == {
    "manifest.json", "train-00000.parquet",
    "train-mine.parquet", "train-extra-00000.parquet",
  }  # fmt: skip
  other = job()
  other.split = "test"
  with pytest.raises(records_lib.DataError, match="texts of split 'train'"):
    enrich.write(other, tmp_path)
  (tmp_path / "manifest.json").write_text('{"mine": 1}')
  with pytest.raises(records_lib.DataError, match="manifest.json is absent or"):
    enrich.write(job(), tmp_path)
  assert (tmp_path / "train-00000.parquet").exists()


def test_texts_of_a_config_are_those_that_its_run_reads(tmp_path, monkeypatch):
  from lumos_jax import config as config_lib
  from lumos_jax.llm import inputs, tokenizer

  data = tiny_data.tiny_data_dir(tmp_path)
  file = tmp_path / "mine.py"
  file.write_text(
    "from lumos_jax import config as config_lib\n"
    "def get_config():\n"
    "  c = config_lib.default('llm4es')\n"
    "  c.data.text.form, c.data.train_origin_last = 'yaml', 60\n"
    "  return c\n"
  )
  out = tmp_path / "texts"
  args = [f"--config={file}", f"--data={data}", f"--out={out}", "--users=9"]
  enrich.main(enrich._arguments(["enrich", *args]))
  records = records_lib.Records.open(data)
  c = config_lib.load(str(file))
  with c.unlocked():
    c.data.written = str(out)
  texts = inputs.Texts(tokenizer.Bytes(), records.schema, c.data)
  assert next(texts.train_iterator(records, c.data, (), 2, 0))
  assert len(texts._written) > 3
  other = tmp_path / "other.py"
  other.write_text(
    "from lumos_jax import config as c\nget_config = lambda: c.default('lumos')"
  )
  with pytest.raises(SystemExit):
    enrich.main(
      enrich._arguments(["enrich", f"--config={other}", f"--out={out}"])
    )


def test_written_texts_are_drawn_anew_each_epoch(tmp_path):
  work = job(epochs=2, until=70)
  enrich.write(work, tmp_path)
  known = work.records.schema.hash
  texts = prepared.Texts(tmp_path, "train", known, 70, seed=1)
  frame = prepared.read(tmp_path, "train")
  assert (
    len(texts) == frame["key"].n_unique() and texts.text("nobody", 0) is None
  )
  mine = frame.filter(pl.col("key") == "user7")["text"].to_list()
  drawn = [texts.text("user7", e) for e in range(40)]
  assert len(mine) == 3 and set(drawn) == set(mine)
  again = prepared.Texts(tmp_path, "train", known, 70, seed=1)
  assert drawn == [again.text("user7", e) for e in range(40)]
  for bad in (
    ("train", known, 71),
    ("train", "0" * 16, 70),
    ("test", known, 70),
  ):
    with pytest.raises(records_lib.DataError, match="until_day|schema|split"):
      prepared.Texts(tmp_path, *bad)
  (tmp_path / "train-00000.parquet").write_bytes(b"cut")
  with pytest.raises(
    records_lib.DataError, match="train-00000.parquet is absent"
  ):
    prepared.read(tmp_path, "train")
  with pytest.raises(records_lib.DataError, match="manifest.json is absent"):
    prepared.read(tmp_path / "nothing", "train")


def test_a_model_is_asked_for_tables_alone(serve, tmp_path):
  server = serve(
    lambda sent, n: fake_endpoint.reply(json.dumps(fake_endpoint.rewrite(sent)))
  )
  data = fake_events.Records(8)
  cfg = {"fields": ["amount"], "form": "html", "profile": ["age"]}
  work = enrich.Job(data, "train", cfg)
  model = rewriter.Rewriter(connect(server, tmp_path, limit=9.0), 0)
  counts = enrich.write(work, tmp_path / "out", model)["texts"]
  assert counts["endpoint"] == counts["base"] == server.paid
  assert prepared.read(tmp_path / "out", "train")["text"][0].startswith(
    "Profile"
  )
  asked = json.loads(server.requests[0]["messages"][1]["content"])
  assert asked["table"].startswith("date, amount\n")


def test_a_request_that_is_refused_says_why(serve, tmp_path):
  body = {
    "error": {"message": "hello", "param": "temperature", "code": "Bad one"}
  }
  server = serve(lambda sent, n: (400, body, {}))
  with pytest.raises(client.AnswerError) as e:
    connect(server, tmp_path).ask(MESSAGES)
  assert str(e.value) == "HTTP 400 (temperature)"


def test_draws_are_the_same_everywhere():
  first = offline_lib.drawn(1, "a", 2).random()
  assert first == offline_lib.drawn(1, "a", 2).random() != random.random()
  assert first != offline_lib.drawn(1, "a", 3).random()


def test_the_command(serve, tmp_path, monkeypatch, capsys):
  data = tiny_data.tiny_data_dir(tmp_path)
  server = serve(
    lambda sent, n: fake_endpoint.reply(json.dumps(fake_endpoint.rewrite(sent)))
  )
  named = {client.URL: server.url, client.MODEL: "m", client.KEY: KEY}
  for name, value in named.items():
    monkeypatch.setenv(name, value)

  def command(*more):
    out = f"--out={tmp_path / 'texts'}"
    args = ["enrich", f"--data={data}", out, "--users=5", *more]
    enrich.main(enrich._arguments(args))

  options = '--text={"form": "table", "fields": ["device", "sales"]}'
  paid = ("--endpoint", "--price_in=1", "--price_out=2", options)
  with pytest.raises(SystemExit):
    command(*paid, "--max_cost=0.0001")
  assert "nothing was asked" in capsys.readouterr().err and server.paid == 0
  with pytest.raises(SystemExit):
    command("--endpoint")
  assert "say what the endpoint costs" in capsys.readouterr().err
  for bad in (
    "--max_cost=nan",
    "--price_in=-1",
    "--users=-1",
    "--workers=0",
    "--max_tokens=-5",
    "--until=0",
    "--until=2020-01-01",
    "--text=[]",
    '--text={"decimals": "2"}',
    '--text={"fields": [3]}',
    '--text={"names": "no"}',
  ):
    with pytest.raises(SystemExit):
      command(bad)
    assert "error: " in capsys.readouterr().err and server.paid == 0
  with pytest.raises(SystemExit):
    command("--text={'form'}")
  assert "--text is no JSON object" in capsys.readouterr().err
  command(*paid, "--max_cost=5", "--estimate")
  assert "about" in capsys.readouterr().err and server.paid == 0
  command(*paid, "--max_cost=5", "--per_minute=0")
  said = capsys.readouterr()
  assert "5 texts to rewrite, 0 of them paid before" in said.err
  counts = json.loads(said.out)
  assert counts["texts"] == {"base": 5, "offline": 5, "endpoint": 5}
  assert server.paid == 5
  written = b"".join(p.read_bytes() for p in (tmp_path / "texts").iterdir())
  assert KEY not in said.out + said.err and KEY.encode() not in written
  told = prepared.read(tmp_path / "texts", "train")["text"]
  days = told.str.extract_all(r"2020-\d\d-\d\d").explode().drop_nulls()
  assert days.max() < "2020-04-22"  # Where training ends by the data's word.
