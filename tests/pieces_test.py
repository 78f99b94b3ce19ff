"""A table in pieces on disk gives the shards of the table in memory."""

import datetime
import json
import resource

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import __main__ as cli
from lumos_jax.data_prep import derive, fit, sketches, spill
from lumos_jax.data_prep.readers import rows as rows_lib

from lumos_jax import data_prep, ids
from lumos_jax.data.schema import Binned, Categorical, Numeric
from tests import tiny_data

EVENTS = """
from lumos_jax.data.schema import (
  Binned, Categorical, Clock, Composite, Label, Numeric, Schema, Timestamp,
)

SCHEMA = Schema(
  name="payments",
  activity=(
    Categorical("channel"),
    Categorical("category", max_values=5),
    Numeric("amount"),
    Numeric("rating", "none", scale="minmax", nullable=True),
    Binned("amount_bin", of="amount", bins=7),
    Binned("log_bin", of="amount", bins=5, scale="log"),
    Clock("gap", "gap"),
    Composite(
      "token",
      of=("channel", "category", "amount_bin"),
      max_values=20,
      backoff=("category",),
    ),
    Timestamp("time", parts=("hour",)),
  ),
  profile=(Categorical("region"),),
  labels=(Label("fraud", level="event"), Label("closed")),
  rows="event",
)
TABLES = {
  "activity": {"file": "part-*.parquet"},
  "profile": {"file": "profile.parquet"},
  "labels": {"file": "labels.parquet"},
  "split": {"file": "split.parquet"},
}
TRAIN_UNTIL = "2024-02-10"
TIME_ZONE = "Europe/Berlin"
"""


def events(seed=0, users=60, rows=3000):
  """Rows with many equal times, some of them unusable."""
  rng = np.random.default_rng(seed)
  start = datetime.datetime(2024, 1, 1)
  minutes = rng.integers(0, 60 * 24 * 60 // 30, rows) * 30
  return pl.DataFrame(
    {
      "key": [f"k{i}" for i in rng.integers(0, users, rows) ** 2 // users],
      "time": [start + datetime.timedelta(minutes=int(m)) for m in minutes],
      "channel": rng.choice(["web", "app", ""], rows).tolist(),
      "category": [f"c{i}" for i in rng.geometric(0.25, rows)],
      "amount": np.round(rng.lognormal(2, 1, rows), 2),
      "rating": np.where(rng.random(rows) < 0.3, np.nan, rng.normal(size=rows)),
      "fraud": np.where(rng.random(rows) < 0.2, 1.0, 0.0),
    }
  ).with_columns(
    key=pl.when(pl.int_range(rows) % 97 == 5).then(None).otherwise("key"),
    amount=pl.when(pl.int_range(rows) % 131 == 7)
    .then(float("inf"))
    .otherwise("amount"),
  )


def write(folder, frame, files=1):
  folder.mkdir(parents=True)
  for n, part in enumerate(frame.iter_slices(-(-len(frame) // files))):
    part.write_parquet(folder / f"part-{n}.parquet")
  names = sorted({*frame["key"].drop_nulls(), "idle1", "idle2"})
  region = ["n" if len(k) % 2 else "s" for k in names]
  profile = pl.DataFrame({"key": names, "region": region})
  profile.write_parquet(folder / "profile.parquet")
  pl.DataFrame(
    {
      "key": names[::3],
      "name": "closed",
      "time": datetime.date(2024, 2, 1),
      "value": 1.0,
    }
  ).write_parquet(folder / "labels.parquet")
  # Some users are in no split: their rows are rejected.
  split = ["train" if i % 4 else "test" for i in range(len(names))]
  pl.DataFrame({"key": names, "split": split})[:-3].write_parquet(
    folder / "split.parquet"
  )
  (folder / "payments.py").write_text(EVENTS)
  return str(folder / "payments.py")


@pytest.fixture
def tiny_pieces(monkeypatch):
  """Memory for some hundred rows; every batch is spilled by itself."""
  seen = []
  monkeypatch.setattr(spill, "_LEAST", 60_000)
  monkeypatch.setattr(spill, "_BATCH_ROWS", 500)
  monkeypatch.setattr(spill, "USER_BYTES", 10**9)
  monkeypatch.setattr("lumos_jax.data_prep.room._fits", lambda *_: False)
  load = spill._load
  monkeypatch.setattr(spill, "_load", lambda p: seen.append(p) or load(p))
  return seen


def contents(path):
  """Bytes of the shards and what is stored beside them."""
  files = {p.name: p.read_bytes() for p in path.glob("*.array_record*")}
  stats = json.loads((path / "stats.json").read_text())
  for key in ("written", "contents", "shards"):
    del stats[key]
  schema = (path / "schema.json").read_text()
  rejects = pl.read_parquet(str(path / "rejects.parquet")).sort("table", "row")
  return files, stats, schema, rejects.to_dicts()


def check_equal(a, b):
  for left, right in zip(contents(a), contents(b), strict=True):
    assert left == right


@pytest.mark.parametrize("until", [None, "2024-02-20"])
def test_events_in_pieces_give_the_same_shards(tmp_path, tiny_pieces, until):
  frame, options = events(), {"num_shards": 3, "quiet": True}
  if until:
    options["until"] = until
  whole = write(tmp_path / "a", frame)
  # Shuffled rows have other numbers, so only rejects of the same files compare.
  mixed = frame.sample(fraction=1, shuffle=True, seed=1)
  cut, shuffled = write(tmp_path / "b", frame, 4), write(tmp_path / "c", mixed)
  prepare = lambda schema, out, **kw: data_prep.prepare(
    "tables", tmp_path / out, schema=schema, **options, **kw
  )
  wanted = prepare(whole, "wa", memory_gib=0)
  assert not tiny_pieces
  check_equal(prepare(cut, "wb", memory_gib=2), wanted)
  assert len(set(tiny_pieces)) > 5
  found = contents(prepare(shuffled, "wc", memory_gib=2))
  assert found[:3] == contents(wanted)[:3]
  assert not list(tmp_path.glob("w?/*.spill"))


def test_days_in_pieces_give_the_same_shards(tmp_path, tiny_pieces):
  schema = tiny_data.write_tables(tmp_path / "raw")
  one, many = (
    data_prep.prepare(
      "tables", tmp_path / out, schema=schema, quiet=True, memory_gib=memory
    )
    for out, memory in (("a", 0), ("b", 2))
  )
  check_equal(one, many)
  assert len(set(tiny_pieces)) > 3
  # And under what was fitted, with values that were not.
  again = [
    data_prep.prepare(
      "tables",
      tmp_path / out,
      schema=schema,
      quiet=True,
      memory_gib=memory,
      fitted=one,
    )
    for out, memory in (("c", 0), ("d", 2))
  ]
  check_equal(*again)
  assert not set(contents(one)[0].values()) ^ set(
    contents(again[0])[0].values()
  )


def test_less_memory_than_the_program_takes_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr("lumos_jax.data_prep.room._fits", lambda *_: False)
  with pytest.raises(ValueError, match="memory_gib=0.1.*give more"):
    tiny_data.tiny_data_dir(tmp_path, memory_gib=0.1)


def test_what_an_interrupted_run_left_is_removed(tmp_path, tiny_pieces):
  schema = tiny_data.write_tables(tmp_path / "raw")
  run = lambda: data_prep.prepare(
    "tables", tmp_path / "data", schema=schema, quiet=True, memory_gib=2
  )
  path = run()
  left = path.parent / f"{path.name}.spill"
  left.mkdir()
  (left / "piece000000.npz").write_bytes(b"half")
  data_prep.prepare(
    "tables",
    tmp_path / "data",
    schema=schema,
    quiet=True,
    memory_gib=2,
    overwrite=True,
  )
  assert not left.exists()


def test_a_disk_that_is_full_of_pieces_is_named(tmp_path, tiny_pieces):
  schema = write(tmp_path / "raw", events())
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  # Python ignores the signal, so that a write fails as on a full disk.
  resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, before[1]))
  try:
    with pytest.raises(OSError, match="spill.*too large.*--memory_gib"):
      data_prep.prepare(
        "tables", tmp_path / "out", schema=schema, quiet=True, memory_gib=2
      )
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert not list((tmp_path / "out").iterdir())


def test_quantiles_merge_exactly_and_else_say_their_error():
  x = np.random.default_rng(0).lognormal(size=20_000)
  share = np.arange(1, 50) / 50
  wanted = np.quantile(x, share, method="higher")
  exact, short = sketches.Quantiles(), sketches.Quantiles(2000)
  for part in np.array_split(x, 30):
    exact.add(part)
    short.add(part)
  np.testing.assert_array_equal(exact.at(share), wanted)
  assert exact.rank_error == 0
  rank = np.searchsorted(np.sort(x), short.at(share))
  off = np.abs(rank - np.ceil((len(x) - 1) * share))
  assert 0 < off.max() <= short.rank_error < len(x) / 10
  assert set(short.at(share)) <= set(x)
  field = derive.fit_bins(Binned("b", of="x", bins=50), exact)
  assert field == derive.fit_bins(Binned("b", of="x", bins=50), x)


def test_counts_beyond_their_room_keep_what_is_frequent_and_say_so():
  rng = np.random.default_rng(0)
  parts = [rng.zipf(1.5, 2000) for _ in range(20)]
  exact, short = sketches.Products(), sketches.Products(500)
  counts = fit.Counts((Categorical("c", max_values=10),), 500)
  whole = fit.Counts((Categorical("c", max_values=10),))
  for part in parts:
    exact.add(part)
    short.add(part)
    values, codes = np.unique(part, return_inverse=True)
    column = fit.encode.Coded(codes, [str(v) for v in values])
    for c in (counts, whole):
      c.add({"c": column}, np.arange(len(part)))
  true = dict(zip(*exact.counts(), strict=True))
  for number, count in zip(*short.counts(), strict=True):
    assert 0 <= true[number] - count <= short.short
  assert 0 < short.short < 100
  assert exact.short == 0 and not whole.short
  assert 0 < counts.short["c"] < 100
  assert counts.fitted(True)[0] == whole.fitted(True)[0]


def test_moments_of_pieces_are_those_of_the_whole():
  x = np.random.default_rng(0).normal(1e6, 1.0, 9000)
  for scale in ("standard", "minmax", "none"):
    field = Numeric("n", "none", scale=scale)
    moments = fit.Moments(field)
    for part in np.array_split(x, 7):
      moments.add(part)
    assert moments.fitted() == fit.scaler(field, x)
  constant = fit.scaler(Numeric("n", "none"), np.full(1000, 0.1 * 3e9))
  assert constant.divisor == 1.0


def test_equal_rows_are_counted_in_files_as_in_memory(monkeypatch):
  frame = events().select("channel", "category", "fraud").lazy()
  wanted = 3000 - frame.unique().collect().height
  assert rows_lib.duplicates(frame) == wanted > 0
  monkeypatch.setattr(rows_lib, "_HASHES", 0)
  assert rows_lib.duplicates(frame) == wanted
  assert rows_lib.duplicates(frame.head(0)) == 0


def test_the_command_takes_the_options(tmp_path, tiny_pieces, monkeypatch):
  monkeypatch.setenv(ids.SALT, "a secret of the owner")
  schema = write(tmp_path / "raw", events())
  command = [
    "--source=tables",
    f"--out={tmp_path}",
    "--set",
    f"schema={schema}",
  ]
  options = ["--memory_gib=2", "--hash_ids", "--k_anonymous=5"]
  assert cli.main([*command, *options]) == 0
  assert tiny_pieces
  stats = json.loads((tmp_path / "payments" / "stats.json").read_text())
  assert ids.hashed(stats) and stats["k_anonymous"]["k"] == 5
  # Prepared otherwise is told, not overwritten.
  assert cli.main(command) == 1
  with pytest.raises(SystemExit):  # Beam's options go with --beam alone.
    cli.main([*command, "--runner=DirectRunner"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_any_size_of_piece_and_batch(tmp_path, tiny_pieces, monkeypatch, seed):
  rng = np.random.default_rng(seed)
  monkeypatch.setattr(spill, "_LEAST", int(10 ** rng.uniform(2, 6)))
  monkeypatch.setattr(spill, "_BATCH_ROWS", int(rng.integers(1, 2000)))
  frame = events(seed, int(rng.integers(2, 300)), int(rng.integers(200, 4000)))
  schema = write(tmp_path / "raw", frame, int(rng.integers(1, 6)))
  one, many = (
    data_prep.prepare(
      "tables",
      tmp_path / out,
      schema=schema,
      quiet=True,
      memory_gib=memory,
      k_anonymous=int(seed % 3) * 4,
      num_shards=4,
    )
    for out, memory in (("a", 0), ("b", 2))
  )
  check_equal(one, many)
