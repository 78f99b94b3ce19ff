"""Keyed hashes of ids, users who are forgotten, rare values that stay hidden."""

import json
import pathlib
import types

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import __main__ as cli
from lumos_jax.data_prep import forget

from lumos_jax import data_prep, ids, parts, population
from lumos_jax.data import records as records_lib
from lumos_jax.evaluators import predict
from lumos_jax.serving import store as store_lib
from tests import pieces_test, tiny_data

SECRET = "a secret of the owner"


@pytest.fixture
def owner(monkeypatch):
  monkeypatch.setenv(ids.SALT, SECRET)
  return SECRET.encode()


def frames():
  """Ids long enough to be searched for; one user's row is a reject."""
  tables = tiny_data.tiny_frames()
  rename = pl.format("customer-{}", pl.col("key"))
  tables = {
    n: t.with_columns(key=rename) if "key" in t.columns else t
    for n, t in tables.items()
  }
  bad = tables["activity"][:1].with_columns(
    key=pl.lit("customer-u7"), sales=float("inf")
  )
  tables["activity"] = pl.concat([tables["activity"], bad])
  return tables


def everything(path):
  """All bytes of a data set: of its files, and of its records and rejects."""
  path = pathlib.Path(path)
  files = b"".join(f.read_bytes() for f in path.rglob("*") if f.is_file())
  shards = [f for f in path.iterdir() if ".array_record" in f.name]
  records = b"".join(d for f in shards for d in forget._records(f))
  rejects = pl.read_parquet(path / "rejects.parquet")["values"].to_list()
  return files + records + "".join(rejects).encode()


@pytest.mark.parametrize("memory_gib", [0, 2])
def test_hashed_ids_stand_nowhere(tmp_path, owner, memory_gib, monkeypatch):
  monkeypatch.setattr("lumos_jax.data_prep.room._fits", lambda *_: False)
  plain = tiny_data.tiny_data_dir(tmp_path / "a", frames(), hash_ids=False)
  path = tiny_data.tiny_data_dir(
    tmp_path / "b", frames(), hash_ids=True, memory_gib=memory_gib
  )
  assert b"customer-u7" in everything(plain)
  found = everything(path)
  assert b"customer-" not in found and SECRET.encode() not in found
  name = ids.hash_id("customer-u7", owner)
  assert name in pl.read_parquet(str(path / "rejects.parquet"))["values"][0]
  # The same users, under their hashes.
  data, users = tiny_data.read(path)
  _, wanted = tiny_data.read(plain)
  for key, record in wanted.items():
    mine = users[ids.hash_id(key, owner)]
    for n, x in record.items():
      if n != "key":
        np.testing.assert_array_equal(mine[n], x)
  # Who has the key looks users up by their ids.
  people = population.Population(data)
  at, unknown = people.find(["customer-u3", "nobody"])
  assert unknown == ["nobody"]
  assert people.read(at)[0]["key"] == ids.hash_id("customer-u3", owner)
  monkeypatch.setenv(ids.SALT, "the secret of another")
  with pytest.raises(ids.IdError, match="not the one"):
    people.find(["customer-u3"])


def test_ids_are_hashed_where_there_is_a_key(
  tmp_path, owner, monkeypatch, capsys
):
  path = tiny_data.tiny_data_dir(tmp_path / "a", frames())
  assert b"customer-" not in everything(path)
  monkeypatch.delenv(ids.SALT)
  path = tiny_data.tiny_data_dir(tmp_path / "b", frames(), quiet=False)
  assert b"customer-u7" in everything(path)
  assert f"with a key in ${ids.SALT}" in capsys.readouterr().err


def test_a_service_takes_ids_of_the_raw_tables(tmp_path, owner, monkeypatch):
  plain, hashed = (
    records_lib.Records.open(
      tiny_data.tiny_data_dir(tmp_path / name, frames(), hash_ids=h)
    )
    for name, h in (("a", False), ("b", True))
  )
  for name, data in (("plain", plain), ("hashed", hashed)):
    folder = tmp_path / name
    kept = store_lib.open_store(folder)
    keys = store_lib.Keys(folder)
    keys.follow(kept)
    assert keys.note(kept, data.stats)
    known = {keys.stored(r["key"]) for r in data.source("train")}
    assert keys.user("customer-u3") in known
    assert keys.user("nobody") not in known
    again = store_lib.Keys(folder)
    again.follow(kept)
    assert again.user("customer-u3") == keys.user("customer-u3")
    monkeypatch.delenv(ids.SALT)
    if data is hashed:  # A service of these users does not begin without it.
      with pytest.raises(ids.IdError, match="16 characters"):
        again.follow(kept)
      assert not keys.note(kept, data.stats)
    monkeypatch.setenv(ids.SALT, SECRET)
    kept.close()


def test_the_key_comes_from_a_file_or_is_asked_for(tmp_path, monkeypatch):
  monkeypatch.delenv(ids.SALT, raising=False)
  with pytest.raises(ids.IdError, match="16 characters"):
    tiny_data.tiny_data_dir(tmp_path, hash_ids=True)
  file = tmp_path / "salt"
  monkeypatch.setenv(ids.SALT_FILE, str(file))
  with pytest.raises(ids.IdError, match="cannot read"):
    ids.salt()
  file.write_text(SECRET + "\n")
  assert ids.salt() == SECRET.encode()


@pytest.mark.parametrize("hash_ids", [False, True])
def test_forgotten_users_are_gone_and_others_are_as_they_were(
  tmp_path, owner, hash_ids, capsys
):
  path = tiny_data.tiny_data_dir(
    tmp_path, frames(), hash_ids=hash_ids, num_shards=40
  )
  _, before = tiny_data.read(path)
  gone = ["customer-u7", "customer-u8", "nobody at all"]
  stored = [ids.hash_id(u, owner) if hash_ids else u for u in gone]
  export = tmp_path / "export" / "embeddings"
  export.mkdir(parents=True)
  hashed = [ids.hash_id(k, owner) for k in ("customer-u7", "customer-u1")]
  frame = pl.DataFrame({"key": hashed, "x": [1.0, 2.0]})
  frame.write_parquet(export / "part-00000.parquet", metadata={"lumos_a": "b"})
  (export / ".part-00001.parquet.new").write_bytes(b"customer-u7")
  manifest = export.parent / "manifest.json"
  name = "embeddings/part-00000.parquet"
  manifest.write_text(json.dumps({"parts": {name: {"rows": 2, "sha256": ""}}}))
  run = tmp_path / "run" / "predictions"
  run.mkdir(parents=True)
  keys = predict.hash_keys(stored[:1] + ["other"])
  np.savez(run / "forecast.npz", key=keys, y=np.arange(2))
  users = tmp_path / "users.txt"
  users.write_text("\n".join(gone))
  places = [str(path), str(export.parent), str(run.parent)]
  with pytest.raises(forget.ForgetError, match="still stands"):
    forget.prove(path, gone)
  assert cli.main(["forget", f"--users={users}", *places]) == 0
  told = capsys.readouterr().out
  assert "3 records and rows of 3 users removed" in told  # And a reject.
  left = everything(path)
  assert not any(s.encode() in left for s in [*gone, *stored])
  data, after = tiny_data.read(path)
  data.verify()
  assert set(after) == set(before) - set(stored)
  for key, record in after.items():
    for n, x in record.items():
      np.testing.assert_array_equal(before[key][n], x)
  stats = json.loads((path / "stats.json").read_text())
  assert stats["users"] == len(after) == stats["splits"]["train"]["users"]
  assert stats["rows"] == sum(len(r["day"]) for r in after.values())
  assert stats["forgotten"]["users"] == 2 and stats["forgotten"]["rejects"] == 1
  assert stats["rejected"]["activity"] == {}
  rest = pl.read_parquet(export / "part-00000.parquet")
  assert rest["key"].to_list() == hashed[1:]
  entry = json.loads(manifest.read_text())["parts"][name]
  digest = records_lib.checksum(records_lib.epath.Path(export.parent / name))
  assert entry == {"rows": 1, "sha256": digest}
  assert not list(export.glob(".*"))
  with np.load(run / "forecast.npz") as found:
    assert found["y"].tolist() == [1]
  # Nothing else is beside the data set, and to forget again changes nothing.
  assert [p.name for p in path.parent.iterdir()] == [path.name]
  assert cli.main(["forget", f"--users={users}", *places]) == 0
  assert everything(path) == left


def test_an_id_in_a_vocabulary_is_found(tmp_path):
  tables = frames()
  tables["activity"] = tables["activity"].with_columns(device="key")
  path = tiny_data.tiny_data_dir(tmp_path, tables)
  with pytest.raises(forget.ForgetError, match="schema.json"):
    forget.forget([path], ["customer-u7"])


def test_values_of_few_users_have_no_id(tmp_path):
  rows = [("a", 40), ("b", 4), ("c", 3)]  # Value and how many users hold it.
  frame = pl.DataFrame(
    [
      (f"u{i}", i % 20, value, 1.0)
      for value, users in rows
      for i in range(users)
      for _ in range(5 if value == "c" else 1)  # Rows are no users.
    ],
    schema=["key", "time", "kind", "amount"],
    orient="row",
  )
  (tmp_path / "part-0.parquet").parent.mkdir(exist_ok=True)
  frame.write_parquet(tmp_path / "part-0.parquet")
  text = """
from lumos_jax.data.schema import Binned, Categorical, Composite, Schema

SCHEMA = Schema(
  name="k",
  activity=(
    Categorical("kind"),
    Binned("bin", of="amount", bins=1),
    Composite("token", of=("kind", "bin")),
  ),
  rows="event",
)
TABLES = {"activity": {"file": "part-*.parquet"}}
TRAIN_UNTIL = 100
"""
  (tmp_path / "k.py").write_text(text)
  prepare = lambda k, out, memory=0: data_prep.prepare(
    "tables",
    tmp_path / out,
    schema=str(tmp_path / "k.py"),
    quiet=True,
    k_anonymous=k,
    memory_gib=memory,
  )
  found = {}
  for k in (0, 4, 5):
    data = records_lib.Records.open(prepare(k, f"out{k}"))
    found[k] = data.schema.activity[0].values
    tokens = len(data.schema.activity[2].values)
    assert tokens == len(found[k])
  assert found == {0: ("a", "c", "b"), 4: ("a", "b"), 5: ("a",)}
  assert data.stats["k_anonymous"] == {
    "k": 5,
    "withheld": {"activity": {"kind": 2}},
  }
  assert data.stats["unknown_categories"]["activity"]["kind"]["rare"] == 19


def test_k_in_pieces_is_k_of_the_whole(tmp_path, monkeypatch, request):
  request.getfixturevalue("tiny_pieces")
  schema = pieces_test.write(tmp_path / "raw", pieces_test.events())
  one, many = (
    data_prep.prepare(
      "tables",
      tmp_path / out,
      schema=schema,
      quiet=True,
      memory_gib=memory,
      k_anonymous=12,
    )
    for out, memory in (("a", 0), ("b", 2))
  )
  pieces_test.check_equal(one, many)
  stats = json.loads((one / "stats.json").read_text())
  assert stats["k_anonymous"]["withheld"]["activity"]["category"] > 2


tiny_pieces = pieces_test.tiny_pieces


@pytest.mark.parametrize("hash_ids", [False, True])
def test_an_export_hashes_ids_once(tmp_path, owner, hash_ids):
  path = tiny_data.tiny_data_dir(tmp_path, frames(), hash_ids=hash_ids)
  config, recipe = types.SimpleNamespace(recipe="r"), types.SimpleNamespace()
  recipe.inputs = None
  model = types.SimpleNamespace(
    config=config, recipe=recipe, step=1, model_hash="m"
  )
  made = parts.Export(
    model,
    records_lib.Records.open(path),
    tmp_path / "out",
    ["embeddings"],
    100,
    np.arange(40),
    k=1,
    per_event=False,
    salt=owner,
  )
  assert made.header["ids"] == ids.KEYED
  assert made._salt == (None if hash_ids else owner)
