"""A run of recipe intent, its intents, and what evaluation and report say."""

import dataclasses
import json

import fake_sessions
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
