"""Raw rows in memory: what is told of them, and how their times are read."""

import datetime
import warnings

import polars as pl
import pytest
from lumos_jax.data_prep import fitted as fitted_lib
from lumos_jax.data_prep import memory

from lumos_jax import data_prep
from tests import tiny_data


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
  path = tiny_data.tiny_data_dir(tmp_path_factory.mktemp("tiny"), rows="event")
  return fitted_lib.load(path)


def rows():
  """Five rows of one user."""
  return tiny_data.tiny_frames()["activity"].filter(key="u7").head(5)


def test_values_that_were_not_fitted_are_told_once(fitted):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    memory.records({"activity": rows()}, fitted)
  strange = rows().with_columns(
    channel=pl.Series(["fax", "fax", "web", "web", "web"]),
    sales=pl.Series([1e6, 10.0, 10.0, 10.0, 10.0]),
  )
  with pytest.warns(UserWarning) as told:
    memory.records({"activity": strange}, fitted)
  (text,) = [str(w.message) for w in told]
  assert "activity.channel: 2 rows (40.00%) hold a value that is not" in text
  assert "activity.sales: 1 rows (20.00%) lie beyond the fitted range" in text
  assert "u7" not in text


def test_text_times_are_read_as_those_of_files(fitted):
  moment = datetime.datetime(2020, 3, 14, 10, 30)
  times = [moment + datetime.timedelta(hours=i) for i in range(5)]
  wanted = memory.records(
    {"activity": rows().with_columns(time=pl.Series(times))}, fitted
  )
  text = [t.strftime("%m/%d/%Y %H:%M:%S") for t in times]
  frame = rows().with_columns(time=pl.Series(text))
  made = memory.records({"activity": frame}, fitted)
  a, b = (r.source("train")[0] for r in (wanted, made))
  assert a["day"].tolist() == b["day"].tolist() == [73] * 5
  assert a["time"].tolist() == b["time"].tolist()
  assert list(made.stats["notes"]) == [
    "activity: time read as %m/%d/%Y (guessed)"
  ]
  # Of a few rows, one day beyond the 12th tells.
  few = ["03/13/2020", *["03/02/2020"] * 4]
  frame = rows().with_columns(time=pl.Series(few))
  made = memory.records({"activity": frame}, fitted).source("train")[0]
  assert made["day"].tolist() == [61] * 4 + [72]


def test_ambiguous_times_in_memory_name_the_way_out(fitted):
  frame = rows().with_columns(time=pl.lit("03/04/2020 10:00"))
  words = r"two ways.*%d/%m/%Y.*%m/%d/%Y.*pl\.col\('time'\)\.str\.to_datetime"
  with pytest.raises(data_prep.InputError, match=words):
    memory.records({"activity": frame}, fitted)
