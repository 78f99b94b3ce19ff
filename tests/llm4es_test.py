"""The LLM4ES recipe: packing, cutting, accumulation, adapters, embeddings."""

import dataclasses
import hashlib
import json
import types

import fake_texts
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from flax import nnx

import lumos_jax
from lumos_jax import (
  checkpoint,
  evaluate,
  export,
  identity,
  init_from,
  optimizer,
  predictor,
  recipes,
  report,
  train,
)
from lumos_jax import state as state_lib
from lumos_jax.data import hosts
from lumos_jax.data import records as records_lib
from lumos_jax.evaluators import predict, probe
from lumos_jax.report import load

DEVICE = jax.devices()[:1]


def build(**overrides):
  c, records = fake_texts.config(**overrides), fake_texts.Records()
  return c, records, recipes.build(c, records, ())


def params_of(recipe, seed=0):
  graph, params = state_lib.split(recipe.init(nnx.Rngs(params=seed)))
  rng = np.random.default_rng(seed)
  # Zeros, as of adapters, hide mistakes.
  return graph, {
    k: x + 0.05 * rng.standard_normal(x.shape).astype(np.float32)
    for k, x in params.items()
  }


def batch_of(recipe, c, records, size):
  return next(recipe.inputs.train_iterator(records, c.data, (), size, 0))


def test_packed_texts_are_whole_and_tell_nothing_of_the_next():
  c, records, recipe = build(data__sequence_length=256)
  batch = batch_of(recipe, c, records, 4)
  start, end = recipe.inputs.tokenizer.start, recipe.inputs.tokenizer.end
  seen = 0
  for row in range(4):
    for s in range(1, batch["segment"][row].max() + 1):
      at = np.flatnonzero(batch["segment"][row] == s)
      ids, target = batch["ids"][row, at], batch["target"][row, at]
      assert ids[0] == start and start not in ids[1:]
      # The last token tells the end, never the next text's first.
      np.testing.assert_array_equal(target[:-1], ids[1:])
      assert target[-1] == end and batch["weight"][row, at].all()
      np.testing.assert_array_equal(
        batch["position"][row, at], np.arange(len(at))
      )
      seen += 1
    padding = batch["segment"][row] == 0
    assert not batch["weight"][row, padding].any()
  assert seen > 4


def test_the_newest_events_that_fit_are_kept_and_the_rest_counted():
  c, records, recipe = build()
  inputs, record = (
    recipe.inputs,
    max(records.users, key=lambda r: len(r["day"])),
  )
  text = inputs.tokenizer.decode(inputs.ids(record))
  head, lines = inputs.mixer.teller.lines(record)
  kept = text.removeprefix(head).splitlines(keepends=True)
  assert lines[-len(kept) :] == kept and 0 < len(kept) < len(lines)
  assert len(text) <= c.data.sequence_length - 1
  assert len(text) + len(lines[-len(kept) - 1]) > c.data.sequence_length - 1
  assert inputs.counts["cut_texts"] == inputs.counts["texts"] == 1
  assert inputs.counts["cut_events"] == len(lines) - len(kept)


def test_training_mixes_forms_and_use_has_one():
  c, records, recipe = build(data__text__base_share=0.0)
  record = records.users[4]
  decode = lambda *a: recipe.inputs.tokenizer.decode(recipe.inputs.ids(*a))
  told = {decode(record, 0, epoch) for epoch in range(6)}
  assert len(told) > 2 and decode(record) == decode(record)
  again = build(data__text__base_share=0.0)[2].inputs
  np.testing.assert_array_equal(
    again.ids(record, 0, 3), recipe.inputs.ids(record, 0, 3)
  )
  source = hosts.shuffled_blocks(records.source("train"), 0, 16)
  assert [source[i].epoch for i in (0, 2, 3)] == [0, 0, 1]


def test_no_event_at_or_after_the_day_is_told():
  _, records, recipe = build()
  record = max(records.users, key=lambda r: len(r["day"]))
  later = dict(record, categorical=record["categorical"].copy())
  later["categorical"][record["day"] >= 70] = 2
  a, b = (recipe.inputs.ids(r, 70) for r in (record, later))
  np.testing.assert_array_equal(a, b)
  assert len(recipe.inputs.ids(record)) != len(a)


def test_who_is_held_out_does_not_train():
  c, records, recipe = build()
  found = [
    str(k)
    for b in recipe.inputs.eval_batches(records, c.data, "test", 8)
    for k in b["key"][b["user_mask"]]
  ]
  out = {r["key"] for r in records.users if recipe.inputs.held_out(r)}
  assert found and set(found) <= out and len(set(found)) == len(found)
  assert 0.1 < len(out) / len(records.users) < 0.5
  none, records, recipe = build(data__holdout_share=0.0)
  with pytest.raises(ValueError, match="data.holdout_share above 0"):
    next(recipe.inputs.eval_batches(records, none.data, "test", 8))
  c, records, recipe = build(data__holdout_share=1.0)
  with pytest.raises(ValueError, match="nothing to train on"):
    recipe.inputs.train_iterator(records, c.data, (), 4, 0)


@pytest.fixture(scope="module")
def gradients():
  """(loss, gradients) of a batch cut into parts, by their number."""
  c, records, recipe = build()
  graph, params = params_of(recipe)
  batch = batch_of(recipe, c, records, 4)

  @jax.jit
  def of(params, batch, totals):
    def loss(params):
      module = state_lib.merge(graph, params)
      return recipe.loss(module, batch, None, totals)[0]

    return jax.value_and_grad(loss)(params)

  return recipe, graph, params, batch, of


def test_accumulation_weighs_tokens(gradients):
  """Rows of very different numbers of tokens: one loss and one gradient."""
  recipe, _, params, batch, of = gradients
  batch = {k: v.copy() for k, v in batch.items()}
  batch["weight"][1:, 5:] = 0
  totals = recipe.totals(batch)
  whole = of(params, batch, totals)
  parts = [
    of(params, {k: v[i::2] for k, v in batch.items()}, totals) for i in (0, 1)
  ]
  added = jax.tree.map(jnp.add, *parts)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
    added,
    whole,
  )


def test_the_loss_is_the_mean_of_all_tokens_alone(gradients):
  """Against whole logits; the end token counts, padding does not."""
  recipe, graph, params, batch, of = gradients
  module = state_lib.merge(graph, params)
  logits = jax.jit(lambda m, *a: m.logits(*a))(
    module, batch["ids"], batch["segment"], batch["position"]
  )
  nats = -np.take_along_axis(
    np.asarray(jax.nn.log_softmax(logits, -1)), batch["target"][..., None], -1
  )[..., 0]
  expected = nats[batch["weight"] > 0].mean()
  value, grads = of(params, batch, recipe.totals(batch))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  assert all(np.abs(g).max() > 0 for g in grads.values())
  ends = (batch["target"] == recipe.inputs.tokenizer.end) & (
    batch["weight"] > 0
  )
  without = dict(batch, weight=batch["weight"] * ~ends)
  assert abs(of(params, without, recipe.totals(without))[0] - value) > 1e-4


def shifted(batch, by):
  """The same texts, padded in front."""
  out = {}
  for name in ("ids", "segment", "position"):
    x = batch[name]
    out[name] = np.pad(x, ((0, 0), (by, 0)))
  return out


@pytest.mark.parametrize(
  "pool,layer",
  [
    ("mean", -1),
    ("last", 0),
    pytest.param("last", -1, marks=pytest.mark.slow),
    pytest.param("mean", 2, marks=pytest.mark.slow),
  ],
)
def test_vectors_do_not_depend_on_padding_or_neighbours(pool, layer):
  c, records, recipe = build(model__pool=pool, model__pool_layer=layer)
  graph, params = params_of(recipe)
  embed = jax.jit(lambda p, b: recipe.embed(state_lib.merge(graph, p), b))
  device = lambda b: {k: b[k] for k in ("ids", "segment", "position")}
  (many,) = recipe.inputs.batches_at(
    records, c.data, [records.users[2:8]], 85, 6, None
  )
  found = embed(params, device(many))["embedding"]
  behind = embed(params, shifted(many, 5))["embedding"]
  np.testing.assert_allclose(found, behind, atol=2e-6)
  (one,) = recipe.inputs.batches_at(
    records, c.data, [records.users[3:4]], 85, 1, None
  )
  alone = embed(params, device(one))["embedding"]
  np.testing.assert_allclose(found[1:2], alone, atol=2e-6)
  # By hand, as transformers counts hidden states.
  of = jax.jit(
    lambda p, b, share: state_lib.merge(graph, p)(
      b["ids"], b["segment"], b["position"], share
    )[1]
  )
  shares = jnp.eye(recipe.architecture.n_layers + 1)
  states = [of(params, device(one), share) for share in shares]
  n = int(one["segment"].sum())
  chosen = np.stack([np.asarray(s[0, :n]) for s in states])
  chosen = chosen[-2:].mean(0) if layer < 0 else chosen[layer]
  expected = chosen[-1] if pool == "last" else chosen[1:].mean(0)
  np.testing.assert_allclose(alone[0], expected, atol=2e-6)


def test_a_user_without_events_has_a_vector():
  c, records, recipe = build()
  nobody = records.users[0]
  assert not len(nobody["day"])
  graph, params = params_of(recipe)
  (b,) = recipe.inputs.batches_at(records, c.data, [[nobody]], 85, 2, None)
  b = {k: b[k] for k in ("ids", "segment", "position")}
  found = recipe.embed(state_lib.merge(graph, params), b)["embedding"]
  assert np.isfinite(found).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A finished run, its records, and what it evaluated by step."""
  workdir = tmp_path_factory.mktemp("llm4es")
  c, records, recipe = build()
  session, seen = evaluate.Session(c, workdir, records, recipe, ()), {}

  def check(step, params, last):
    seen[step] = session.evaluate(step, params, last)
    return seen[step]

  state = train.train(c, workdir, records, recipe, (), check, DEVICE)
  return workdir, c, records, recipe, jax.device_get(state), seen


def test_perplexity_before_during_and_after(trained):
  *_, seen = trained
  values = {n: v["perplexity/perplexity"] for n, v in seen.items() if v}
  assert list(values) == [0, 2, 4]
  assert 200 < values[0] < 300 and values[4] < values[2] < values[0]
  assert seen[0]["perplexity/users"] == 8.0
  assert seen[0]["perplexity/cut_events"] > 0


def test_perplexity_is_of_each_token_once(trained):
  _, c, records, recipe, state, seen = trained
  graph, _ = state_lib.structure(recipe)
  params = jax.device_put(state["params"])
  predict = jax.jit(lambda p, b: recipe.predict(state_lib.merge(graph, p), b))
  total = tokens = 0.0
  for b in recipe.inputs.eval_batches(records, c.data, "test", 3):
    found = predict(params, {k: v for k, v in b.items() if k != "key"})
    total += float(found["nats"][b["user_mask"]].sum())
    tokens += float(found["tokens"][b["user_mask"]].sum())
  assert tokens == seen[4]["perplexity/tokens"]
  np.testing.assert_allclose(
    np.exp(total / tokens), seen[4]["perplexity/perplexity"], rtol=1e-4
  )


def test_adapters_train_alone():
  c, records, recipe = build(
    model__lora_rank=2,
    model__lora_on=("q", "down"),
    optimizer__warmup_steps=0,
  )
  trainer = train.Trainer(c, recipe, DEVICE)
  batch = batch_of(recipe, c, records, 4)
  state = trainer.init([batch])
  before = jax.device_get(state["params"])
  moments = [x for x in jax.tree.leaves(trainer.abstract["opt"]) if x.ndim > 1]
  for _ in range(2):  # The first moves the second factors from zero alone.
    state, metrics = trainer.step(state, trainer.put(batch))
  after = jax.device_get(state["params"])
  changed = {k for k in before if np.any(before[k] != after[k])}
  assert changed == {k for k in before if "lora" in k} and len(changed) == 4
  # Two moments of four arrays; none of what is frozen.
  assert len(moments) == 8 and metrics["gradient_norm"] > 0
  assert "adapters of rank 2 stand at 4 matrices" in recipe.about()


@pytest.mark.parametrize(
  "words,overrides",
  [
    ("nothing would be trained", dict(model__lora_on=())),
    (
      "'head' is the output's table, which is also",
      dict(model__lora_on=("head",)),
    ),
    ("there is no 'qq'", dict(model__lora_on=("qq",))),
  ],
)
def test_adapters_without_a_place_are_refused(words, overrides):
  with pytest.raises(ValueError, match=words):
    build(model__lora_rank=4, **overrides)


@pytest.mark.parametrize(
  "words,overrides",
  [
    ("model.pool = 'max'", dict(model__pool="max")),
    ("model.pool_layers = 4 must be 1 to 3", dict(model__pool_layers=4)),
    ("model.pool_layer = 3 -1 to 2", dict(model__pool_layer=3)),
    ("model.vocabulary = 200 is less", dict(model__vocabulary=200)),
    ("heads do not divide", dict(model__n_kv_heads=3)),
    ("no such file or directory", dict(model__weights="/nowhere.gguf")),
    ("model.remat = 'some'", dict(model__remat="some")),
  ],
)
def test_settings_that_cannot_be_are_named(words, overrides):
  with pytest.raises(ValueError, match=words):
    _, _, recipe = build(**overrides)
    recipe.about()


@pytest.mark.slow
def test_frozen_parameters_need_no_optimizer_state_in_muon_either():
  c = fake_texts.config(optimizer__name="muon")
  axes = {"a/kernel": (None, None), "b/kernel": (None, None)}
  tx = optimizer.make(c.optimizer, 4, axes, {"a/kernel"})
  params = {k: jnp.ones((4, 4)) for k in axes}
  updates, _ = tx.update(params, tx.init(params), params)
  updates, _ = tx.update(params, tx.init(params), params)
  assert not updates["a/kernel"].any()


def test_one_device_equals_eight():
  """The table cut by vocabulary and width, rows over devices."""
  c, records, recipe = build(train__batch_size=8)
  batch = batch_of(recipe, c, records, 8)
  losses, steps = [], []
  start = None
  for devices, mesh in ((DEVICE, {}), (None, dict(fsdp=2, tensor=2))):
    m, _, r = build(
      train__batch_size=8,
      **{f"mesh__{k}": v for k, v in mesh.items()},
      model__vocabulary=260,
    )
    trainer = train.Trainer(m, r, devices)
    if start is None:
      start = jax.device_get(trainer.init([batch]))
    state = jax.device_put(start, trainer.shardings)
    state, metrics = trainer.step(state, trainer.put(batch))
    losses.append(float(metrics["loss"]))
    steps.append(jax.device_get(state["opt"]))
  np.testing.assert_allclose(*losses, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6), *steps
  )


def test_weights_replace_fresh_parameters_by_path():
  state = {
    "params": {"a": jnp.zeros(2), "b": jnp.ones(2)},
    "ema": {"a": jnp.zeros(2), "b": jnp.ones(2)},
    "step": jnp.zeros(()),
  }
  out = init_from.replace(state, {"a": np.full(2, 7.0)})
  for name in ("params", "ema"):
    np.testing.assert_array_equal(out[name]["a"], [7.0, 7.0])
    np.testing.assert_array_equal(out[name]["b"], [1.0, 1.0])


@pytest.fixture
def opened(trained, monkeypatch):
  """The finished run by the Python interface."""
  workdir, c, records, *_ = trained
  monkeypatch.setattr(records_lib.Records, "open", lambda path: records)
  (workdir / "config.json").write_text(c.to_json_best_effort())
  run = lumos_jax.load(str(workdir))
  run._opened[""] = records
  return run, records, workdir


def test_vectors_leave_by_python_and_by_export(opened, tmp_path):
  run, records, workdir = opened
  assert run.predictor.kinds() == ("embeddings",)
  found = run.embed(as_of=85)
  assert found.columns == ["key", "as_of", "embedding"]
  assert found["key"].n_unique() == len(found) == len(records.users)
  few = run.embed(as_of=85, users=["user7", "user3"])
  same = found.filter(pl.col("key").is_in(["user3", "user7"]))
  np.testing.assert_allclose(
    few.sort("key")["embedding"].to_numpy(),
    same.sort("key")["embedding"].to_numpy(),
    atol=1e-5,
  )
  export.export(str(workdir), tmp_path / "out", as_of=85)
  (part,) = (tmp_path / "out" / "embeddings").glob("*.parquet")
  assert pl.read_parquet(part).equals(found)
  with pytest.raises(predictor.PredictError, match="leave out per_event"):
    run.embed(per_event=True)


def test_probe_asks_the_vectors_of_export(trained, opened):
  """Evaluators and the interface see the same vectors."""
  pytest.importorskip("sklearn")
  workdir, c, records, recipe, state, _ = trained
  with c.unlocked():
    c.evals.vip = dict(type="probe", label="vip", folds=2, models=("logistic",))
  session = evaluate.Session(c, workdir, records, recipe, (), ["vip"])
  asked = session.predictor
  batches = asked.inputs.embed_batches(records, c.data, "test", 8)
  keys, vectors = probe._of_users(
    asked.embedder(asked.embedder.place(state["params"]), batches)
  )
  found = opened[0].embed(as_of=85).sort("key")
  own = predict.hash_keys(found["key"])
  at = np.argsort(own)
  np.testing.assert_array_equal(keys, own[at])
  np.testing.assert_allclose(
    vectors, found["embedding"].to_numpy()[at], atol=1e-5
  )
  values = session.evaluate(4, state["params"], True)
  assert 0.0 <= values["vip/embedding/logistic/auc"] <= 1.0
  assert values["vip/users"] == len(records.users)


@pytest.mark.parametrize("rank", (0, 2))
def test_evaluation_holds_matrices_as_they_are_read(rank):
  """In bfloat16, with the numbers of float32 weights to the bit."""
  c, records, recipe = build(model__dtype="bfloat16", model__lora_rank=rank)
  graph, params = params_of(recipe)
  batch = next(recipe.inputs.eval_batches(records, c.data, "test", 4))
  narrow = predict.Predictor(
    lambda params, batch: {}, 4, DEVICE, recipe.held_dtype
  )
  held = narrow.place(params)
  kinds = {(k.endswith("scale"), str(x.dtype)) for k, x in held.items()}
  assert kinds == {(True, "float32"), (False, "bfloat16")}
  for fn in (recipe.predict, recipe.embed):
    run = jax.jit(lambda p, fn=fn: fn(state_lib.merge(graph, p), batch))
    wide, found = run(params), run(held)
    for name, x in wide.items():
      np.testing.assert_array_equal(x, found[name])


def test_written_texts_are_trained_on_in_place_of_told_ones(tmp_path):
  """Of users that have one; held-out users stay out."""
  c, records, recipe = build(data__written=str(tmp_path))
  users = [r["key"] for r in records.users if len(r["day"]) > 2][:-1]
  told = [f"{k} and more {'x' * (i * 40)}" for i, k in enumerate(users)]
  frame = pl.DataFrame(
    {"key": users, "form": "plain", "text": told, "source": "endpoint"}
  )
  frame.write_parquet(tmp_path / "part.parquet")
  checksum = lambda: hashlib.sha256(
    (tmp_path / "part.parquet").read_bytes()
  ).hexdigest()
  options = dataclasses.asdict(recipe.inputs.mixer.teller.options)
  about = {
    "split": "train",
    "schema_hash": records.schema.hash,
    "until_day": 70,
    "text": options,
    "files": {"part.parquet": checksum()},
  }
  (tmp_path / "manifest.json").write_text(json.dumps(about))
  batch = batch_of(recipe, c, records, 8)
  decode, room = recipe.inputs.tokenizer.decode, c.data.sequence_length - 1
  known = {t[-room:] for t in told}
  found = 0
  for row in range(8):
    for s in range(1, batch["segment"][row].max() + 1):
      text = decode(batch["ids"][row, batch["segment"][row] == s])
      found += text in known
      assert text in known or not text.startswith("user")
  assert found > 1
  # In use a user is told by the base text.
  assert decode(recipe.inputs.ids(records.users[4])) not in known
  (tmp_path / "manifest.json").write_text(json.dumps(about | {"until_day": 99}))
  with pytest.raises(records_lib.DataError, match="its until_day is 99"):
    batch_of(build(data__written=str(tmp_path))[2], c, records, 8)
  # Told by other settings than training has.
  other = about | {"text": options | {"decimals": 7}}
  (tmp_path / "manifest.json").write_text(json.dumps(other))
  with pytest.raises(records_lib.DataError, match="decimals: 7, not 2"):
    batch_of(build(data__written=str(tmp_path))[2], c, records, 8)
  # A resume does not go on with other texts, nor with those of damaged files.
  (tmp_path / "manifest.json").write_text(json.dumps(about))
  meta = {"inputs": identity.inputs_of(recipe, training=True)}
  identity.check_inputs(meta, recipe, True)
  frame.with_columns(text=pl.lit("other")).write_parquet(
    tmp_path / "part.parquet"
  )
  with pytest.raises(
    records_lib.DataError, match="part.parquet is absent or d"
  ):
    batch_of(build(data__written=str(tmp_path))[2], c, records, 8)
  about["files"] = {"part.parquet": checksum()}
  (tmp_path / "manifest.json").write_text(json.dumps(about))
  with pytest.raises(checkpoint.CheckpointError, match="data.written holds"):
    identity.check_inputs(meta, recipe, True)
  # In use they are not read, and need not be there.
  (tmp_path / "manifest.json").unlink()
  identity.check_inputs(meta, recipe, False)


def test_another_tokenizer_is_refused_in_use_too():
  recipe = build()[2]
  meta = {"inputs": identity.inputs_of(recipe, training=False)}
  identity.check_inputs(meta, recipe, False)
  recipe.inputs.tokenizer = types.SimpleNamespace(digest="0" * 16)
  with pytest.raises(
    checkpoint.CheckpointError, match="the tokenizer of model"
  ):
    identity.check_inputs(meta, recipe, False)


def test_all_users_of_a_split_learn_where_others_are_asked():
  _, records, recipe = build(
    data__validation_split="validation", data__test_split="test"
  )
  told = [r for r in records.users if recipe.inputs.held_out(r)]
  assert told and all(
    recipe.inputs._trains(r) for r in told if r["day"][0] < 70
  )
  recipe = build()[2]
  assert not any(recipe.inputs._trains(r) for r in told)


def test_what_use_counts_is_not_what_training_counts():
  c, records, recipe = build(data__sequence_length=40)
  before = dict(recipe.inputs.counts)
  batch_of(recipe, c, records, 8)
  assert dict(recipe.inputs.counts) == before


def test_the_report_has_perplexity_by_step(tmp_path):
  config_doc = json.loads(fake_texts.config().to_json_best_effort())
  run = load.Run(
    tmp_path,
    config=config_doc,
    metrics=[
      {"step": 0, "perplexity/perplexity": 250.25},
      {"step": 4, "perplexity/perplexity": 99.5},
    ],
    evals={"perplexity": {"perplexity": 99.5, "users": 8.0, "tokens": 553.0}},
  )
  text = report.write(run).read_text()
  assert "250.25" in text and "99.5" in text and "553" in text
  assert "Model against baselines" not in text


def test_a_run_begins_at_another_runs_parameters(trained):
  workdir, _, records, recipe, state, _ = trained
  c = fake_texts.config(init_from=str(workdir), optimizer__learning_rate=1e-4)
  fresh = train.Trainer(c, recipe, DEVICE).init(
    [batch_of(recipe, c, records, 4)]
  )
  found = init_from.start(c, fresh, records)
  for name, x in state["params"].items():
    np.testing.assert_array_equal(found["params"][name], x)
