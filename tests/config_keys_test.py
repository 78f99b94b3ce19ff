"""Every key of every recipe is read by what runs: one that is not, is removed.

A config that remembers which keys were asked for goes where a real one goes:
data set, pipeline, model, one train step and one forecast (both abstract), and
evaluators. Keys that only some settings read have those in the table below.
"""

import pathlib

import fake
import fake_events
import fake_sessions
import fake_texts
import jax
import ml_collections
import pytest
import tiny_hybrid

from lumos_jax import config as config_lib
from lumos_jax import evaluate, main, recipes, train
from lumos_jax import state as state_lib
from lumos_jax.config import common, systems
from lumos_jax.data import records as records_lib
from lumos_jax.data import tasks as tasks_lib

PACKAGE = pathlib.Path(main.__file__).parent
# {recipe: settings that together make all of its keys matter}.
SETTINGS = {
  "lumos": [
    {
      "model.habit_days": (),
      "model.members": 1,
      "model.state_members": 0,
      "model.sparsity": 0.0,
    },
    {"optimizer.name": "muon", "model.ablate": ("no_future",)},
  ],
  "panther": [
    {"model.sprm": "paper", "model.profile_as": "position"},
    {"objective.loss": "sampled", "data.cache": True},
    {"objective.loss": "gbce"},
    {"model.masked": True, "model.use_fields": False},
    {"objective.contrastive_weight": 0.5, "model.profile_as": "token"},
    {"objective.coles_weight": 0.5},
    {"model.cosine": True, "objective.bag_width": 4},
    {"model.sprm": "bsarec"},
    {"model.sprm": "tvrec"},
    {"objective.attribute_weight": 0.1, "objective.gap_weight": 0.1},
  ],
  "hybrid": [
    {"model.tune": "lora"},
    {"model.numbers": "periodic", "data.unit": "event"},
  ],
  "llm4es": [{}, {"model.lora_rank": 2}],
  "intent": [
    {"objective.contrastive_weight": 0.5},
    {"model.masked": False, "model.sprm": "paper"},
  ],
}
EVALS = {
  "lumos": dict(
    forecast=dict(type="forecast"),
    baseline_lightgbm=dict(type="baseline_lightgbm", n_origins=2, rounds=2),
    baseline_naive=dict(type="baseline_naive"),
  ),
  "panther": dict(
    validation=dict(type="next_event", split="validation"),
    next_event=dict(type="next_event"),
    baseline_next_event=dict(type="baseline_next_event"),
  ),
  "hybrid": dict(
    risk=dict(type="risk"),
    baseline_lightgbm=dict(type="baseline_lightgbm", rounds=2),
  ),
  "llm4es": dict(
    perplexity=dict(type="perplexity"),
    vip=dict(type="probe", label="vip"),
  ),
  "intent": dict(next_page=dict(type="next_page")),
}
# Read by the entry program or in the midst of a run, in these words.
ENTRY = {
  "name": ("main.py", "config.name"),
  "init_step": ("init_from.py", "config.init_step"),
  "init_new": ("init_from.py", "config.init_new"),
  "report": ("main.py", "if config.report"),
  "train.checkpoint_every": ("train.py", "cfg.checkpoint_every"),
}
# Their own keys are checked by who reads them.
FREE = [f.rstrip(".") for f in common.FREE]


class Asked:
  """A config that notes the leaves that are asked for, as "train.steps"."""

  def __init__(self, config, keys: set[str], prefix: str = ""):
    self._config, self._keys, self._prefix = config, keys, prefix

  def __getattr__(self, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return self[name]

  def __getitem__(self, name):
    value, key = self._config[name], self._prefix + name
    if isinstance(value, ml_collections.ConfigDict) and key not in FREE:
      branch = len(value) and not key.startswith(("model.", "objective."))
      if branch or key in ("model", "objective"):
        return Asked(value, self._keys, key + ".")
    self._keys.add(key)
    return value

  def __contains__(self, name):
    return name in self._config

  def get(self, name, default=None):
    return self[name] if name in self._config else default


def make(recipe, changes):
  """A tiny config, as `Asked` and plain, and data in memory."""
  library = {
    "lumos": fake,
    "panther": fake_events,
    "llm4es": fake_texts,
    "intent": fake_sessions,
    "hybrid": tiny_hybrid,
  }
  library = library[recipe]
  c = library.config(train__steps=0)
  with c.unlocked():
    c.update_from_flattened_dict(changes)
    c.evals = EVALS[recipe]
    c.train.batch_size = c.eval_batch_size = 8
    c.train.init_batches = 1
  return c, library.Records()


def follow(c, records, tmp_path, monkeypatch, runs):
  """The keys that a run asks for; where `runs`, it also begins to train."""
  keys: set[str] = set()
  asked = Asked(c, keys)
  monkeypatch.setattr(records_lib.Records, "open", lambda path: records)
  monkeypatch.setattr(
    records_lib, "directory_name", lambda source, options: "."
  )
  main.open_data(asked)
  tasks = tasks_lib.from_config(asked.tasks)
  recipe = recipes.build(asked, records, tasks)
  session = evaluate.Session(asked, tmp_path, records, recipe, tasks)
  if runs:
    monkeypatch.setattr(train.identity, "make_meta", lambda *a: {"config": {}})
    train.train(asked, tmp_path, records, recipe, tasks)
  trainer = train.Trainer(asked, recipe)
  batch = next(
    recipe.inputs.train_iterator(records, asked.data, tasks, 8, asked.seed)
  )
  jax.eval_shape(trainer.step, trainer.abstract, batch)
  graph, _ = state_lib.structure(recipe)
  name = next(iter(session.evaluators))
  users = next(iter(session.evaluators[name].batches(session.predictor)))
  users = {k: v for k, v in users.items() if k != "key"}
  run = lambda p, b: recipe.predict(state_lib.merge(graph, p), b)
  jax.eval_shape(run, trainer.abstract["params"], users)
  for evaluator in session.evaluators.values():
    if not evaluator.needs_params:
      dict(evaluator.run({}))
  return keys


def leaves(config):
  """Keys with a value, and branches that are empty by default."""
  keys = systems.keys(config)
  return {k for k in keys if not any(o.startswith(k + ".") for o in keys)}


def entry_keys():
  text = {file: (PACKAGE / file).read_text() for file, _ in ENTRY.values()}
  return {k for k, (file, words) in ENTRY.items() if words in text[file]}


def common_keys():
  c = ml_collections.ConfigDict()
  common.defaults(c)
  return leaves(c)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(config_lib.SYSTEMS))
def test_every_key_is_read(recipe, tmp_path, monkeypatch):
  read, first = entry_keys(), recipe == "lumos"
  for i, changes in enumerate(SETTINGS[recipe]):
    c, records = make(recipe, {"data.root": str(tmp_path)} | changes)
    runs = first and not i
    read |= follow(c, records, tmp_path / str(i), monkeypatch, runs)
  default = config_lib.default(recipe)
  expected = leaves(default) - {"objective"}
  if not first:  # One recipe's run shows who reads the common keys.
    expected -= common_keys()
  assert sorted(expected - read) == []
  # What is asked for stands in the default config.
  known = (*systems.keys(default), *entry_keys())
  assert sorted(read - set(known)) == []
