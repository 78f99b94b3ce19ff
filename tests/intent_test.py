"""Sessions as vectors: what is hidden stays hidden, and the way to a table."""

import fake_sessions
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lumos_jax import config as config_lib
from lumos_jax import evaluate, recipes, session_table, train
from lumos_jax import state as state_lib
from lumos_jax.data import sessions
from lumos_jax.models import session as model_lib


def made(path="sessions", **overrides):
  """Recipe, module and a training batch."""
  c, records = fake_sessions.config(**overrides), fake_sessions.Records(path)
  recipe = recipes.build(c, records, ())
  batch = next(sessions.train_iterator(records, c.data, (), 8, 0))
  return recipe, recipe.init(nnx.Rngs(params=0)), batch


def own_rows(records, recipe, keys):
  """A batch of whole sessions, one a row."""
  users = {r["key"]: r for s in records.splits for r in records.source(s)}
  found = [users[k] for k in keys]
  cfg = recipe.data_cfg
  return next(sessions.batches_of(records.schema, cfg, [found], len(found)))


def test_nothing_of_a_hidden_page_is_read():
  recipe, module, batch = made()
  hidden = np.zeros(batch["segment"].shape, bool)
  hidden[:, 2] = True
  states = module(batch, None, jnp.asarray(hidden))
  other = dict(batch, ids=batch["ids"].copy())
  page = other["ids"][:, 2, :2]  # The page and the part of its address.
  other["ids"][:, 2, :2] = np.where(page > 0, 2 + (page + 1) % 3, page)
  np.testing.assert_array_equal(
    states, module(other, None, jnp.asarray(hidden))
  )
  # Seen, they matter; so does what does not follow from the page.
  assert np.abs(module(other) - module(batch)).max() > 1e-3
  event = dict(batch, ids=batch["ids"].copy())
  event["ids"][:, 2, 2] = 5 - event["ids"][:, 2, 2]
  changed = module(event, None, jnp.asarray(hidden))
  assert np.abs(changed - states).max() > 1e-4
  assert recipe.sequence_length == 8


def test_the_causal_form_sees_nothing_ahead():
  recipe, module, batch = made(model__masked=False)
  other = dict(batch, ids=batch["ids"].copy(), numeric=batch["numeric"].copy())
  other["ids"][:, 5:], other["numeric"][:, 5:] = 3, 7.0
  a, b = module(batch), module(other)
  np.testing.assert_array_equal(a[:, :5], b[:, :5])
  assert np.abs(a[:, 5:] - b[:, 5:]).max() > 1e-3
  target = recipe._target(batch)
  segment = batch["segment"]
  inside = (segment[:, :-1] == segment[:, 1:]) & (segment[:, 1:] > 0)
  expected = np.where(inside, batch["target"][:, 1:], 0)
  np.testing.assert_array_equal(target[:, :-1], expected)
  assert not target[:, -1].any()


@pytest.mark.parametrize("attention", ["softmax", "pointwise"])
@pytest.mark.parametrize("pool", model_lib.POOLS)
def test_packed_sessions_and_padding_give_the_same_vectors(pool, attention):
  recipe, module, batch = made(model__pool=pool, model__attention=attention)
  records = fake_sessions.Records()
  keys = ["s0", "s4", "s9"]
  alone = recipe.embed(module, own_rows(records, recipe, keys))["embedding"]
  # The same three in one row, and padding behind them.
  users = {r["key"]: r for r in records.source("train")}
  rows = [sessions.window(users[k], 0, 0, len(users[k]["day"])) for k in keys]
  length = sum(len(r["target"]) for r in rows)
  joined = {k: np.concatenate([r[k] for r in rows])[None] for k in rows[0]}
  joined["segment"] = np.repeat([1, 2, 3], [len(r["target"]) for r in rows])[
    None
  ]
  joined["position"] = np.concatenate(
    [np.arange(len(r["target"])) for r in rows]
  )[None]
  pad = lambda x: np.pad(
    x, ((0, 0), (0, 16 - length)) + ((0, 0),) * (x.ndim - 2)
  )
  joined = {k: pad(v) for k, v in joined.items()}
  more = own_rows(records, recipe, [*keys, "s5"])
  np.testing.assert_allclose(
    recipe.embed(module, more)["embedding"][:3], alone, rtol=1e-4, atol=1e-5
  )
  if attention == "pointwise":  # Its biases are of a row's places.
    return
  states = module(joined)
  found = model_lib.pooled(
    states, joined["segment"], 3, pool, joined["segment"] > 0
  )
  np.testing.assert_allclose(found[0], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["softmax", "pointwise"])
def test_short_rows_give_the_same_vectors(attention):
  recipe, module, _ = made(model__attention=attention)
  source = fake_sessions.Records().source("train")
  found = list(sessions.groups(sessions.blocks(source, 8), 8))
  clicks = [[len(r["day"]) for r in some] for some in found]
  assert sum(map(len, clicks)) == len(source) and sum(clicks, []) == sorted(
    sum(clicks, [])
  )
  batches = [
    list(sessions.batches_of(recipe.schema, recipe.data_cfg, found, 8, short))
    for short in (False, True)
  ]
  assert {b["ids"].shape[1] for b in batches[0]} == {8}
  assert {b["ids"].shape[1] for b in batches[1]} == {2, 4, 8}
  for full, short in list(zip(*batches, strict=True))[:3]:
    np.testing.assert_array_equal(full["key"], short["key"])
    a, b = (recipe.embed(module, x)["embedding"] for x in (full, short))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  cut = list(sessions.groups(sessions.blocks(source, 8), 8, first=4))
  assert {len(r["day"]) for some in cut for r in some} == {4}


def test_inputs_can_be_left_out():
  for name in ("page", "part1", "event", "dwell_seconds"):
    _, full, batch = made()
    _, module, _ = made(model__without=(name,))
    count = lambda m: sum(x.size for x in jax.tree.leaves(nnx.state(m)))
    assert count(module) < count(full)
    assert np.isfinite(module(batch)).all()
  with pytest.raises(ValueError, match="no input 'evnt'"):
    made(model__without=("evnt",))
  with pytest.raises(ValueError, match="looks both ways"):
    made(model__sprm="paper")
  with pytest.raises(ValueError, match="no field 'host'"):
    made(data__page_fields=("host",))


def test_texts_are_the_data_sets_and_stay(tmp_path):
  kw = dict(model__text_width=fake_sessions.WIDTH)
  recipe, _, _ = made(str(tmp_path), **kw)
  with pytest.raises(ValueError, match="has none: prepare the data"):
    recipe.starting_weights()
  fake_sessions.pages(tmp_path)
  c, records = fake_sessions.config(**kw), fake_sessions.Records(str(tmp_path))
  recipe = recipes.build(c, records, ())
  first = recipe.starting_weights()["texts"]
  state = train.train(c, tmp_path / "run", records, recipe, ())
  assert np.asarray(first).any()
  np.testing.assert_array_equal(state["params"]["texts"], first)
  graph, _ = state_lib.structure(recipe)
  module = state_lib.merge(graph, state["params"])
  batch = own_rows(records, recipe, ["s0", "s1"])
  before = recipe.embed(module, batch)["embedding"]
  moved = state_lib.merge(
    graph, dict(state["params"], texts=-state["params"]["texts"])
  )
  assert np.abs(recipe.embed(moved, batch)["embedding"] - before).max() > 1e-3


def test_training_finds_topics_and_outcomes(tmp_path):
  """The vector of a session says its topic; outcomes follow from it."""
  c = fake_sessions.config(
    train__steps=60,
    objective__contrastive_weight=0.2,
    optimizer__learning_rate=1e-2,
  )
  with c.unlocked():
    c.evals = dict(
      next_page=dict(type="next_page"),
      conversion=dict(
        type="conversion", label="bought", clicks=2, models=("logistic",)
      ),
      ranking=dict(type="tiles", label="topic"),
    )
  config_lib.check(c)
  records = fake_sessions.Records(str(tmp_path))
  recipe = recipes.build(c, records, ())
  session = evaluate.Session(c, tmp_path, records, recipe, ())
  train.train(c, tmp_path, records, recipe, (), session.evaluate)
  found = evaluate.read(tmp_path)
  assert found["conversion"]["embedding/logistic/auc"] > 0.95
  assert found["conversion"]["sessions"] < found["next_page"]["sessions"]
  assert {"counts/logistic/micro_f1", "both/logistic/log_loss"} <= set(
    found["conversion"]
  )
  ranking = found["ranking"]
  assert ranking["tiles"] == 4 and ranking["embedding/logistic/ndcg"] > 0.9
  assert ranking["embedding/logistic/macro_recall@1"] > 0.8
  low = ranking["both_vs_counts/logistic/log_loss/low"]
  assert low <= ranking["both_vs_counts/logistic/log_loss/high"]
  # Of 24 pages 8 are the topic's: chance is 10 / 24.
  assert found["next_page"]["hit_rate@10"] > 0.6


def test_a_table_has_titles_outcomes_and_vectors(tmp_path, monkeypatch):
  records = fake_sessions.Records(str(tmp_path))
  fake_sessions.pages(tmp_path)
  monkeypatch.setattr(
    session_table.records_lib.Records, "open", lambda path: records
  )
  with pytest.raises(ValueError, match="give --workdir, or --data_dir"):
    session_table.write(tmp_path / "none")
  out = tmp_path / "table"
  session_table.write(out, data_dir=tmp_path)
  frame = session_table.read(out)
  assert len(frame) == 90 and "embedding" not in frame.columns
  row = frame.row(frame["key"].to_list().index("s1"), named=True)
  assert row["clicks"] == 2 and row["categories"] == ["topic 1"] * 2
  assert row["titles"] == [f"Page {p[1:]}" for p in row["pages"]]
  assert row["bought"] == 0.0
  with pytest.raises(ValueError, match="holds another table"):
    session_table.write(out, data_dir=tmp_path, first=2)
  session_table.write(tmp_path / "two", data_dir=tmp_path, first=2)
  cut = session_table.read(tmp_path / "two")
  assert set(cut["clicks"]) == {2} and "s0" not in cut["key"].to_list()
