"""Recipe hybrid: what trains, what is seen, and what an event cannot know."""

import functools
import json

import fake
import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_hybrid
from flax import nnx

from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import config as config_lib
from lumos_jax import init_from, recipes, train
from lumos_jax import state as state_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.models import lora
from lumos_jax.presets import hybrid as presets

RECORDS = fake_events.Records(users=16)
TUNED = ("lora", "full")


def build(config, records=RECORDS):
  tasks = tasks_lib.from_config(config.tasks)
  return recipes.build(config, records, tasks), tasks


@functools.cache
def ready(tune="frozen", unit="user"):
  """A recipe, its module, and its compiled prediction."""
  recipe, _ = build(tiny_hybrid.config(tune, unit))
  graph, _ = state_lib.structure(recipe)
  init = lambda: state_lib.split(recipe.init(nnx.Rngs(params=0)))[1]
  params = jax.jit(init)()
  predict = jax.jit(
    lambda params, batch: recipe.predict(state_lib.merge(graph, params), batch)[
      "buys"
    ]
  )
  run = lambda batch: np.asarray(predict(params, batch))
  return recipe, state_lib.merge(graph, params), run, (predict, params)


def trained(config, steps=3):
  """Parameters before and after some steps, and the losses."""
  recipe, tasks = build(config)
  trainer = train.Trainer(config, recipe, jax.devices()[:1])
  batches = recipe.inputs.train_iterator(RECORDS, config.data, tasks, 8, 0)
  first = [next(batches) for _ in range(2)]
  state, losses = trainer.init(first), []
  before = {k: np.asarray(v) for k, v in state["params"].items()}
  for _ in range(steps):
    state, logs = trainer.step(state, trainer.put(first[0]))
    losses.append(float(logs["loss"]))
  return before, state["params"], losses


@pytest.mark.parametrize(
  "tune",
  ["frozen", *(pytest.param(t, marks=pytest.mark.slow) for t in TUNED)],
)
def test_what_is_tuned_changes_and_nothing_else(tune):
  before, after, losses = trained(tiny_hybrid.config(tune))
  changed = {k for k in before if not np.array_equal(before[k], after[k])}
  backbone = {k for k in before if k.startswith("backbone/")}
  assert losses[-1] < losses[0] and "heads/0/out/kernel" in changed
  assert "numbers/edges" not in changed
  if tune == "full":
    assert len(changed & backbone) > len(backbone) / 2
  else:
    assert not changed & backbone
  adapters = {k for k in before if k.startswith("adapters/")}
  assert bool(adapters) == (tune == "lora")
  if adapters:
    assert {k for k in adapters if "/b/" in k} <= changed


def test_without_a_backbone_context_alone_is_scored():
  before, after, losses = trained(tiny_hybrid.config(over=False))
  assert not [k for k in before if k.startswith(("backbone", "cnn", "norm"))]
  assert losses[-1] < losses[0]


def test_adapters_begin_at_the_model_and_merge_to_it():
  recipe, module, _, (predict, params) = ready("lora")
  own = dict(nnx.to_flat_state(nnx.state(module.backbone)))
  same = dict(nnx.to_flat_state(nnx.state(module.adapters(module.backbone))))
  for path, value in own.items():
    np.testing.assert_array_equal(value[...], same[path][...])
  # B begins at zero; then the merged weights are W + alpha / r A B.
  changed = {
    k: v + 1.0 if k.startswith("adapters/b/") else v for k, v in params.items()
  }
  graph, _ = state_lib.structure(recipe)
  full = state_lib.merge(graph, changed)
  merged = full.adapters(full.backbone)
  found = dict(nnx.to_flat_state(nnx.state(merged)))
  path, a, b = module.adapters.paths[0], full.adapters.a[0], full.adapters.b[0]
  scale = recipe.cfg.lora_alpha / recipe.cfg.lora_rank
  expected = own[path][...] + scale * a[...] @ b[...]
  np.testing.assert_allclose(found[path][...], expected, rtol=1e-6)
  batch = recipe.inputs.nobody()
  adapted = predict(changed, batch)
  whole = {
    f"backbone/{'/'.join(map(str, p))}": v[...] for p, v in found.items()
  }
  np.testing.assert_allclose(predict(params | whole, batch), adapted, rtol=1e-6)


def test_no_weight_to_adapt_is_an_error():
  recipe, _ = build(tiny_hybrid.config("lora", model__lora_modules="nowhere"))
  with pytest.raises(ValueError, match="'nowhere' meets none of .* matrices"):
    recipe.init(nnx.Rngs(params=0))
  module = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
  assert lora.Adapters(module, "", 1, 1.0, rngs=nnx.Rngs(params=0)).count == 1


@pytest.mark.parametrize(
  "changes,words",
  [
    ({"model__tune": "soft"}, "model.tune = 'soft'"),
    ({"model__numbers": "plain"}, "model.numbers = 'plain'"),
    ({"model__parts": ("moon",)}, "model.parts = .'moon'"),
    ({"init_new": ()}, "model.backbone is set and init_from is not"),
    ({"data__cut": "luck"}, "data.cut = 'luck'"),
    ({"data__test_origin": 52}, "data.test_origin = 52"),
  ],
)
def test_settings_that_make_no_sense_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    build(tiny_hybrid.config(**changes))


def test_nothing_to_tune_without_a_backbone():
  with pytest.raises(ValueError, match="nothing to tune"):
    build(tiny_hybrid.config("full", over=False))


@pytest.mark.parametrize("unit", ["user", "event"])
def test_no_later_event_changes_a_score(unit):
  """Each event at or behind the point (of an event: behind it) is perturbed."""
  recipe, _, predict, _ = ready(unit=unit)
  record = dict(RECORDS.users[7])  # 40 events.
  place = 60 if unit == "user" else 20
  cut = int(np.searchsorted(record["day"], 60)) if unit == "user" else 21
  changed = dict(record)
  changed["categorical"] = record["categorical"].copy()
  changed["categorical"][cut:] = 3
  changed["numeric"] = record["numeric"].copy()
  changed["numeric"][cut:] += 100.0
  changed["time"] = record["time"].copy()
  changed["time"][cut:] += np.arange(len(record["time"]) - cut) * 10**9
  changed["label_value"] = record["label_value"] + 1
  earlier = dict(record, numeric=record["numeric"].copy())
  earlier["numeric"][cut - 1] += 100.0

  def score(r):
    example = recipe.inputs.example(r, place)
    batch = {k: np.asarray(v)[None] for k, v in example.items()}
    return predict(batch)

  np.testing.assert_array_equal(score(record), score(changed))
  assert not np.array_equal(score(record), score(earlier))


def test_expectations_are_fixed_before_the_event():
  """Another scored event: the same series and user, to the bit."""
  recipe, module, *_ = ready(unit="event")
  record = RECORDS.users[7]
  other = dict(record, categorical=record["categorical"].copy())
  other["categorical"][20, 0] = 2 + (other["categorical"][20, 0] - 1) % 30
  parts = jax.jit(lambda b: recipe.pretrained_parts(module.backbone, b))
  found = []
  for r in (record, other):
    example = recipe.inputs.example(r, 20)
    batch = {k: jnp.asarray(v)[None] for k, v in example.items()}
    found.append(parts(batch))
  for name in ("series", "user"):
    np.testing.assert_array_equal(found[0][name], found[1][name])
  deviation = [f["deviation"][0] for f in found]
  entropy = 2  # Of names: what was expected, whatever then happened.
  assert deviation[0][entropy] == deviation[1][entropy]
  assert deviation[0][0] != deviation[1][0]


def test_padding_and_neighbours_change_nothing():
  recipe, _, predict, _ = ready(unit="event")
  batch = next(recipe.inputs.eval_batches(RECORDS, "test", 16))
  inputs = {
    k: v
    for k, v in batch.items()
    if k not in ("key", "user_mask", "labels", "label_mask")
  }
  whole = predict(inputs)
  alone = predict({k: v[3:4] for k, v in inputs.items()})
  np.testing.assert_allclose(whole[3], alone[0], rtol=2e-5)
  # What stands behind the latest event is nobody's.
  noisy = dict(inputs, ids=inputs["ids"].copy())
  noisy["ids"][inputs["segment"] == 0] = 5
  again = predict(noisy)
  np.testing.assert_allclose(whole, again, rtol=2e-5)


def test_a_run_begins_at_its_backbone():
  """Parameters are the pretrained run's; the head is told to be new."""
  config = tiny_hybrid.config("lora", init_new=(), init_from="runs/x")
  recipe, _ = build(config)
  old_recipe = recipes.build(tiny_hybrid.backbone(), RECORDS, ())

  def values(recipe, seed):
    init = lambda: state_lib.split(recipe.init(nnx.Rngs(params=seed)))[1]
    shapes = jax.eval_shape(init)
    return {k: np.full(s.shape, seed, s.dtype) for k, s in shapes.items()}

  fresh, old = values(recipe, 1), values(old_recipe, 5)
  meta = {
    "config": json.loads(tiny_hybrid.backbone().to_json_best_effort()),
    "schema": RECORDS.schema.to_json(),
    "calendar_columns": [],
  }
  found, lines = init_from.merge(config, fresh, RECORDS, old, meta)
  for name, value in old.items():
    np.testing.assert_array_equal(found[f"backbone/{name}"], value)
  head = [k for k in fresh if not k.startswith("backbone/")]
  assert head and all(np.array_equal(found[k], fresh[k]) for k in head)
  count = sum(k.startswith("adapters/a/") for k in fresh)
  assert f"loaded {len(old)} of {len(old)} parameters" in lines
  assert f"new: adapters of {count} weight matrices (model.tune)" in lines
  old.pop("model/norm_out/scale")
  with pytest.raises(checkpoint_lib.CheckpointError, match="norm_out/scale"):
    init_from.merge(config, fresh, RECORDS, old, meta)


def test_a_backbone_comes_from_a_workdir(tmp_path):
  c = tiny_hybrid.config(over=False).copy_and_resolve_references().unlock()
  with pytest.raises(config_lib.ConfigError, match="no run there"):
    presets.over(c, str(tmp_path))
  text = tiny_hybrid.backbone().to_json_best_effort()
  (tmp_path / "config.json").write_text(text)
  presets.over(c, str(tmp_path))
  assert c.init_from == str(tmp_path)
  config_lib.check(c)
  recipe, _ = build(c)
  assert recipe.backbone.objective.gap_weight == 0.1
  stored = json.loads(c.to_json_best_effort())
  again, _ = build(config_lib.stored(stored))
  assert state_lib.structure(again)[1] == state_lib.structure(recipe)[1]


@pytest.mark.slow
def test_lumos_is_a_backbone_too():
  """Days, not events: pooled states and forecasts, and no deviation."""
  records = fake.Records()
  c = tiny_hybrid.config(over=False).unlock()
  c.tasks = dict(
    active=dict(kind="binary", field="visits", reduce="any", horizon_days=7)
  )
  d = c.data
  d.train_origin_first, d.train_origin_last = 56, 84
  d.validation_origin, d.test_origin = 98, 112
  c.model.backbone = fake.config().to_dict()
  c.init_new = ("backbone/",)
  recipe, tasks = build(c, records)
  trainer = train.Trainer(c, recipe, jax.devices()[:1])
  batches = recipe.inputs.train_iterator(records, d, tasks, 8, 0)
  state = trainer.init([next(batches) for _ in range(2)])
  state, logs = trainer.step(state, trainer.put(next(batches)))
  assert np.isfinite(float(logs["loss"]))
  graph, _ = state_lib.structure(recipe)
  module = state_lib.merge(graph, state["params"])
  batch = {k: jnp.asarray(v) for k, v in recipe.inputs.nobody().items()}
  found = recipe.pretrained_parts(module.backbone, batch)
  assert found["deviation"].shape == (1, 0)
  # Mean and last state, and a forecast of each of the backbone's three tasks.
  names = len(recipe.backbone.predict(module.backbone, batch))
  assert found["user"].shape == (1, 2 * 32 + names)
