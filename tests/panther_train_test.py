"""The one loop with the PANTHER recipe: learning, resume, meshes, evaluators."""

import dataclasses
import functools

import chex
import fake_events
import jax
import numpy as np
import pytest
from flax import nnx

from lumos_jax import evaluate, evaluators, recipes, train
from lumos_jax import state as state_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import sequences
from lumos_jax.evaluators import next_event, predict, probe

slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)
FULL = dict(
  model__sprm="paper",
  model__profile_as="position",
  model__time_bias=True,
  model__dropout=0.2,
  objective__contrastive_weight=0.2,
  objective__contrastive_within=dict(age=4.0),
  objective__attribute_weight=0.1,
  objective__gap_weight=0.1,
  objective__bag_width=8,
)
# Of a step that is compared between meshes: nothing is drawn by device.
STEP = FULL | dict(model__dropout=0.0, train__batch_size=8)
EVALS = dict(
  next_event=dict(type="next_event", history_groups=(4,)),
  baseline=dict(type="baseline_next_event", history_groups=(4,)),
)


def build(**overrides):
  config = fake_events.config(**overrides)
  records = fake_events.Records()
  return config, records, recipes.build(config, records, ())


def run(workdir, stop=None, **overrides):
  config, records, recipe = build(**overrides)

  def check(step, params, last):
    if step == stop:
      raise InterruptedError
    return {}

  state = train.train(
    config, workdir, records, recipe, (), check, jax.devices()[:1]
  )
  return jax.device_get(state)


def assert_equal(a, b):
  chex.assert_trees_all_equal(a, b)


def assert_close(a, b):
  chex.assert_trees_all_close(a, b, rtol=3e-5, atol=3e-5)


def test_resume_is_exact(tmp_path):
  settings = FULL | dict(objective__loss="sampled", objective__negatives=8)
  whole = run(tmp_path / "a", **settings)
  with pytest.raises(InterruptedError):
    run(tmp_path / "b", stop=5, **settings)
  assert_equal(run(tmp_path / "b", **settings), whole)


@pytest.mark.parametrize("loss", ("softmax", "gbce"))
def test_a_step_depends_on_its_state_and_batch_alone(loss):
  """With this a resume is exact whatever the loss draws."""
  settings = FULL | dict(objective__loss=loss, objective__negatives=8)
  state, batch = begin(**settings)
  config, _, recipe = build(**settings)
  found = []
  for _ in range(2):  # Two programs, as a resumed run has another.
    trainer = train.Trainer(config, recipe, jax.devices()[:1])
    mine = jax.device_put(state, trainer.shardings)
    found.append(jax.device_get(trainer.step(mine, trainer.put(batch))))
  assert_equal(*found)
  assert found[0][1]["gradient_norm"] > 0.0


def begin(**overrides):
  """(state, first batch) that a step on any mesh begins with."""
  config, records, recipe = build(**overrides)
  size = config.train.batch_size
  batch = next(sequences.train_iterator(records, config.data, (), size, 0))
  trainer = train.Trainer(config, recipe, jax.devices()[:1])
  return jax.device_get(trainer.init([batch])), batch


@functools.cache
def start(form):
  return begin(**(STEP | dict(form)))


def one_step(devices=None, form=(), **overrides):
  """Moments, which hold the gradients, and loss of a step of a form."""
  config, _, recipe = build(**(STEP | dict(form) | overrides))
  trainer = train.Trainer(config, recipe, devices)
  state, batch = start(form)
  state = jax.device_put(state, trainer.shardings)
  state, metrics = trainer.step(state, trainer.put(batch))
  return jax.device_get(state["opt"]), float(metrics["loss"])


@functools.cache
def on_one_device(form=()):
  return one_step(jax.devices()[:1], form)


def unpacked(batch):
  """A row a segment."""
  out = {k: [] for k in batch}
  for row in range(len(batch["segment"])):
    for s in range(1, batch["segment"][row].max() + 1):
      at = np.flatnonzero(batch["segment"][row] == s)
      for name, value in batch.items():
        new = np.zeros_like(value[row])
        if name.startswith("profile_"):
          new[0] = value[row, s - 1]
        else:
          new[: len(at)] = 1 if name == "segment" else value[row, at]
        out[name].append(new)
  return {k: np.stack(v) for k, v in out.items()}


def test_packed_rows_equal_a_row_a_user():
  """Loss and gradients, with all that looks along a row and draws nothing."""
  settings = dict(model__n_encoder_layers=2, objective__bag_width=0)
  config, records, recipe = build(
    **(FULL | settings | dict(model__dropout=0.0))
  )
  packed = next(sequences.train_iterator(records, config.data, (), 8, 0))
  alone = unpacked(packed)
  assert len(alone["segment"]) > 1.5 * len(packed["segment"])
  graph, params = state_lib.split(recipe.init(nnx.Rngs(params=0)))

  @jax.jit
  def gradients(params, batch):
    def loss(params):
      module = state_lib.merge(graph, params)
      return recipe.loss(module, batch, None, recipe.totals(batch))

    return jax.value_and_grad(loss, has_aux=True)(params)

  (value, logs), expected = gradients(params, alone)
  (again, ours), found = gradients(params, packed)
  np.testing.assert_allclose(again, value, rtol=1e-5)
  assert_close(found, expected)
  # Packing saves padding, which is told each step.
  share = lambda b: np.mean(b["segment"] == 0)
  np.testing.assert_allclose(ours["padding_share"], share(packed), rtol=1e-5)
  np.testing.assert_allclose(logs["padding_share"], share(alone), rtol=1e-5)
  assert ours["padding_share"] < logs["padding_share"] / 2


@pytest.mark.parametrize(
  "mesh",
  [
    slow(dict(mesh__data=8)),
    dict(mesh__data=2, mesh__fsdp=2, mesh__tensor=2),
    slow(dict(mesh__fsdp=2, mesh__sequence=4)),
  ],
)
def test_eight_devices_equal_one(mesh):
  alone, many = on_one_device(), one_step(**mesh)
  assert abs(alone[1] - many[1]) < 1e-5
  assert_close(alone[0], many[0])


@pytest.mark.slow
def test_eight_devices_point_as_one_does():
  form = (("model__copy", True), ("data__filter_seen", False))
  mesh = dict(mesh__data=2, mesh__fsdp=2, mesh__tensor=2)
  alone, many = on_one_device(form), one_step(form=form, **mesh)
  assert abs(alone[1] - many[1]) < 1e-5
  assert_close(alone[0], many[0])


def test_eight_devices_begin_as_one():
  config, _, recipe = build(**STEP, mesh__fsdp=2, mesh__tensor=2, mesh__data=2)
  state, batch = start(())
  many = train.Trainer(config, recipe).init([batch])
  assert_close(jax.device_get(many), state)


def test_accumulated_gradients_equal_the_whole_batch():
  """But for what compares users of one part, or draws in each."""
  form = (("objective__contrastive_weight", 0.0), ("objective__bag_width", 0))
  whole = on_one_device(form)
  parts = one_step(jax.devices()[:1], form, train__accumulate=4)
  assert abs(whole[1] - parts[1]) < 1e-5
  assert_close(whole[0], parts[0])


def scores(tmp_path, **overrides):
  """Metrics of a trained model; users of one length walk in fixed steps."""
  settings = dict(
    train__steps=100,
    train__batch_size=8,
    train__checkpoint_every=1000,
    optimizer__learning_rate=1e-2,
  )
  config, records, recipe = build(**(settings | overrides))
  records = fake_events.Records(lengths=[24] * 60)
  with config.unlocked():
    config.evals = EVALS
  session = evaluate.Session(
    config, tmp_path, records, recipe, (), devices=jax.devices()[:1]
  )
  train.train(
    config,
    tmp_path,
    records,
    recipe,
    (),
    session.evaluate,
    jax.devices()[:1],
  )
  return evaluate.read(tmp_path)


@pytest.mark.parametrize(
  "form",
  [
    {},
    slow(dict(model__sprm="paper", model__attention="none")),
    slow(dict(model__attention="pointwise", model__d_ff=0)),
    slow(dict(model__copy=True, model__use_attributes=False)),
    # It learns from a fifth of the tokens: more of them.
    slow(
      dict(
        model__masked=True,
        model__use_fields=False,
        model__use_attributes=False,
        model__n_encoder_layers=2,
        optimizer__learning_rate=3e-3,
        train__steps=600,
        train__batch_size=32,
      )
    ),
  ],
)
def test_training_learns_what_comes_next(tmp_path, form):
  """Users go up by their own step, which popularity cannot know."""
  found = scores(tmp_path, data__filter_seen=False, **form)
  model, floor = found["next_event"], found["baseline"]
  assert model["hit_rate@5"] > 0.7
  assert model["hit_rate@5"] > floor["popularity/hit_rate@5"] + 0.2
  assert floor["markov/hit_rate@5"] > floor["popularity/hit_rate@5"] + 0.2
  assert model["users"] == floor["popularity/users"] == 60
  assert model["history_over_4/users"] == 60


def test_metrics_of_ranks_equal_their_formulas():
  rank = np.asarray([1, 2, 10, 11, 60.0])
  found = dict(next_event.of_ranks(rank, (1, 10, 50)))
  assert found["hit_rate@1"] == 0.2 and found["hit_rate@10"] == 0.6
  assert found["hit_rate@50"] == 0.8
  gain = (1 + 1 / np.log2(3) + 1 / np.log2(11)) / 5
  np.testing.assert_allclose(found["ndcg@10"], gain)
  np.testing.assert_allclose(found["mrr"], np.mean(1 / rank))
  groups = dict(next_event.of_groups(rank, np.asarray([0, 1, 4, 5, 9]), (4,)))
  assert groups["history_0/users"] == 1 and groups["history_0/mrr"] == 1
  assert groups["history_1_to_4/users"] == 2
  assert groups["history_over_4/hit_rate@10"] == 0


def test_evaluation_is_the_same_on_any_number_of_devices(tmp_path):
  config, records, recipe = build()
  found = []
  for devices in (jax.devices()[:1], jax.devices()):
    with config.unlocked():
      config.evals = dict(next_event=dict(type="next_event"))
    session = evaluate.Session(
      config, tmp_path, records, recipe, (), devices=devices
    )
    params = train.Trainer(config, recipe, devices[:1])
    batch = next(sequences.train_iterator(records, config.data, (), 4, 0))
    state = params.init([batch])
    found.append(session.evaluate(1, state["params"], True))
  assert found[0] == found[1] and found[0]


def test_baselines_rank_as_the_plain_count(tmp_path):
  """Markov by hand for one user, with what was seen left out."""
  config, records, _ = build()
  with config.unlocked():
    config.evals = dict(baseline=EVALS["baseline"])
  session = evaluate.Session(
    config, tmp_path, records, recipes.build(config, records, ()), ()
  )
  session.evaluate(1, None, True)
  evaluator = session.evaluators["baseline"]
  cut = sequences.Sequences(records.schema, config.data)
  transitions = np.zeros((32, 32))
  popular = np.zeros(32)
  for r in records.users:
    own = r["categorical"][: cut.training_events(r), 0]
    np.add.at(popular, own, 1)
    np.add.at(transitions, (own[:-1], own[1:]), 1)
  record = next(r for r in records.users if len(r["time"]) == 9)
  own, target = record["categorical"][:-1, 0], record["categorical"][-1, 0]
  score = transitions[own[-1]] + popular / 1e3
  free = [i for i in range(2, 32) if i not in own and i != target]
  low = 1 + sum(score[i] > score[target] for i in free)
  high = 1 + sum(score[i] >= score[target] for i in free)
  at = predict.hash_keys([record["key"]])[0]
  mine = evaluator.predictions.key == at
  assert "frequency" not in evaluator.predictions.p
  assert low <= evaluator.predictions.p["markov"][mine][0] <= high


def untrained(config, records, recipe, workdir):
  """What the evaluators say of a fresh model."""
  session = evaluate.Session(config, workdir, records, recipe, ())
  batch = next(sequences.train_iterator(records, config.data, (), 4, 0))
  state = train.Trainer(config, recipe, jax.devices()[:1]).init([batch])
  return session.evaluate(1, state["params"], True)


def test_probe_finds_what_the_items_say(tmp_path):
  """The label is which step a user takes: items alone do not tell it."""
  config, records, recipe = build()
  records = fake_events.Records(lengths=[20] * 80)
  with config.unlocked():
    config.evals = dict(
      vip=dict(type="probe", label="vip", folds=3, models=("logistic",))
    )
  found = untrained(config, records, recipe, tmp_path)
  assert found["vip/users"] == 80
  for features in ("aggregates", "embedding", "both"):
    assert 0.0 <= found[f"vip/{features}/logistic/auc"] <= 1.0


@pytest.mark.parametrize("kind", ("next_event", "baseline_next_event", "probe"))
def test_settings_without_meaning_are_refused(kind, tmp_path):
  config, records, _ = build()
  evals = {"it": dict(type=kind, origin=200)}
  with pytest.raises(ValueError, match="it.origin: .* has no such setting"):
    evaluators.build(evals, None, records, (), config.data, tmp_path)


def test_embedding_grows_with_evidence():
  total, tokens = np.asarray([[2.0, 4.0], [0.0, 0.0]]), np.asarray([[4], [0]])
  found = probe.pooled(total, tokens)
  np.testing.assert_allclose(found[0], [0.5, 1.0, 1.0, 2.0, np.log(4)])
  np.testing.assert_allclose(found[1], np.zeros(5))


@pytest.mark.parametrize("profile_as", ("none", "position"))
def test_probe_says_whether_the_model_was_told(tmp_path, profile_as):
  config, records, recipe = build(model__profile_as=profile_as)
  records = fake_events.Records(lengths=[5] * 12)
  label = schema_lib.Label("gender", values=("f", "m"))
  records.schema = dataclasses.replace(records.schema, labels=(label,))
  recipe = recipes.build(config, records, ())
  with config.unlocked():
    config.evals = dict(
      who=dict(type="probe", label="gender", folds=2, models=("lightgbm",))
    )
  found = untrained(config, records, recipe, tmp_path)
  assert found["who/label_in_profile"] == (profile_as != "none")


@pytest.mark.parametrize(
  "settings,words",
  [
    (dict(label="city"), "label = 'city'; the data have"),
    (dict(label="vip", models=("svm",)), "use some of"),
    (dict(label="vip", fold=3), "no such setting"),
  ],
)
def test_probe_mistakes_are_named(tmp_path, settings, words):
  config, records, recipe = build()
  with config.unlocked():
    config.evals = dict(vip=dict(type="probe", **settings))
  with pytest.raises(ValueError, match=words):
    evaluate.Session(config, tmp_path, records, recipe, ())


def test_golden_number_of_parameters():
  """It changes only on purpose; where they lie: tests/shardings_test.py."""
  config, _, recipe = build(**FULL)
  trainer = train.Trainer(config, recipe, jax.devices()[:1])
  params = trainer.abstract["params"]
  assert sum(p.size for p in params.values()) == 21_571
