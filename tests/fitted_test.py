"""New rows under a fitted schema: from files, and in memory."""

import datetime
import json

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import __main__ as cli
from lumos_jax.data_prep import fitted as fitted_lib
from lumos_jax.data_prep import memory, run

from lumos_jax import data_prep
from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib
from tests import tiny_data

DAY = datetime.timedelta(days=1)


def prepare(tmp_path, folder, frames=None, **options):
  return tiny_data.tiny_data_dir(tmp_path / folder, frames, **options)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
  """Tiny's data until day 120."""
  return prepare(tmp_path_factory.mktemp("old"), "a", until=120)


def test_until_leaves_out_what_was_not_known(old, tmp_path):
  data, users = tiny_data.read(old)
  whole, all_users = tiny_data.read(prepare(tmp_path, "whole"))
  assert data.schema.last_day == 120 and whole.schema.last_day == 140
  assert data.schema.model_hash == whole.schema.model_hash
  assert data.schema.hash != whole.schema.hash
  for key, user in users.items():
    before = all_users[key]["day"] < 120
    np.testing.assert_array_equal(user["day"], all_users[key]["day"][before])
    np.testing.assert_array_equal(
      user["numeric"], all_users[key]["numeric"][before]
    )
    assert user["span"].tolist() == [user["day"][0] + 1, 120, 120]
  frame = tiny_data.tiny_frames()["activity"]
  late = (frame["time"] >= tiny_data.START + 120 * DAY).sum()
  assert data.stats["notes"]["activity rows from day 120 on, left out"] == late
  dated = prepare(tmp_path, "date", until="2020-04-30")
  assert tiny_data.read(dated)[0].stats["shards"] == data.stats["shards"]


def test_new_rows_are_encoded_as_fitted(old, tmp_path, capsys):
  frames = tiny_data.tiny_frames()
  new = frames["activity"].head(2)
  new = new.with_columns(
    key=pl.lit("u0"),
    time=pl.lit(tiny_data.START + 130 * DAY),
    channel=pl.lit("fax"),
    device=pl.lit("watch"),
    sales=pl.lit(1e6),
  )
  frames["activity"] = pl.concat([frames["activity"], new])
  frames["calendar"] = pl.concat(
    [
      frames["calendar"],
      frames["calendar"].head(1).with_columns(type=pl.lit("x")),
    ]
  )
  path = prepare(tmp_path, "new", frames, fitted=old)
  data, users = tiny_data.read(path)
  base, base_users = tiny_data.read(old)
  assert data.schema.model_hash == base.schema.model_hash
  assert data.calendar.columns == base.calendar.columns
  assert data.schema.last_day == 140
  for key, user in base_users.items():
    before = users[key]["day"] < 120
    for name in ("categorical", "numeric"):
      np.testing.assert_array_equal(users[key][name][before], user[name])
  outside = data.stats["fitted"]["outside"]
  assert outside["activity"]["channel"]["unseen"] == 2
  assert outside["activity"]["device"]["unseen"] == 2
  assert outside["activity"]["sales"]["beyond_range"] == 1  # One day.
  assert outside["calendar"]["type"] == {"unseen": 1, "rows": 4}
  day = users["u0"]["day"] == 130
  assert users["u0"]["categorical"][day].tolist() == [[schema_lib.UNKNOWN]]
  assert "beyond the fitted range" in run.summary(data.stats, 0.0)
  del capsys


def test_one_row_alone_gives_the_tokens_it_has_among_many(tmp_path):
  frames = tiny_data.tiny_frames()
  old = prepare(tmp_path, "old", frames, rows="event")
  _, users = tiny_data.read(old)
  one = frames["activity"].filter(key="u7").sort("time").head(1)
  fitted = fitted_lib.load(old)
  alone = memory.records({"activity": one}, fitted).source("train")[0]
  np.testing.assert_array_equal(
    alone["categorical"], users["u7"]["categorical"][:1]
  )
  np.testing.assert_array_equal(alone["numeric"], users["u7"]["numeric"][:1])
  assert alone["time"] == users["u7"]["time"][:1]


@pytest.mark.parametrize("rows", ["day", "event"])
def test_memory_equals_files(tmp_path, rows):
  frames = tiny_data.tiny_frames()
  path = prepare(tmp_path, rows, frames, rows=rows)
  data, users = tiny_data.read(path)
  tables = {n: f for n, f in frames.items() if n in ("activity", "membership")}
  tables["profile"] = frames["profile"].with_columns(pl.col("age").cast(float))
  made = memory.records(tables, fitted_lib.load(path))
  assert made.schema.model_hash == data.schema.model_hash
  assert made.calendar.columns == data.calendar.columns
  for record in made.source("train"):
    for name in ("day", "categorical", "numeric", "groups", "profile_numeric"):
      np.testing.assert_array_equal(record[name], users[record["key"]][name])


def test_fitted_values_of_tokens_and_bins_are_taken(tmp_path):
  options = dict(rows="event")
  description = tiny_data.DESCRIPTION.format(days=140, train_until=112)
  description = description.replace(
    'Timestamp("time", parts=("hour",)),\n  ),',
    'Binned("bin", of="sales", bins=4), Clock("gap", "gap"),\n'
    '    Composite("token", of=("channel", "bin"), max_values=3),\n  ),',
  ).replace("import Cat", "import Binned, Clock, Composite, Cat")
  description = description.replace(
    'name="tiny",', 'name="tiny", rows="event",'
  )
  make = lambda folder, frames, **kw: tiny_data.tiny_data_dir(
    tmp_path / folder, frames, description, **options, **kw
  )
  frames = tiny_data.tiny_frames()
  old = make("old", frames)
  scaled = frames["activity"].with_columns(sales=pl.col("sales") * 100)
  both = pl.concat([frames["activity"], scaled])
  new = make("new", frames | {"activity": both}, fitted=old)
  a, b = (tiny_data.read(p)[0] for p in (old, new))
  assert a.schema.activity == b.schema.activity
  outside = b.stats["fitted"]["outside"]["activity"]
  # All of a hundred times 10 to 30 is beyond 30.
  assert outside["bin"]["beyond_range"] == len(scaled)


def test_other_kinds_of_data_are_refused(old, tmp_path):
  with pytest.raises(data_prep.InputError, match="rows of days.*--rows=day"):
    prepare(tmp_path, "events", rows="event", fitted=old)
  with pytest.raises(data_prep.InputError, match="neither a prepared data set"):
    prepare(tmp_path, "none", fitted=tmp_path)
  frame = tiny_data.tiny_frames()["activity"]
  with pytest.raises(data_prep.InputError, match="tables needs 'activity'"):
    memory.records({"activty": frame}, fitted_lib.load(old))
  with pytest.raises(data_prep.InputError, match="no column 'sales'"):
    memory.records({"activity": frame.drop("sales")}, fitted_lib.load(old))


def test_the_command_line_takes_what_is_fitted(old, tmp_path, capsys):
  schema = tiny_data.write_tables(tmp_path / "raw")
  args = ["--source=tables", f"--out={tmp_path}/new", f"--fitted={old}"]
  assert cli.main([*args, "--until=130", "--set", f"schema={schema}"]) == 0
  path = tmp_path / "new"
  (found,) = path.iterdir()
  stats = json.loads((found / records_lib.STATS).read_text())
  assert stats["last_day"] == 130
  assert stats["contents"]["fitted"] == stats["model_hash"]
  assert "encoded as fitted by" in capsys.readouterr().err


def test_rows_in_memory_begin_days_where_the_data_set_does(tmp_path):
  text = tiny_data.DESCRIPTION.format(days=140, train_until=112)
  text += 'TIME_ZONE = "Europe/Berlin"\n'
  late = pl.lit(datetime.datetime(2020, 1, 9, 23, 30)).dt.replace_time_zone(
    "UTC"
  )
  frames = tiny_data.tiny_frames()
  frames["activity"] = frames["activity"].with_columns(time=late)
  path = tiny_data.tiny_data_dir(tmp_path, frames, text)
  fitted = fitted_lib.load(path)
  one = frames["activity"].filter(key="u7")
  made = memory.records({"activity": one}, fitted).source("train")[0]
  assert made["day"].tolist() == [9] == tiny_data.read(path)[1]["u7"]["day"]
  with pytest.raises(data_prep.InputError, match="time zone 'Europe/Berlin'"):
    prepare(tmp_path, "utc", fitted=path)
