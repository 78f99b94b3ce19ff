"""OULAD's days as sessions: what lies ahead of each is its label."""

import polars as pl
import pytest
from lumos_jax.data_prep import sources
from lumos_jax.data_prep.inputs import InputError

from tests import oulad_test


def load(folder, lines, **kw):
  oulad_test.university(
    folder,
    **{
      "studentVle.csv": [
        "code_module,code_presentation,id_student,id_site,date,sum_click",
        *lines,
      ]
    },
  )
  kw = dict(train="AAA/2013J", test="AAA/2014J", validation_share=0.0) | kw
  return sources.load("oulad_clicks", dict(path=str(folder), **kw))


LINES = (
  "AAA,2013J,5,1,11,3",
  "AAA,2013J,5,1,11,2",
  "AAA,2013J,5,2,11,9",
  "AAA,2013J,5,2,12,1",
  "AAA,2013J,5,2,19,1",
  "AAA,2013J,6,1,30,1",
  "AAA,2014J,5,3,38,2",
)


def test_a_day_is_a_session_and_its_labels_lie_ahead(tmp_path):
  inputs = load(tmp_path, LINES)
  frame = inputs.activity.collect()
  first = frame.filter(pl.col("key") == "AAA/2013J/5/11").sort("page")
  assert first["page"].to_list() == ["forum", "quiz"]
  assert first["clicks"].to_list() == [5.0, 9.0]
  labels = {(k, n): v for k, n, v in inputs.labels.rows()}
  # Handed in on day 19: within 7 days of the 12th, not of the 11th nor the 19th.
  submits = lambda day: labels.get((f"AAA/2013J/5/{day}", "submits"))
  assert [submits(d) for d in (11, 12, 19)] == ["no", "yes", "no"]
  # The clicks end on day 30: what follows is not observed.
  assert ("AAA/2013J/6/30", "submits") not in labels
  tile = lambda day: labels.get((f"AAA/2013J/5/{day}", "next_tile"))
  assert [tile(d) for d in (11, 12, 19)] == ["quiz", "quiz", None]
  split = dict(inputs.split.rows())
  assert split["AAA/2013J/5/11"] == "train"
  assert split["AAA/2014J/5/38"] == "test"


def test_pages_may_be_sites(tmp_path):
  inputs = load(tmp_path, LINES, pages="site")
  names = [f.name for f in inputs.schema.activity]
  assert names == ["page", "part1", "clicks"]
  assert set(inputs.activity.collect()["page"]) == {"1", "2", "3"}
  assert set(inputs.pages.frame["category"]) == {"forum", "quiz"}
  with pytest.raises(InputError, match='pages=.both.: use "kind" or "site"'):
    load(tmp_path, LINES, pages="both")
  with pytest.raises(InputError, match="submits_days=0 must be"):
    load(tmp_path, LINES, submits_days=0)
