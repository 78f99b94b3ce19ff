"""Who is asked what in the table of embeddings, and what a probe takes for known."""

import pathlib
import runpy
import types

import fake_events
import numpy as np
import pytest

from lumos_jax.data import tasks
from lumos_jax.evaluators import predict, probe

SCRIPTS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(name="users", scope="module")
def script():
  found = runpy.run_path(str(SCRIPTS / "llm4es_users.py"))
  return types.SimpleNamespace(**found)


def dataset(users, **kw):
  return users.Dataset("events", "", "", lambda schema, records: {}, **kw)


def test_a_distilled_model_learns_from_others_than_the_table(users):
  records = fake_events.Records(lengths=[3] * 30)
  table, others = users.chosen(records, dataset(users), 10, 15, 0)
  mine = {r["key"] for r in table}
  assert len(mine) == 10 and len(others) == 15 and not mine & set(others)
  # Of all users nobody is left to learn from.
  table, others = users.chosen(records, dataset(users), 0, 15, 0)
  assert len(table) == 30 and others == []


def test_users_without_events_and_those_who_left_are_not_asked(users):
  records = fake_events.Records(lengths=[20] * 12)
  for i, r in enumerate(records.users):
    r["span"] = np.asarray([0, 40 if i < 4 else 100, 100], np.int32)
  records.users[5]["day"] = records.users[5]["day"] + 100
  found = users.chosen(records, dataset(users, staying=True), 0, 0, 50)[0]
  names = {f"user{i}" for i in range(4, 12)} - {"user5"}
  assert {r["key"] for r in found} == names


def test_aggregates_know_nothing_of_later_days(users):
  records = fake_events.Records(lengths=[20] * 6)
  data = dataset(users, counted=("item",))
  make = lambda: users.aggregates(
    records.schema, records.users, data, 50
  ).toarray()
  before = make()
  for r in records.users:
    late = r["day"] >= 50
    assert late.any() and not late.all()
    r["numeric"][late], r["categorical"][late] = 99.0, 2
  np.testing.assert_array_equal(make(), before)
  count = sum((r["day"] < 50).sum() for r in records.users)
  items = records.schema.categorical("activity")[0].size
  assert before[:, :items].sum() == count == before[:, items].sum()


def asked(records, index=0):
  """A probe of the records' first label, without a model."""
  it = object.__new__(probe.Probe)
  it.records, it.name, it.split_name = records, "it", "test"
  it.data_cfg = {"test_split": "train"}
  it._column, it._label = 0, index
  return it


def test_users_without_an_outcome_did_not_have_it():
  """Only those who had it have a row; without days a value is just unknown."""
  records = fake_events.Records(lengths=[3] * 8)
  keys = predict.hash_keys([r["key"] for r in records.users])
  for i, r in enumerate(records.users):
    kept = slice(0, 1 if i < 3 else 0)
    r["label_id"] = np.zeros(1, np.int32)[kept]
    r["label_time"] = np.asarray([90], np.int32)[kept]
    r["label_value"] = np.ones(1, np.float32)[kept]
  counts, y, known = asked(records)._users(keys)
  assert known.all() and y.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
  assert counts.sum() == 24
  for r in records.users:
    r["label_time"][:] = tasks.NO_TIME
  with pytest.raises(ValueError, match="all 3 users .* have the same value"):
    asked(records)._users(keys)
  records.users[0]["label_value"][:] = 5.0
  _, y, known = asked(records)._users(keys)
  assert known.tolist() == [True] * 3 + [False] * 5
  assert y[known].tolist() == [1, 0, 0]


def test_accuracies_are_compared_in_pairs():
  rng = np.random.default_rng(0)
  y = rng.integers(0, 3, 90)
  x = np.eye(3)[y] + 0.7 * rng.standard_normal((90, 3))
  folds = list(probe.splits(y, 3))
  metric, found, good = probe.out_of_fold("logistic", x, y, folds, 0)
  bad = rng.random(90) < 1 / 3
  assert metric == "accuracy" and found.mean() > 0.6 and len(found) == 3
  assert good.dtype == bool and abs(good.mean() - found.mean()) < 0.02
  tests = [t for _, t in folds]
  apart = probe.difference(metric, y, tests, good, bad)
  assert 0 < apart.low < apart.value < apart.high
  same = probe.difference(metric, y, tests, good, good)
  assert same == (0.0, 0.0, 0.0)
