"""Who is at risk at an origin, and which outcomes are known."""

import dataclasses

import fake
import numpy as np
import polars as pl
import pytest
import tiny_data
from fake_evals import PARAMS, evaluator
from load_test import saved

from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib

NO_TIME = tasks_lib.NO_TIME


def prepared(tmp_path, frames, more=""):
  text = tiny_data.DESCRIPTION.format(days=140, train_until=112) + more
  return tiny_data.read(tiny_data.tiny_data_dir(tmp_path, frames, text))


def test_users_enter_on_the_day_after_their_first_event(tmp_path, capsys):
  frames = tiny_data.tiny_frames()
  late = tiny_data.START + pl.duration(days=60)
  key, time = pl.col("key"), pl.col("time")
  frames["activity"] = frames["activity"].filter(
    (key != "u3") & ((key != "u4") | (time >= late))
  )
  data, users = prepared(tmp_path, frames)
  first = dict(
    frames["activity"]
    .group_by("key")
    .agg((time.min() - tiny_data.START).dt.total_days())
    .iter_rows()
  )
  assert first["u4"] >= 60
  for name, user in users.items():
    enter = first[name] + 1 if name in first else 140
    assert user["span"].tolist() == [enter, 140, 140]
  before = sum(first.values()) + 39 + 140
  assert data.stats["entries"] == {
    "declared": 0,
    "after_first_event": 39,
    "never": 1,
    "user_days_before": before,
  }
  task = tasks_lib.Task("a", "binary", 7, field="visits", reduce="any")
  origins = np.asarray([first["u4"], first["u4"] + 1])
  _, mask = tasks_lib.labels([task], data.schema, users["u4"], origins)
  assert mask[:, 0].tolist() == [False, True]
  _, mask = tasks_lib.labels([task], data.schema, users["u3"], np.arange(133))
  assert not mask.any()  # It never did anything: nobody knows of it.


def test_a_registration_day_is_a_column_of_any_table(tmp_path):
  frames = tiny_data.tiny_frames()
  day = [None if i == 1 else 20 + i for i in range(40)]
  frames["profile"] = frames["profile"].with_columns(joined=pl.Series(day))
  more = (
    'TABLES["span"] = {"file": "profile.csv", "columns": {"enter": "joined"}}'
  )
  data, users = prepared(tmp_path, frames, more + "\n")
  assert users["u0"]["span"].tolist() == [20, 140, 140]
  assert users["u1"]["span"].tolist() == [users["u1"]["day"][0] + 1, 140, 140]
  assert data.stats["entries"]["declared"] == 39
  assert data.stats["entries"]["after_first_event"] == 1


def graded(times, amounts, **label):
  """A record whose label "grade" has rows; classes fail and pass."""
  schema = fake.schema()
  grade = dataclasses.replace(schema.labels[1], **label)
  schema = dataclasses.replace(schema, labels=(schema.labels[0], grade))
  record = fake.record(np.random.default_rng(0), 1) | {
    "label_id": np.full(len(times), 1, np.int32),
    "label_time": np.asarray(times, np.int32),
    "label_value": np.asarray(amounts, np.float32),
  }
  return schema, record


def labels(schema, record, origins, **task):
  task = tasks_lib.Task("t", **dict(label="grade", horizon_days=10) | task)
  tasks_lib.check([task], schema)
  y, mask = tasks_lib.labels([task], schema, record, np.asarray(origins))
  return y[:, 0].tolist(), mask[:, 0].tolist()


def test_the_first_class_of_a_text_label_is_an_event():
  # "fail", class 0, on days 12 and 14; "pass", class 1, on day 25.
  given = graded([12, 14, 25], [0, 0, 1])
  origins = [0, 10, 20, 30]
  of = lambda kind, **kw: labels(*given, origins, kind=kind, **kw)[0]
  assert of("binary", reduce="any") == [0, 1, 1, 0]
  assert of("binary", reduce="none") == [1, 0, 0, 1]
  assert of("regression", reduce="sum") == [0, 2, 1, 0]
  assert of("binary", reduce="any", equals="fail") == [0, 1, 0, 0]
  assert of("binary", reduce="any", equals="pass") == [0, 0, 1, 0]
  assert of("binary", reduce="none", equals="pass") == [1, 1, 0, 1]
  assert of("regression", reduce="sum", equals="fail") == [0, 2, 0, 0]
  # A number says itself whether something happened.
  numbers = labels(
    *graded([12, 25], [0, 3], values=None), origins, kind="regression"
  )
  assert numbers[0] == [0, 0, 3, 0]


def test_a_label_is_known_as_long_as_activity_or_as_declared():
  origins = [110, 120, 130, 131]
  any_of = dict(kind="binary", reduce="any")
  given = graded([125], [0])
  # The data end before day 140: a window of 10 days from 131 on does not fit.
  y, mask = labels(*given, origins, **any_of)
  assert (y, mask) == ([0, 1, 0, 0], [True, True, True, False])
  given[1]["span"] = np.asarray([0, 140, 130], np.int32)
  assert labels(*given, origins, **any_of)[1] == [True, True, False, False]
  declared = graded([125], [0], observed_until=126)
  assert labels(*declared, origins, **any_of)[1] == [True, False, False, False]
  longer = graded([125], [0], observed_until=200)
  assert labels(*longer, origins, **any_of)[1] == [True] * 4
  static = graded([NO_TIME], [1])
  assert labels(*static, origins, kind="binary", reduce="static") == (
    [1, 1, 1, 1],
    [True] * 4,
  )


def test_labels_declare_their_end_as_a_date(tmp_path):
  frames = tiny_data.tiny_frames()
  text = tiny_data.DESCRIPTION.replace(
    'Label("churned")', 'Label("churned", observed_until="2020-04-30")'
  )
  kw = dict(frames=frames, description=text.format(days=140, train_until=112))
  data, _ = tiny_data.read(tiny_data.tiny_data_dir(tmp_path / "a", **kw))
  assert [x.observed_until for x in data.schema.labels] == [120, None]
  cut, _ = tiny_data.read(
    tiny_data.tiny_data_dir(tmp_path / "b", until=119, **kw)
  )
  assert cut.schema.labels[0].observed_until == 119
  # No model depends on it, and it is kept.
  plain, _ = prepared(tmp_path / "c", frames)
  assert plain.schema.model_hash == data.schema.model_hash
  again = schema_lib.Schema.from_json(data.schema.to_json())
  assert again == data.schema and data.schema.difference(plain.schema) == ""


@pytest.mark.parametrize(
  "task,words",
  [
    (dict(field="visits", equals="x"), "equals and reduce 'static' are of lab"),
    (dict(field="visits", reduce="static"), "are of labels"),
    (dict(field="visits", reduce="any"), "reduce 'any' is 0 or 1: use kind"),
    (dict(label="grade", equals="good"), r"no value 'good'; it has \('fail'"),
    (dict(label="churned", equals="1"), "has numbers: leave equals out"),
    (
      dict(label="grade", reduce="static"),
      "say which one counts, equals='fail",
    ),
  ],
)
def test_tasks_that_mean_nothing_are_refused(task, words):
  with pytest.raises(ValueError, match=words):
    made = tasks_lib.Task("t", "regression", **task)
    tasks_lib.check([made], fake.schema())


def test_an_evaluation_says_how_many_it_leaves_out(tmp_path):
  records = fake.Records()
  for i in (2, 5):
    records.users[i]["span"] = np.asarray([113, 140, 140], np.int32)
  records.users[7]["span"] = np.asarray([0, 112, 140], np.int32)
  forecast = evaluator("forecast", tmp_path=tmp_path, records=records)
  found = dict(forecast.run(PARAMS))
  assert found["users"] == 21 and found["users_left_out"] == 3


def test_no_forecast_of_a_user_who_comes_later(tmp_path, monkeypatch, caplog):
  records = fake.Records()
  records.users[3]["span"] = np.asarray([113, 140, 140], np.int32)
  monkeypatch.setattr(records_lib.Records, "open", lambda path: records)
  run = saved(tmp_path, fake.config(**{"eval_batch_size": 4}), records)[0]
  with caplog.at_level("WARNING"):
    before = run.forecast(as_of=112)
  assert "1 users have not entered by day 112" in caplog.text
  after = run.forecast(as_of=113)
  later = records.users[3]["key"]
  assert len(before) == 23 and later not in before["key"].to_list()
  assert len(after) == 24 and later in after["key"].to_list()
