"""Labels of events and of users, and the day from which on each is known."""

import dataclasses
import gzip

import fake_events
import numpy as np
import polars as pl
import pytest
import tiny_data
import tiny_hybrid
from lumos_jax.data_prep import engine, sources
from lumos_jax.data_prep.inputs import InputError

from lumos_jax import recipes
from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib

Label, Task = schema_lib.Label, tasks_lib.Task

DESCRIPTION = """
from lumos_jax.data.schema import Categorical, Label, Numeric, Schema

SCHEMA = Schema(
  name="cards",
  activity=(Categorical("shop"), Numeric("amount")),
  labels=(Label("fraud", level="event", delay_days=10), Label("left")),
  rows="event",
  epoch="2020-01-01",
  first_day=0,
  last_day=100,
)
TABLES = {
  "activity": {"file": "activity.parquet"},
  "labels": {"file": "labels.csv"},
}
TRAIN_UNTIL = 100
"""


def frames():
  """Payments in no order; of one it is said when it was known."""
  return {
    "activity": pl.DataFrame(
      {
        "key": ["a", "a", "b", "a", "b"],
        "time": [30, 10, 20, 20, 40],
        "shop": ["x", "y", "x", "z", "y"],
        "amount": [3.0, 1.0, 4.0, 2.0, 5.0],
        "fraud": [1.0, 0.0, None, 1.0, 0.0],
        "fraud_known_at": [90, None, None, None, None],
      }
    ),
    "labels": pl.DataFrame(
      {
        "key": ["a", "b"],
        "name": ["left", "left"],
        "time": [50, 60],
        "known_at": [70, None],
        "value": ["1", "1"],
      }
    ),
  }


def test_labels_of_events_lie_with_their_events(tmp_path):
  path = tiny_data.tiny_data_dir(tmp_path, frames(), DESCRIPTION)
  data, found = tiny_data.read(path)
  a, b = found["a"], found["b"]
  fraud = a["label_id"] == 0
  np.testing.assert_array_equal(a["label_event"][fraud], [0, 1, 2])
  np.testing.assert_array_equal(a["label_value"][fraud], [0, 1, 1])
  np.testing.assert_array_equal(a["label_time"][fraud], [10, 20, 30])
  # By the delay, or as the row says.
  np.testing.assert_array_equal(a["label_known"][fraud], [20, 30, 90])
  np.testing.assert_array_equal(a["label_known"][~fraud], [70])
  # The first payment of b has no label.
  np.testing.assert_array_equal(b["label_event"], [1, -1])
  np.testing.assert_array_equal(b["label_known"], [50, 60])
  # A label is no input.
  names = [f.name for f in data.schema.activity]
  assert names == ["shop", "amount"]
  again = records_lib.schema_lib.Schema.from_json(data.schema.to_json())
  assert again == data.schema and again.labels[0].known_at


def test_what_is_learned_by_a_day_was_known_by_then(tmp_path):
  path = tiny_data.tiny_data_dir(tmp_path, frames(), DESCRIPTION)
  data, found = tiny_data.read(path)
  task = Task("fraud", "binary", label="fraud", reduce="event")
  of = lambda day: tasks_lib.of_events(task, data.schema, found["a"], day)
  for day, mask in ((19, [0, 0, 0]), (30, [1, 1, 0]), (90, [1, 1, 1])):
    y, known = of(day)
    np.testing.assert_array_equal(known, np.asarray(mask, bool))
    np.testing.assert_array_equal(y, np.asarray([0, 1, 1]) * mask)
  left = Task("left", "binary", label="left", reduce="any", horizon_days=20)
  label = lambda k: tasks_lib.labels(
    [left], data.schema, found["a"], np.asarray([40]), k
  )
  # The window ends on day 60; the outcome was known on day 70.
  for day, y, known in ((59, 0, 0), (69, 0, 1), (70, 1, 1), (None, 1, 1)):
    value, mask = label(day)
    assert bool(mask[0, 0]) == bool(known) and (not known or value[0, 0] == y)


def test_absence_counts_when_it_would_be_known():
  s = dataclasses.replace(
    fake_events.schema(), labels=(Label("bad", delay_days=14),)
  )
  record = dict(
    fake_events.record(np.random.default_rng(0), 0, 9),
    label_id=np.zeros(0, np.int32),
    label_time=np.zeros(0, np.int32),
    label_value=np.zeros(0, np.float32),
    label_known=np.zeros(0, np.int32),
  )
  task = Task("bad", "binary", label="bad", reduce="any", horizon_days=7)
  for day, known in ((50, False), (60, False), (61, True)):
    _, mask = tasks_lib.labels([task], s, record, np.asarray([40]), day)
    assert mask[0, 0] == known


class Late(fake_events.Records):
  """Events with a label each, which is known `after` days later."""

  def __init__(self, after, flipped_from=None):
    super().__init__(users=8)
    label = Label("fraud", level="event", delay_days=30)
    self.schema = dataclasses.replace(self.schema, labels=(label,))
    for i, r in enumerate(self.users):
      n = len(r["day"])
      rng = np.random.default_rng(i)
      value, known = rng.integers(0, 2, n), r["day"] + after
      if flipped_from is not None:
        value = np.where(known > flipped_from, 1 - value, value)
      r["label_id"] = np.zeros(n, np.int32)
      r["label_event"] = np.arange(n, dtype=np.int32)
      r["label_time"], r["label_known"] = r["day"], known.astype(np.int32)
      r["label_value"] = value.astype(np.float32)


@pytest.mark.parametrize("stored", [True, False])
def test_a_user_without_labels_knows_none(stored):
  none = np.zeros(0, np.int32)
  record = {"label_id": none, "label_time": none}
  record |= {"label_known": none} if stored else {}
  for known_by in (None, 10):
    assert tasks_lib._known_rows(record, 0, known_by).shape == (0,)


def test_labels_known_later_do_not_leak_into_training():
  """Each label that became known after the day of training is turned round."""
  c = tiny_hybrid.config(unit="event", over=False).unlock()
  c.tasks = dict(fraud=dict(kind="binary", label="fraud", reduce="event"))
  tasks = tasks_lib.from_config(c.tasks)
  found = {}
  for name, flipped in (("own", None), ("late", 60), ("early", 40)):
    records = Late(after=30, flipped_from=flipped)
    recipe = recipes.build(c, records, tasks)
    found[name] = {
      p: recipe.inputs.points(records, p) for p in ("train", "test")
    }
  own, late, early = (found[n]["train"] for n in ("own", "late", "early"))
  # Training ends on day 50, and it is the 60th: labels of events until day 30.
  day = lambda p: [int(p.records[u]["day"][i]) for u, i in zip(p.user, p.place)]
  assert 20 <= min(day(own)) and max(day(own)) == 30
  for x in ("context", "y", "mask", "place", "user"):
    np.testing.assert_array_equal(getattr(own, x), getattr(late, x))
  assert not np.array_equal(own.y, early.y)
  # What is tested on is what became known in the end.
  assert not np.array_equal(found["own"]["test"].y, found["late"]["test"].y)
  # What validation chooses by was known on the test's day, the 75th.
  parts = {}
  for at in (None, 75, 68):
    records = Late(after=5, flipped_from=at)
    recipe = recipes.build(c, records, tasks)
    parts[at] = recipe.inputs.points(records, "validation")
  mask = parts[None].mask
  assert mask.any() and not mask.all()
  np.testing.assert_array_equal(mask, parts[75].mask)
  np.testing.assert_array_equal(parts[None].y[mask], parts[75].y[mask])
  assert not np.array_equal(parts[None].y[mask], parts[68].y[mask])
  c.data.known_by = 80
  recipe = recipes.build(c, Late(after=30), tasks)
  assert max(day(recipe.inputs.points(Late(after=30), "train"))) > 30


@pytest.mark.parametrize(
  "task,words",
  [
    (
      Task("t", "binary", label="left", reduce="event"),
      "needs a label of events",
    ),
    (Task("t", "binary", label="fraud", reduce="static"), "is of events"),
  ],
)
def test_levels_that_do_not_fit_are_refused(task, words):
  s = dataclasses.replace(
    fake_events.schema(), labels=(Label("fraud", level="event"), Label("left"))
  )
  with pytest.raises(schema_lib.SchemaError, match=words):
    tasks_lib.check([task], s)


def test_labels_of_events_need_their_column(tmp_path):
  tables = frames()
  tables["activity"] = tables["activity"].drop("fraud")
  with pytest.raises(InputError, match="no column 'fraud', which a label"):
    tiny_data.tiny_data_dir(tmp_path, tables, DESCRIPTION)
  with pytest.raises(schema_lib.SchemaError, match="level = 'minute'"):
    Label("x", level="minute")


CLIENTS = """ID,LIMIT_BAL,SEX,EDUCATION,MARRIAGE,AGE,PAY_0,PAY_2,PAY_3,PAY_4,PAY_5,\
PAY_6,BILL_AMT1,BILL_AMT2,BILL_AMT3,BILL_AMT4,BILL_AMT5,BILL_AMT6,PAY_AMT1,PAY_AMT2,\
PAY_AMT3,PAY_AMT4,PAY_AMT5,PAY_AMT6,default.payment.next.month
"""


def test_statements_of_credit_cards(tmp_path):
  rows = [
    f"{i},1000,1,2,1,30,2,1,0,-1,-2,3,600,500,400,300,200,100,6,5,4,3,2,1,{i % 2}"
    for i in range(1, 40)
  ]
  text = CLIENTS + "\n".join(rows) + "\n"
  (tmp_path / "UCI_Credit_Card.csv.gz").write_bytes(
    gzip.compress(text.encode())
  )
  prepared = engine.prepare(
    sources.load("credit_default", {"path": str(tmp_path)})
  )
  record = tiny_data.by_key(prepared)["1"]
  # From April to September, on the last day of each month.
  np.testing.assert_array_equal(record["day"], [29, 60, 90, 121, 152, 182])
  s = prepared.schema
  at = lambda n: record["numeric"][:, s.numeric_column("activity", n)]
  np.testing.assert_array_equal(at("months_late"), [3, 0, 0, 0, 1, 2])
  np.testing.assert_array_equal(at("billed"), [100, 200, 300, 400, 500, 600])
  np.testing.assert_allclose(at("paid_share"), np.arange(1, 7) / 1000)
  task = Task("d", "binary", label="default", reduce="any", horizon_days=31)
  for key, y in (("1", 1), ("2", 0)):
    found = tiny_data.by_key(prepared)[key]
    value, mask = tasks_lib.labels([task], s, found, np.asarray([183]))
    assert mask[0, 0] and value[0, 0] == y
  assert sum(map(len, prepared.splits.values())) == 39
  with pytest.raises(InputError, match="has no UCI_Credit_Card.csv"):
    sources.load("credit_default", {"path": str(tmp_path.parent)})
