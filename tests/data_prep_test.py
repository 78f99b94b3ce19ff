"""Data preparation: what is stored, what is fitted, what is refused."""

import dataclasses
import datetime
import errno
import json
import os
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

import data_prep
from data_prep import __main__ as cli
from data_prep import builder, days, encode, engine, fit
from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data.calendar import ALWAYS_KNOWN
from tests import tiny_data

Categorical, Numeric = schema_lib.Categorical, schema_lib.Numeric


def read(path, split="train"):
  data = records_lib.Records.open(path)
  source = data.source(split)
  found = source.__getitems__(range(len(source)))
  return data, {u["key"]: u for u in found}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return read(tiny_data.tiny_data_dir(tmp_path_factory.mktemp("tiny")))


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
    np.testing.assert_array_equal(user["time"], wanted["day"])
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
    assert user["span"].tolist() == [0, 140, 140]
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
  assert sum(len(u["time"]) for u in read(path)[1].values()) == stats["rows"]


def test_fit_ignores_rows_after_train_until(tmp_path, tiny):
  frames = tiny_data.tiny_frames()
  until = tiny_data.START + datetime.timedelta(days=tiny_data.TRAIN_UNTIL)
  late = pl.col("time") >= until
  frames["activity"] = frames["activity"].with_columns(
    sales=pl.when(late).then(pl.col("sales") * 1000).otherwise("sales"),
    device=pl.when(late).then(pl.lit("watch")).otherwise("device"),
  )
  data, users = read(tiny_data.tiny_data_dir(tmp_path, frames))
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
  base = read(tiny_data.tiny_data_dir(tmp_path / "a", frames, description))[0]
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
  other = read(tiny_data.tiny_data_dir(tmp_path / "b", frames, description))[0]
  assert other.schema.hash == base.schema.hash


def test_events_keep_order_and_time(tmp_path):
  path = tiny_data.tiny_data_dir(tmp_path, rows="event")
  data, users = read(path)
  frame = tiny_data.tiny_frames()["activity"].filter(key="u20").sort("time")
  seconds = (frame["time"] - tiny_data.START).dt.total_seconds()
  np.testing.assert_array_equal(users["u20"]["time"], seconds)
  at = data.schema.numeric_column("activity", "sales")
  np.testing.assert_array_equal(users["u20"]["numeric"][:, at], frame["sales"])
  values = data.schema.activity[0].values
  assert [values[i - 2] for i in users["u20"]["categorical"][:, 0]] == frame[
    "channel"
  ].to_list()


def test_two_runs_are_equal_and_shards_hold_all(tmp_path):
  a = tiny_data.tiny_data_dir(tmp_path / "a")
  b = tiny_data.tiny_data_dir(tmp_path / "b", num_shards=3)
  (data_a, users_a), (data_b, users_b) = read(a), read(b)
  assert list(users_a) == list(users_b)  # The order is a hash of the keys.
  assert len(data_b.stats["shards"]) == 3
  for key, user in users_a.items():
    for name, value in user.items():
      np.testing.assert_array_equal(value, users_b[key][name])
  again = read(tiny_data.tiny_data_dir(tmp_path / "c"))[0]
  assert again.stats["shards"] == data_a.stats["shards"]


def test_user_without_activity_is_kept(tmp_path):
  frames = tiny_data.tiny_frames()
  frames["activity"] = frames["activity"].filter(pl.col("key") != "u3")
  data, users = read(tiny_data.tiny_data_dir(tmp_path, frames))
  assert data.stats["users_without_activity"] == 1
  assert users["u3"]["numeric"].shape == (
    0,
    data.schema.numeric_width("activity"),
  )
  assert users["u3"]["groups"].tolist() == []


def break_(table, **columns):
  def apply(frames):
    frames[table] = frames[table].with_columns(**columns)

  return apply


def rename(table, **names):
  def apply(frames):
    frames[table] = frames[table].rename(names)

  return apply


def duplicate(frames):
  frames["profile"] = pl.concat([frames["profile"], frames["profile"].head(2)])


@pytest.mark.parametrize(
  "change, words",
  [
    (
      rename("activity", sales="Sale"),
      ["activity.parquet", "'sales'", "did you mean 'Sale'"],
    ),
    (rename("activity", key="user"), ["'key'", "'user'"]),
    (
      break_("activity", sales=pl.lit("12,50")),
      ["activity.parquet", "'sales'", "row 0", "'12,50'"],
    ),
    (break_("activity", channel=pl.col("time")), ["'channel'", "Datetime"]),
    (break_("activity", time=pl.lit("noon")), ["no row has a readable time"]),
    (duplicate, ["profile.csv", "2 user ids", "u0", "row 0"]),
    (
      break_("profile", age=pl.lit(float("inf"))),
      ["profile.csv", "'age'", "inf", "row 0"],
    ),
    (
      break_("calendar", end=pl.lit(datetime.date(2019, 1, 1))),
      ["calendar.csv", "row 0", "end"],
    ),
    (break_("activity", key=pl.lit(1.5)), ["'key'", "row 0", "1.5"]),
  ],
)
def test_bad_input_is_named(tmp_path, change, words):
  frames = tiny_data.tiny_frames()
  change(frames)
  with pytest.raises(data_prep.InputError) as e:
    tiny_data.tiny_data_dir(
      tmp_path,
      frames,
      tiny_data.DESCRIPTION.format(days=0, train_until=112),
    )
  for word in words:
    assert word in str(e.value)
  assert not list((tmp_path).glob("data/*"))


def test_times_with_and_without_zone(tmp_path):
  frames = tiny_data.tiny_frames()
  text = pl.col("time").dt.to_string("%Y-%m-%d %H:%M:%S")
  zoned = pl.int_range(pl.len()) % 2 == 0
  frames["activity"] = frames["activity"].with_columns(
    time=pl.when(zoned).then(text + "+02:00").otherwise(text)
  )
  with pytest.raises(data_prep.InputError, match=r"row 0.*row 1.*time_zone"):
    tiny_data.tiny_data_dir(tmp_path, frames)
  description = tiny_data.DESCRIPTION.format(days=0, train_until=112)
  zone = description + 'TIME_ZONE = "Etc/GMT-2"\n'  # Two hours before UTC.
  _, users = read(tiny_data.tiny_data_dir(tmp_path / "a", frames, zone))
  _, plain = read(
    tiny_data.tiny_data_dir(tmp_path / "b", description=description)
  )
  for key in plain:
    np.testing.assert_array_equal(users[key]["time"], plain[key]["time"])


def test_zoned_activity_beside_naive_calendar(tmp_path):
  frames = tiny_data.tiny_frames()
  frames["activity"] = frames["activity"].with_columns(
    pl.col("time").dt.replace_time_zone(
      "Europe/Paris", ambiguous="earliest", non_existent="null"
    )
  )
  frames["calendar"] = frames["calendar"].with_columns(
    pl.col("start").cast(pl.Datetime("us"))
  )
  with pytest.raises(
    data_prep.InputError, match="calendar.*activity.*time_zone"
  ):
    tiny_data.tiny_data_dir(tmp_path, frames)


def test_same_again_is_reused_and_other_contents_refused(tmp_path):
  path = tiny_data.tiny_data_dir(tmp_path)
  stats = path / records_lib.STATS
  before = os.stat(stats).st_mtime_ns
  assert tiny_data.tiny_data_dir(tmp_path) == path
  assert os.stat(stats).st_mtime_ns == before
  frames = tiny_data.tiny_frames(users=50)
  with pytest.raises(data_prep.InputError, match="activity.parquet.*overwrite"):
    tiny_data.tiny_data_dir(tmp_path, frames)
  tiny_data.tiny_data_dir(tmp_path, frames, overwrite=True)
  assert len(read(path)[1]) == 50
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
  def full(path, examples):
    raise OSError(errno.ENOSPC, f"{path} after 5 bytes")

  monkeypatch.setattr(builder, "_write_shard", full)
  with pytest.raises(OSError, match="disk is full.*5 bytes.*--out") as e:
    tiny_data.tiny_data_dir(tmp_path)
  assert e.value.errno == errno.ENOSPC
  assert not list((tmp_path / "data").iterdir())


def test_file_size_limit_is_a_full_disk(tmp_path):
  schema = tiny_data.write_tables(tmp_path / "raw")
  code = (
    "import resource, signal, sys; from data_prep.__main__ import main;"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000));"
    f"sys.exit(main(['--source=tables', '--out={tmp_path / 'data'}',"
    f" '--set', 'schema={schema}']))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 1
  assert "disk is full or a limit" in done.stderr
  assert "Traceback" not in done.stderr
  assert not list((tmp_path / "data").iterdir())


def test_killed_while_writing_leaves_no_data_set(tmp_path):
  schema = tiny_data.write_tables(tmp_path / "raw")
  out = tmp_path / "data"
  code = (
    "import time; from data_prep import builder, run;"
    "write = builder._write_shard;"
    "builder._write_shard = lambda p, e: (write(p, e), time.sleep(60));"
    f"run.prepare('tables', '{out}', schema='{schema}')"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code], stderr=subprocess.DEVNULL
  )
  deadline = time.monotonic() + 60
  while not list(out.glob("*.incomplete/**/*.array_record*")):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.05)
  with pytest.raises(FileExistsError, match=f"process {process.pid}"):
    tiny_data.tiny_data_dir(tmp_path)
  process.kill()
  process.wait()
  assert not (out / "tiny").exists()
  with pytest.raises(records_lib.DataError, match="no data set"):
    records_lib.Records.open(out / "tiny")
  path = tiny_data.tiny_data_dir(tmp_path)
  assert len(read(path)[1]) == 40
  assert os.listdir(out) == ["tiny"]


def test_tfds_reads_the_same_directory(tmp_path):
  import tensorflow_datasets as tfds

  path = tiny_data.tiny_data_dir(tmp_path)
  _, users = read(path)
  source = tfds.builder_from_directory(path).as_data_source("train")
  assert len(source) == 40
  example = source[0]
  user = users[example["key"].decode()]
  for name in ("time", "numeric", "span", "groups", "label_value"):
    np.testing.assert_array_equal(example[name], user[name])
  assert "tensorflow" not in sys.modules


def test_encode_is_a_pure_function_of_columns():
  field = Categorical("c", values=("x", "y"))
  column = encode.Coded(np.array([1, 0, 3, 2]), ["y", "x", "z"])
  fields = (Numeric("n"), field)
  columns = {"c": column, "n": np.array([1.0, np.nan, 3.0, 4.0])}
  ids, numbers = encode.matrices(fields, columns, 4)
  assert ids.ravel().tolist() == [2, 3, schema_lib.MISSING, schema_lib.UNKNOWN]
  np.testing.assert_array_equal(numbers.ravel(), columns["n"])


def test_vocabulary_by_frequency_then_name():
  column = encode.Coded(np.array([0, 1, 1, 2, 3, 3, 4, 5]), list("dcbae"))
  train = np.array([True] * 6 + [False, True])
  declared = (Categorical("c", max_values=3),)
  (field,), unknown = fit.vocabularies(declared, {"c": column}, train)
  assert field.values == ("a", "c", "b")
  assert unknown == {"c": {"unseen": 1, "rare": 1}}
  usable = np.array([True] * 6 + [False, True])
  _, unknown = fit.vocabularies(declared, {"c": column}, train, usable)
  assert unknown == {"c": {"unseen": 0, "rare": 1}}


@pytest.mark.parametrize("scale", ["standard", "minmax", "none"])
@pytest.mark.parametrize("transform", ["log1p", "none"])
def test_scaler(scale, transform):
  x = np.array([-3.0, 0.0, np.nan, 5.0, 8.0], np.float32)
  field = fit.scaler(Numeric("n", transform, scale), x)
  y = np.delete(fit.transformed(field, x.astype(np.float64)), 2)
  z = (y - field.offset) / field.divisor
  if scale == "standard":
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-5)
  elif scale == "minmax":
    np.testing.assert_allclose([z.min(), z.max()], [0, 1], atol=1e-5)
  else:
    np.testing.assert_array_equal(z, y)


def test_a_constant_is_left_alone():
  assert fit.scaler(Numeric("n", "none"), np.full(3, 7.0)).divisor == 1.0


def test_day_rules():
  fields = (
    Categorical("a", daily="last", values=("x", "y")),
    Categorical("b", daily="mode", values=("x", "y")),
    Categorical("c", daily="pivot", values=("x", "y")),
    Categorical("d", daily="drop", values=("x",)),
    Numeric("mean", daily="mean"),
    Numeric("max", daily="max"),
    Numeric("min", daily="min"),
    Numeric("last", daily="last"),
    Numeric("gone", daily="drop"),
  )
  rows = {
    "user": np.array([0, 0, 0, 1]),
    "time": np.array([5, 5, 6, 5]),
    "categorical": np.array(
      [[2, 3, 2, 2], [3, 2, 2, 2], [2, 2, 1, 2], [3, 0, 3, 2]]
    ),
    "numeric": np.array(
      [[1, 1, 1, 1, 0], [3, 3, 3, 3, 0], [np.nan] * 5, [4, 4, 4, 4, 0]],
      np.float32,
    ),
  }
  out = days.day_rows(fields, rows)
  assert [f.name for f in days.day_fields(fields)] == (
    ["a", "b", "c=x", "c=y", "mean", "max", "min", "last"]
  )
  assert out["user"].tolist() == [0, 0, 1]
  assert out["time"].tolist() == [5, 6, 5]
  assert out["categorical"].tolist() == [[3, 2], [2, 2], [3, 0]]
  nan = np.nan
  np.testing.assert_array_equal(
    out["numeric"],
    [[2, 0, 2, 3, 1, 3], [0, 0, nan, nan, nan, nan], [0, 1, 4, 4, 4, 4]],
  )


def test_a_wrong_daily_rule_is_named():
  field = Categorical("a", daily="pivot:sales", values=("x",))
  with pytest.raises(schema_lib.SchemaError, match="'a'.*pivot:sales.*cost"):
    days.day_fields((field, Numeric("cost")))


def test_cyclic_parts():
  times = np.array(["2020-01-06T06:00", "NaT"], "datetime64[s]")  # A Monday.
  field = schema_lib.Timestamp("t", ("hour", "weekday"))
  x = encode.cyclic(field, times)
  np.testing.assert_allclose(x[0, :2], [1, 0], atol=1e-6)
  angle = 2 * np.pi * 0.25 / 7
  np.testing.assert_allclose(x[0, 2:], [np.sin(angle), np.cos(angle)], 1e-5)
  assert np.isnan(x[1]).all()


def test_vectors_are_stored():
  raw = data_prep.Inputs(
    schema=schema_lib.Schema(
      "v", (schema_lib.Vector("e", 2),), rows="event", train_until=9, last_day=9
    ),
    activity=pl.LazyFrame(
      {"key": [1, 1], "time": [1, 2], "e": [[1.0, 2.0], None]}
    ),
  )
  rows = engine.prepare(raw).users.rows
  np.testing.assert_array_equal(rows["numeric"], [[1, 2], [np.nan, np.nan]])
  long = pl.LazyFrame({"key": [1], "time": [1], "e": [[1.0, 2.0, 3.0]]})
  with pytest.raises(
    data_prep.InputError, match="'e' holds 3 numbers in row 0"
  ):
    engine.prepare(dataclasses.replace(raw, activity=long))


def test_sort_order_is_stable():
  rng = np.random.default_rng(0)
  for ascending in (False, True):
    user, clock = rng.integers(0, 9, 500), rng.integers(0, 50, 500)
    if ascending:
      clock.sort()
    order = engine.sort_order(user, clock)
    np.testing.assert_array_equal(order, np.lexsort((clock, user)))
  assert engine.sort_order(np.array([0, 0, 1]), np.array([1, 2, 5])) is None


def test_command_line(tmp_path, capsys):
  schema = tiny_data.write_tables(tmp_path / "raw")
  out = f"--out={tmp_path / 'data'}"
  assert cli.main(["--list"]) == 0
  assert "complete_journey" in capsys.readouterr().out
  common = ["--source=tables", out, "--set", f"schema={schema}"]
  assert cli.main([*common, "--rows=event"]) == 0
  text = capsys.readouterr()
  assert "40 users" in text.err and "split train" in text.err
  path = text.out.strip()
  assert records_lib.Records.open(path).schema.rows == "event"
  assert cli.main(["--source=table", out]) == 1
  assert "did you mean 'tables'" in capsys.readouterr().err
  assert cli.main([*common, "scheme=x"]) == 1
  assert "no option 'scheme'; did you mean 'schema'" in capsys.readouterr().err
