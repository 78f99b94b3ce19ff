"""Clicks: whose sessions are forgotten, hashed, and told apart from bots'."""

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import append, forget, run
from lumos_jax.data_prep.inputs import InputError

from lumos_jax import ids
from lumos_jax.data import records as records_lib
from lumos_jax.evaluators import predict
from lumos_jax.intents import sessions as sessions_lib
from tests import clicks_test


def prepared(folder, **kw):
  clicks_test.log().write_parquet(folder / "a.parquet")
  return run.prepare(
    "clicks", folder / "out", path=str(folder), file="*.parquet",
    now=clicks_test.NOW, quiet=True, **kw,
  )  # fmt: skip


def keys(path):
  data = records_lib.Records.open(path)
  data.verify()
  return {r["key"] for split in data.splits for r in data.source(split)}


@pytest.mark.parametrize("hash_ids", [False, True])
def test_a_visitors_and_a_users_sessions_are_forgotten(
  tmp_path, monkeypatch, hash_ids
):
  monkeypatch.setenv(ids.SALT, "a secret of the owner")
  path = prepared(tmp_path, hash_ids=hash_ids)
  before, table = keys(path), pl.read_parquet(str(path / records_lib.SESSIONS))
  assert before == set(table["key"])
  as_stored = lambda x: ids.hash_id(x, ids.salt()) if hash_ids else x
  if hash_ids:
    whole = "".join(table.select("key", "visitor", "user").write_json())
    assert "v7" not in whole and '"u1"' not in whole
  mine = table.filter(
    (pl.col("visitor") == as_stored("v7"))
    | (pl.col("user") == as_stored("u1")).fill_null(False)
  )
  gone = set(mine["key"])
  assert len(gone) == 3  # Two of v7; v3's in which u1 was logged in.
  predictions = tmp_path / "run" / "predictions"
  predictions.mkdir(parents=True)
  some = [*sorted(gone)[:1], *sorted(before - gone)[:1]]
  np.savez(predictions / "x.npz", key=predict.hash_keys(some), y=np.arange(2))
  users = ["v7", "u1"]  # Too short to be searched for in bytes.
  with pytest.raises(forget.ForgetError, match="sessions.parquet"):
    forget.prove(path, users)
  found = forget.forget([path, predictions.parent], users)
  assert found[str(path)]["removed"] == 3
  assert keys(path) == before - gone
  left = pl.read_parquet(str(path / records_lib.SESSIONS))
  assert set(left["key"]) == before - gone
  with np.load(predictions / "x.npz") as arrays:
    assert arrays["y"].tolist() == [1]


def test_sessions_are_not_appended(tmp_path):
  path = prepared(tmp_path)
  with pytest.raises(InputError, match="prepare the whole log again"):
    append.append(
      path, "clicks", path=str(tmp_path), file="a.parquet", now=clicks_test.NOW
    )


def test_bots_are_not_clustered_and_told(tmp_path):
  split = ["train"] * 3 + [records_lib.BOTS]
  frame = pl.DataFrame(
    {
      "key": list("abcd"),
      "split": split,
      "titles": [["Home"]] * 4,
      "embedding": np.eye(4).tolist(),
    }
  )
  frame.write_parquet(tmp_path / "s.parquet")
  source = sessions_lib.Source(tmp_path / "s.parquet", tmp_path / "s.parquet")
  sample = source.sample(10, 0)
  assert sorted(sample.keys) == ["a", "b", "c"]
  assert sample.counts["sessions of bots, left out"] == 1
  assert sum(len(k) for k, _ in source.parts()) == 4  # All get labels.
