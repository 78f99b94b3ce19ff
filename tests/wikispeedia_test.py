"""The source of click paths between articles."""

import gzip

import numpy as np
import pytest
from lumos_jax.data_prep import run
from lumos_jax.data_prep.inputs import InputError
from lumos_jax.data_prep.sources import wikispeedia

from lumos_jax.data import pages as pages_lib
from lumos_jax.data import records as records_lib

FILES = {
  "articles.tsv.gz": "A%C3%A9\nB_b\nC\nD\n",
  "categories.tsv.gz": "C\tsubject.Art.Music\nC\tsubject.People\n",
  "finished_paths.txt.gz": "0 1 2\n1 2 3\n" + "0 1 2 3\n" * 40,
  "unfinished_paths.tsv.gz": "player\tunix_seconds\tduration_seconds\tpath\t"
  "target\tend\n7\t1297054935\t18\tA%C3%A9;B_b;<;<;C\tD\ttimeout\n"
  + "".join(f"8\t{i}\t18\tD;C;B_b\tD\trestart\n" for i in range(40)),
}


@pytest.fixture
def folder(tmp_path):
  for name, text in FILES.items():
    with gzip.open(tmp_path / name, "wt", encoding="utf-8") as f:
      f.write(text)
  return tmp_path


def test_a_page_that_was_left_by_a_back_click_is_none():
  assert wikispeedia.without_back(list("ab<c")) == ["a", "c"]
  assert wikispeedia.without_back(list("abc<<<d")) == ["a", "d"]
  assert wikispeedia.without_back(["a"]) == ["a"]


def test_paths_become_sessions(folder, tmp_path):
  path = run.prepare(
    "wikispeedia", tmp_path / "out", path=str(folder), texts="words", quiet=True
  )
  data = records_lib.Records.open(path)
  assert data.stats["notes"]["clicks taken back, with the page they left"] == 2
  users = {r["key"]: r for s in data.splits for r in data.source(s)}
  assert len(users) == 83
  field = data.schema.categorical("activity")[0]
  name = lambda r: [field.values[i - 2] for i in r["categorical"][:, 0]]
  assert name(users["u0"]) == ["A%C3%A9", "C"]
  assert name(users["f1"]) == ["B_b", "C", "D"]
  outcome = {k: float(r["label_value"][0]) for k, r in users.items()}
  assert all(y == (k[0] == "f") for k, y in outcome.items())
  # No input tells who played, or when.
  assert [f.name for f in data.schema.activity] == ["page"]
  assert not data.schema.profile
  np.testing.assert_array_equal(users["u0"]["time"] // 1_000_000, [0, 1])
  # Equal paths stand in one split.
  place = {r["key"]: s for s in data.splits for r in data.source(s)}
  assert len({place[f"f{i}"] for i in range(2, 42)}) == 1
  pages = pages_lib.Pages.load(path)
  at = {t: i for i, t in enumerate(pages.title)}
  assert set(at) == {"", "Aé", "B b", "C", "D"}
  assert pages.category[at["C"]] == "Art" and pages.category[at["D"]] == ""
  assert pages.vector.shape == (6, 256) and not pages.vector[:2].any()


def test_faults_name_file_and_line(folder):
  with pytest.raises(InputError, match="needs path=FOLDER"):
    wikispeedia.load()
  with gzip.open(folder / "finished_paths.txt.gz", "wt") as f:
    f.write("0 1\n0 9\n")
  with pytest.raises(InputError, match="finished_paths.txt.gz: line 2 "):
    wikispeedia.load(path=str(folder))
  (folder / "categories.tsv.gz").write_bytes(b"no gzip")
  with pytest.raises(InputError, match="no numbers|cannot be read"):
    wikispeedia.load(path=str(folder))
  with pytest.raises(InputError, match="option texts"):
    with gzip.open(folder / "finished_paths.txt.gz", "wt") as f:
      f.write("0 1\n" * 50)
    with gzip.open(folder / "categories.tsv.gz", "wt") as f:
      f.write("")
    run.prepare(
      "wikispeedia", folder / "o", path=str(folder), texts="nil", quiet=True
    )
