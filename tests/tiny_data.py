"""A small synthetic data set through the whole of data_prep, for tests.

40 users over 140 days, events with a channel, sales and visits, two campaigns
(one for a group), a profile and labels; visits drive sales.
"""

import datetime

import numpy as np
import polars as pl
from lumos_jax.data_prep import encode

from lumos_jax import data_prep
from lumos_jax.data import records as records_lib

DAYS = 140
TRAIN_UNTIL = 112
START = datetime.datetime(2020, 1, 1)

DESCRIPTION = """
from lumos_jax.data.schema import Categorical, Label, Numeric, Schema, Timestamp

SCHEMA = Schema(
  name="tiny",
  activity=(
    Categorical("channel", daily="pivot:sales"),
    Categorical("device", daily="mode"),
    Numeric("sales"),
    Numeric("visits"),
    Numeric("rating", "none", daily="mean", nullable=True),
    Timestamp("time", parts=("hour",)),
  ),
  calendar=(Categorical("type"), Numeric("coupons", nullable=True)),
  profile=(Categorical("region"), Numeric("age", nullable=True)),
  labels=(Label("churned"), Label("grade")),
  epoch="2020-01-01",
  first_day=0,
  last_day={days},
)
TABLES = {{
  "activity": {{"file": "activity.parquet"}},
  "calendar": {{"file": "calendar.csv"}},
  "membership": {{"file": "membership.csv"}},
  "profile": {{"file": "profile.csv"}},
  "labels": {{"file": "labels.csv"}},
}}
TRAIN_UNTIL = {train_until}
"""


def tiny_frames(users: int = 40, seed: int = 0) -> dict[str, pl.DataFrame]:
  """The raw tables; user i is named "u<i>" and has about 10 + i events."""
  rng = np.random.default_rng(seed)
  owner = np.repeat(np.arange(users), 10 + np.arange(users))
  count = len(owner)
  visits = rng.integers(1, 4, count)
  rating = np.where(rng.random(count) < 0.5, rng.integers(1, 6, count), np.nan)
  seconds = rng.integers(0, DAYS * 86_400, count)
  activity = pl.DataFrame(
    {
      "key": [f"u{i}" for i in owner],
      "time": [START + datetime.timedelta(seconds=int(s)) for s in seconds],
      "channel": rng.choice(["web", "app", "shop"], count, p=[0.6, 0.3, 0.1]),
      "device": rng.choice(["phone", "desk"], count),
      "sales": visits * 10.0,
      "visits": visits,
      "rating": rating,
    }
  )
  names = [f"u{i}" for i in range(users)]
  day = lambda d: START.date() + datetime.timedelta(days=d)
  return {
    "activity": activity,
    "calendar": pl.DataFrame(
      {
        "group": ["", "vip", ""],
        "start": [day(10), day(80), day(50)],
        "end": [day(19), day(99), day(50)],
        "announced": [None, None, day(30)],
        "type": ["sale", "sale", "holiday"],
        "coupons": [5.0, 9.0, None],
      }
    ).with_columns(pl.col("group").replace("", None)),
    "membership": pl.DataFrame({"key": names[::2], "group": "vip"}),
    "profile": pl.DataFrame(
      {
        "key": names,
        "region": rng.choice(["north", "south"], users),
        "age": [None if i % 7 == 0 else 20.0 + i for i in range(users)],
      }
    ),
    "labels": pl.DataFrame(
      {
        "key": names[::5] + names,
        "name": ["churned"] * len(names[::5]) + ["grade"] * users,
        "time": [day(100)] * len(names[::5]) + [None] * users,
        "value": ["1"] * len(names[::5])
        + ["pass" if i % 3 else "fail" for i in range(users)],
      }
    ),
  }


def write_tables(folder, frames=None, description=None) -> str:
  """Writes tables and their description; returns the description's path."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, frame in (frames or tiny_frames()).items():
    if name == "activity":
      frame.write_parquet(folder / "activity.parquet")
    else:
      frame.write_csv(folder / f"{name}.csv")
  path = folder / "tiny.py"
  text = description or DESCRIPTION.format(days=DAYS, train_until=TRAIN_UNTIL)
  path.write_text(text)
  return str(path)


def tiny_data_dir(tmp_path, frames=None, description=None, **options):
  """A prepared data set below tmp_path/data; options go to `prepare`."""
  schema = write_tables(tmp_path / "raw", frames, description)
  return data_prep.prepare(
    "tables", tmp_path / "data", schema=schema, **{"quiet": True} | options
  )


def read(path, split="train"):
  """A prepared data set and {key: record} of a split."""
  data = records_lib.Records.open(path)
  source = data.source(split)
  found = source.__getitems__(range(len(source)))
  return data, {u["key"]: u for u in found}


def by_key(prepared):
  """{key: record} of what `engine.prepare` returns."""
  keys = prepared.users.keys
  found = encode.records(prepared.users, range(len(keys)))
  return {r["key"]: r for r in found}
