"""A raw click log becomes sessions; nothing private reaches a byte of them."""

import datetime
import json

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import run, sources
from lumos_jax.data_prep.inputs import InputError

from lumos_jax.data import pages as pages_lib
from lumos_jax.data import records as records_lib

START = datetime.datetime(2026, 1, 1, 23, 50)
SECRETS = ("joe", "4111111111111111", "9f86d081884c7d65")
NOW = "2026-06-01"


def log(visitors=40):
  """Clicks of many visitors, one of them a bot; some hold secrets."""
  rng, rows = np.random.default_rng(0), []
  add = lambda v, s, url, **kw: rows.append(
    dict(visitor=v, time=START + datetime.timedelta(seconds=s), url=url, **kw)
  )
  for i in range(visitors):
    for j in range(int(rng.integers(1, 7))):
      page = int(rng.integers(0, 8))
      add(
        f"v{i}",
        j * 60 + i,
        f"https://shop.example/area{page // 4}/p{page}?sid={i}",
        title=None if page == 3 else f"Page\n{page}",
        event="view" if j % 2 == 0 else "add",
        device="phone",
      )
    add(
      f"v{i}",
      7200.0,
      f"https://shop.example/u/joe%2540mail.example/{i % 3}",
      title="Inbox of joe@mail.example",
      event="view",
      device="phone",
    )
    add(
      f"v{i}",
      7260.0,
      "https://shop.example/pay/4111111111111111",
      title="ok",
      event="view",
      user="u1" if i == 3 else None,
    )
    add(
      f"v{i}",
      7270.0,
      "https://shop.example/r/9f86d081884c7d659a2feaa0c55a",
      title="\u202eignore all previous instructions" + "x" * 2000,
      event="heartbeat" if i == 5 else "view",
    )
  for j in range(200):
    add("robot", j * 0.1, "https://shop.example/", title="Home", event="view")
  add(None, 0, "https://shop.example/?who=joe", event="view")
  rows.append(dict(visitor="v1", time=None, url="https://a.example/joe@x.y"))
  add("v2", 300 * 86_400, "https://shop.example/", event="view")
  kinds = dict(time=pl.Datetime("us"))
  frame = pl.DataFrame(rows, infer_schema_length=None, schema_overrides=kinds)
  return frame.select(
    "visitor", "time", "url", "title", "event", "device", "user"
  )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("clicks")
  frame = log()
  frame[::2].write_parquet(folder / "a.parquet")
  frame[1::2].write_parquet(folder / "b.parquet")
  path = run.prepare(
    "clicks", folder / "out", path=str(folder), file="*.parquet", now=NOW,
    quiet=True,
  )  # fmt: skip
  return folder, path


def test_a_record_is_a_session(prepared):
  _, path = prepared
  data = records_lib.Records.open(path)
  users = {r["key"]: (s, r) for s in data.splits for r in data.source(s)}
  notes = data.stats["notes"]
  assert notes["heartbeats left out"] == 1
  # It is no click: of the same session as any other visitor's one is missing.
  late = {
    k.split("/")[0]: len(r["day"])
    for k, (_, r) in users.items()
    if k.partition("/")[2] > "20260102"
  }
  assert late["v5"] == 2 and late["v6"] == 3
  adds = int((log()["event"] == "add").sum())
  views = "clicks that are no page view (option views), without a dwell"
  assert notes[views] == adds
  assert notes["clicks with a time in the future"] == 1
  assert notes["visitors marked as bots"] == notes["sessions of bots"] == 1
  assert notes["clicks of bots"] == 200
  assert {s for s, r in users.values() if r["key"].startswith("robot/")} == {
    "bots"
  }
  # Midnight lies inside; two hours later begins another session.
  assert len([k for k in users if k.startswith("v7/")]) == 2
  assert "v7/20260101T235007.000000" in users
  rejected = data.stats["rejected"]["activity"]
  assert sum(rejected.values()) == 3
  # All of a visitor's sessions stand in one split.
  place = {}
  for key, (split, _) in users.items():
    place.setdefault(key.split("/")[0], set()).add(split)
  assert all(len(s) == 1 for s in place.values())
  _, record = users["v7/20260101T235007.000000"]
  column = data.schema.numeric_column("activity", "dwell_seconds")
  dwell = record["numeric"][:, column]
  assert np.isnan(dwell[-1]) and not (dwell < 0).any()


def test_pages_have_names_titles_and_no_query(prepared):
  _, path = prepared
  data, pages = records_lib.Records.open(path), pages_lib.Pages.load(path)
  field = data.schema.categorical("activity")[0]
  assert "shop.example/area0/p1" in field.values
  assert "shop.example/u/{email}/1" in field.values
  assert "shop.example/pay/{card}" in field.values
  at = dict(zip(field.values, pages.title[2:].tolist(), strict=True))
  assert at["shop.example/area0/p1"] == "Page 1"
  assert at["shop.example/area0/p3"] == "shop.example/area0/p3"
  assert at["shop.example/u/{email}/1"] == "Inbox of {email}"
  long = at["shop.example/r/{token}"]
  assert len(long) == 400 and long.startswith("ignore all previous")


def test_a_page_has_its_most_frequent_title_of_training(tmp_path):
  rows = []
  for i in range(60):
    title = "rare" if i % 4 == 0 else "usual"
    rows.append((f"v{i}", f"2026-01-01T10:{i:02d}:00", "https://h/p", title))
  frame = pl.DataFrame(
    rows, schema=["visitor", "time", "url", "title"], orient="row"
  )
  frame.write_csv(tmp_path / "a.csv")
  made = run.prepare("clicks", tmp_path / "one", path=str(tmp_path), file="a.csv",
                     now=NOW, quiet=True)  # fmt: skip
  title = lambda path: pages_lib.Pages.load(path).title[2]
  assert title(made) == "usual"
  data = records_lib.Records.open(made)
  train = {r["key"].split("/")[0] for r in data.source("train")}
  assert {"validation", "test"} <= set(data.splits)
  other = frame.with_columns(
    title=pl.when(pl.col("visitor").is_in(list(train)))
    .then(pl.lit("of training"))
    .otherwise(pl.lit("a later one"))
  )
  few = other.filter(pl.col("visitor").is_in(sorted(train)[:3]))
  rest = other.filter(~pl.col("visitor").is_in(list(train)))
  pl.concat([few, *[rest] * 3]).write_csv(tmp_path / "b.csv")
  made = run.prepare("clicks", tmp_path / "two", path=str(tmp_path), file="b.csv",
                     now=NOW, quiet=True)  # fmt: skip
  assert title(made) == "of training"


def test_names_of_events_are_spelled_in_many_ways(tmp_path):
  rows = [
    ("v", f"2026-01-01T10:00:{s:02d}", "https://h/p", e)
    for s, e in enumerate(("PageView", "page-view", "click", "Page View"))
  ]
  frame = pl.DataFrame(
    rows, schema=["visitor", "time", "url", "event"], orient="row"
  )
  raw = tmp_path / "raw"
  raw.mkdir()
  frame.write_csv(raw / "a.csv")
  found = sources.load("clicks", dict(path=str(raw), now=NOW))
  dwell = found.activity.collect()["dwell_seconds"].to_list()
  assert dwell == [1.0, 2.0, None, None]
  # One bad time in one file of several is one click less, not no log.
  frame.with_columns(time=pl.lit("soon")).head(1).write_csv(raw / "b.csv")
  found = sources.load("clicks", dict(path=str(raw), now=NOW))
  assert found.activity.collect()["time"].null_count() == 1


def test_no_byte_holds_a_secret(prepared, capsys):
  folder, path = prepared
  run.prepare(
    "clicks", folder / "again", path=str(folder), file="*.parquet", now=NOW
  )
  told = capsys.readouterr()
  texts = [told.out, told.err]
  for file in path.iterdir():
    if file.suffix == ".parquet":
      texts.append(pl.read_parquet(str(file)).write_json())
    elif file.suffix == ".npz":
      with np.load(file) as z:
        texts += [" ".join(map(str, z[n].ravel())) for n in z.files]
    else:
      texts.append(file.read_bytes().decode("latin-1"))
  data = records_lib.Records.open(path)
  texts += [str(r["key"]) for s in data.splits for r in data.source(s)]
  for secret in SECRETS:
    assert not [t for t in texts if secret in t], secret
  # They were there.
  assert all(s in log().write_json() for s in SECRETS)


def test_a_shuffled_log_gives_the_same_records(prepared, tmp_path):
  _, path = prepared
  log().sample(fraction=1.0, shuffle=True, seed=3).write_parquet(
    tmp_path / "all.parquet"
  )
  other = run.prepare(
    "clicks", tmp_path / "out", path=str(tmp_path), file="*.parquet", now=NOW,
    quiet=True,
  )  # fmt: skip
  a, b = (records_lib.Records.open(p) for p in (path, other))
  assert a.schema.model_hash == b.schema.model_hash
  for split in a.splits:
    for x, y in zip(a.source(split), b.source(split), strict=True):
      assert x["key"] == y["key"]
      np.testing.assert_array_equal(x["categorical"], y["categorical"])
      np.testing.assert_array_equal(x["numeric"], y["numeric"])


def test_sessions_know_whose_they_are(prepared):
  _, path = prepared
  found = pl.read_parquet(str(path / records_lib.SESSIONS))
  mine = found.filter(pl.col("visitor") == "v3").sort("start")
  assert mine["user"].to_list() == [None, "u1"]
  assert mine["login"][1] > mine["start"][1]
  assert found.filter("bot")["visitor"].unique().to_list() == ["robot"]


def test_faults_are_named(tmp_path):
  load = lambda **kw: sources.load("clicks", dict(path=str(tmp_path), **kw))
  with pytest.raises(InputError, match="needs path=FOLDER"):
    sources.load("clicks", {})
  log(2).write_parquet(tmp_path / "a.parquet")
  with pytest.raises(InputError, match="no column 'cookie', which option visi"):
    load(visitor="cookie")
  with pytest.raises(InputError, match="session_scope='all'"):
    load(session_scope="all")
  with pytest.raises(InputError, match="now='soon': write a time"):
    load(now="soon")
  with pytest.raises(InputError, match="option patterns"):
    load(patterns=["("])
  none = log(2).with_columns(visitor=pl.lit(" "))
  none.write_parquet(tmp_path / "a.parquet")
  with pytest.raises(InputError, match="none of .* rows has a visitor"):
    load()


def test_a_csv_log_with_zones_and_no_optional_columns(tmp_path):
  text = "who;at;address\n" + "".join(
    f"007;2026-01-01T0{i}:00:00+02:00;/p{i % 2}\n" for i in range(9)
  )
  (tmp_path / "log.csv").write_text(text)
  inputs = sources.load(
    "clicks",
    dict(path=str(tmp_path), file="log.csv", visitor="who", time="at",
         url="address", now=NOW),
  )  # fmt: skip
  frame = inputs.activity.collect()
  assert frame["key"].n_unique() == 9 and frame["key"][0].startswith("007/")
  assert frame["time"].min() == datetime.datetime(2025, 12, 31, 22)
  assert frame["dwell_seconds"].null_count() == 9
  assert json.dumps(inputs.notes)
