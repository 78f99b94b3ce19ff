"""Data preparation: what is stored and what is fitted."""

import datetime
import json
import sys

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import encode

from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data.calendar import ALWAYS_KNOWN
from tests import tiny_data


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return tiny_data.read(
    tiny_data.tiny_data_dir(tmp_path_factory.mktemp("tiny"))
  )


def test_days_are_sums_of_their_events(tiny):
  data, users = tiny
  frame = tiny_data.tiny_frames()["activity"]
  day = (pl.col("time") - tiny_data.START).dt.total_days().cast(pl.Int32)
  column = lambda n: data.schema.numeric_column("activity", n)
  for key in ("u0", "u17", "u39"):
    user, mine = users[key], frame.filter(key=key).with_columns(day=day)
    wanted = mine.group_by("day").agg(
      pl.col("sales", "visits").sum(),
      rating=pl.col("rating").fill_nan(None).mean(),
      web=pl.col("sales").filter(channel="web").sum(),
    )
    wanted = wanted.sort("day")
    np.testing.assert_array_equal(user["day"], wanted["day"])
    for name in ("sales", "visits", "rating"):
      x = wanted[name].cast(pl.Float32).fill_null(np.nan).to_numpy()
      np.testing.assert_array_equal(user["numeric"][:, column(name)], x)
    x = user["numeric"][:, column("channel=web")]
    np.testing.assert_array_equal(x, wanted["web"])


def test_other_tables_are_stored(tiny):
  data, users = tiny
  frames = tiny_data.tiny_frames()
  assert len(users) == 40
  assert data.schema.labels[1].values == ("fail", "pass")
  regions = data.schema.profile[0].values
  for i in range(40):
    user = users[f"u{i}"]
    region = user["profile_categorical"][0] - schema_lib.FIRST_VALUE
    assert regions[region] == frames["profile"]["region"][i]
    assert np.isnan(user["profile_numeric"][0]) == (i % 7 == 0)
    assert user["groups"].tolist() == ([1] if i % 2 == 0 else [])
    assert user["span"].tolist() == [user["day"][0] + 1, 140, 140]
    static = user["label_id"] == 1
    assert user["label_value"][static] == [float(i % 3 > 0)]
    assert user["label_time"][static] == [encode.NO_TIME]
    assert user["label_time"][~static].tolist() == ([100] if i % 5 == 0 else [])
  calendar = data.calendar
  assert calendar.group_names == ("", "vip")
  assert calendar.start.tolist() == [10, 80, 50]
  assert calendar.end.tolist() == [20, 100, 51]
  assert calendar.announced.tolist() == [ALWAYS_KNOWN, ALWAYS_KNOWN, 30]


def test_every_input_row_is_a_row_or_a_reject(tmp_path):
  frames = tiny_data.tiny_frames()
  bad = (
    frames["activity"]
    .head(6)
    .with_columns(
      key=pl.Series([None, "u1", "u1", "u1", "u1", "u1"]),
      time=pl.Series(
        [tiny_data.START, None]
        + [datetime.datetime(2021, 1, 1)]
        + [tiny_data.START] * 3
      ),
      sales=pl.Series([1.0, 1.0, 1.0, None, np.nan, np.inf]),
    )
  )
  frames["activity"] = pl.concat([bad, frames["activity"]])
  path = tiny_data.tiny_data_dir(tmp_path, frames, rows="event")
  stats = json.loads((path / records_lib.STATS).read_text())
  reasons = {
    "null key": 1,
    "null or unreadable time": 1,
    "outside the days of the data": 1,
    "null in sales": 1,
    "NaN or infinite in sales": 2,
  }
  assert stats["rejected"]["activity"] == reasons
  assert stats["rows"] + sum(reasons.values()) == len(frames["activity"])
  assert stats["activity_rows_read"] == len(frames["activity"])
  rejects = pl.read_parquet(str(path / records_lib.REJECTS))
  assert rejects["row"].to_list() == list(range(6))
  assert json.loads(rejects["values"][5])["sales"] == "inf"
  assert (
    sum(len(u["day"]) for u in tiny_data.read(path)[1].values())
    == stats["rows"]
  )


def test_fit_ignores_rows_after_train_until(tmp_path, tiny):
  frames = tiny_data.tiny_frames()
  until = tiny_data.START + datetime.timedelta(days=tiny_data.TRAIN_UNTIL)
  late = pl.col("time") >= until
  frames["activity"] = frames["activity"].with_columns(
    sales=pl.when(late).then(pl.col("sales") * 1000).otherwise("sales"),
    device=pl.when(late).then(pl.lit("watch")).otherwise("device"),
  )
  data, users = tiny_data.read(tiny_data.tiny_data_dir(tmp_path, frames))
  assert data.schema.hash == tiny[0].schema.hash
  count = frames["activity"].filter(late).height
  counts = data.stats["unknown_categories"]["activity"]["device"]
  assert counts == {"unseen": count, "rare": 0}
  ids = np.concatenate([u["categorical"][:, 0] for u in users.values()])
  assert schema_lib.UNKNOWN in ids


def test_fit_ignores_users_of_other_splits(tmp_path, tiny):
  description = tiny_data.DESCRIPTION.format(days=140, train_until=112)
  description += 'TABLES["split"] = {"file": "split.csv"}\n'
  frames = tiny_data.tiny_frames()
  names = frames["profile"]["key"]
  split = ["test" if i >= 30 else "train" for i in range(39)]
  frames["split"] = pl.DataFrame({"key": names[:39], "split": split})
  base = tiny_data.read(
    tiny_data.tiny_data_dir(tmp_path / "a", frames, description)
  )[0]
  assert base.splits == ["test", "train"]
  assert len(base.source("train")), len(base.source("test")) == (30, 9)
  assert base.stats["users_without_split"] == 1
  held = pl.col("key").is_in(names[30:].to_list())
  frames["activity"] = frames["activity"].with_columns(
    sales=pl.when(held).then(pl.col("sales") * 1000).otherwise("sales"),
    channel=pl.when(held).then(pl.lit("fax")).otherwise("channel"),
  )
  frames["profile"] = frames["profile"].with_columns(
    region=pl.when(held).then(pl.lit("west")).otherwise("region")
  )
  other = tiny_data.read(
    tiny_data.tiny_data_dir(tmp_path / "b", frames, description)
  )[0]
  assert other.schema.hash == base.schema.hash


def test_spans_are_dates_or_days(tmp_path):
  description = tiny_data.DESCRIPTION.format(days=140, train_until=112)
  description += 'TABLES["span"] = {"file": "span.csv"}\n'
  frames = tiny_data.tiny_frames()
  date = lambda day: tiny_data.START.date() + datetime.timedelta(days=day)
  last = [120, None]
  for folder, kind in (("dates", date), ("days", int)):
    frames["span"] = pl.DataFrame(
      {
        "key": ["u0", "u1"],
        "enter": [kind(10), kind(0)],
        "exit": [None if d is None else kind(d) for d in last],
        "observed_until": [kind(130), kind(140)],
      }
    )
    path = tiny_data.tiny_data_dir(tmp_path / folder, frames, description)
    _, users = tiny_data.read(path)
    assert users["u0"]["span"].tolist() == [10, 120, 130]
    assert users["u1"]["span"].tolist() == [0, 140, 140]
    first = users["u2"]["day"][0]
    assert users["u2"]["span"].tolist() == [first + 1, 140, 140]


def test_events_keep_order_and_time(tmp_path):
  path = tiny_data.tiny_data_dir(tmp_path, rows="event")
  data, users = tiny_data.read(path)
  frame = tiny_data.tiny_frames()["activity"].filter(key="u20").sort("time")
  elapsed = frame["time"] - tiny_data.START
  np.testing.assert_array_equal(
    users["u20"]["time"], elapsed.dt.total_microseconds()
  )
  np.testing.assert_array_equal(users["u20"]["day"], elapsed.dt.total_days())
  at = data.schema.numeric_column("activity", "sales")
  np.testing.assert_array_equal(users["u20"]["numeric"][:, at], frame["sales"])
  values = data.schema.activity[0].values
  assert [values[i - 2] for i in users["u20"]["categorical"][:, 0]] == frame[
    "channel"
  ].to_list()


def test_two_runs_are_equal_and_shards_hold_all(tmp_path):
  a = tiny_data.tiny_data_dir(tmp_path / "a")
  b = tiny_data.tiny_data_dir(tmp_path / "b", num_shards=3)
  (data_a, users_a), (data_b, users_b) = tiny_data.read(a), tiny_data.read(b)
  assert list(users_a) == list(users_b)  # The order is a hash of the keys.
  assert len(data_b.stats["shards"]) == 3
  for key, user in users_a.items():
    for name, value in user.items():
      np.testing.assert_array_equal(value, users_b[key][name])
  again = tiny_data.read(tiny_data.tiny_data_dir(tmp_path / "c"))[0]
  assert again.stats["shards"] == data_a.stats["shards"]


def test_user_without_profile_is_counted(tmp_path):
  frames = tiny_data.tiny_frames()
  frames["profile"] = frames["profile"].filter(pl.col("key") != "u3")
  data, _ = tiny_data.read(tiny_data.tiny_data_dir(tmp_path, frames))
  assert data.stats["users_without_profile"] == 1


def test_user_without_activity_is_kept(tmp_path):
  frames = tiny_data.tiny_frames()
  frames["activity"] = frames["activity"].filter(pl.col("key") != "u3")
  data, users = tiny_data.read(tiny_data.tiny_data_dir(tmp_path, frames))
  assert data.stats["users_without_activity"] == 1
  assert data.stats["users_without_profile"] == 0
  assert users["u3"]["numeric"].shape == (
    0,
    data.schema.numeric_width("activity"),
  )
  assert users["u3"]["groups"].tolist() == []


def test_tfds_reads_the_same_directory(tmp_path):
  import tensorflow_datasets as tfds

  path = tiny_data.tiny_data_dir(tmp_path)
  _, users = tiny_data.read(path)
  source = tfds.builder_from_directory(path).as_data_source("train")
  assert len(source) == 40
  example = source[0]
  user = users[example["key"].decode()]
  for name in ("day", "numeric", "span", "groups", "label_value"):
    np.testing.assert_array_equal(example[name], user[name])
  assert "tensorflow" not in sys.modules
