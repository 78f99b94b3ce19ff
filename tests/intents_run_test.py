"""A run of recipe intent, its intents, and what evaluation and report say."""

import dataclasses
import json

import fake_sessions
import numpy as np
import polars as pl
import pytest

from lumos_jax import config as config_lib
from lumos_jax import evaluate, recipes, report, session_table, train
from lumos_jax.evaluators import intent
from lumos_jax.intents import __main__ as command
from lumos_jax.intents import student as student_lib


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A trained run: workdir, its evaluation session, records."""
  folder = tmp_path_factory.mktemp("run")
  c = fake_sessions.config(train__steps=40, optimizer__learning_rate=1e-2)
  with c.unlocked():
    c.evals = dict(
      intent=dict(type="intent", k=3, seeds=2, sample=100),
    )
  config_lib.check(c)
  fake_sessions.pages(folder)
  records = fake_sessions.Records(str(folder), sessions=420)
  recipe = recipes.build(c, records, ())
  session = evaluate.Session(c, folder, records, recipe, ())
  (folder / "config.json").write_text(c.to_json_best_effort())
  train.train(c, folder, records, recipe, (), session.evaluate)
  return folder, session, records, recipe


def intents(made, monkeypatch, *more):
  folder, _, records, _ = made
  monkeypatch.setattr(
    session_table.predictor.Predictor, "open_data", lambda self, d: records
  )
  argv = [f"--workdir={folder}", "--labels=3", "--k=3", "--hidden=16", *more]
  command.main(command._arguments(["", *argv]))
  return json.loads((folder / "intents/intents.json").read_text())


def test_clusters_find_the_topics(made):
  found = evaluate.read(made[0])["intent"]
  assert found["sessions"] == 140 and found["clusters"] == 3
  assert found["clusters/nmi"] > 0.8 and found["clusters/ari"] > 0.8
  assert found["clusters/stability"] > 0.8
  assert not any(k.startswith("student/") for k in found)


def test_the_whole_way(made, monkeypatch, capsys):
  folder, session, _, recipe = made
  found = intents(made, monkeypatch)
  assert found["sessions"] == 420
  assert {x["name"].split(":")[0] for x in found["labels"]} == {
    "topic 0", "topic 1", "topic 2",
  }  # fmt: skip
  assert json.loads(capsys.readouterr().out)["agreement"]["labels"]["nmi"] > 0.8
  step, params = stored(recipe, folder)
  session.evaluate(step, params, True)
  again = evaluate.read(folder)["intent"]
  assert again["student/coverage"] > 0.7 and again["student/nmi"] > 0.7
  assert again["student/micro_f1"] > 0.8 and again["student/macro_f1"] > 0.8
  # Of the 63 that tested the student, those of the split.
  assert 0 < again["student/tested"] < 63
  page = report.build(folder).read_text()
  assert "topic 1" in page and "Map of sessions" in page
  # Intents of other parameters are not asked of these.
  made_by = student_lib.Student.load(folder / "intents")
  dataclasses.replace(made_by, model_hash="0" * 16).save(folder / "intents")
  session.evaluate(step, params, True)
  found = evaluate.read(folder)["intent"]
  assert not any(k.startswith("student/") for k in found)


def stored(recipe, folder):
  from lumos_jax import checkpoint

  store = checkpoint.Checkpoints(folder, read_only=True)
  return evaluate.restored(store, recipe, None)


def test_without_intents_the_report_says_what_to_run(made, tmp_path):
  folder = made[0]
  (tmp_path / "config.json").write_text((folder / "config.json").read_text())
  (tmp_path / "eval.json").write_text((folder / "eval.json").read_text())
  assert "run lumos intents" in report.build(tmp_path).read_text()


@pytest.mark.parametrize("key", ("k", "seeds"))
def test_settings_are_checked(key):
  with pytest.raises(ValueError, match=f"{key} = 1 must be 2"):
    records = fake_sessions.Records()
    cfg = fake_sessions.config().data
    intent.Intent(None, records, (), cfg, "x", ".", **{key: 1})


def test_config_says_which_run(tmp_path, monkeypatch):
  from lumos_jax import main as main_lib

  with pytest.raises(command.sessions_lib.IntentError, match="recipe 'lumos'"):
    command._trained("pretrain", str(tmp_path))
  ran = []
  monkeypatch.setattr(main_lib, "run", lambda c, w: ran.append((c.name, w)))
  name = "intent:data=clicks,smoke"
  assert command._trained(name, None) == f"runs/{ran[0][0]}" == ran[0][1]
  # What is trained and evaluated is not trained again; another's run is refused.
  c = config_lib.load(config_lib.resolve(name))
  main_lib.claim_workdir(tmp_path, c)
  evaluate.write(tmp_path, {k: {"x": 1.0} for k in c.evals})
  assert command._trained(name, str(tmp_path)) == str(tmp_path)
  with pytest.raises(ValueError, match="another run"):
    command._trained(f"{name},seed=3", str(tmp_path))
  assert len(ran) == 1


@pytest.mark.slow
def test_from_a_raw_log_in_one_command(tmp_path, monkeypatch, capsys):
  """A log in CSV becomes labelled sessions; a second run changes nothing."""
  rng = np.random.default_rng(0)
  lines, words = ["cookie,ts,href,name"], ("shoes", "lamps", "novels")
  said = {}
  for v in range(300):
    topic, second = v % 3, int(rng.integers(0, 86_400 * 20))
    for _ in range(int(rng.integers(2, 9))):
      page, second = topic * 6 + int(rng.integers(6)), second + 30
      time = np.datetime64("2026-01-01T00:00:00") + np.timedelta64(second, "s")
      url = f"https://shop.example/t{topic}/p{page}?token=x"
      lines.append(f"v{v},{time},{url},{words[topic]} {page}")
      fields = {"url": url}
      said.setdefault(v, []).append({"time": f"{time}Z", "fields": fields})
  log = tmp_path / "log"
  log.mkdir()
  (log / "clicks.csv").write_text("\n".join(lines))
  monkeypatch.chdir(tmp_path)
  columns = "visitor=cookie,time=ts,url=href,title=name"
  argv = [
    f"--config=intent:data=clicks,path={log},{columns},smoke",
    "--labels=3",
    "--k=3",
  ]
  command.main(command._arguments(["", *argv]))
  (out,) = tmp_path.glob("runs/*/intents")
  table = pl.read_parquet(out / "labels/*.parquet")
  assert len(table) == 300 and table["intent"].n_unique() >= 2
  before = (out / "student.npz").stat().st_mtime_ns
  command.main(command._arguments(["", *argv]))
  assert (out / "student.npz").stat().st_mtime_ns == before
  # The service labels the log's own clicks as the table has them.
  pytest.importorskip("fastapi", reason='needs pip install -e ".[serve]"')
  import serving

  mine = {
    k.partition("/")[0]: i for k, i in table.select("key", "intent").rows()
  }
  with serving.serving(str(out.parent), tmp_path / "store") as (client, _):
    for v in range(0, 30, 3):
      status, found = client.post("/intent", events=said[v])
      assert status == 200 and found["intent"] == mine[f"v{v}"], found
    for bad, words_ in (
      ({"url": "https://x.example/", "page": "x"}, "give url"),
      ({"url": 3}, "are texts"),
      ({"dwell_seconds": -1.0}, "below 0"),
    ):
      event = {"time": "2026-01-01T00:00:00Z", "fields": bad}
      status, found = client.post("/intent", events=[event])
      assert status == 422 and words_ in found["reason"]
  # Another log is no data of this run.
  (log / "more.csv").write_text("\n".join(lines[:50]))
  with pytest.raises(SystemExit):
    command.main(command._arguments(["", *argv, "--workdir=runs/other"]))
  assert "more.csv is new" in capsys.readouterr().err
