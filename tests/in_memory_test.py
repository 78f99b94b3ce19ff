"""Raw rows in memory: what is told of them, and how their times are read."""

import warnings

import polars as pl
import pytest
from lumos_jax.data_prep import fitted as fitted_lib
from lumos_jax.data_prep import memory

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
