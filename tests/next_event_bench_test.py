"""Matched tables of next events: what is compared with what, over whom."""

import json
import pathlib
import runpy
import types

import fake_events
import numpy as np
import pytest

from lumos_jax import config as config_lib
from lumos_jax.data import sequences
from lumos_jax.evaluators import probe

SCRIPTS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(name="next_event")
def script(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  found = runpy.run_path(str(SCRIPTS / "next_event.py"))
  return types.SimpleNamespace(**found)


def test_a_grid_is_every_combination_in_order(next_event):
  found = next_event.expand(["panther:ids"], "width=64,96 sprm=none,tvrec")
  assert found == [
    "panther:ids:width=64:sprm=none",
    "panther:ids:width=64:sprm=tvrec",
    "panther:ids:width=96:sprm=none",
    "panther:ids:width=96:sprm=tvrec",
  ]
  assert next_event.expand(["sasrec", "hstu"], "") == ["sasrec", "hstu"]
  with pytest.raises(ValueError, match="'width' is not of the form"):
    next_event.expand(["panther"], "width")


@pytest.mark.parametrize(
  "config,expected",
  [
    ("sasrec:data=beauty", "ids: sees item"),
    ("panther:data=beauty,ids,sprm=bsarec,cosine=off", "ids: sees item"),
    ("panther:data=beauty", "attributes: sees item, attributes"),
    ("panther:data=movielens,ids", "ids: sees item"),
    (
      "panther:data=movielens,ids,profile=position,contrastive=.3",
      "profile: sees item, profile",
    ),
    ("hstu:data=movielens", "times: sees item, times of the history"),
  ],
)
def test_rows_say_with_what_they_may_be_compared(next_event, config, expected):
  assert next_event.sees(config_lib.load(config)) == expected


def test_any_key_may_be_an_axis(next_event):
  c = config_lib.load("panther:data=beauty,ids")
  next_event.override(c, ["model.norm=post", "train.best.metric=v/mrr"])
  next_event.override(c, ["optimizer.learning_rate=5e-4"])
  assert (c.model.norm, c.train.best.metric) == ("post", "v/mrr")
  assert c.optimizer.learning_rate == 5e-4 and c.is_locked
  with pytest.raises(config_lib.ConfigError, match="model.norn"):
    next_event.override(c, ["model.norn=post"])


def test_rows_of_a_best_checkpoint_are_known_by_their_training(
  next_event, tmp_path
):
  c = config_lib.load("sasrec:data=beauty,steps=3000")
  with c.unlocked():
    c.evals = {"next_event": c.evals.next_event}
  (tmp_path / "eval.json").write_text(
    json.dumps({"steps": {"next_event": 1800}, "next_event": {"mrr": 0.5}})
  )
  rows = next_event.rows_of(c, "sasrec", tmp_path, 1)
  assert [r["steps"] for r in rows] == [1800]
  next_event.results.write("best", rows, folder=tmp_path)
  kept = next_event.results.rows("best", folder=tmp_path)
  assert next_event.known(kept) == {("beauty", "sasrec", 1, 3000)}


def test_models_that_rank_other_users_are_not_one_table(next_event):
  row = dict(dataset="d", protocol="p", split="test", model="panther")
  rows = [
    row | dict(metrics={"users": 2011.0}),
    row | dict(model="recency", metrics={"mrr": 0.1}),
    row | dict(split="validation", metrics={"users": 5.0}),
  ]
  next_event.check_users(rows)
  rows.append(row | dict(model="sasrec", metrics={"users": 2006.0}))
  words = "panther: 2,011, sasrec: 2,006"
  with pytest.raises(ValueError, match=words):
    next_event.check_users(rows)


def test_every_model_ranks_users_without_history():
  """Those who begin after the split, on a data set that is cut by day."""
  records = fake_events.Records(24)
  users = set()
  for name in ("panther", "sasrec", "hstu", "bert4rec", "tvrec"):
    c = config_lib.load(f"{name}:")
    with c.unlocked():
      c.data.target = "item"
      c.data.train_origin_last = c.data.validation_origin = 50
      c.data.test_origin = 70
    cut = sequences.Sequences(records.schema, c.data)
    found = [cut.example(r, "test") for r in records.users]
    histories = [int(e["history"]) for e in found if e is not None]
    assert 0 in histories, name
    users.add(tuple(e is None for e in found))
  assert len(users) == 1


def test_gender_is_compared_in_pairs():
  """A better table beats aggregates on the same users, fold by fold."""
  rng = np.random.default_rng(0)
  y = rng.integers(0, 2, 300)
  scores = {
    ("aggregates", "logistic"): y + 1.5 * rng.standard_normal(300),
    ("embedding", "logistic"): y + 0.2 * rng.standard_normal(300),
  }
  scores["both", "logistic"] = scores["aggregates", "logistic"] + 0.2 * (
    rng.standard_normal(300)
  )
  it = object.__new__(probe.Probe)
  it._folds, it._seed = 3, 0
  found = dict(it._against_aggregates(y, scores))
  name = "embedding_vs_aggregates/logistic/auc"
  assert found[f"{name}/low"] > 0.1 and found[f"{name}/high"] < 0.5
  name = "both_vs_aggregates/logistic/auc"
  assert found[f"{name}/low"] < 0 < found[f"{name}/high"]
  assert dict(it._against_aggregates(y, {})) == {}
