"""Lists of the next event: top k, floors' ties, coverage, parts, examples."""

import json

import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumos_jax import evaluate, recipes, report, train
from lumos_jax.data import sequences
from lumos_jax.data.fields import ANY, Categorical, Composite
from lumos_jax.evaluators import baseline_next_event, lists, next_event
from lumos_jax.objectives import top
from lumos_jax.objectives.next_event import Mixed

V, D, B, K = 37, 8, 11, 5


def values(seed=0):
  rng = np.random.default_rng(seed)
  states = rng.standard_normal((B, D)).astype(np.float32)
  table = rng.standard_normal((V, D)).astype(np.float32)
  seen = np.zeros((B, 6), np.int32)
  for i in range(B):
    some = rng.choice(np.arange(2, V), i % 7, replace=False)
    seen[i, : len(some)] = some
  return rng, states, table, seen


def first(p):
  """Ids and probabilities of the K highest, equal ones by ascending id."""
  ids = np.argsort(-p, axis=1, kind="stable")[:, :K]
  return ids, np.take_along_axis(p, ids, 1)


@pytest.mark.parametrize("block", (8, 37, 4096))
def test_most_likely_values_of_a_softmax(block):
  _, states, table, seen = values()
  table[20] = table[4]  # Equal scores.
  logits = states @ table.T
  logits[:, :2] = -np.inf
  for i in range(B):
    logits[i, seen[i][seen[i] > 0]] = -np.inf
  ids, p = top.most_likely(states, table, seen, K, block)
  expected, share = first(np.asarray(jax.nn.softmax(logits, -1)))
  np.testing.assert_array_equal(ids, expected)
  np.testing.assert_allclose(p, share, rtol=1e-5)


@pytest.mark.parametrize("block", (8, 37))
def test_most_likely_values_of_a_mixture(block):
  rng, states, table, seen = values(1)
  gate = rng.random(B).astype(np.float32) * (seen[:, 0] > 0)
  share = np.zeros((B, V), np.float32)
  for i in range(B):
    some = seen[i][seen[i] > 0]
    share[i, some] = rng.dirichlet(np.ones(len(some))) if len(some) else 0
  log = lambda x: np.where(x > 0, np.log(np.maximum(x, 1e-30)), -1e9)
  give = log(gate[:, None] * np.take_along_axis(share, seen, 1))
  mixed = Mixed(*map(jnp.asarray, (log(1 - gate), give, give[:, 0])))
  ids, p = top.most_likely(states, table, seen, K, block, mixed)
  logits = np.where(np.arange(V)[None] < 2, -np.inf, states @ table.T)
  whole = (1 - gate[:, None]) * jax.nn.softmax(logits, -1)
  expected, found = first(np.asarray(whole + gate[:, None] * share))
  np.testing.assert_array_equal(ids, expected)
  np.testing.assert_allclose(p, found, rtol=1e-4)


def test_lists_end_where_no_value_competes():
  seen = np.asarray([[2, 3, 4]], np.int32)
  states, table = np.ones((1, 2), np.float32), np.ones((6, 2), np.float32)
  ids, p = top.most_likely(states, table, seen, 3)
  assert ids.tolist() == [[5, 0, 0]] and p.tolist() == [[1.0, 0.0, 0.0]]


def floors(filter_seen, tmp_path="unused", ks=(1, 5, 10)):
  config = fake_events.config(data__filter_seen=filter_seen)
  records = fake_events.Records()
  evaluator = baseline_next_event.BaselineNextEvent(
    None, records, (), config.data, "floors", tmp_path, ks=ks
  )
  return config, records, evaluator


@pytest.mark.parametrize("filter_seen", (False, True))
def test_floors_rank_as_the_plain_count_with_ties_against(filter_seen):
  """Every floor of every user against scores of all values."""
  config, records, evaluator = floors(filter_seen)
  found = evaluator.rank()
  cut = sequences.Sequences(records.schema, config.data)
  popular, follows = np.zeros(32), np.zeros((32, 32))
  for r in records.users:
    own = r["categorical"][: cut.training_events(r), 0]
    np.add.at(popular, own, 1)
    np.add.at(follows, (own[:-1], own[1:]), 1)
  popular /= 1e3
  assert len(set(popular[2:])) < 30  # There are ties.
  names = {r["key"]: r for r in records.users}
  keys = next_event.predict.hash_keys(names)
  by_hash = dict(zip(keys.tolist(), names.values()))
  assert len(found) == 3 + (not filter_seen)
  for at, key in enumerate(evaluator.predictions.key.tolist()):
    r = by_hash[key]
    own, target = r["categorical"][:-1, 0], r["categorical"][-1, 0]
    latest = np.zeros(32)
    for place, value in enumerate(own):
      latest[value] = place + 1
    scores = {
      "popularity": popular,
      "markov": popular + follows[own[-1]],
      "recency": popular + latest,
      "frequency": popular + np.bincount(own, minlength=32),
    }
    for name, ranking in found.items():
      score = scores[name]
      free = [i for i in range(2, 32) if not filter_seen or i not in own]
      free = sorted({*free, int(target)})
      rank = sum(score[i] >= score[target] for i in free)
      assert ranking.rank[at] == rank, name
      shown = [i for i in free if not filter_seen or i not in own]
      shown = sorted(shown, key=lambda i: (-score[i], i))[:10]
      assert ranking.top[at][: len(shown)].tolist() == shown


def test_a_floor_that_says_nothing_ranks_last():
  _, records, evaluator = floors(False)
  evaluator._count()
  evaluator._popular[:] = 0.0
  evaluator._sorted = np.sort(evaluator._popular[2:])
  none = baseline_next_event._Scores(np.zeros(0, int), np.zeros(0))
  assert evaluator._rank(none, 2, np.zeros(0, int)) == 30
  assert evaluator._rank(none, 31, np.zeros(0, int)) == 30
  assert evaluator._rank(none, 1, np.zeros(0, int)) == 33


def test_coverage_and_novelty_by_hand():
  shown = np.asarray([[2, 3], [2, 4], [2, 0]])
  counts = np.asarray([0, 0, 5, 1, 0, 0])  # Four values; 6 events.
  found = dict(lists.of_lists(shown, counts, (1, 2)))
  assert found["coverage@1"] == 1 / 4 and found["coverage@2"] == 3 / 4
  bits = [-np.log2((n + 1) / 10) for n in (5, 1, 0)]
  np.testing.assert_allclose(found["novelty@1"], bits[0])
  expected = (3 * bits[0] + bits[1] + bits[2]) / 5
  np.testing.assert_allclose(found["novelty@2"], expected)


def test_parts_of_a_token():
  of = ("shop", "hour")
  field = Composite("token", of, values=((2, 5), (3, 5), (2, ANY)))
  target = np.asarray([2, 3, 4, 1])  # The last one is unknown.
  right = np.asarray([3, 3, 2, 2])
  found = dict(lists.of_parts(field, target, right))
  assert found == {
    "part_accuracy/shop": 2 / 3,
    "part_accuracy/hour": 1.0,
  }
  assert Categorical("item", values=("a",)).size == 3


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
  """(workdir, eval.json, records) of an untrained model, with its report."""
  workdir = tmp_path_factory.mktemp("next_event")
  config = fake_events.config(data__filter_seen=False)
  records = fake_events.Records()
  with config.unlocked():
    config.evals = dict(
      next_event=dict(type="next_event", ks=(1, 5, 20)),
      floors=dict(type="baseline_next_event", ks=(1, 5, 20)),
    )
  recipe = recipes.build(config, records, ())
  session = evaluate.Session(config, workdir, records, recipe, ())
  batch = next(sequences.train_iterator(records, config.data, (), 4, 0))
  trainer = train.Trainer(config, recipe, jax.devices()[:1])
  session.evaluate(1, trainer.init([batch])["params"], True)
  (workdir / "config.json").write_text(config.to_json_best_effort())
  found = json.loads((workdir / "eval.json").read_text())
  return workdir, found, records, session.evaluators["next_event"]


def test_cutoffs_and_calibration_are_measured(ran):
  workdir, found, _, evaluator = ran
  model = found["next_event"]
  with np.load(workdir / "predictions/next_event.npz") as z:
    rank, shown, p, goal = (
      z[k] for k in ("rank", "top", "probability", "next")
    )
  assert shown.shape == p.shape == (len(rank), 20)
  assert model["hit_rate@20"] == np.mean(rank <= 20)
  assert "hit_rate@10" not in model and "ndcg@1" not in model
  np.testing.assert_array_equal(rank == 1, shown[:, 0] == goal)
  assert model["top_1/accuracy"] == np.mean(rank == 1)
  np.testing.assert_allclose(model["top_1/mean_probability"], p[:, 0].mean())
  assert 0 <= model["top_1/calibration_error"] <= 1
  assert np.all(np.diff(p) <= 1e-7) and np.all(p.sum(1) <= 1 + 1e-5)
  # In the list of 20 where the rank says so.
  np.testing.assert_array_equal(rank <= 20, (shown == goal[:, None]).any(1))
  assert evaluator.top == 20


def test_floors_are_compared_on_the_same_users(ran):
  _, found, *_ = ran
  pair = found["next_event_vs_floors"]
  for floor in ("popularity", "markov", "recency", "frequency"):
    for metric in ("hit_rate@1", "hit_rate@20", "ndcg@20", "mrr"):
      expected = (
        found["next_event"][metric] - found["floors"][f"{floor}/{metric}"]
      )
      name = f"{floor}/{metric}"
      np.testing.assert_allclose(
        pair[f"{name}/difference"], expected, atol=1e-9
      )
      assert pair[f"{name}/low"] <= expected <= pair[f"{name}/high"]


def test_examples_are_readable_and_hold_no_user_id(ran):
  workdir, _, records, evaluator = ran
  text = (workdir / "predictions/next_event.json").read_text()
  assert '"user' in text and "user1" not in text
  doc = json.loads(text)
  assert len(doc["examples"]) == 10
  by_hash = {
    next_event.predict.hash_keys([r["key"]])[0].decode(): r
    for r in records.users
  }
  p = evaluator.predictions
  for e in doc["examples"]:
    r = by_hash[e["user"]]
    assert e["history"] == len(r["time"]) - 1
    ids = r["categorical"][:, 0]
    said = [records.schema.token("item", int(i)) for i in ids]
    assert [x["values"] for x in e["events"]] == said[:-1][-8:]
    assert e["next"]["values"] == said[-1]
    assert e["next"]["day"] == r["day"][-1]
    at = p.key.tolist().index(e["user"].encode())
    assert e["rank"] == p.p["rank"][at]
    top_1 = records.schema.token("item", int(p.p["value"][at, 0]))
    assert e["predicted"][0]["values"] == top_1


def test_report_shows_floors_intervals_and_examples(ran):
  workdir, found, *_ = ran
  text = report.build(workdir).read_text().split("<script>")[0]
  for floor in ("popularity", "markov", "recency", "frequency"):
    assert f">against {floor}<" in text
    value = found["floors"][f"{floor}/hit_rate@20"]
    assert f">{value:.4f}<" in text
  pair = found["next_event_vs_floors"]
  low = pair["frequency/mrr/low"]
  assert f"[{low:+.4f}".replace("-", "\N{MINUS SIGN}") in text
  assert "HitRate@20 against length of history" in text
  assert "Probability of the first value" in text
  assert text.count("next one at rank") == 10
  assert "coverage@20" in text and "user1" not in text
  assert "Error:" not in text


@pytest.mark.parametrize("ks", [(), (0, 1), (1, 1), (1.5,)])
def test_cutoffs_without_meaning_are_refused(ks):
  with pytest.raises(ValueError, match="config.evals.floors.ks"):
    floors(False, ks=ks)
