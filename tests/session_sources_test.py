"""Sources of sessions that others have cut: MSWeb's visits, Diginetica's clicks."""

import gzip
import os

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import run, sources
from lumos_jax.data_prep.inputs import InputError

from lumos_jax import config as config_lib
from lumos_jax.data import pages as pages_lib
from lumos_jax.data import records as records_lib


def gz(folder, name, text):
  with gzip.open(folder / name, "wt", encoding="utf-8") as f:
    f.write(text)


@pytest.fixture
def msweb(tmp_path):
  (tmp_path / "items.csv").write_text('item,labels\n0,regwiz\n1,"A, b"\n2,\n')
  gz(tmp_path, "msweb_user_items.txt.gz", "0 1 2\n1\n\n2 0 2\n" + "0 1\n" * 30)
  return tmp_path


@pytest.fixture
def diginetica(tmp_path):
  train = "1 2\n3 4 5\n7\n" + "".join(f"1 {i} 2\n" for i in range(10, 60))
  gz(tmp_path, "diginetica_all_train_seq.txt.gz", train)
  (tmp_path / "diginetica_test.txt").write_text("1 2 3\n1 2\n4 99\n")
  return tmp_path


def test_visits_are_sessions_without_order(msweb, tmp_path):
  path = run.prepare("msweb", tmp_path / "out", path=str(msweb), quiet=True)
  data = records_lib.Records.open(path)
  users = {r["key"]: r for s in data.splits for r in data.source(s)}
  # An empty line is no visitor; an area counts once.
  assert len(users) == 33 and "v3" not in users
  assert [len(users[k]["day"]) for k in ("v1", "v2", "v4")] == [3, 1, 2]
  # One instant, whatever stood first in the line.
  assert all(not r["time"].any() for r in users.values())
  pages = pages_lib.Pages.load(path)
  assert set(pages.title) == {"", "regwiz", "A, b", "2"}
  notes = data.stats["notes"]
  assert notes["areas named twice by a visitor"] == 1
  assert notes["visitors"] == 33


def test_faults_of_visits_name_file_and_line(msweb):
  load = lambda: sources.load("msweb", dict(path=str(msweb)))
  gz(msweb, "msweb_user_items.txt.gz", "0 1\n0 3\n")
  with pytest.raises(
    InputError, match="line 2 names area 3; items.csv has the"
  ):
    load()
  gz(msweb, "msweb_user_items.txt.gz", "0 x\n")
  with pytest.raises(InputError, match="line 1 has no numbers"):
    load()
  (msweb / "items.csv").write_text("item,labels\n1,regwiz\n")
  with pytest.raises(InputError, match="items.csv: line 2 must be 0,TITLE"):
    load()
  with pytest.raises(InputError, match="LUMOS_MSWEB_DIR=FOLDER"):
    sources.load("msweb", dict(path=str(msweb / "none")))


def test_a_test_line_is_a_prefix_with_its_item(diginetica):
  load = lambda: sources.load("diginetica", dict(path=str(diginetica)))
  inputs = load()
  frame, split = inputs.activity.collect(), dict(inputs.split.rows())
  of = lambda key: frame.filter(pl.col("key") == key).sort("time")["page"]
  assert of("test0").to_list() == ["1", "2", "3"]
  assert of("train1").to_list() == ["3", "4", "5"]
  assert split["test0"] == split["test2"] == "test"
  kinds = {k: v for k, v in split.items() if k.startswith("train")}
  assert set(kinds.values()) == {"train", "validation"}
  assert 1 <= sum(v == "validation" for v in kinds.values()) <= 15
  notes = inputs.notes
  assert notes["lines of fewer than two clicks, left out"] == 1
  assert notes["test lines whose item is in no training session"] == 1
  (diginetica / "diginetica_test.txt").write_text("1 2\n1 b\n")
  with pytest.raises(
    InputError, match="diginetica_test.txt: line 2 has no item"
  ):
    load()
  (diginetica / "diginetica_test.txt").unlink()
  with pytest.raises(InputError, match="LUMOS_DIGINETICA_DIR=FOLDER"):
    load()


def test_presets_are_of_the_data(diginetica):
  c = config_lib.load("intent:data=msweb")
  assert c.model.positions == "none" and c.model.masked
  c = config_lib.load(f"intent:data=diginetica,causal,path={diginetica}")
  assert not c.model.masked and not c.model.text_width
  with pytest.raises(config_lib.ConfigError, match="in no known order"):
    config_lib.load("intent:data=msweb,causal")
  with pytest.raises(config_lib.ConfigError, match="have no titles"):
    config_lib.load("intent:data=diginetica,texts=words")


def real(name):
  folder = os.environ.get(f"LUMOS_{name.upper()}_DIR")
  if not folder:
    pytest.skip(f"needs the files of {name}: LUMOS_{name.upper()}_DIR=FOLDER")
  return sources.load(name, dict(path=folder))


def test_the_published_visits():
  inputs = real("msweb")
  assert len(inputs.split) == 32_710
  assert inputs.activity.select(pl.len()).collect().item() == 98_653
  assert len(inputs.pages.frame) == 285


def test_the_published_sessions():
  inputs = real("diginetica")
  assert inputs.notes["sessions of training"] == 186_670
  assert inputs.notes["test lines (a prefix and its item)"] == 60_858
  frame = inputs.activity.collect()
  train = frame.filter(pl.col("key").str.starts_with("train"))
  assert len(train) == 906_140 and train["page"].n_unique() == 43_097
  share = np.mean(inputs.split["split"].to_numpy() == "validation")
  assert 0.06 < share < 0.09  # A tenth of the training sessions.
