"""Raw files that are not those a data set was made of are told."""

import json
import pathlib

import pytest
from lumos_jax.data_prep import run

from lumos_jax.data import raw_files, shards

STATS = {"contents": {"inputs": {"a.csv": 3, "b.csv": 4}}}


def check(folder, source="clicks", stats=STATS, **options):
  raw_files.check("data/x", stats, source, {"path": str(folder), **options})


def written(folder, **files):
  folder.mkdir(exist_ok=True)
  for name, text in files.items():
    (folder / f"{name}.csv").write_text(text)
  return folder


def test_the_same_files_pass_wherever_they_lie(tmp_path):
  check(written(tmp_path / "one", a="123", b="1234"))
  check(tmp_path / "nowhere")
  check("gs://bucket/log")
  check(tmp_path / "one", stats={})
  raw_files.check("data/x", STATS, "clicks", {})


@pytest.mark.parametrize(
  "files, said",
  [
    (dict(a="123", b="12345"), "b.csv had 4 bytes and has 5"),
    (dict(a="123"), "b.csv is absent"),
    (dict(a="123", b="1234", c="1"), "c.csv is new"),
    (dict(other="123"), "a.csv is absent"),
  ],
)
def test_other_files_are_named_with_the_way_out(tmp_path, files, said):
  with pytest.raises(shards.DataError, match=said) as e:
    check(written(tmp_path / "log", **files))
  assert "data.root" in str(e.value) and "--overwrite" in str(e.value)


def test_files_beside_those_that_a_source_reads_do_not_matter(tmp_path):
  folder = written(tmp_path / "log", a="123", b="1234", c="1")
  check(folder, source="oulad")
  check(folder, stats={"contents": STATS["contents"] | {"appended": [1]}})
  check(folder, file="[ab].csv")


def test_partitions_have_files_of_one_name(tmp_path):
  for day, text in (("1", "123"), ("2", "12345"), ("3", "1")):
    written(tmp_path / "log")
    written(tmp_path / "log" / day, a=text)
  stats = {"contents": {"inputs": {"a.csv": 3}}}
  check(tmp_path / "log", stats=stats)


def test_a_description_may_lie_anywhere(tmp_path):
  """As configs/online_retail.py has it: the description is the package's."""
  raw = written(tmp_path / "raw", shop="user,day,amount\na,0,1\na,9,2\nb,3,1\n")
  text = """
from lumos_jax.data.schema import Numeric, Schema
SCHEMA = Schema(name="shop", activity=(Numeric("amount"),))
TABLES = {"activity": {"file": "shop.csv",
                       "columns": {"key": "user", "time": "day"}}}
TRAIN_UNTIL = 8
"""
  (tmp_path / "shop.py").write_text(text)
  options = {"schema": str(tmp_path / "shop.py"), "path": str(raw)}
  data = pathlib.Path(run.prepare("tables", str(tmp_path / "data"), **options))
  stats = json.loads((data / "stats.json").read_text())
  assert set(stats["contents"]["inputs"]) == {"shop.csv", "shop.py"}
  raw_files.check(data, stats, "tables", options)
  (raw / "shop.csv").write_text("user,day,amount\na,0,1\n")
  with pytest.raises(shards.DataError, match="shop.csv had"):
    raw_files.check(data, stats, "tables", options)
