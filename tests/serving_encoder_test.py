"""Events of the service get the codes that data_prep gives them."""

import dataclasses
import datetime

import numpy as np
import polars as pl
import pytest
import tiny_data
from lumos_jax.data_prep import engine, inputs

from lumos_jax.data import schema as schema_lib
from lumos_jax.serving import encoder, history

C, B, K = schema_lib.Categorical, schema_lib.Binned, schema_lib.Clock
PARTS = ("hour", "weekday", "monthday", "gap")


def declared(**kw):
  return schema_lib.Schema(
    name="all",
    activity=(
      C("shop"),
      C("code", max_values=6),
      schema_lib.Numeric("amount"),
      schema_lib.Numeric("rating", nullable=True),
      B("size", of="amount", bins=7),
      *(K(p, p) for p in PARTS),
      schema_lib.Composite(
        "token", of=("shop", "size", "hour"), max_values=30, backoff=("shop",)
      ),
      schema_lib.Timestamp("time", parts=("hour", "yearday")),
      schema_lib.Timestamp("due", parts=("weekday", "monthday")),
      schema_lib.Vector("text", 3),
    ),
    rows="event",
    epoch="2020-01-01",
    **kw,
  )


def frame(rng, users=12, rows=600):
  seconds = np.sort(rng.integers(0, 200 * 86_400, rows)) + rng.random(rows)
  start = datetime.datetime(2020, 1, 1)
  at = [start + datetime.timedelta(seconds=float(s)) for s in seconds]
  text = lambda xs: [None if rng.random() < 0.05 else str(x) for x in xs]
  return pl.DataFrame(
    {
      "key": [f"u{i}" for i in rng.integers(0, users, rows)],
      "time": at,
      "shop": text(rng.choice(["a", "b", "007", "7"], rows)),
      "code": rng.integers(0, 12, rows),
      "amount": rng.lognormal(2, 1, rows),
      "rating": [None if x < 0.3 else float(x) for x in rng.random(rows)],
      "due": [
        None if i % 9 == 0 else t + datetime.timedelta(days=3)
        for i, t in enumerate(at)
      ],
      "text": [[float(x) for x in rng.random(3)] for _ in range(rows)],
    }
  )


@pytest.mark.parametrize("zone", ["", "America/New_York"])
def test_events_are_encoded_as_data_prep_does(zone):
  rng = np.random.default_rng(0)
  table = frame(rng)
  raw = inputs.Inputs(
    schema=declared(train_until=120), activity=table.lazy(), time_zone=zone
  )
  made = engine.prepare(raw)
  wanted = tiny_data.by_key(made)
  coder = encoder.Encoder(made.schema, made.schema.activity)
  before: dict = {}
  rows: dict = {}
  columns = [c for c in table.columns if c not in ("key", "time")]
  for row in table.iter_rows(named=True):
    values = {c: row[c] for c in columns}
    if values["due"] is not None:
      values["due"] = values["due"].isoformat()
    at = coder.clock.read(row["time"].isoformat())
    key = row["key"]
    found = coder.encode(values, at, before.get(key))
    before[key] = at.instant
    rows.setdefault(key, []).append(found)
  assert set(rows) == set(wanted)
  layout = history.Layout(made.schema)
  for key, record in wanted.items():
    mine = layout.events(rows[key])
    for name in ("day", "time", "categorical", "numeric"):
      np.testing.assert_array_equal(mine[name], record[name], err_msg=name)
  ids = np.concatenate([r["categorical"] for r in wanted.values()])
  assert (ids[:, 1] == schema_lib.UNKNOWN).any()  # Rare codes.
  assert (ids[:, 0] == schema_lib.MISSING).any()
  # Zoned text of the same instants says the same.
  text = "2020-03-08T12:30:00.250001+05:30"
  utc = coder.clock.read("2020-03-08T07:00:00.250001Z")
  assert coder.clock.read(text) == utc


def test_days_are_made_of_their_events_as_data_prep_does():
  frames = tiny_data.tiny_frames(users=6)
  scope: dict = {}
  text = tiny_data.DESCRIPTION.format(
    days=tiny_data.DAYS, train_until=tiny_data.TRAIN_UNTIL
  )
  exec(compile(text, "description", "exec"), scope)
  raw = inputs.Inputs(
    schema=scope["SCHEMA"],
    activity=frames["activity"].lazy(),
    profile=frames["profile"],
  )
  raw.schema = dataclasses.replace(
    raw.schema, calendar=(), labels=(), train_until=tiny_data.TRAIN_UNTIL
  )
  made = engine.prepare(raw)
  wanted = tiny_data.by_key(made)
  layout = history.Layout(made.schema)
  coder = encoder.Encoder(made.schema, layout.fields)
  for key, record in wanted.items():
    events = frames["activity"].filter(pl.col("key") == key).sort("time")
    user = blank(layout)
    for row in events.iter_rows(named=True):
      values = {c: row[c] for c in coder.columns if c != "time"}
      if values["rating"] is not None and np.isnan(values["rating"]):
        values["rating"] = None
      at = coder.clock.read(row["time"].isoformat())
      found = coder.encode(values, at, user.last_time)
      user = user.appended(layout, [found], 1000)
    rows = user.all_rows(layout)
    np.testing.assert_array_equal(rows["day"], record["day"])
    np.testing.assert_array_equal(rows["categorical"], record["categorical"])
    np.testing.assert_allclose(rows["numeric"], record["numeric"], rtol=1e-6)
    assert user.enter == record["span"][0]


def blank(layout, version=10):
  ids, numbers = layout.user
  return history.User(
    version=version,
    born=version,
    rows=np.zeros(0, layout.row),
    open=np.zeros(0, layout.event),
    dropped=0,
    last_time=None,
    profile_categorical=np.zeros(ids, np.int32),
    profile_numeric=np.full(numbers, np.nan, np.float32),
    groups=np.zeros(0, np.int32),
    enter=0,
    requests={},
  )


@pytest.fixture(scope="module")
def coder():
  made = declared()
  return encoder.Encoder(made, made.activity)


GOOD = dict(shop="a", code=7, amount=1, rating=None, due=None, text=[0, 1, 2])


@pytest.mark.parametrize(
  "values,words",
  [
    ({"amount": True}, "'amount' must be a number"),
    ({"amount": "1e-9"}, "'amount' must be a number"),
    ({"amount": None}, "'amount' must not be null"),
    ({"amount": 1e39}, "'amount' must be finite"),
    ({"amount": 10**400}, "'amount' must be finite"),
    ({"amount": float("nan")}, "'amount' must be finite"),
    ({"shop": 1.5}, "'shop' is a category"),
    ({"shop": [1.0]}, "'shop' is a category"),
    ({"text": [1.0]}, "list of 3 numbers"),
    ({"text": "abc"}, "list of 3 numbers"),
    ({"due": "soon"}, "'due': no ISO 8601"),
    ({"due": 12}, "'due': give ISO 8601"),
    ({"shopp": "a"}, "no field 'shopp'; did you mean 'shop'?"),
    ({"token": "a"}, "no field 'token'"),
  ],
)
def test_wrong_values_are_named(coder, values, words):
  at = coder.clock.read("2020-01-05")
  with pytest.raises(encoder.EventError, match=words.replace("?", ".")):
    coder.encode(GOOD | values, at)


def test_an_absent_field_and_a_wrong_time_are_named(coder):
  at = coder.clock.read("2020-01-05T10:00:00Z")
  with pytest.raises(encoder.EventError, match="'code' is absent"):
    coder.encode({k: v for k, v in GOOD.items() if k != "code"}, at)
  for time in ("", "2020-13-01", "9999-99-99", 5, None, 1.5, True, "NaT"):
    with pytest.raises(encoder.EventError, match="ISO 8601"):
      coder.clock.read(time)
  days = encoder.Clock(schema_lib.Schema(name="d", activity=(), rows="day"))
  assert days.read(3).instant == 3 * 86_400_000_000
  for time in ("2020-01-01", True, 1.5, 2**40):
    with pytest.raises(encoder.EventError):
      days.read(time)


def test_a_user_is_stored_in_pieces_and_read_back():
  layout = history.Layout(declared())
  rng, user, fields = np.random.default_rng(1), blank(layout), {}
  for n in (0, 1, 63, 64, 1, 130, 5, 64, 200):
    rows = [
      encoder.Row(
        5, 10**9 * user.events + i, rng.integers(0, 9, 8).tolist(),
        rng.random(layout.row["numeric"].shape[0]).tolist(),
      )
      for i in range(n)
    ]  # fmt: skip
    before, user = user, user.appended(layout, rows, window=150)
    changed = history.fields_of(user, before)
    # An append rewrites what it touches, and not the whole history.
    assert sum(len(v or b"") for v in changed.values()) < 4000 + 200 * (n + 64)
    for name, value in changed.items():
      if value is None:
        del fields[name]
      else:
        fields[name] = value
    found = history.from_fields(layout, fields)
    assert found.rows.tobytes() == user.rows.tobytes()
    assert (found.version, found.dropped) == (user.version, user.dropped)
    assert found.born == user.born and found.last_time == user.last_time
    assert len(fields) <= 2 + 150 // history.CHUNK + 2
  assert user.dropped == user.events - 150 > 0
  assert history.from_fields(layout, history.fields_of(user)).dropped
  assert history.from_fields(layout, {}) is None


def test_events_out_of_order_are_refused():
  layout = history.Layout(declared())
  row = lambda t: encoder.Row(
    0, t, [2] * 8, [0.0] * layout.row["numeric"].shape[0]
  )
  user = blank(layout).appended(layout, [row(5), row(5), row(9)], 10)
  with pytest.raises(history.OrderError, match=r"events\[0\] is older"):
    user.appended(layout, [row(8)], 10)
  with pytest.raises(history.OrderError, match=r"events\[1\] is older"):
    user.appended(layout, [row(10), row(9)], 10)
  assert user.appended(layout, [row(9)], 10).events == 4
