"""The reader: what it needs, what it refuses."""

import concurrent.futures
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from lumos_jax.data import records
from lumos_jax.data import schema as schema_lib
from tests import tiny_data


@pytest.fixture
def path(tmp_path):
  return tiny_data.tiny_data_dir(tmp_path, num_shards=2)


def test_reading_needs_no_polars_data_prep_or_tensorflow(path):
  code = (
    "import sys; from lumos_jax.data import records;"
    f"s = records.Records.open({str(path)!r}).source('train'); s[0];"
    "bad = {'polars', 'lumos_jax.data_prep', 'pandas'} & set(sys.modules);"
    "assert not bad, bad"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_records_have_all_keys(path):
  data = records.Records.open(path)
  source = data.source("train")
  wanted = {"key", *records.layout(data.schema)}
  for user in source:
    assert user.keys() == wanted
    rows = len(user["day"])
    assert user["numeric"].shape == (
      rows,
      data.schema.numeric_width("activity"),
    )
    assert user["categorical"].shape == (rows, 1)
    assert np.all(np.diff(user["day"]) > 0)


def test_threads_and_pickle_read_the_same(path):
  source = records.Records.open(path).source("train")
  copy = pickle.loads(pickle.dumps(source))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(source.__getitem__, list(range(len(source))) * 20))
  for i, user in enumerate(found):
    assert user["key"] == copy[i % len(source)]["key"]
  batch = source.__getitems__([5, 1])
  assert [u["key"] for u in batch] == [source[5]["key"], source[1]["key"]]


def test_absent_and_incomplete(path, tmp_path):
  with pytest.raises(records.DataError, match="python -m data_prep"):
    records.Records.open(tmp_path / "nothing")
  (path / records.CALENDAR).unlink()
  with pytest.raises(records.DataError, match="calendar.npz is absent"):
    records.Records.open(path)


def test_truncated_and_absent_shard(path):
  shard = sorted(path.glob("*.array_record*"))[0]
  shard.write_bytes(shard.read_bytes()[:-100])
  with pytest.raises(records.DataError, match=rf"{shard.name}.*bytes"):
    records.Records.open(path)
  shard.unlink()
  with pytest.raises(records.DataError, match=rf"{shard.name} is absent"):
    records.Records.open(path)


def test_foreign_and_damaged_shard(path):
  shard = sorted(path.glob("*.array_record*"))[0]
  data = bytearray(shard.read_bytes())
  middle = len(data) // 2
  data[middle : middle + 50] = bytes(50)
  shard.write_bytes(bytes(data))
  opened = records.Records.open(path)  # Sizes agree; checksums do not.
  with pytest.raises(records.DataError, match=rf"{shard.name} is damaged"):
    opened.verify()
  shard.write_bytes(b"x" * len(data))
  with pytest.raises(records.DataError, match=rf"{shard.name} is damaged, or"):
    records.Records.open(path).source("train")
  with pytest.raises(records.DataError, match=rf"{shard.name} is no Array"):
    records.Source([str(shard)], opened.schema)


def test_a_foreign_shard_of_equal_size_is_refused(path):
  """Files are padded: those of small data sets have equal sizes."""
  a, b = sorted(path.glob("*.array_record*"))[:2]
  assert a.stat().length == b.stat().length
  known = len(records.Records.open(path).source("train"))
  a.write_bytes(b.read_bytes())
  with pytest.raises(records.DataError, match=f"{a.name} .*another data set's"):
    records.Records.open(path).source("train")
  # Older data sets do not say how their shards end.
  stats = json.loads((path / records.STATS).read_text())
  for entry in stats["shards"].values():
    del entry["end"]
  (path / records.STATS).write_text(json.dumps(stats))
  assert len(records.Records.open(path).source("train")) == known


def test_foreign_records_of_the_right_number(path, tmp_path):
  data = records.Records.open(path)
  other = records.Source(
    [str(p) for p in sorted(path.glob("*.array_record*"))],
    schema_lib.Schema("other", (schema_lib.Vector("v", 1001),)),
  )
  assert len(other) == len(data.source("train"))
  with pytest.raises(records.DataError, match="not one of this data set"):
    other[0]


def test_wrong_schema_version_and_schema(path):
  schema = path / records.SCHEMA
  doc = json.loads(schema.read_text())
  schema.write_text(json.dumps({**doc, "version": 99}))
  with pytest.raises(schema_lib.SchemaError, match="version 99.*again"):
    records.Records.open(path)
  schema.write_text(json.dumps({**doc, "train_until": 5}))
  with pytest.raises(records.DataError, match="not the schema"):
    records.Records.open(path)


def test_unknown_split(path):
  with pytest.raises(records.DataError, match=r"'tset'.*\['train'\]"):
    records.Records.open(path).source("tset")


def test_directory_names():
  name = records.directory_name
  assert name("oulad", {}) == name("oulad", {"path": "x"}) == "oulad"
  assert name("tables", {"schema": "a/shop.py"}) == "shop"
  other = name("oulad", {"rows": "event"})
  assert other.startswith("oulad-") and other != name("oulad", {"rows": "day"})
