"""A small data set in memory, for tests of what lies above the reader."""

import numpy as np

from lumos_jax import config as config_lib
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import schema as schema_lib

DAYS = 140


def schema(rows="day"):
  """Two numeric and one categorical activity field, a campaign calendar."""
  return schema_lib.Schema(
    name="fake",
    activity=(
      schema_lib.Categorical("channel", values=("web", "app")),
      schema_lib.Numeric("sales", offset=1.0, divisor=2.0),
      schema_lib.Numeric("visits"),
      schema_lib.Numeric("rating", transform="none", nullable=True),
    ),
    calendar=(
      schema_lib.Categorical("type", values=("sale", "holiday")),
      schema_lib.Numeric("coupons"),
    ),
    profile=(
      schema_lib.Categorical("region", values=("north", "south")),
      schema_lib.Numeric("age"),
    ),
    labels=(
      schema_lib.Label("churned"),
      schema_lib.Label("grade", values=("fail", "pass")),
    ),
    rows=rows,
    epoch="2020-01-01",
    first_day=0,
    last_day=DAYS,
    train_until=112,
  )


def calendar(s=None):
  """Two sales (one for group "vip"), a holiday, one entry announced late."""
  return calendar_lib.Calendar(
    s or schema(),
    ("", "vip"),
    group=[0, 1, 0, 0],
    start=[10, 80, 50, 120],
    end=[20, 100, 51, 130],
    announced=[calendar_lib.ALWAYS_KNOWN] * 3 + [110],
    categorical=[[2], [2], [3], [2]],
    numeric=[[5.0], [9.0], [0.0], [1.0]],
  )


def record(rng, i, rows="day"):
  """One user's record; visits drive sales."""
  if rows == "day":
    day = np.flatnonzero(rng.random(DAYS) < 0.1 + 0.05 * (i % 8))
    time = {}
  else:
    seconds = np.sort(rng.integers(0, DAYS * 86400, 60))
    day, time = seconds // 86400, {"time": seconds * 1_000_000}
  n = len(day)
  visits = rng.integers(1, 4, n)
  numeric = np.stack([visits * 10.0, visits, rng.random(n)], 1)
  numeric[::3, 2] = np.nan
  churned = i % 5 == 0
  return {
    "key": f"user{i}",
    "day": day.astype(np.int32),
    **time,
    "categorical": rng.integers(0, 4, (n, 1)).astype(np.int32),
    "numeric": numeric.astype(np.float32),
    "profile_categorical": np.asarray([i % 4], np.int32),
    "profile_numeric": np.asarray([20.0 + i], np.float32),
    "groups": np.asarray([1] if i % 2 else [], np.int32),
    "span": np.asarray([0, DAYS, DAYS], np.int32),
    "label_id": np.asarray([0, 1] if churned else [1], np.int32),
    "label_time": np.asarray(
      [100, -(2**31)] if churned else [-(2**31)], np.int32
    ),
    "label_value": np.asarray([1.0, 0.0] if churned else [1.0], np.float32),
  }


class Records:
  """What `data.records.Records` offers, in memory."""

  def __init__(self, users=24, seed=0, rows="day"):
    rng = np.random.default_rng(seed)
    self.schema = schema(rows)
    self.calendar = calendar(self.schema)
    self.users = [record(rng, i, rows) for i in range(users)]
    self.splits = ["train"]
    self.stats = {}
    self.path = "fake"

  def source(self, split):
    assert split == "train"
    return self.users


def config(**overrides):
  """A config that trains in seconds; overrides by dotted name."""
  c = config_lib.default()
  c.name = "test"
  c.tasks = dict(
    active=dict(kind="binary", field="visits", reduce="any", horizon_days=7),
    churn=dict(kind="binary", field="visits", reduce="none", horizon_days=14),
    spend=dict(kind="regression", field="sales", horizon_days=14),
  )
  d = c.data
  d.train_origin_first, d.train_origin_last = 28, 84
  d.validation_origin, d.test_origin = 98, 112
  d.history_days = d.eval_history_days = 56
  d.origins_per_example = 4
  config_lib.set_size(c, "tiny")
  c.model.patch_days = 7
  c.model.members, c.model.state_members = 2, 1
  c.model.sparsity = 0.01
  c.model.habit_days = (7, 28, 0)
  c.model.dropout = 0.0
  c.train.steps, c.train.batch_size = 6, 8
  c.train.log_every, c.train.checkpoint_every = 1, 3
  c.optimizer.warmup_steps = 2
  c.lock()
  for name, value in overrides.items():
    c.update_from_flattened_dict({name.replace("__", "."): value})
  return c
