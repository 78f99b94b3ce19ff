"""Order, time and ids: the same records however the table was cut or stored."""

import datetime
import pathlib
import tempfile
import zoneinfo

import hypothesis
import numpy as np
import polars as pl
import pytest
from hypothesis import strategies as st
from lumos_jax.data_prep import encode, engine, order, sources
from lumos_jax.data_prep.inputs import InputError, Inputs

from lumos_jax.data.schema import (
  MISSING,
  Categorical,
  Clock,
  Numeric,
  Schema,
  Timestamp,
)
from tests import tiny_data

UTC = datetime.UTC
SECOND = 1_000_000
ITEMS = ("a", "b", "c", None)


def inputs(frame, rows="event", time_zone="", epoch="1970-01-01", **kw):
  activity = (
    Categorical("item"),
    Numeric("amount", nullable=True),
    Timestamp("time", parts=("hour",)),
  )
  if rows == "event":
    activity += (Clock("gap", "gap"), Clock("hour", "hour"))
  schema = Schema(
    "t", activity, rows=rows, epoch=epoch, train_until=2**30, **kw
  )
  return Inputs(schema=schema, activity=frame.lazy(), time_zone=time_zone)


def table(rows, columns=("key", "time", "item", "amount")):
  frame = pl.DataFrame(rows, schema=list(columns), orient="row", strict=False)
  if "amount" not in frame.columns:
    frame = frame.with_columns(amount=1.0)
  return frame


def items(prepared, key="u"):
  user = tiny_data.by_key(prepared)[key]
  field = prepared.schema.activity[0]
  return [
    field.values[i - 2] if i > 1 else None for i in user["categorical"][:, 0]
  ]


def ids(prepared, name, key="u"):
  at = [f.name for f in prepared.schema.categorical("activity")].index(name)
  return tiny_data.by_key(prepared)[key]["categorical"][:, at].tolist()


CLOSE = [
  ("u", "2024-03-01T10:00:00.200", "b"),
  ("u", "2024-03-01T10:00:00.100", "a"),
]


@pytest.mark.parametrize(
  "cast",
  [
    lambda t: t,  # Text, as from a CSV without parsing.
    lambda t: t.str.to_datetime(time_unit="ms"),
    lambda t: t.str.to_datetime(time_unit="us"),
    lambda t: t.str.to_datetime(time_unit="ns"),
    lambda t: t.str.to_datetime(time_unit="ms", time_zone="Europe/Berlin"),
    lambda t: pl.format("{}+02:00", t),
  ],
)
def test_events_within_a_second_are_in_the_order_of_their_times(cast):
  frame = table(CLOSE, ("key", "time", "item"))
  frame = frame.with_columns(time=cast(pl.col("time")))
  prepared = engine.prepare(inputs(frame))
  assert items(prepared) == ["a", "b"]
  assert np.diff(tiny_data.by_key(prepared)["u"]["time"]).tolist() == [100_000]


@pytest.mark.parametrize("as_text", [True, False])
def test_nanoseconds_decide_the_order(as_text):
  rows = [
    ("u", "2024-03-01T10:00:00.000000002", "b"),
    ("u", "2024-03-01T10:00:00.000000001", "a"),
  ]
  frame = table(rows, ("key", "time", "item"))
  if not as_text:
    frame = frame.with_columns(pl.col("time").str.to_datetime(time_unit="ns"))
  assert items(engine.prepare(inputs(frame))) == ["a", "b"]


@pytest.mark.parametrize("swap", [False, True])
def test_the_last_of_a_day_is_the_latest(swap):
  rows = [
    ("u", "2024-03-01T18:00", "closed"),
    ("u", "2024-03-01T09:00", "open"),
  ]
  frame = table(rows[:: -1 if swap else 1], ("key", "time", "item"))
  assert items(engine.prepare(inputs(frame, rows="day"))) == ["closed"]


def test_the_hour_that_comes_twice_and_the_one_that_is_skipped():
  rows = [
    ("u", "2024-10-27T00:50:00Z", "a"),
    ("u", "2024-10-27T01:10:00Z", "b"),
    ("v", "2024-03-31T00:59:00Z", "a"),
    ("v", "2024-03-31T01:01:00Z", "b"),
  ]
  frame = table(rows, ("key", "time", "item"))
  prepared = engine.prepare(inputs(frame, time_zone="Europe/Berlin"))
  users = tiny_data.by_key(prepared)
  assert items(prepared) == items(prepared, "v") == ["a", "b"]
  assert np.diff(users["u"]["time"]).tolist() == [1200 * SECOND]
  assert np.diff(users["v"]["time"]).tolist() == [120 * SECOND]
  # Clocks are local: 02:50 and 02:10, then 01:59 and 03:01.
  assert ids(prepared, "hour") == [2 + 2, 2 + 2]
  assert ids(prepared, "hour", "v") == [1 + 2, 3 + 2]
  # 2^6 to 2^7 - 2 seconds; missing for the first.
  assert ids(prepared, "gap", "v") == [MISSING, 6 + 2]


def test_local_times_without_a_zone_are_read_by_rule():
  zone = "Europe/Berlin"
  rows = [
    ("u", "2024-10-27T02:30:00", "a"),  # The first of two.
    ("u", "2024-10-27T03:00:00", "b"),
    ("v", "2024-03-31T02:30:00", "a"),  # Skipped: 03:30 summer time.
    ("v", "2024-03-31T03:31:00", "b"),
  ]
  frame = table(rows, ("key", "time", "item"))
  prepared = engine.prepare(inputs(frame, time_zone=zone))
  users = tiny_data.by_key(prepared)
  assert np.diff(users["u"]["time"]).tolist() == [5400 * SECOND]
  assert np.diff(users["v"]["time"]).tolist() == [60 * SECOND]
  assert ids(prepared, "hour", "v") == [3 + 2, 3 + 2]


def test_days_are_local_and_instants_are_not():
  rows = [
    ("u", "2024-06-30T22:30:00Z", "a"),
    ("u", "2024-06-30T21:30:00Z", "b"),
  ]
  frame = table(rows, ("key", "time", "item"))
  made = inputs(frame, time_zone="Europe/Berlin", epoch="2024-06-30")
  user = tiny_data.by_key(engine.prepare(made))["u"]
  assert user["day"].tolist() == [0, 1]
  hours = [21.5, 22.5]
  assert user["time"].tolist() == [int(h * 3600 * SECOND) for h in hours]


def test_gaps_beyond_68_years():
  rows = [("u", "1935-06-01", "a"), ("u", "2006-06-01", "b")]
  frame = table(rows, ("key", "time", "item"))
  prepared = engine.prepare(inputs(frame))
  days = (datetime.date(2006, 6, 1) - datetime.date(1935, 6, 1)).days
  user = tiny_data.by_key(prepared)["u"]
  assert np.diff(user["time"]).tolist() == [days * 86_400 * SECOND]
  assert ids(prepared, "gap") == [MISSING, 31 + 2]
  assert (
    user["day"][0]
    == (datetime.date(1935, 6, 1) - datetime.date(1970, 1, 1)).days
  )


def test_equal_times_are_in_an_order_that_the_table_does_not_decide():
  rows = [("u", "2024-03-01", i, float(k)) for k, i in enumerate("abcabc")]
  found = {
    tuple(items(engine.prepare(inputs(table(rows[k:] + rows[:k])))))
    for k in range(6)
  }
  assert len(found) == 1
  # Nor does frequency or the alphabet: over many days, each comes first.
  days = [f"2024-03-{d:02}" for d in range(1, 29)]
  rows = [("u", d, i, 1.0) for d in days for i in "aab"]
  first = items(engine.prepare(inputs(table(rows))))[::3]
  assert 3 < first.count("b") < 25


def test_a_source_may_order_equal_times_itself():
  rows = [("u", "2024-03-01", i, 1.0) for i in "cab"]
  frame = table(rows).with_columns(line=pl.Series([2, 0, 1]))
  made = inputs(frame)
  made.order = "line"
  assert items(engine.prepare(made)) == ["a", "b", "c"]


def test_ties_of_rows_one_by_one_give_the_order_of_all():
  rng = np.random.default_rng(0)
  codes, x = rng.integers(0, 4, 60), rng.integers(0, 3, 60) * 1.0
  x[:5] = np.nan
  column = lambda at: {
    "item": encode.Coded(codes[at], ["a", "b", "c"]),  # The fourth is null.
    "x": x[at],
  }
  every, time = slice(None), rng.integers(0, 4, 60)
  alone = [
    order.ties(time[i : i + 1], column(slice(i, i + 1))) for i in range(60)
  ]
  place = np.lexsort((np.concatenate(alone), time))
  right = order.of_rows(np.zeros(60, int), [time], column(every))
  for name in (codes, x, time):
    np.testing.assert_array_equal(name[place], name[right])


def test_order_of_rows_that_stand_in_it_is_none():
  columns = {"n": np.asarray([1.0, 2.0, 3.0])}
  user, time = np.asarray([0, 0, 1]), np.asarray([1, 2, 5])
  assert order.of_rows(user, [time], columns) is None
  found = order.of_rows(user[::-1], [time[::-1]], columns)
  assert found.tolist() == [2, 1, 0]


_ZONE = zoneinfo.ZoneInfo("Europe/Berlin")
_EDGES = [
  datetime.datetime(1931, 7, 4, 23, 59, 59),
  datetime.datetime(1969, 12, 31, 23, 59, 58),
  datetime.datetime(2024, 3, 31, 0, 59),
  datetime.datetime(2024, 10, 27, 0, 30),
]


@st.composite
def events(draw):
  """Rows of few users around changes of the clock, before 1970, 68 years apart."""
  count = draw(st.integers(1, 12))
  rows = []
  for _ in range(count):
    at = draw(st.sampled_from(_EDGES))
    at += datetime.timedelta(milliseconds=draw(st.integers(-1, 9_000_000)))
    at = at.replace(microsecond=at.microsecond // 1000 * 1000, tzinfo=UTC)
    item = draw(st.sampled_from(ITEMS))
    amount = draw(st.sampled_from([None, 0.5, 1.0, 3.0]))
    rows.append((draw(st.sampled_from("uv")), at, item, amount))
  return rows


def records(frame, rows, **kw):
  """Bytes of all records."""
  prepared = engine.prepare(inputs(frame, rows=rows, **kw))
  found = tiny_data.by_key(prepared)
  return prepared.schema.to_json(), {
    k: {n: np.asarray(x).tobytes() for n, x in user.items() if n != "key"}
    for k, user in found.items()
  }


@hypothesis.given(events(), st.randoms(), st.sampled_from(["event", "day"]))
@hypothesis.settings(max_examples=60, deadline=None)
def test_any_permutation_and_resolution_gives_equal_records(rows, random, kind):
  columns = {
    "key": pl.String,
    "time": pl.Datetime("us", "UTC"),
    "item": pl.String,
    "amount": pl.Float64,
  }
  make = lambda r: pl.DataFrame(r, schema=columns, orient="row")
  kw = dict(time_zone="Europe/Berlin")
  wanted = records(make(rows), kind, **kw)
  mixed = list(rows)
  random.shuffle(mixed)
  frame = make(mixed)
  text = pl.col("time").dt.to_string("%Y-%m-%dT%H:%M:%S%.f%:z")
  forms = [
    pl.col("time"),
    pl.col("time").dt.cast_time_unit("ms"),
    pl.col("time").dt.cast_time_unit("ns"),
    pl.col("time").dt.convert_time_zone("Asia/Tokyo"),
    text,
  ]
  for form in forms:
    assert records(frame.with_columns(time=form), kind, **kw) == wanted
  # What is stored is the instant and the local day.
  if kind == "event":
    for key, at, *_ in rows:
      zero = datetime.datetime(1970, 1, 1, tzinfo=UTC)
      exact = (at - zero) // datetime.timedelta(microseconds=1)
      times = np.frombuffer(wanted[1][key]["time"], np.int64)
      days = np.frombuffer(wanted[1][key]["day"], np.int32)
      local = at.astimezone(_ZONE).date() - datetime.date(1970, 1, 1)
      assert local.days in days[times == exact]


def test_ids_that_are_not_ids_are_rejected_or_refused():
  rows = [("", 1, "a"), ("NULL", 2, "a"), ("nan", 3, "b"), ("u", 4, "b")]
  frame = table(rows, ("key", "time", "item")).with_columns(
    time=pl.col("time").cast(pl.Datetime("us"))
  )
  prepared = engine.prepare(inputs(frame))
  assert prepared.users.keys == ["u"]
  assert prepared.stats["rejected"]["activity"] == {"empty or null-like key": 3}
  large = frame.with_columns(key=pl.Series([2.0**53, 2.0**53 + 2, 1.0, 2.0]))
  with pytest.raises(InputError, match="'key' is Float64, and row 0.*rounded"):
    engine.prepare(inputs(large))


FILES = """
from lumos_jax.data.schema import Categorical, Clock, Numeric, Schema

SCHEMA = Schema(
  name="t",
  activity=(
    Categorical("item"), Numeric("amount", nullable=True), Clock("gap", "gap"),
  ),
  rows="event",
  epoch="1970-01-01",
)
TABLES = {{"activity": {{"file": "*.{ending}"}}}}
TRAIN_UNTIL = "2030-01-01"
TIME_ZONE = "Europe/Berlin"
"""


def from_files(folder, frame, cuts, ending):
  """Records of a table cut into files at some rows."""
  folder.mkdir()
  (folder / "t.py").write_text(FILES.format(ending=ending))
  bounds = sorted({0, len(frame), *(c % (len(frame) + 1) for c in cuts)})
  for n, (a, b) in enumerate(zip(bounds, bounds[1:], strict=False)):
    part, name = frame[a:b], folder / f"{n}.{ending}"
    if ending == "parquet":
      part.write_parquet(name)
    else:
      part.with_columns(
        pl.col("time").dt.to_string("%Y-%m-%dT%H:%M:%S%.f%:z")
      ).write_csv(name)
  raw = sources.load("tables", {"schema": str(folder / "t.py")})
  prepared = engine.prepare(raw)
  return prepared.schema.activity, {
    k: {n: np.asarray(x).tobytes() for n, x in user.items() if n != "key"}
    for k, user in tiny_data.by_key(prepared).items()
  }


@hypothesis.given(
  events(), st.randoms(), st.lists(st.integers(0, 12), max_size=3)
)
@hypothesis.settings(max_examples=20, deadline=None)
def test_any_cut_into_files_of_either_kind_gives_equal_records(
  rows, random, cuts
):
  columns = {
    "key": pl.String,
    "time": pl.Datetime("ms", "UTC"),
    "item": pl.String,
    "amount": pl.Float64,
  }
  make = lambda r: pl.DataFrame(r, schema=columns, orient="row")
  mixed = [(k, t, i or "d", a) for k, t, i, a in rows]
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    wanted = from_files(root / "a", make(mixed), (), "parquet")
    random.shuffle(mixed)
    assert from_files(root / "b", make(mixed), cuts, "csv") == wanted
    random.shuffle(mixed)
    assert from_files(root / "c", make(mixed), cuts, "parquet") == wanted


def test_keys_and_items_are_text_as_it_stands(tmp_path):
  (tmp_path / "t.py").write_text(FILES.format(ending="csv"))
  lines = ["key,time,item,amount"]
  keys, values = ("01", "1", "12345678901234567890"), ("007", "07", "7", "1e3")
  for k in keys:
    lines += [f"{k},2024-03-0{n + 1},{v},1" for n, v in enumerate(values)]
  (tmp_path / "t.csv").write_text("\n".join(lines))
  raw = sources.load("tables", {"schema": str(tmp_path / "t.py")})
  prepared = engine.prepare(raw)
  assert set(prepared.users.keys) == set(keys)
  assert set(prepared.schema.activity[0].values) == set(values)


def test_equal_rows_and_a_file_that_two_patterns_match_are_told(tmp_path):
  text = FILES.format(ending="csv").replace('"*.csv"', '["*.csv", "t.*csv"]')
  (tmp_path / "t.py").write_text(text)
  row = "u,2024-03-01T10:00:00,a,1\n"
  other = "u,2024-03-02T10:00:00,a,1\n"
  (tmp_path / "t.csv").write_text("key,time,item,amount\n" + row * 50 + other)
  raw = sources.load("tables", {"schema": str(tmp_path / "t.py")})
  prepared = engine.prepare(raw)
  assert prepared.stats["rows"] == 51
  notes = prepared.stats["notes"]
  assert notes["exact duplicate rows (kept)"] == 49
  assert notes["files of activity that two patterns match (read once)"] == 1
