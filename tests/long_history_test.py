"""What is counted of a user's history: right, and in little memory."""

import dataclasses
import tracemalloc

import fake_events
import numpy as np

from lumos_jax.data import schema as schema_lib
from lumos_jax.data import sequences, windows


def test_counts_equal_the_plain_ones():
  rng = np.random.default_rng(0)
  for n in range(60):
    ids = rng.integers(0, 9, n).astype(np.int32)
    asked = rng.random(n) < 0.7
    seen, often = windows._counted(ids, asked)
    expected = [v for i, v in enumerate(ids) if v not in ids[i + 1 :]]
    assert seen.tolist() == expected and often.dtype == seen.dtype == np.int32
    assert often.tolist() == [int(np.sum(ids[asked] == v)) for v in expected]


def test_a_long_history_takes_little_memory():
  events, items = 60_000, 20_000
  cfg = fake_events.config(data__filter_seen=False).data
  schema = fake_events.schema(attributes=False)
  values = tuple(map(str, range(items)))
  wide = [
    dataclasses.replace(f, values=values) if schema_lib.has_ids(f) else f
    for f in schema.activity
  ]
  schema = dataclasses.replace(schema, activity=tuple(wide))
  cut = sequences.Sequences(schema, cfg)
  user = fake_events.record(np.random.default_rng(0), 0, 1)
  ids = np.random.default_rng(1).integers(2, items, (events, 2))
  user |= fake_events.times(np.arange(events))
  user["categorical"] = ids.astype(np.int32)
  user["numeric"] = np.zeros((events, 1), np.float32)
  tracemalloc.start()
  found = cut.example(user, "test")
  most = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert most < 10 * 2**20
  assert found["often"].sum() == events - 1
