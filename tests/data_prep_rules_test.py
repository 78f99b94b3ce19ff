"""Rules of columns and days, on small arrays."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import days, encode, engine, fit

from lumos_jax import data_prep
from lumos_jax.data import schema as schema_lib

Categorical, Numeric = schema_lib.Categorical, schema_lib.Numeric


def test_encode_is_a_pure_function_of_columns():
  field = Categorical("c", values=("x", "y"))
  column = encode.Coded(np.array([1, 0, 3, 2]), ["y", "x", "z"])
  fields = (Numeric("n"), field)
  columns = {"c": column, "n": np.array([1.0, np.nan, 3.0, 4.0])}
  ids, numbers = encode.matrices(fields, columns, 4)
  assert ids.ravel().tolist() == [2, 3, schema_lib.MISSING, schema_lib.UNKNOWN]
  np.testing.assert_array_equal(numbers.ravel(), columns["n"])


def test_vocabulary_by_frequency_then_name():
  column = encode.Coded(np.array([0, 1, 1, 2, 3, 3, 4, 5]), list("dcbae"))
  train = np.array([True] * 6 + [False, True])
  declared = (Categorical("c", max_values=3),)
  train = np.flatnonzero(train)
  (field,), unknown = fit.vocabularies(declared, {"c": column}, train)
  assert field.values == ("a", "c", "b")
  assert unknown == {"c": {"unseen": 1, "rare": 1}}
  again, unknown = fit.vocabularies((field,), {"c": column}, None)
  assert again == (field,) and unknown == {"c": {"unseen": 2, "rare": 0}}


@pytest.mark.parametrize("scale", ["standard", "minmax", "none"])
@pytest.mark.parametrize("transform", ["log1p", "none"])
def test_scaler(scale, transform):
  x = np.array([-3.0, 0.0, np.nan, 5.0, 8.0], np.float32)
  field = fit.scaler(Numeric("n", transform, scale), x)
  y = np.delete(fit.transformed(field, x.astype(np.float64)), 2)
  z = (y - field.offset) / field.divisor
  if scale == "standard":
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-5)
  elif scale == "minmax":
    np.testing.assert_allclose([z.min(), z.max()], [0, 1], atol=1e-5)
  else:
    np.testing.assert_array_equal(z, y)


def test_a_constant_is_left_alone():
  assert fit.scaler(Numeric("n", "none"), np.full(3, 7.0)).divisor == 1.0


def test_day_rules():
  fields = (
    Categorical("a", daily="last", values=("x", "y")),
    Categorical("b", daily="mode", values=("x", "y")),
    Categorical("c", daily="pivot", values=("x", "y")),
    Categorical("d", daily="drop", values=("x",)),
    Numeric("mean", daily="mean"),
    Numeric("max", daily="max"),
    Numeric("min", daily="min"),
    Numeric("last", daily="last"),
    Numeric("gone", daily="drop"),
  )
  rows = {
    "user": np.array([0, 0, 0, 1]),
    "day": np.array([5, 5, 6, 5]),
    "categorical": np.array(
      [[2, 3, 2, 2], [3, 2, 2, 2], [2, 2, 1, 2], [3, 0, 3, 2]]
    ),
    "numeric": np.array(
      [[1, 1, 1, 1, 0], [3, 3, 3, 3, 0], [np.nan] * 5, [4, 4, 4, 4, 0]],
      np.float32,
    ),
  }
  out = days.day_rows(fields, rows)
  assert [f.name for f in days.day_fields(fields)] == (
    ["a", "b", "c=x", "c=y", "mean", "max", "min", "last"]
  )
  assert out["user"].tolist() == [0, 0, 1]
  assert out["day"].tolist() == [5, 6, 5]
  assert out["categorical"].tolist() == [[3, 2], [2, 2], [3, 0]]
  nan = np.nan
  np.testing.assert_array_equal(
    out["numeric"],
    [[2, 0, 2, 3, 1, 3], [0, 0, nan, nan, nan, nan], [0, 1, 4, 4, 4, 4]],
  )


def test_a_wrong_daily_rule_is_named():
  field = Categorical("a", daily="pivot:sales", values=("x",))
  with pytest.raises(schema_lib.SchemaError, match="'a'.*pivot:sales.*cost"):
    days.day_fields((field, Numeric("cost")))


def test_cyclic_parts():
  times = np.array(["2020-01-06T06:00", "NaT"], "datetime64[s]")  # A Monday.
  field = schema_lib.Timestamp("t", ("hour", "weekday"))
  x = encode.cyclic(field, times)
  np.testing.assert_allclose(x[0, :2], [1, 0], atol=1e-6)
  angle = 2 * np.pi * 0.25 / 7
  np.testing.assert_allclose(x[0, 2:], [np.sin(angle), np.cos(angle)], 1e-5)
  assert np.isnan(x[1]).all()


def test_vectors_are_stored():
  raw = data_prep.Inputs(
    schema=schema_lib.Schema(
      "v", (schema_lib.Vector("e", 2),), rows="event", train_until=9, last_day=9
    ),
    activity=pl.LazyFrame(
      {"key": [1, 1], "time": [1, 2], "e": [[1.0, 2.0], None]}
    ),
  )
  rows = engine.prepare(raw).users.rows
  np.testing.assert_array_equal(rows["numeric"], [[1, 2], [np.nan, np.nan]])
  long = pl.LazyFrame({"key": [1], "time": [1], "e": [[1.0, 2.0, 3.0]]})
  with pytest.raises(
    data_prep.InputError, match="'e' holds 3 numbers in row 0"
  ):
    engine.prepare(dataclasses.replace(raw, activity=long))
