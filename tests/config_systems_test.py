"""One config a system: its own keys alone, one dial of size, names of files."""

import json
import pathlib
import re

import fake
import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from flax import nnx

from lumos_jax import config as config_lib
from lumos_jax import evaluate, main, recipes, train
from lumos_jax.config import files, systems
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.presets import datasets

ROOT = pathlib.Path(__file__).parents[1]
LUMOS = ("pretrain", "paper", "oulad", "online_retail")
PANTHER = ("panther", "sasrec", "bert4rec", "hstu", "tvrec")


def test_configs_hold_the_keys_of_their_recipe_alone():
  lumos, panther = (config_lib.default(r) for r in ("lumos", "panther"))
  assert "sprm" not in lumos.model and len(lumos.objective) == 0
  assert "target" not in lumos.data and "history_days" in lumos.data
  assert "patch_days" not in panther.model and "negatives" in panther.objective
  assert "history_days" not in panther.data and "target" in panther.data
  assert config_lib.SYSTEMS.keys() == recipes.RECIPES.keys()
  for c in (lumos, panther):
    config_lib.check(c)


@pytest.mark.parametrize(
  "name,key,words",
  [
    (
      "pretrain",
      "model.sprm",
      "recipe 'panther' and 'intent'; .* is 'lumos'.* 'causal'",
    ),
    ("pretrain", "objective.loss", "recipe 'panther'; .* is 'lumos'"),
    (
      "pretrain",
      "data.target",
      "recipe 'panther'.*'llm4es'.*; .* 'history_days'",
    ),
    ("panther", "model.patch_days", "recipe 'lumos'; .* is 'panther'"),
    ("sasrec", "data.history_days", "recipe 'lumos'; .* 'sequence_length'"),
  ],
)
def test_a_key_of_another_recipe_is_refused(name, key, words):
  c = config_lib.load(name)
  with pytest.raises(config_lib.ConfigError, match=f"config.{key} .*{words}"):
    config_lib.check_key(c, key)
  branch, leaf = key.split(".")
  with c.unlocked():
    c[branch][leaf] = 1
  with pytest.raises(config_lib.ConfigError, match=f"config.{key} .*{words}"):
    config_lib.check(c)


def test_a_recipe_cannot_be_changed_behind_its_keys():
  c = config_lib.default("lumos")
  c.recipe = "panther"
  with pytest.raises(config_lib.ConfigError, match="of recipe 'lumos'"):
    config_lib.check(c)
  c = config_lib.default("lumos")
  del c.model.causal
  with pytest.raises(config_lib.ConfigError, match="lacks .'model.causal'"):
    config_lib.check(c)
  with pytest.raises(config_lib.ConfigError, match="'pantha'.*mean 'panther'"):
    config_lib.default("pantha")


@pytest.mark.parametrize("name", LUMOS)
def test_large_is_one_dial_of_every_lumos_config(name):
  c = config_lib.load(f"{name}:size=large")
  m = c.model
  assert (m.d_model, m.n_encoder_layers, m.n_decoder_layers) == (1024, 12, 4)
  assert (m.dtype, m.scan_layers, m.remat) == ("bfloat16", True, "full")
  assert (c.mesh.fsdp, c.train.batch_size) == (8, 4096)


@pytest.mark.parametrize("name", PANTHER)
def test_large_is_one_dial_of_every_panther_config(name):
  c = config_lib.load(f"{name}:size=large")
  m, d, o = c.model, c.data, c.optimizer
  # HSTU has two layers for one.
  layers = 24 if name == "hstu" else 12
  assert (m.d_model, m.n_heads, m.n_encoder_layers) == (768, 12, layers)
  assert (m.dtype, m.scan_layers, m.remat) == ("bfloat16", True, "full")
  assert (d.sequence_length, d.overlap, d.segments) == (2048, 128, 32)
  assert (o.learning_rate, o.warmup_steps) == (3e-4, 1000)
  assert (c.mesh.fsdp, c.train.batch_size, c.eval_batch_size) == (8, 256, 8)
  # Without attention there are no phases to turn.
  positions = "learned" if name == "tvrec" else "rotary"
  assert (c.train.ema_decay, m.positions) == (0.0, positions)


@pytest.mark.parametrize("name", (*LUMOS, *PANTHER, "llm4es", "intent"))
def test_smoke_is_the_smallest_size_on_every_config(name):
  c = config_lib.load(f"{name}:smoke,steps=3")
  assert c.train.steps == 3 and c.model.d_model == 32
  assert c.name.endswith("smoke")
  with pytest.raises(config_lib.ConfigError, match="exclude each other"):
    config_lib.load(f"{name}:smoke,size=large")


def test_a_data_set_serves_every_recipe():
  days, events = (config_lib.default(r) for r in ("lumos", "panther"))
  datasets.use(days, "complete_journey")
  datasets.use(events, "complete_journey")
  for c in (days, events):
    assert c.data.source == "complete_journey"
    assert (c.data.validation_origin, c.data.test_origin) == (309, 337)
    config_lib.check(c)
  assert days.data.train_origin_last == 281 and "redeem" in days.tasks
  assert events.data.train_origin_last == 309 and events.data.target == "token"
  words = "data='ships' is unknown; for recipe 'panther' .*'beauty'"
  with pytest.raises(config_lib.ConfigError, match=words):
    config_lib.load("sasrec:data=ships")
  paper = config_lib.load("paper:data=oulad")
  assert paper.data.origin_jitter_days == 210 and "submits" in paper.tasks


def test_data_sets_of_scores_say_what_is_scored():
  for name, unit in (
    ("credit_default", "user"),
    ("oulad", "user"),
    ("complete_journey", "event"),
    ("tabformer", "event"),
  ):
    c = config_lib.load(f"risk:data={name}")
    assert c.data.unit == unit and c.data.cut == "time" and len(c.tasks) == 1
    assert c.model.tune == "frozen" and not c.model.backbone
  paper = config_lib.load("risk:data=tabformer,cut=random,balanced")
  assert paper.name == "risk_tabformer_random_balanced" and paper.data.balanced
  with pytest.raises(config_lib.ConfigError, match="needs backbone=WORKDIR"):
    config_lib.load("risk:tune=full")
  with pytest.raises(config_lib.ConfigError, match="exclude each other"):
    config_lib.load("risk:smoke,size=tiny")


def flat(config):
  """{key: value}, tuples as lists, as JSON has them."""
  out = {}
  for key in systems.keys(config):
    value = config
    for part in key.split("."):
      value = value[part]
    if not hasattr(value, "items") or not len(value):
      out[key] = json.loads(json.dumps(value, default=lambda v: v.to_dict()))
  return out


def test_a_shipped_config_goes_by_its_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # Where there is no folder configs.
  assert set(config_lib.shipped()) == {
    *LUMOS,
    *PANTHER,
    "risk",
    "llm4es",
    "intent",
  }
  c = config_lib.load("pretrain:steps=7")
  assert c.train.steps == 7
  file = ROOT / "configs" / "pretrain.py"
  assert flat(config_lib.load(f"{file}:steps=7")) == flat(c)
  words = "'pretrian'; did you mean 'pretrain'.*names: .*'sasrec'"
  with pytest.raises(config_lib.ConfigError, match=words):
    config_lib.load("pretrian:smoke")
  # A file of one's own comes first.
  (tmp_path / "pretrain").write_text("def get_config(arg=None):\n  return arg")
  assert config_lib.load("pretrain:mine") == "mine"


def test_configs_of_a_wheel_lie_in_the_package(tmp_path, monkeypatch):
  (tmp_path / "mine.py").write_text("def get_config():\n  return 3\n")
  folders = (tmp_path, ROOT / "configs")
  monkeypatch.setattr(files, "_FOLDERS", folders)
  assert list(config_lib.shipped()) == ["mine"]
  assert config_lib.load("mine") == 3


@pytest.mark.parametrize(
  "arguments",
  [
    ["--config=sasrec:data=beauty", "--config.train.steps=9"],
    ["--config", "sasrec:data=beauty", "--config.train.steps=9"],
  ],
)
def test_flags_take_a_name(arguments, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  argv = ["main", *arguments]
  monkeypatch.setattr("sys.argv", argv)
  with flagsaver.flagsaver():
    main.parse_flags(argv)
    c = main.flags.FLAGS.config
    assert c.name == "sasrec_beauty" and c.train.steps == 9
    assert c.is_locked


def test_flags_of_another_recipe_end_in_one_line(capsys):
  with pytest.raises(SystemExit) as e:
    main.parse_flags(["main", "--config=pretrain", "--config.model.sprm=paper"])
  said = capsys.readouterr().err
  assert e.value.code == 2 and said.count("\n") == 1
  assert "config.model.sprm is a key of recipe 'panther' and" in said


def test_a_run_of_older_keys_is_read(tmp_path):
  """Its config.json held the keys of all recipes, and lacks newer ones."""
  c = config_lib.load("pretrain:seed=5")
  stored = json.loads(c.to_json_best_effort())
  stored["model"]["sprm"], stored["objective"]["loss"] = "none", "softmax"
  stored["data"]["target"] = ""
  del stored["train"]["keep_every"]
  (tmp_path / "config.json").write_text(json.dumps(stored))
  found = evaluate.load_config(tmp_path)
  config_lib.check(found)
  assert flat(found) == flat(c) and found.model.habit_days[0] == 7


def test_config_files_are_short():
  for path in (ROOT / "configs").glob("*.py"):
    assert len(path.read_text().splitlines()) <= 60, path.name
    assert "from configs" not in path.read_text()


def blocks():
  """{first line's file: code} of docs/config.md's system."""
  text = (ROOT / "docs" / "config.md").read_text()
  found = re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.S)
  return {name: code for name, code in found}


class Module:
  """What a code block defines, as the module it would be."""

  def __init__(self, code):
    exec(compile(code, "docs/config.md", "exec"), self.__dict__)


def test_the_system_of_the_docs_trains(monkeypatch):
  code = blocks()
  keys = Module(code["lumos_jax/config/linear.py"])
  recipe_file = Module(code["lumos_jax/recipes/linear.py"])
  monkeypatch.setitem(config_lib.SYSTEMS, "linear", keys)
  monkeypatch.setitem(recipes.RECIPES, "linear", recipe_file.Linear)
  c = Module(code["configs/linear.py"]).get_config("size=wide")
  config_lib.check(c)
  assert c.model.to_dict() == dict(width=64)
  with pytest.raises(config_lib.ConfigError, match="recipe 'lumos'"):
    config_lib.check_key(c, "model.causal")
  with c.unlocked():
    c.tasks = fake.config().tasks
    d = c.data
    d.train_origin_first, d.train_origin_last = 28, 84
    d.validation_origin, d.test_origin = 98, 112
    d.history_days = d.eval_history_days = 56
    c.train.batch_size, c.optimizer.learning_rate = 8, 0.02
    c.optimizer.warmup_steps = 0
  tasks, records = tasks_lib.from_config(c.tasks), fake.Records()
  recipe = recipes.build(c, records, tasks)
  trainer = train.Trainer(c, recipe, jax.devices()[:1])
  batch = next(recipe.inputs.train_iterator(records, c.data, tasks, 8, c.seed))
  state, losses = trainer.init([batch]), []
  for _ in range(10):
    state, logs = trainer.step(state, trainer.put(batch))
    losses.append(float(logs["loss"]))
  assert losses[-1] < 0.9 * losses[0]
  module = recipe.init(nnx.Rngs(params=0))
  found = recipe.predict(module, batch)
  assert set(found) == {"active", "churn", "spend"}
  np.testing.assert_array_equal(found["spend"].shape, (8, 1))
