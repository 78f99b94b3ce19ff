"""Sessions of clicks in memory, for tests of the intent recipe."""

import fake_events
import numpy as np

from lumos_jax import config as config_lib
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import pages as pages_lib
from lumos_jax.data import schema as schema_lib

PAGES, WIDTH = 24, 8


def schema():
  """A page, a part of its address, an event type and seconds of dwell."""
  return schema_lib.Schema(
    name="sessions",
    activity=(
      schema_lib.Categorical(
        "page", values=tuple(f"p{i}" for i in range(PAGES))
      ),
      schema_lib.Categorical("part1", values=("h0", "h1", "h2")),
      schema_lib.Categorical("event", values=("view", "submit")),
      schema_lib.Numeric("dwell_seconds", nullable=True),
    ),
    labels=(
      schema_lib.Label("bought", values=("no", "yes")),
      schema_lib.Label("topic", values=("a", "b", "c", "never")),
    ),
    rows="event",
    epoch="2020-01-01",
    first_day=0,
    last_day=10,
    train_until=10,
  )


def record(rng, i, count):
  """Pages of one of three topics, of which one buys."""
  topic = i % 3
  page = topic * 8 + rng.integers(0, 8, count)
  dwell = rng.exponential(30, (count, 1)).astype(np.float32)
  dwell[-1:] = np.nan
  seconds = i % 9 * 86_400 + np.arange(count) * 60
  ids = [page + 2, page // 8 + 2, rng.integers(2, 4, count)]
  return {
    "key": f"s{i}",
    **fake_events.times(seconds),
    "categorical": np.stack(ids, 1).astype(np.int32),
    "numeric": dwell,
    "profile_categorical": np.zeros(0, np.int32),
    "profile_numeric": np.zeros(0, np.float32),
    "groups": np.zeros(0, np.int32),
    "span": np.asarray([0, 10, 10], np.int32),
    "label_id": np.arange(2, dtype=np.int32),
    "label_time": np.full(2, -(2**31), np.int32),
    "label_value": np.asarray([float(topic == 0), topic], np.float32),
  }


class Records:
  """What `data.records.Records` offers, in memory; sessions of all lengths."""

  def __init__(self, path="sessions", sessions=90, seed=0):
    rng = np.random.default_rng(seed)
    self.schema, self.path = schema(), path
    none, numbers = np.zeros(0, np.int32), np.zeros((0, 0))
    self.calendar = calendar_lib.Calendar(
      self.schema, ("",), *(none,) * 4, numbers, numbers
    )
    lengths = [(1, 2, 3, 4, 6, 9, 12)[i % 7] for i in range(sessions)]
    users = [record(rng, i, n) for i, n in enumerate(lengths)]
    cut = sessions * 2 // 3
    self._users = {"train": users[:cut], "test": users[cut:]}
    self.splits = ["test", "train"]
    self.stats = {
      "splits": {k: {"users": len(v)} for k, v in self._users.items()}
    }

  def source(self, split):
    return fake_events.Users(self._users[split])


def pages(folder):
  """Writes the pages of `Records` to a folder."""
  rng = np.random.default_rng(1)
  pages_lib.Pages(
    "page",
    np.asarray(["", "", *(f"Page {i}" for i in range(PAGES))]),
    np.asarray(["", "", *(f"topic {i // 8}" for i in range(PAGES))]),
    rng.normal(size=(PAGES + 2, WIDTH)).astype(np.float16),
  ).save(folder)


def config(**overrides):
  """A config that trains in seconds; overrides by dotted name."""
  c = config_lib.default("intent")
  c.name, c.report = "test", False
  config_lib.set_size(c, "tiny")
  d = c.data
  d.page_fields, d.sequence_length, d.segments = ("part1",), 8, 3
  d.validation_split = d.test_split = "test"
  c.model.dropout, c.objective.chunk = 0.0, 16
  c.train.steps, c.train.batch_size = 6, 8
  c.train.log_every, c.train.checkpoint_every = 1, 3
  c.optimizer.warmup_steps = 2
  c.eval_batch_size = 16
  c.lock()
  for name, value in overrides.items():
    c.update_from_flattened_dict({name.replace("__", "."): value})
  return c
