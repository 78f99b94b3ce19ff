"""Events of a few users in memory, for tests of next-event prediction."""

import numpy as np

from lumos_jax import config as config_lib
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import schema as schema_lib

ITEMS = 30


def schema(attributes=True):
  """An item with attributes, a channel, an amount and a profile."""
  known = tuple((i % 3, 3 + i % 2) for i in range(ITEMS))
  return schema_lib.Schema(
    name="events",
    activity=(
      schema_lib.Categorical(
        "item",
        values=tuple(f"i{i}" for i in range(ITEMS)),
        attributes=known if attributes else None,
      ),
      schema_lib.Categorical("channel", values=("web", "app")),
      schema_lib.Numeric("amount"),
    ),
    profile=(
      schema_lib.Categorical("gender", values=("f", "m")),
      schema_lib.Numeric("age", transform="none"),
    ),
    labels=(schema_lib.Label("vip", values=("no", "yes")),),
    rows="event",
    epoch="2020-01-01",
    first_day=0,
    last_day=100,
    train_until=100,
  )


def times(seconds):
  """A record's days and instants, of seconds since the epoch in UTC."""
  seconds = np.asarray(seconds, np.int64)
  day = (seconds // 86_400).astype(np.int32)
  return {"day": day, "time": seconds * 1_000_000}


def record(rng, i, count):
  """A user who goes up by one or two items most of the time."""
  steps = np.where(rng.random(count) < 0.9, 1 + i % 2, 5)
  item = (rng.integers(ITEMS) + np.cumsum(steps)) % ITEMS
  seconds = np.sort(rng.integers(0, 100 * 86_400, count))
  return {
    "key": f"user{i}",
    **times(seconds),
    "categorical": np.stack([item + 2, rng.integers(0, 4, count)], 1).astype(
      np.int32
    ),
    "numeric": rng.random((count, 1)).astype(np.float32),
    "profile_categorical": np.asarray([2 + i % 2], np.int32),
    "profile_numeric": np.asarray([20.0 + i], np.float32),
    "groups": np.zeros(0, np.int32),
    "span": np.asarray([0, 100, 100], np.int32),
    "label_id": np.zeros(1, np.int32),
    "label_time": np.asarray([-(2**31)], np.int32),
    "label_value": np.asarray([float(i % 2)], np.float32),
  }


class Records:
  """What `data.records.Records` offers, in memory; users of all lengths."""

  def __init__(self, users=40, seed=0, lengths=None, attributes=True):
    rng = np.random.default_rng(seed)
    self.schema = schema(attributes)
    none, numbers = np.zeros(0, np.int32), np.zeros((0, 0))
    self.calendar = calendar_lib.Calendar(
      self.schema, ("",), *(none,) * 4, numbers, numbers
    )
    lengths = lengths or [
      (0, 1, 2, 3, 5, 9, 17, 40)[i % 8] for i in range(users)
    ]
    self.users = [record(rng, i, n) for i, n in enumerate(lengths)]
    self.splits, self.stats, self.path = ["train"], {}, "events"

  def source(self, split):
    assert split == "train"
    return Users(self.users)


class Users(list):
  """A list that is read as `data.records.Source` is."""

  def __getitems__(self, positions):
    return [self[i] for i in positions]


def config(**overrides):
  """A config that trains in seconds; overrides by dotted name."""
  c = config_lib.default("panther")
  c.name = "test"
  d = c.data
  d.target, d.sequence_length, d.overlap, d.segments = "item", 12, 3, 4
  d.train_origin_last, d.validation_origin, d.test_origin = 70, 70, 85
  c.model.update(d_model=32, d_ff=64, n_heads=2, n_encoder_layers=1)
  c.model.update(activity_width=16, profile_width=8)
  c.model.positions, c.model.dropout = "learned", 0.0
  c.objective.chunk = 16
  c.train.steps, c.train.batch_size = 6, 4
  c.train.log_every, c.train.checkpoint_every = 1, 3
  c.optimizer.warmup_steps = 2
  c.eval_batch_size = 16
  c.report = False
  c.lock()
  for name, value in overrides.items():
    c.update_from_flattened_dict({name.replace("__", "."): value})
  return c
