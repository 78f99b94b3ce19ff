"""Appended days give the records of preparing all rows under the same fit."""

import datetime
import json

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import __main__ as cli
from lumos_jax.data_prep import append, builder, forget
from lumos_jax.data_prep.inputs import InputError

from lumos_jax import data_prep, ids
from lumos_jax.data import records as records_lib
from tests import pieces_test, tiny_data

CUT = datetime.datetime(2024, 2, 20)
EVENTS = pieces_test.EVENTS.replace(
  'of=("channel", "category", "amount_bin"),',
  'of=("channel", "gap", "amount_bin"),',
).replace('backoff=("category",),', 'backoff=("channel",),')
EVENTS = EVENTS.replace('TIME_ZONE = "Europe/Berlin"', "").replace(
  'epoch="2024-01-01"', ""
)


def write(folder, frame, with_labels=True):
  """Tables of all users' splits, and of the events given."""
  everyone = pieces_test.events(rows=6000)
  schema = pieces_test.write(folder, everyone)
  (folder / "part-0.parquet").unlink()
  frame.write_parquet(folder / "part-0.parquet")
  text = EVENTS.replace('rows="event",', 'rows="event",\n  epoch="2024-01-01",')
  (folder / "payments.py").write_text(text)
  if not with_labels:
    empty = pl.read_parquet(folder / "labels.parquet").head(0)
    empty.write_parquet(folder / "labels.parquet")
  return schema


def usable():
  frame = pieces_test.events(rows=6000)
  return frame.filter(
    pl.col("key").is_not_null() & pl.col("amount").is_finite()
  )


def prepare(schema, out, **kw):
  return data_prep.prepare(
    "tables", out, schema=schema, quiet=True, num_shards=3, **kw
  )


def same_records(a, b):
  """Records of all splits, their order, and the schemas."""
  a, b = records_lib.Records.open(a), records_lib.Records.open(b)
  a.verify()
  assert a.schema == b.schema and a.splits == b.splits
  for split in a.splits:
    x, y = a.source(split), b.source(split)
    assert len(x) == len(y)
    for left, right in zip(x, y, strict=True):
      assert left["key"] == right["key"] and left.keys() == right.keys()
      for name in left.keys() - {"key"}:
        np.testing.assert_array_equal(left[name], right[name], name)


@pytest.mark.parametrize("hash_ids", [False, True])
def test_appended_events_are_those_of_all_rows(tmp_path, monkeypatch, hash_ids):
  monkeypatch.setenv(ids.SALT, "a secret of the owner")
  frame = usable()
  old, new = (
    frame.filter(pl.col("time") < CUT),
    frame.filter(pl.col("time") >= CUT),
  )
  # Someone comes with the batch, someone does not act any more.
  old = old.filter(pl.col("key") != "k5")
  new = new.filter(pl.col("key") != "k0")
  kw = {"hash_ids": hash_ids}
  path = prepare(write(tmp_path / "old", old), tmp_path / "a", **kw)
  batch = write(tmp_path / "new", new, with_labels=False)
  everything = write(tmp_path / "all", pl.concat([new, old]))
  wanted = prepare(everything, tmp_path / "b", fitted=path, **kw)
  found = append.append(path, "tables", schema=batch)
  assert found["new"] and found["late_rows"] == 0
  assert found["rows"] + found["users"] > 500
  same_records(path, wanted)
  stats = json.loads((path / "stats.json").read_text())
  other = json.loads((wanted / "stats.json").read_text())
  for name in ("users", "rows", "labels", "last_day", "schema_hash"):
    assert stats[name] == other[name], name
  assert stats["splits"].keys() == other["splits"].keys()
  # The same again, also in other files, changes nothing.
  before = {p.name: p.read_bytes() for p in path.iterdir()}
  mixed = write(tmp_path / "again", new.sample(fraction=1, shuffle=True), False)
  for schema in (batch, mixed):
    assert not append.append(path, "tables", schema=schema)["new"]
  assert {p.name: p.read_bytes() for p in path.iterdir()} == before
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_overlap_is_refused_or_counted(tmp_path, capsys):
  frame = usable()
  path = prepare(
    write(tmp_path / "old", frame.filter(pl.col("time") < CUT)), tmp_path / "a"
  )
  days = pl.col("time") >= CUT - datetime.timedelta(days=2)
  late = write(tmp_path / "new", frame.filter(days), False)
  before = {p.name: p.read_bytes() for p in path.iterdir()}
  with pytest.raises(InputError, match="rows of the batch lie before.*--late"):
    append.append(path, "tables", schema=late)
  assert {p.name: p.read_bytes() for p in path.iterdir()} == before
  command = ["append", str(path), "--source=tables", "--set", f"schema={late}"]
  assert cli.main(command) == 1
  assert cli.main([*command, "--late=drop"]) == 0
  split = pl.read_parquet(tmp_path / "new" / "split.parquet")["key"].to_list()
  overlap = days & (pl.col("time") < CUT) & pl.col("key").is_in(split)
  overlap = frame.filter(overlap).height
  assert f"{overlap} late rows left out" in capsys.readouterr().out
  wanted = prepare(
    write(tmp_path / "all", frame),
    tmp_path / "b",
    fitted=prepare(
      write(tmp_path / "o2", frame.filter(pl.col("time") < CUT)), tmp_path / "c"
    ),
  )
  same_records(path, wanted)
  assert cli.main([*command, "--late=drop"]) == 0
  assert "already" in capsys.readouterr().out


def test_appended_days_are_those_of_all_rows(tmp_path):
  frames, cut = tiny_data.tiny_frames(), datetime.datetime(2020, 5, 1)
  text = tiny_data.DESCRIPTION.format(days=0, train_until=112)
  text = text.replace(
    'epoch="2020-01-01",\n  first_day=0,', 'epoch="2020-01-01",'
  )
  activity = frames["activity"]
  only = lambda when: frames | {"activity": activity.filter(when)}
  make = lambda name, tables, **kw: data_prep.prepare(
    "tables",
    tmp_path / name,
    schema=tiny_data.write_tables(tmp_path / f"raw-{name}", tables, text),
    quiet=True,
    **kw,
  )
  path = make("a", only(pl.col("time") < cut))
  wanted = make("b", frames, fitted=path)
  batch = only(pl.col("time") >= cut)
  schema = tiny_data.write_tables(tmp_path / "batch", batch, text)
  assert append.append(path, "tables", schema=schema)["new_users"] == 0
  same_records(path, wanted)


def test_new_users_need_a_split_where_there_are_several(tmp_path):
  frame = usable()
  path = prepare(
    write(tmp_path / "old", frame.filter(pl.col("time") < CUT)), tmp_path / "a"
  )
  new = frame.filter(pl.col("time") >= CUT).with_columns(
    key=pl.format("new-{}", "key")
  )
  schema = write(tmp_path / "new", new, False)
  text = (tmp_path / "new" / "payments.py").read_text()
  lines = [t for t in text.splitlines() if ".parquet" not in t or "part" in t]
  (tmp_path / "new" / "payments.py").write_text("\n".join(lines))
  with pytest.raises(InputError, match="users of the batch are new.*`split`"):
    append.append(path, "tables", schema=schema)


def test_appends_follow_each_other_and_users_can_be_forgotten(tmp_path, capsys):
  frame = usable()
  later = CUT + datetime.timedelta(days=3)
  cuts = (datetime.datetime.min, CUT, later, datetime.datetime.max)
  parts = [
    frame.filter((pl.col("time") >= a) & (pl.col("time") < b))
    for a, b in zip(cuts, cuts[1:], strict=False)
  ]
  path = prepare(write(tmp_path / "old", parts[0]), tmp_path / "a")
  for i, part in enumerate(parts[1:]):
    schema = write(tmp_path / f"new{i}", part, False)
    command = ["append", str(path), "--source=tables", "--rows=event", "--set"]
    assert cli.main([*command, f"schema={schema}"]) == 0
    assert "hold a value that is not" in capsys.readouterr().out
  info = json.loads((path / "dataset_info.json").read_text())
  # As an append of an earlier version wrote it.
  info["splits"][0]["numBytes"] = "106.32 KiB"
  (path / "dataset_info.json").write_text(json.dumps(info))
  users = tmp_path / "users.txt"
  users.write_bytes(b"\xef\xbb\xbfk1\r\nK1\n")
  assert cli.main(["forget", f"--users={users}", str(path)]) == 0
  told = capsys.readouterr().out
  assert "1 of 2 ids were found nowhere" in told and "ids 2 of" in told
  data = records_lib.Records.open(path)
  found = {r["key"] for s in data.splits for r in data.source(s)}
  assert "k1" not in found and "k2" in found


def test_a_record_has_one_form():
  example = {f"field{i}": np.arange(i) for i in range(12)}
  other = dict(reversed(example.items()))
  assert builder.serialize(example) == builder.serialize(other)


def test_a_changed_description_or_a_damaged_shard_is_not_complete(tmp_path):
  schema = write(tmp_path / "raw", usable())
  path = prepare(schema, tmp_path / "a")
  assert prepare(schema, tmp_path / "a") == path
  shard = sorted(path.glob("*.array_record*"))[0]
  whole = shard.read_bytes()
  shard.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(InputError, match=f"{shard.name}.*--overwrite"):
    prepare(schema, tmp_path / "a")
  with pytest.raises(records_lib.DataError, match=shard.name):
    forget.forget([path], ["k1"])
  shard.write_bytes(whole)
  text = (tmp_path / "raw" / "payments.py").read_text()
  assert "TRAIN_UNTIL" in text
  words = text.replace("TRAIN_UNTIL = ", "TRAIN_UNTIL =  ")
  (tmp_path / "raw" / "payments.py").write_text(words)
  with pytest.raises(InputError, match="payments.py .* there, .* now"):
    prepare(schema, tmp_path / "a")
