"""Sources in general, and your own tables."""

import datetime

import numpy as np
import pytest
from lumos_jax.data_prep import engine, sources

from lumos_jax import data_prep
from tests import tiny_data

YAML = """
schema:
  name: tiny
  epoch: 2020-01-01
  last_day: 140
  activity:
    - {type: Categorical, name: channel, daily: "pivot:sales"}
    - {type: Categorical, name: device, daily: mode}
    - {type: Numeric, name: sales}
    - {type: Numeric, name: visits}
    - {type: Numeric, name: rating, transform: none, daily: mean, nullable: true}
    - {type: Timestamp, name: time, parts: [hour]}
  calendar:
    - {type: Categorical, name: type}
    - {type: Numeric, name: coupons, nullable: true}
  profile:
    - {type: Categorical, name: region}
    - {type: Numeric, name: age, nullable: true}
  labels: [{name: churned}, {name: grade}]
train_until: 2020-04-22
tables:
  activity: {file: activity.parquet}
  calendar: {file: calendar.csv}
  membership: {file: membership.csv}
  profile: {file: profile.csv}
  labels: {file: labels.csv}
"""


def test_yaml_equals_python(tmp_path):
  pytest.importorskip("yaml", reason="needs pyyaml")
  path = tiny_data.write_tables(tmp_path)
  (tmp_path / "tiny.yaml").write_text(YAML)
  load = lambda f: engine.prepare(sources.load("tables", {"schema": f}))
  a, b = load(path), load(str(tmp_path / "tiny.yaml"))
  assert a.schema == b.schema
  for name in ("day", "numeric", "categorical"):
    np.testing.assert_array_equal(a.users.rows[name], b.users.rows[name])


def test_columns_files_and_functions(tmp_path):
  frames = tiny_data.tiny_frames()
  frame = frames["activity"].rename({"key": "Customer", "time": "When"})
  halves = [frame[: len(frame) // 2], frame[len(frame) // 2 :]]
  for i, part in enumerate(halves):
    part.write_csv(tmp_path / f"events{i}.csv")
  (tmp_path / "shop.py").write_text(
    "import polars as pl\n"
    "from lumos_jax.data.schema import Numeric, Schema\n"
    "SCHEMA = Schema('shop', (Numeric('sales'), Numeric('costly')))\n"
    "TABLES = {'activity': {'file': 'events*.csv',\n"
    "  'columns': {'key': 'Customer', 'time': 'When'}}}\n"
    "TRAIN_UNTIL = '2020-03-01'\n"
    "def activity(frame):\n"
    "  return frame.with_columns(costly=(pl.col('sales') > 15) * 1.0)\n"
  )
  raw = sources.load("tables", {"schema": str(tmp_path / "shop.py")})
  out = engine.prepare(raw)
  first = frames["activity"]["time"].min().date()
  assert out.schema.epoch == first.isoformat()
  assert out.schema.train_until == (datetime.date(2020, 3, 1) - first).days
  total = out.users.rows["numeric"].sum(0)
  sales = frames["activity"]["sales"]
  assert total.tolist() == [sales.sum(), (sales > 15).sum()]


@pytest.mark.parametrize(
  "body, words",
  [
    (
      "return frame.with_columns(pl.col('sale') * 2)",
      r"activity.parquet.*no column 'sale', which function activity\(\) names; "
      "did you mean 'sales'. It has .*'visits'",
    ),
    ("return frame.select('zip').collect()", r"names\. It has \['key'"),
    ("return frame.with_columns(pl.col('sales') + pl.lit(b'x'))", "fails: "),
    ("return 3", "returned int"),
  ],
)
def test_function_that_does_not_fit_its_table_is_named(tmp_path, body, words):
  text = "import polars as pl\n" + tiny_data.DESCRIPTION.format(
    days=140, train_until=112
  )
  text += f"\ndef activity(frame):\n  {body}\n"
  path = tiny_data.write_tables(tmp_path, description=text)
  with pytest.raises(data_prep.InputError, match=words):
    sources.load("tables", {"schema": path})


@pytest.mark.parametrize(
  "change, words",
  [
    (("TABLES = ", "TABLE = "), "TABLES is not defined"),
    (
      ("activity.parquet", "activty.parquet"),
      "no file 'activty.parquet'.*mean",
    ),
    (('"profile": {{"file"', '"profil": {{"file"'), "'profil'.*'profile'"),
    (("TRAIN_UNTIL = {train_until}", ""), "train_until"),
    (
      ("TRAIN_UNTIL = {train_until}", "TRAIN_UNTIL = 'May'"),
      "'May' is no date",
    ),
    (('"file": "labels.csv"', '"file": "l.txt"'), "no file 'l.txt'"),
    (('{{"file": "labels.csv"}}', '"l.csv"'), r"'file'.*it has \['l.csv'\]"),
  ],
)
def test_bad_descriptions(tmp_path, change, words):
  text = tiny_data.DESCRIPTION.replace(*change)
  text = text.format(days=140, train_until=112)
  path = tiny_data.write_tables(tmp_path, description=text)
  with pytest.raises(data_prep.InputError, match=words):
    sources.load("tables", {"schema": path})


def test_truncated_input_is_named(tmp_path):
  path = tiny_data.write_tables(tmp_path)
  file = tmp_path / "activity.parquet"
  file.write_bytes(file.read_bytes()[:-50])
  with pytest.raises(data_prep.InputError, match="cannot be read|cannot read"):
    data_prep.prepare("tables", tmp_path, schema=path, quiet=True)


def test_empty_file_is_named(tmp_path):
  text = tiny_data.DESCRIPTION.replace("activity.parquet", "activity.csv")
  text = text.format(days=140, train_until=112)
  path = tiny_data.write_tables(tmp_path, description=text)
  (tmp_path / "activity.csv").touch()
  with pytest.raises(
    data_prep.InputError, match="activity.csv .*a file is empty"
  ):
    sources.load("tables", {"schema": path})


def test_description_is_needed(tmp_path):
  with pytest.raises(data_prep.InputError, match="schema=FILE"):
    sources.load("tables", {})
  with pytest.raises(data_prep.InputError, match="no such file"):
    sources.load("tables", {"schema": str(tmp_path / "x.py")})


def test_unknown_source_and_option():
  with pytest.raises(data_prep.InputError, match="'zebra'. There are"):
    sources.load("zebra", {})
  with pytest.raises(data_prep.InputError, match="did you mean 'oulad'"):
    sources.load("ouladd", {})
  with pytest.raises(data_prep.InputError, match="did you mean 'departments'"):
    sources.load("complete_journey", {"department": 3})


def test_all_sources_describe_themselves():
  text = sources.describe()
  assert all(f"{n}: " in text for n in sources.names())
