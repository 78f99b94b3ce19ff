"""OULAD: its tables become the records that they describe."""

import os

import pytest
from lumos_jax.data_prep import engine, sources
from lumos_jax.data_prep.sources import oulad

from lumos_jax import data_prep
from lumos_jax.data import records as records_lib
from lumos_jax.data import tasks as tasks_lib
from tests import tiny_data

NO_TIME = tasks_lib.NO_TIME


def university(folder, **changes):
  """Three students of AAA/2013J (cut off on day 30), one of AAA/2014J."""
  tables = {
    "courses.csv": [
      "code_module,code_presentation,module_presentation_length",
      "AAA,2013J,100",
      "AAA,2014J,40",
    ],
    "assessments.csv": [
      "code_module,code_presentation,id_assessment,assessment_type,date,weight",
      "AAA,2013J,1,TMA,20,30",
      "AAA,2013J,2,Exam,?,100",
      "AAA,2014J,3,TMA,19,30",
    ],
    "studentInfo.csv": [
      "code_module,code_presentation,id_student,gender,region,"
      "highest_education,imd_band,age_band,num_of_prev_attempts,"
      "studied_credits,disability,final_result",
      "AAA,2013J,5,M,Wales,HE,?,0-35,0,60,N,Pass",
      "AAA,2013J,6,F,Wales,HE,10-20,0-35,1,60,N,Withdrawn",
      "AAA,2013J,8,F,Wales,HE,10-20,0-35,0,60,N,Fail",
      "AAA,2014J,5,M,Wales,HE,?,0-35,1,30,N,Distinction",
    ],
    "studentRegistration.csv": [
      "code_module,code_presentation,id_student,date_registration,"
      "date_unregistration",
      "AAA,2013J,5,-50,?",
      "AAA,2013J,6,3,25",
      "AAA,2013J,8,?,?",
      "AAA,2014J,5,-9,?",
    ],
    "studentAssessment.csv": [
      "id_assessment,id_student,date_submitted,is_banked,score",
      "1,5,19,0,80",
      "1,6,-1,1,90",
      "3,5,18,0,?",
    ],
    "studentVle.csv": [
      "code_module,code_presentation,id_student,id_site,date,sum_click",
      "AAA,2013J,5,1,-5,3",
      "AAA,2013J,5,2,-5,4",
      "AAA,2013J,6,1,4,1",
      "AAA,2013J,5,1,30,2",
      "AAA,2014J,5,3,38,2",
    ],
    "vle.csv": [
      "id_site,code_module,code_presentation,activity_type,week_from,week_to",
      "1,AAA,2013J,forum,?,?",
      "2,AAA,2013J,quiz,?,?",
      "3,AAA,2014J,forum,?,?",
    ],
  }
  for name, lines in {**tables, **changes}.items():
    if lines:
      (folder / name).write_text("\n".join(lines) + "\n")
  return str(folder)


OULAD = {"train": "AAA/2013J", "test": "AAA/2014J", "validation_share": 0.0}


def test_oulad(tmp_path):
  raw = sources.load("oulad", {"path": university(tmp_path), **OULAD})
  out = engine.prepare(raw)
  users = tiny_data.by_key(out)
  assert out.users.keys == [
    "AAA/2013J/5", "AAA/2013J/6", "AAA/2013J/8", "AAA/2014J/5",
  ]  # fmt: skip
  assert {k: len(v) for k, v in out.splits.items()} == {"train": 3, "test": 1}
  column = lambda n: out.schema.numeric_column("activity", n)
  five = users["AAA/2013J/5"]
  assert five["day"].tolist() == [-5, 19, 30]
  assert five["numeric"][:, column("clicks")].tolist() == [7, 0, 2]
  assert five["numeric"][:, column("activity_type=quiz")].tolist() == [4, 0, 0]
  assert five["numeric"][:, column("submissions")].tolist() == [0, 1, 0]
  assert users["AAA/2013J/6"]["day"].tolist() == [4]  # Nothing of the banked.
  assert raw.notes["banked submissions left out"] == 1
  # Clicks of 2013J break off on day 30, which may be half a day.
  spans = {k: u["span"].tolist() for k, u in users.items()}
  assert spans["AAA/2013J/5"] == [-5, 30, 30]
  assert spans["AAA/2013J/6"] == [3, 25, 30]
  assert spans["AAA/2014J/5"] == [-5, 40, 41]
  labels = users["AAA/2013J/6"]
  assert labels["label_id"].tolist() == [0, 1]
  assert labels["label_time"].tolist() == [25, NO_TIME]
  assert labels["label_value"].tolist() == [1, 3]
  calendar = out.calendar
  names = [calendar.group_names[g] for g in calendar.group]
  assert names == ["AAA/2013J"] * 3 + ["AAA/2014J"] * 2
  assert calendar.start.tolist() == [20, 100, 100, 19, 40]
  (group,) = users["AAA/2014J/5"]["groups"]
  assert calendar.group_names[group] == "AAA/2014J"
  assert out.schema.epoch == "" and out.schema.first_day == -5


def test_oulad_validation_is_by_student(tmp_path):
  raw = sources.load(
    "oulad", {"path": university(tmp_path), **OULAD, "validation_share": 1.0}
  )
  split = dict(raw.split.iter_rows())
  assert split["AAA/2013J/5"] == "validation" and split["AAA/2014J/5"] == "test"


def test_oulad_as_events(tmp_path):
  options = {"path": university(tmp_path), **OULAD, "rows": "event"}
  out = engine.prepare(sources.load("oulad", options))
  day = tiny_data.by_key(out)["AAA/2013J/5"]["day"]
  assert day.tolist() == [-5, -5, 19, 30]


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"vle.csv": None}, "no vle.csv.*it has.*courses.csv"),
    (
      {"vle.csv": ["id_site,activity_typ", "1,forum"]},
      "vle.csv.*'activity_type'.*did you mean 'activity_typ'",
    ),
  ],
)
def test_oulad_bad_files(tmp_path, changes, words):
  with pytest.raises(data_prep.InputError, match=words):
    options = {"path": university(tmp_path, **changes), **OULAD}
    sources.load("oulad", options)


def test_oulad_is_told_where(monkeypatch, tmp_path):
  monkeypatch.delenv(oulad.ENVIRONMENT, raising=False)
  with pytest.raises(data_prep.InputError, match="path=DIR"):
    sources.load("oulad", {})
  monkeypatch.setenv(oulad.ENVIRONMENT, university(tmp_path))
  with pytest.raises(data_prep.InputError, match="BBB/2013B"):
    sources.load("oulad", {})


def test_oulad_real(tmp_path):
  if not os.environ.get(oulad.ENVIRONMENT):
    pytest.skip(f"needs the OULAD files in {oulad.ENVIRONMENT}")
  path = data_prep.prepare("oulad", tmp_path, quiet=True)
  data = records_lib.Records.open(path)
  assert data.splits == ["test", "train", "validation"]
  assert data.stats["users"] == 4752
