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
from lumos_jax.evaluators import predict
from lumos_jax.models import session as model_lib


def made(path="sessions", **overrides):
  """Recipe, module and a training batch."""
  c, records = fake_sessions.config(**overrides), fake_sessions.Records(path)
  recipe = recipes.build(c, records, ())
  batch = next(sessions.train_iterator(records, c.data, (), 8, 0))
  return recipe, recipe.init(nnx.Rngs(params=0)), batch


def embed(recipe, module, batch):
  """Vectors of a batch; compiled whole, which takes less time than its parts."""
  run = nnx.jit(lambda m, x: recipe.embed(m, x)["embedding"])
  return run(module, {k: x for k, x in batch.items() if k not in predict.HOST})


def states(module, batch, hidden=None):
  """States of a batch, compiled whole."""
  run = nnx.jit(lambda m, x, h: m(x, None, h))
  batch = {k: x for k, x in batch.items() if k not in predict.HOST}
  return np.asarray(run(module, batch, hidden))


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
  before = states(module, batch, jnp.asarray(hidden))
  other = dict(batch, ids=batch["ids"].copy())
  page = other["ids"][:, 2, :2]  # The page and the part of its address.
  other["ids"][:, 2, :2] = np.where(page > 0, 2 + (page + 1) % 3, page)
  np.testing.assert_array_equal(
    before, states(module, other, jnp.asarray(hidden))
  )
  # Seen, they matter; so does what does not follow from the page.
  assert np.abs(states(module, other) - states(module, batch)).max() > 1e-3
  event = dict(batch, ids=batch["ids"].copy())
  event["ids"][:, 2, 2] = 5 - event["ids"][:, 2, 2]
  changed = states(module, event, jnp.asarray(hidden))
  assert np.abs(changed - before).max() > 1e-4
  assert recipe.sequence_length == 8


def test_the_causal_form_sees_nothing_ahead():
  recipe, module, batch = made(model__masked=False)
  other = dict(batch, ids=batch["ids"].copy(), numeric=batch["numeric"].copy())
  other["ids"][:, 5:], other["numeric"][:, 5:] = 3, 7.0
  a, b = states(module, batch), states(module, other)
  np.testing.assert_array_equal(a[:, :5], b[:, :5])
  assert np.abs(a[:, 5:] - b[:, 5:]).max() > 1e-3
  target = recipe._target(batch)
  segment = batch["segment"]
  inside = (segment[:, :-1] == segment[:, 1:]) & (segment[:, 1:] > 0)
  expected = np.where(inside, batch["target"][:, 1:], 0)
  np.testing.assert_array_equal(target[:, :-1], expected)
  assert not target[:, -1].any()


@pytest.mark.parametrize(
  "pool, attention",
  [*((p, "softmax") for p in model_lib.POOLS), ("mean", "pointwise")],
)
def test_packed_sessions_and_padding_give_the_same_vectors(pool, attention):
  recipe, module, batch = made(model__pool=pool, model__attention=attention)
  records = fake_sessions.Records()
  keys = ["s0", "s4", "s9"]
  alone = embed(recipe, module, own_rows(records, recipe, keys))
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
    embed(recipe, module, more)[:3], alone, rtol=1e-4, atol=1e-5
  )
  if attention == "pointwise":  # Its biases are of a row's places.
    return
  found = model_lib.pooled(
    states(module, joined), joined["segment"], 3, pool, joined["segment"] > 0
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
    a, b = (embed(recipe, module, x) for x in (full, short))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  cut = list(sessions.groups(sessions.blocks(source, 8), 8, first=4))
  assert {len(r["day"]) for some in cut for r in some} == {4}


def test_inputs_can_be_left_out():
  for name in ("page", "part1", "event", "dwell_seconds"):
    _, full, batch = made()
    _, module, _ = made(model__without=(name,))
    count = lambda m: sum(x.size for x in jax.tree.leaves(nnx.state(m)))
    assert count(module) < count(full)
    assert np.isfinite(states(module, batch)).all()
  with pytest.raises(ValueError, match="no input 'evnt'"):
    made(model__without=("evnt",))
  with pytest.raises(ValueError, match="looks both ways"):
    made(model__sprm="paper")
  with pytest.raises(ValueError, match="no field 'host'"):
    made(data__page_fields=("host",))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A trained run with texts: its recipe, state and evaluations."""
  folder = tmp_path_factory.mktemp("run")
  c = fake_sessions.config(
    train__steps=60,
    objective__contrastive_weight=0.2,
    optimizer__learning_rate=1e-2,
    model__text_width=fake_sessions.WIDTH,
  )
  with c.unlocked():
    c.evals = dict(
      next_page=dict(type="next_page"),
      conversion=dict(
        type="conversion", label="bought", clicks=2, models=("logistic",)
      ),
      ranking=dict(type="tiles", label="topic"),
      again=dict(type="tiles", label="topic"),
    )
  config_lib.check(c)
  fake_sessions.pages(folder)
  records = fake_sessions.Records(str(folder))
  recipe = recipes.build(c, records, ())
  session = evaluate.Session(c, folder, records, recipe, ())
  state = train.train(c, folder, records, recipe, (), session.evaluate)
  return recipe, records, state, session, evaluate.read(folder)


def test_texts_are_the_data_sets_and_stay(run, tmp_path):
  wrong, *_ = made(str(tmp_path), model__text_width=fake_sessions.WIDTH)
  with pytest.raises(ValueError, match="has none: prepare the data"):
    wrong.starting_weights()
  recipe, records, state, *_ = run
  first = recipe.starting_weights()["texts"]
  assert np.asarray(first).any()
  np.testing.assert_array_equal(state["params"]["texts"], first)
  graph, _ = state_lib.structure(recipe)
  batch = own_rows(records, recipe, ["s0", "s1"])
  of = lambda params: embed(recipe, state_lib.merge(graph, params), batch)
  moved = dict(state["params"], texts=-state["params"]["texts"])
  assert np.abs(of(moved) - of(state["params"])).max() > 1e-3


def test_training_finds_topics_and_outcomes(run):
  """The vector of a session says its topic; outcomes follow from it."""
  found = run[-1]
  assert found["conversion"]["embedding/logistic/auc"] > 0.95
  assert found["conversion"]["sessions"] < found["next_page"]["sessions"]
  assert {
    "counts/logistic/micro_f1", "both/logistic/log_loss", "text/logistic/auc"
  } <= set(found["conversion"])  # fmt: skip
  ranking = found["ranking"]
  assert ranking["tiles"] == 4 and ranking["embedding/logistic/ndcg"] > 0.9
  assert ranking["embedding/logistic/macro_recall@1"] > 0.8
  low = ranking["both_vs_counts/logistic/log_loss/low"]
  assert low <= ranking["both_vs_counts/logistic/log_loss/high"]
  # Of 24 pages 8 are the topic's: chance is 10 / 24.
  assert found["next_page"]["hit_rate@10"] > 0.6
  assert found["next_page"]["mrr@20"] <= found["next_page"]["mrr"]


def test_sessions_are_read_once_for_all_that_ask_of_the_same_clicks(run):
  _, records, _, session, found = run
  assert found["again"] == found["ranking"]
  held = {k: getattr(v, "_held", None) for k, v in session.evaluators.items()}
  # From two clicks of sessions with more, others are read.
  assert set(held["conversion"][1]) == {"train", "test"}
  first, second = sorted((held["again"], held["ranking"]), key=bool)
  assert first is None and set(second[1]) == {"train", "test"}
  read = second[1]["test"]
  users = {predict.hash_keys([r["key"]])[0]: r for r in records.source("test")}
  for i, key in enumerate(read.key.tolist()):
    record = users[key]
    pages = np.bincount(record["categorical"][:, 0], minlength=26)
    np.testing.assert_array_equal(read.pages[i].toarray()[0], pages)
    dwell = np.nansum(record["numeric"])
    assert read.numbers[i] == pytest.approx([dwell, len(record["day"])])
    np.testing.assert_array_equal(read.outcome[i], record["label_value"])


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
