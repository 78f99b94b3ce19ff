"""Raw tables: ids as text, formats, dates, equal rows, and named faults."""

import datetime
import gzip
import sqlite3

import polars as pl
import pytest
from lumos_jax.data_prep import engine, sources
from lumos_jax.data_prep.readers import database

from lumos_jax import data_prep

TEXT = """
from lumos_jax.data.schema import Categorical, Numeric, Schema
SCHEMA = Schema("t", (Categorical("item"), Numeric("x", nullable=True)),
  rows="event")
TABLES = {{"activity": {table}}}
TRAIN_UNTIL = "2030-01-01"
{more}
"""


def load(folder, table, more="", **options):
  path = folder / "t.py"
  path.write_text(TEXT.format(table=table, more=more))
  return sources.load("tables", {"schema": str(path), **options})


def rows(raw):
  return raw.activity.collect()


CSV = """key,time,item,x
01,2024-01-01T10:00:00.200,007,1
1,2024-01-02,07,2.5
1e3,2024-01-03,7,
12345678901234567890,2024-01-04T10:00:00,NA,NA
,2024-01-05,7,1
NULL,2024-01-05,7,1
"""


def test_ids_and_categories_are_text_as_they_stand(tmp_path):
  (tmp_path / "a.csv").write_text(CSV)
  raw = load(tmp_path, {"file": "a.csv", "null_values": ["NA", "NULL"]})
  out = rows(raw)
  ids = ["01", "1", "1e3", "12345678901234567890", None, None]
  assert out["key"].to_list() == ids
  assert out["item"].to_list() == ["007", "07", "7", None, "7", "7"]
  assert out["x"].to_list() == [1.0, 2.5, None, None, 1.0, 1.0]
  first = datetime.datetime(2024, 1, 1, 10, 0, 0, 200_000)
  assert out["time"][0] == first
  prepared = engine.prepare(raw)
  assert prepared.users.keys == sorted(k for k in ids if k)
  assert prepared.rejects.counts["activity"]["null key"] == 2


def test_float_ids_must_be_exact(tmp_path):
  frame = pl.DataFrame(
    {
      "key": [1.0, None, 2.0**53],
      "time": [datetime.date(2024, 1, 1)] * 3,
      "item": ["a", "b", "c"],
      "x": [1.0, 2.0, 3.0],
    }
  )
  frame.head(2).write_parquet(tmp_path / "a.parquet")
  assert rows(load(tmp_path, {"file": "a.parquet"}))["key"].to_list() == [
    1,
    None,
  ]
  frame.write_parquet(tmp_path / "a.parquet")
  with pytest.raises(data_prep.InputError, match=r"'key'.*row 2.*beyond 2\^53"):
    load(tmp_path, {"file": "a.parquet"})


def test_hive_folders_are_text(tmp_path):
  for code in ("007", "7", "x"):
    folder = tmp_path / "raw" / f"item={code}"
    folder.mkdir(parents=True)
    frame = pl.DataFrame(
      {"key": ["u"], "time": [datetime.date(2024, 1, 1)], "x": [1.0]}
    )
    frame.write_parquet(folder / "part.parquet")
  out = rows(load(tmp_path, {"file": "raw"}))
  assert sorted(out["item"]) == ["007", "7", "x"]


FRAME = pl.DataFrame(
  {
    "key": ["a", "b"],
    "time": [datetime.datetime(2024, 1, 1, 9), datetime.datetime(2024, 1, 2)],
    "item": ["i", "j"],
    "x": [1.0, None],
  }
)


def _sqlite(path):
  with sqlite3.connect(path / "a.db") as c:
    c.execute("create table t (key text, time text, item text, x real)")
    c.execute("insert into t values ('a', '2024-01-01 09:00', 'i', 1.0)")
    c.execute("insert into t values ('b', '2024-01-02 00:00', 'j', null)")
  uri = f"sqlite://{path}/a.db"
  return {"query": "select * from t order by key", "uri": uri}


def _packed(path):
  text = FRAME.write_csv(separator=";").encode("utf-16")
  (path / "a.csv.gz").write_bytes(gzip.compress(text))
  return {"file": "a.csv.gz", "encoding": "utf-16"}


def _zstandard(path):
  zstandard = pytest.importorskip("zstandard")
  text = zstandard.compress(FRAME.write_csv().encode())
  (path / "a.csv.zst").write_bytes(text)
  return {"file": "a.csv.zst"}


def _duckdb(path):
  duckdb = pytest.importorskip("duckdb")
  with duckdb.connect(str(path / "a.duckdb")) as c:
    c.execute(
      "create table t as select 'a' as key, '2024-01-01 09:00' as time,"
      " 'i' as item, 1.0::double as x"
    )
    c.execute("insert into t values ('b', '2024-01-02', 'j', null)")
  return {"file": "a.duckdb", "query": "select * from t order by key"}


WRITERS = {
  "parquet": lambda p: FRAME.write_parquet(p / "a.parquet"),
  "arrow": lambda p: FRAME.write_ipc(p / "a.arrow"),
  "jsonl": lambda p: FRAME.write_ndjson(p / "a.jsonl"),
  "tsv": lambda p: FRAME.write_csv(p / "a.tsv", separator="\t"),
  "csv": lambda p: FRAME.write_csv(p / "a.csv", separator=";"),
  "packed": _packed,
  "zstandard": _zstandard,
  "sqlite": _sqlite,
  "duckdb": _duckdb,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, kind):
  table = WRITERS[kind](tmp_path)
  if not isinstance(table, dict):
    table = {"file": f"a.{kind}"}
  out = rows(load(tmp_path, table)).select(FRAME.columns)
  assert out.with_columns(pl.col("time").dt.cast_time_unit("us")).equals(FRAME)


def test_a_file_that_two_patterns_match_is_read_once(tmp_path):
  FRAME.vstack(FRAME[:1]).write_parquet(tmp_path / "a.parquet")
  raw = load(tmp_path, {"file": ["*.parquet", "a.parquet"]})
  assert len(rows(raw)) == 3
  assert raw.notes == {
    "files of activity that two patterns match (read once)": 1,
    "exact duplicate rows (kept)": 1,
  }


def _times(folder, values, declared="time", dtype=None):
  count = len(values)
  frame = pl.DataFrame(
    {
      "key": ["u"] * count,
      "time": pl.Series(values, dtype=dtype),
      "item": [f"i{i}" for i in range(count)],
      "x": [1.0] * count,
    }
  )
  frame.write_csv(folder / "a.csv")
  table = {"file": "a.csv", "columns": {"time": declared}}
  return rows(load(folder, table))["time"].to_list()


def test_declared_formats_and_units(tmp_path):
  day = datetime.datetime(2024, 2, 1)
  us = {"from": "time", "format": "%m/%d/%Y"}
  assert _times(tmp_path, ["02/01/2024"] * 3, us) == [day] * 3
  ymd = {"from": "time", "format": "%Y%m%d"}
  assert _times(tmp_path, [20240201] * 2, ymd) == [day] * 2
  zoned = day.replace(tzinfo=datetime.UTC)
  for unit, scale in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
    value = int(zoned.timestamp()) * scale
    found = _times(tmp_path, [value], {"from": "time", "unit": unit})
    assert found == [zoned], unit
  FRAME.with_columns(time=pl.Series([3, 4])).write_csv(tmp_path / "a.csv")
  out = rows(load(tmp_path, {"file": "a.csv"}, "TRAIN_UNTIL = 9"))
  assert out["time"].to_list() == [3, 4]


def test_text_that_reads_in_one_way_is_read(tmp_path):
  found = _times(
    tmp_path, ["02/13/2024", "02/01/2024", "3/31/2024", "04/30/2024"]
  )
  assert [t.month for t in found] == [2, 2, 3, 4]
  found = _times(
    tmp_path, ["2024-01-01T10:00:00+02:00", "2024-01-01 08:00:00Z"]
  )
  assert found[0] == found[1]
  assert found[0] == datetime.datetime(2024, 1, 1, 8, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
  "values, words",
  [
    (["01/02/2024"] * 9, r"two ways.*%d/%m/%Y.*%m/%d/%Y"),
    ([19970101, 19970102], r'"format": "%Y%m%d"'),
    ([1_700_000_000, 1_700_000_001], '"unit": "s" .likely'),
    (["2024-01-01", "soon", "later", "never", "2024-01-01", "2024-01-02"],
     "3 of 6 values; the first is 'soon' in row 1"),
    (["2024-01-01"] * 20 + ["9999-01-01"], "2,912,809 days.*row 20.*TIME_RANGE"),
  ],
)  # fmt: skip
def test_times_that_cannot_be_trusted_are_errors(tmp_path, values, words):
  with pytest.raises(data_prep.InputError, match=words):
    _times(tmp_path, values)


def test_time_range_rejects_what_lies_outside(tmp_path):
  (tmp_path / "a.csv").write_text(
    "key,time,item,x\nu,2024-01-01,a,1\nu,2024-01-03,b,1\nu,9999-01-01,c,1\n"
  )
  raw = load(
    tmp_path, {"file": "a.csv"}, 'TIME_RANGE = ("2023-01-01", "2025-01-01")'
  )
  assert (raw.schema.first_day, raw.schema.last_day) == (0, 3)
  counts = engine.prepare(raw).rejects.counts["activity"]
  assert dict(counts) == {"outside the days of the data": 1}


GOOD = "key,time,item,x\na,2024-01-01,i,1\n"


@pytest.mark.parametrize(
  "content, table, words",
  [
    (GOOD + "a,2024-01-01,i,1,2\n", {}, r"a.csv: line 3 has 5 cells.*separator"),
    ((GOOD + "a,2024-01-01,\u00e9,1\n").encode("latin1"), {},
     "a.csv: line 3 is not UTF-8.*0xe9.*latin1"),
    (GOOD.encode("utf-16"), {}, 'a.csv.*utf-16.*"encoding"'),
    (gzip.compress(GOOD.encode() * 999)[:-12], {}, "a.csv.gz.*cut or damaged"),
  ],
)  # fmt: skip
def test_faults_of_files_are_named(tmp_path, content, table, words):
  name = "a.csv.gz" if "gz" in words else "a.csv"
  content = content.encode() if isinstance(content, str) else content
  (tmp_path / name).write_bytes(content)
  with pytest.raises(data_prep.InputError, match=words):
    load(tmp_path, {"file": name, **table})


def test_files_that_differ_are_named(tmp_path):
  FRAME.write_parquet(tmp_path / "a1.parquet")
  number = FRAME.with_columns(key=pl.Series([1, 2]))
  number.write_parquet(tmp_path / "a2.parquet")
  with pytest.raises(
    data_prep.InputError, match="'key' is String in a1.*Int64 in a2.*types"
  ):
    load(tmp_path, {"file": "a*.parquet"})
  table = {"file": "a*.parquet", "types": {"key": "text"}}
  assert rows(load(tmp_path, table))["key"].to_list() == ["a", "b", "1", "2"]
  FRAME.drop("x").write_parquet(tmp_path / "a2.parquet")
  with pytest.raises(data_prep.InputError, match="a1.*a2.*other columns.*'x'"):
    load(tmp_path, {"file": "a*.parquet"})
  table = {"file": "a*.parquet", "missing_columns": "null"}
  assert rows(load(tmp_path, table))["x"].to_list() == [1.0, None, None, None]


@pytest.mark.parametrize(
  "more, words",
  [
    ("def activity(:", "t.py, line 7: "),
    ("1 / 0", "t.py, line 7: ZeroDivisionError"),
    ("def activity(frame):\n  raise KeyError('no')", "KeyError.*t.py, line 8"),
    ("HOLDOUT = 'first'", "holdout is 'first'"),
  ],
)
def test_a_mistake_in_a_description_names_its_line(tmp_path, more, words):
  FRAME.write_parquet(tmp_path / "a.parquet")
  with pytest.raises(data_prep.InputError, match=words):
    load(tmp_path, {"file": "a.parquet"}, more)


def test_separate_files_are_splits_of_users(tmp_path):
  for i, split in enumerate(("train", "test")):
    part = FRAME.with_columns(key=pl.col("key") + str(i))
    part.write_parquet(tmp_path / f"{split}.parquet")
  table = {"files": {"train": "train.parquet", "test": "test.parquet"}}
  raw = load(tmp_path, table, "HOLDOUT = 'last'; TRAIN_UNTIL = None")
  assert raw.split.rows() == [
    ("a0", "train"),
    ("a1", "test"),
    ("b0", "train"),
    ("b1", "test"),
  ]
  assert raw.held_out_events == 0
  assert raw.schema.train_until > 10**6


def test_separate_files_of_the_same_users_part_the_days(tmp_path):
  FRAME.write_parquet(tmp_path / "train.parquet")
  later = FRAME.with_columns(pl.col("time") + pl.duration(days=10))
  later.write_parquet(tmp_path / "test.parquet")
  table = {"files": {"train": "train.parquet", "test": "test.parquet"}}
  raw = load(tmp_path, table, "TRAIN_UNTIL = None")
  assert raw.split is None and raw.schema.train_until == 10
  table = {"files": {"test": "test.parquet", "train": "train.parquet"}}
  with pytest.raises(data_prep.InputError, match="2 users stand in two files"):
    load(tmp_path, table, "TRAIN_UNTIL = None")


def test_holdout_last_needs_no_days(tmp_path):
  FRAME.write_parquet(tmp_path / "a.parquet")
  raw = load(
    tmp_path, {"file": "a.parquet"}, "HOLDOUT = 'last'; TRAIN_UNTIL = None"
  )
  assert raw.held_out_events == 2 and raw.schema.train_until > 10**6


def test_credentials_never_stand_in_a_message(monkeypatch):
  uri = "postgresql://me:se%40cret@host:1/db?sslpassword=hush"

  def refuse(query, uri):
    raise RuntimeError(f"user me, se@cret at {uri}")

  monkeypatch.setattr(pl, "read_database_uri", refuse)
  with pytest.raises(data_prep.InputError) as e:
    database.query("select 1", uri, "table activity")
  assert "postgresql://host:1/db" in str(e.value)
  for secret in ("me,", "me:", "se%40cret", "se@cret", "hush"):
    assert secret not in str(e.value)


def test_an_item_beyond_64_bits_is_named(tmp_path):
  (tmp_path / "s.txt").write_text("1 2 3\n2 9223372036854775808\n")
  options = {"path": str(tmp_path / "s.txt"), "name": "s"}
  with pytest.raises(data_prep.InputError, match="s.txt: line 2.*2.63"):
    sources.load("sequences", options)
