"""Every config builds, every key is read, and mistakes are named."""

import dataclasses
import pathlib

import fake
import pytest

from lumos_jax import config as config_lib
from lumos_jax import evaluators, main
from lumos_jax.data import pipeline, scoring, sequences, sessions
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.llm import inputs
from lumos_jax.models import lumos, panther, session

ROOT = pathlib.Path(__file__).parents[1]
NAMES = sorted(
  p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__"
)
ARGUMENTS = {
  "pretrain": [
    None,
    "smoke",
    "size=large",
    "ablate=no_future",
    "baselines=states",
  ],
  "paper": [None, "size=large", "data=oulad", "smoke"],
  "oulad": [None, "size=large", "smoke"],
  "online_retail": [None, "size=large", "smoke"],
  "panther": [
    None,
    "size=large",
    "smoke",
    "data=movielens,contrastive=0.1",
    "data=yelp,sprm=release",
    "sprm=none,profile=token",
    "data=movielens,ids,smoke",
    "data=movielens,ids,profile=token,contrastive=0.8",
    "data=beauty,ids,sprm=tvrec,cosine=off",
    "data=movielens,target_time",
    "data=tabformer,path=FOLDER",
  ],
  "sasrec": [None, "data=toys", "loss=gbce", "size=large", "size=tiny"],
  "bert4rec": [None, "data=sports", "size=large"],
  "llm4es": [
    None,
    "smoke",
    "size=3b",
    "data=complete_journey,lora=8",
    "data=oulad",
    "data=credit_default,smoke",
    "weights=FOLDER,length=64,batch=2,steps=5",
  ],
  "intent": [
    None,
    "smoke",
    "size=large",
    "texts=minilm,causal,batch=4",
    "data=clicks,texts=none,contrastive=0.1",
    "data=oulad_clicks,smoke",
    "data=complete_journey_baskets,steps=5",
    "data=msweb",
    "data=diginetica,causal",
  ],
  "hstu": [None, "size=large", "data=beauty", "data=movielens,target_time"],
  "tvrec": [None, "size=large", "data=beauty,width=64"],
  "risk": [
    None,
    "smoke",
    "data=oulad,numbers=periodic",
    "data=complete_journey",
    "data=tabformer,path=FOLDER,cut=random,balanced",
  ],
}


@pytest.mark.parametrize(
  "name,arg", [(n, a) for n in NAMES for a in ARGUMENTS.get(n, [None])]
)
def test_every_config_builds(name, arg):
  c = config_lib.load(f"{name}:{arg or ''}")
  config_lib.check(c)
  assert c.is_locked
  tasks = tasks_lib.from_config(c.tasks)
  if c.recipe == "panther":
    sequences.check_config(c.data, tasks)
    panther.check_config(c.model, c.data)
  elif c.recipe == "hybrid":
    scoring.check_config(c.data, tasks)
  elif c.recipe == "llm4es":
    inputs.check_config(c.data, tasks)
  elif c.recipe == "intent":
    sessions.check_config(c.data, tasks)
    session.check_config(c.model)
  else:
    pipeline.check_config(c.data, tasks)
    lumos.check_config(c.model, c.data, pipeline.horizon_days(tasks))
  for name, kw in c.evals.items():
    known = evaluators.settings(evaluators.TYPES[kw["type"]])
    assert set(kw) <= {"type", "every_steps", "at_start", *known}, name
  with pytest.raises(AttributeError):
    c.train.stepz = 3


@pytest.mark.parametrize(
  "arg,words",
  [
    ("stepz=3", "'stepz' is unknown; did you mean 'steps'"),
    ("smok", "'smok' is unknown; did you mean 'smoke'"),
    ("steps=many", "not of type int"),
    ("steps", "needs a value"),
    ("size=huge", "'tiny', 'base'"),
    ("smoke=maybe", "not of type bool"),
  ],
)
def test_bad_arguments_are_named(arg, words):
  with pytest.raises(ValueError, match=words):
    config_lib.load(f"pretrain:{arg}")


@pytest.mark.parametrize(
  "flags,words",
  [
    (["--config=configs/nope.py"], ["'configs/nope.py'", "configs/oulad.py"]),
    (["--config=configs/pretrain.py:smok"], ["'smok'", "mean 'smoke'"]),
    (
      ["--config", "configs/pretrain.py", "--config.trian.steps=3"],
      ["config.trian.steps", "mean 'train.steps'", "'optimizer'"],
    ),
    (
      ["--config=configs/pretrain.py", "--noconfig.reprot"],
      ["config.reprot", "mean 'report'"],
    ),
    (
      ["--config=configs/pretrain.py", "--config.seed.x", "3"],
      ["config.seed has no keys"],
    ),
  ],
)
def test_mistakes_in_flags_end_in_one_line(flags, words, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  with pytest.raises(SystemExit) as e:
    main.parse_flags(["main", *flags])
  assert e.value.code == 2
  said = capsys.readouterr().err
  assert said.startswith("error: ") and said.count("\n") == 1
  for word in words:
    assert word in said


def test_elements_of_lists_are_keys():
  c = config_lib.load(str(ROOT / "configs" / "pretrain.py"))
  config_lib.check_key(c, "evals.what_if.edits[0].days")
  with pytest.raises(config_lib.ConfigError, match="edits\\[0\\] has .*'op'"):
    config_lib.check_key(c, "evals.what_if.edits[0].dayz")


def test_a_key_that_a_file_made_up_is_named(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(
    "from lumos_jax import config\n"
    "def get_config(arg=None):\n"
    "  c = config.load(f'pretrain:{arg}')\n"
    "  with c.unlocked():\n"
    "    c.train.stepz = 3\n"
    "  return c\n"
  )
  c = config_lib.load(f"{file}:smoke")
  words = r"config.train.stepz: nothing reads this key; .* 'train.steps'"
  with pytest.raises(config_lib.ConfigError, match=words):
    main.run(c, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_tasks_name_what_is_wrong():
  with pytest.raises(ValueError, match="a.feild: .* did you mean 'field'"):
    tasks_lib.from_config({"a": dict(kind="binary", feild="sales")})
  with pytest.raises(ValueError, match="config.tasks.a lacks kind"):
    tasks_lib.from_config({"a": dict(field="sales")})
  with pytest.raises(ValueError, match="either field or label"):
    tasks_lib.Task("x", "binary", reduce="any")
  with pytest.raises(ValueError, match="needs any or none"):
    tasks_lib.Task("x", "binary", field="sales")
  wrong = tasks_lib.Task("x", "binary", field="salez", reduce="any")
  with pytest.raises(ValueError, match="salez.*sales"):
    tasks_lib.check([wrong], fake.schema())


@pytest.mark.parametrize(
  "arg,words",
  [
    ("smoke,size=large", "exclude each other"),
    ("size=large,width=32", "width= is of size=small"),
    ("data=beauty,profile=token", "profile=.*need times"),
    ("data=movielens,ids,contrastive=.5", "contrastive= and target_time need"),
    ("data=beauty,cosine=yes", "cosine='yes': use on or off"),
  ],
)
def test_arguments_that_would_do_nothing_are_refused(arg, words):
  with pytest.raises(config_lib.ConfigError, match=words):
    config_lib.load(f"panther:{arg}")


def test_smoke_takes_steps_and_keeps_data_sets_apart():
  c = config_lib.load("panther:smoke,steps=3,data=beauty")
  assert c.train.steps == 3 and c.name == "panther_beauty_smoke"


@pytest.mark.parametrize(
  "key,value,words",
  [
    ("train.steps", -5, "at least 0"),
    ("data.segments", 0, "at least 1"),
    ("objective.negatives", 0, "at least 1"),
    ("model.temperature", 0.0, "above 0"),
    ("objective.contrastive_weight", 2.0, "from 0 to 1"),
    ("objective.contrastive_weight", -1.0, "from 0 to 1"),
  ],
)
def test_impossible_numbers_are_named(key, value, words):
  c = config_lib.default("panther")
  config_lib.check(c)
  c.update_from_flattened_dict({key: value})
  with pytest.raises(config_lib.ConfigError, match=f"{key} = .*{words}"):
    config_lib.check(c)


def test_schema_fitted_on_later_rows_is_told(caplog):
  c = config_lib.default()
  c.data.validation_origin, c.data.test_origin = 300, 330
  schema = fake.schema()
  for until, told in ((300, 0), (310, 1), (400, 2)):
    caplog.clear()
    main.warn_of_later_rows(c, dataclasses.replace(schema, train_until=until))
    assert len(caplog.records) == told
