"""Derived fields: bins, clock parts, composite tokens and their back-off."""

import dataclasses
import datetime

import numpy as np
import polars as pl
import pytest
import tiny_data
from lumos_jax.data_prep import derive, engine
from lumos_jax.data_prep.inputs import InputError, Inputs

from lumos_jax.data import schema as schema_lib
from lumos_jax.data.schema import (
  ANY,
  Binned,
  Categorical,
  Clock,
  Composite,
  Numeric,
  Schema,
  SchemaError,
)


def test_bins_hold_equally_many_and_never_part_equal_numbers():
  rng = np.random.default_rng(0)
  x = rng.lognormal(size=10_000)
  field = derive.fit_bins(Binned("b", of="x", bins=10), x)
  count = np.bincount(derive.bin_ids(field, x))[2:]
  assert len(count) == 10 and count.min() > 980
  x = np.repeat([1.0, 5.0, 9.0], [50, 1, 50])
  field = derive.fit_bins(Binned("b", of="x", bins=10), x)
  ids = derive.bin_ids(field, np.asarray([1.0, 5.0, 9.0, -3.0, 99.0, np.nan]))
  assert len(set(ids[:3])) == field.size - 2
  assert ids[3] == ids[0] and ids[4] == ids[2]
  assert ids[5] == schema_lib.MISSING


def test_log_bins_step_evenly():
  field = derive.fit_bins(
    Binned("b", of="x", bins=4, scale="log"), np.asarray([0.0, 10.0, 9999.0])
  )
  steps = np.diff(np.log1p([0, *field.edges, 9999]))
  np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
  with pytest.raises(SchemaError, match="scale 'even'"):
    derive.fit_bins(Binned("b", of="x", scale="even"), np.ones(3))
  with pytest.raises(SchemaError, match="bins = 0"):
    derive.fit_bins(Binned("b", of="x", bins=0), np.ones(3))


def test_clock_parts_agree_with_the_calendar():
  rng = np.random.default_rng(0)
  time = rng.integers(-(10**8), 10**8, 300)
  epoch = datetime.date(2003, 5, 17)
  zero = datetime.datetime(2003, 5, 17)
  day = (epoch - datetime.date(1970, 1, 1)).days
  user = np.zeros(300, int)
  for part, expected in (
    ("hour", lambda t: t.hour),
    ("weekday", lambda t: t.weekday()),
    ("monthday", lambda t: t.day - 1),
  ):
    at = time * 1_000_000
    ids = derive.clock_ids(Clock("c", part), user, at, at, day)
    dates = [zero + datetime.timedelta(seconds=int(s)) for s in time]
    assert ids.tolist() == [expected(d) + 2 for d in dates]


def test_gap_is_to_the_users_event_before():
  time = np.asarray([5, 7, 108, 5 + 2**20, 5, 100]) * 1_000_000
  user = np.asarray([0, 0, 0, 0, 1, 1])
  ids = derive.clock_ids(Clock("g", "gap"), user, time, time, 0)
  # 5 -> 7: 2 s; 7 -> 108: 101 s; 108 -> 2**20 + 5: a little less; 5 -> 100: 95.
  assert ids.tolist() == [0, 1 + 2, 6 + 2, 19 + 2, 0, 6 + 2]
  assert Clock("g", "gap").describe(1 + 2) == "1..2 s"
  with pytest.raises(SchemaError, match="part 'minute'"):
    Clock("c", "minute")


def inputs(rows, of=("channel", "kind"), **settings):
  """Activity of one training user and one of a test split."""
  frame = pl.DataFrame(
    rows, schema=["key", "second", "channel", "kind", "amount"], orient="row"
  )
  frame = frame.with_columns(time=pl.from_epoch("second", time_unit="s"))
  schema = Schema(
    name="t",
    activity=(
      Categorical("channel"),
      Categorical("kind"),
      Binned("amount_bin", of="amount", bins=2),
      Clock("gap", "gap"),
      Composite("token", of=of, **settings),
      Numeric("amount"),
    ),
    rows="event",
    epoch="1970-01-01",
    train_until=9999,
  )
  split = pl.DataFrame({"key": ["a", "b"], "split": ["train", "test"]})
  return Inputs(schema=schema, activity=frame.lazy(), split=split)


ROWS = [
  ("a", 1, "web", "x", 1.0),
  ("a", 2, "web", "x", 2.0),
  ("a", 3, "app", "x", 9.0),
  ("a", 4, "web", "y", 9.0),
  ("a", 5, "web", "x", 3.0),
  ("b", 1, "web", "x", 3.0),
  ("b", 2, "app", "y", 3.0),
  ("b", 3, "tv", "x", 3.0),
  ("b", 4, None, "x", 3.0),
]


def tokens(prepared, key):
  schema = prepared.schema
  column = [f.name for f in schema.categorical("activity")].index("token")
  ids = tiny_data.by_key(prepared)[key]["categorical"][:, column]
  return [schema.token("token", int(i)) for i in ids]


def test_top_tokens_and_one_unknown_as_in_the_paper():
  prepared = engine.prepare(inputs(ROWS, max_values=2))
  field = prepared.schema.categorical("activity")[-1]
  assert len(field.values) == 2
  found = [t["channel"] + t["kind"] for t in tokens(prepared, "a")]
  assert found.count("webx") == 3 and found.count("(unknown)(unknown)") == 1
  assert [t["kind"] for t in tokens(prepared, "b")][1:] == ["(unknown)"] * 3
  stats = prepared.stats["composites"]["token"]
  assert stats["products"] == 3 and stats["tokens"] == 2
  assert stats["coverage"] == 0.8 and stats["rows_unknown"] == 4


def test_backoff_keeps_what_a_rare_event_still_says():
  prepared = engine.prepare(inputs(ROWS, max_values=1, backoff=("kind",)))
  found = tokens(prepared, "a")
  assert found[2] == {"channel": "", "kind": "x"}
  assert found[3] == {"channel": "", "kind": "y"}
  assert tokens(prepared, "b")[1] == {"channel": "", "kind": "y"}
  stats = prepared.stats["composites"]["token"]
  assert stats["backoff_tokens"] == 2 and stats["rows_unknown"] == 0
  assert stats["rows_backoff"] == 5


def test_more_tokens_than_products_and_missing_parts():
  rows = [*ROWS, ("a", 6, None, "x", 1.0)]
  prepared = engine.prepare(inputs(rows, max_values=1000))
  stats = prepared.stats["composites"]["token"]
  assert stats["products"] == stats["tokens"] == 4 and stats["coverage"] == 1
  assert tokens(prepared, "b")[3] == {"channel": "(missing)", "kind": "x"}


def test_unknown_parts_make_no_token():
  """Rare values and those that come later would mean one token."""
  made = inputs(ROWS, max_values=1000, min_count=1, backoff=("kind",))
  fields = list(made.schema.activity)
  at = [f.name for f in fields].index("channel")
  fields[at] = dataclasses.replace(fields[at], values=("web",))
  schema = dataclasses.replace(made.schema, activity=tuple(fields))
  prepared = engine.prepare(dataclasses.replace(made, schema=schema))
  stats = prepared.stats["composites"]["token"]
  assert stats["products"] == stats["tokens"] == 2 and stats["coverage"] == 0.8
  small = {"channel": "", "kind": "x"}
  assert tokens(prepared, "a")[2] == tokens(prepared, "b")[2] == small
  said = [prepared.schema.token("token", i) for i in range(5)]
  assert [prepared.schema.token_id("token", t) for t in said] == [*range(5)]


def test_idle_backoff_is_told():
  made = inputs(ROWS, max_values=1000, backoff=("kind",))
  assert engine.prepare(made).stats["composites"]["token"]["backoff_idle"]


def test_min_count_leaves_rare_products_to_the_backoff():
  made = inputs(ROWS, max_values=1000, min_count=2, backoff=("kind",))
  stats = engine.prepare(made).stats["composites"]["token"]
  assert stats["tokens"] == 1 and stats["backoff_tokens"] == 2


def test_tokens_are_read_back():
  schema = engine.prepare(inputs(ROWS, backoff=("kind",), max_values=2)).schema
  field = schema.categorical("activity")[-1]
  for i in range(field.size):
    assert schema.token_id("token", schema.token("token", i)) == i
  with pytest.raises(SchemaError, match="has the ids 0 to"):
    schema.token("token", field.size)
  with pytest.raises(SchemaError, match="no activity field 'nope'"):
    schema.token("nope", 0)
  again = Schema.from_json(schema.to_json())
  assert again == schema and again.hash == schema.hash
  assert any(ANY in v for v in field.values)
  with pytest.raises(SchemaError, match="is made of"):
    schema.token_id("token", {"channel": "web"})
  assert schema.token_id("token", {"channel": "fax", "kind": "x"}) == 1


@pytest.mark.parametrize(
  "of,settings,words",
  [
    (("channel", "city"), {}, "made of .*'city'"),
    (("channel", "channel"), {}, "different fields"),
    (("channel", "kind"), dict(backoff=("gap",)), "must be some of"),
    (("channel",), dict(backoff=("channel",)), "fewer than"),
  ],
)
def test_wrong_composites_are_refused(of, settings, words):
  with pytest.raises(SchemaError, match=words):
    inputs(ROWS, of, **settings)


def test_derived_fields_need_events():
  with pytest.raises(SchemaError, match="rows=event"):
    Schema(name="t", activity=(Clock("gap", "gap"),), rows="day")
  with pytest.raises(SchemaError, match="activity table"):
    Schema(name="t", activity=(), profile=(Clock("h", "hour"),), rows="event")


def test_a_binned_column_must_be_there_and_a_number():
  made = inputs(ROWS)
  made.activity = made.activity.drop("amount")
  with pytest.raises(InputError, match="no column 'amount'"):
    engine.prepare(made)
  made = inputs(ROWS)
  made.activity = made.activity.with_columns(amount=pl.lit("ten"))
  with pytest.raises(InputError, match="a number"):
    engine.prepare(made)


def test_too_many_products_are_refused():
  field = Composite("token", of=("a", "b", "c"))
  with pytest.raises(SchemaError, match="coarser parts"):
    derive.Products(field, (1 << 22,) * 3)


def test_held_out_events_fit_nothing():
  made = inputs(ROWS)
  made.held_out_events = 2
  stats = engine.prepare(made).stats["composites"]["token"]
  assert stats["products"] == 2  # web/x and app/x: web/y is held out.
