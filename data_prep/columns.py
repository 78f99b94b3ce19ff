"""Polars columns -> numpy columns, the form that fit and encode read."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import polars as pl

from lumos_jax.data import schema as schema_lib

from . import encode, rejects
from .inputs import InputError

# Integers below this are coded by a table, others by searching.
_MAX_DIRECT = 1 << 24


def coded(series: pl.Series, where: str = "") -> encode.Coded:
  """Dictionary codes of a column of text, integers or truth values.

  Values come in the order of their text.
  """
  if series.dtype == pl.Null:
    return encode.Coded(np.zeros(len(series), np.int32), [])
  if series.dtype.is_float():
    series = whole(series, where)
  if series.dtype == pl.Boolean:
    series = series.cast(pl.String)
  if series.dtype == pl.String:
    series = series.cast(pl.Categorical)
  count = len(series)
  if series.null_count() == count:
    return encode.Coded(np.zeros(count, np.int32), [])
  missing = None
  if series.null_count():
    missing = series.is_null().to_numpy()
    series = series.fill_null(series.drop_nulls()[0])
  numbers = series if series.dtype.is_integer() else series.to_physical()
  raw = numbers.to_numpy()
  small = raw.min() >= 0 and raw.max() < _MAX_DIRECT
  if small:
    # Some row of each value: four times as fast as asking for unique values.
    table = np.full(int(raw.max()) + 1, -1, np.int32)
    table[raw] = np.arange(count, dtype=np.int32)
    present = np.flatnonzero(table >= 0)
    rows = table[present]
  else:
    present, rows = np.unique(raw, return_index=True)
  values = series.gather(rows).cast(pl.String)
  order = values.arg_sort().to_numpy()
  place = np.empty(len(order), np.int32)
  place[order] = np.arange(len(order), dtype=np.int32)
  if small:
    table[present] = place
    codes = table[raw]
  else:
    codes = place[np.searchsorted(present, raw)]
  if missing is not None:
    codes[missing] = len(values)
  return encode.Coded(codes, values.gather(order).to_list())


def whole(series: pl.Series, where: str) -> pl.Series:
  """Floats that are whole numbers, as pandas makes of integers with gaps.

  Raises:
    InputError: A number has a fraction, or is so large (2^53) that neighbours
      were rounded to one.
  """
  series = series.fill_nan(None)
  whole = series.cast(pl.Int64, strict=False)
  limit = 1 << (24 if series.dtype == pl.Float32 else 53)
  bad = (whole.cast(series.dtype) != series) | (
    whole.is_null() & series.is_not_null()
  )
  if bad.any():
    row = int(bad.arg_true()[0])
    raise InputError(
      f"{where}: column {series.name!r} is {series.dtype}, used as a category "
      f"or a key, and row {row} holds {series[row]!r}: cast it to text or to an "
      "integer, or declare it as Numeric"
    )
  large = (whole >= limit) | (whole <= -limit)
  if large.any():
    row = int(large.arg_true()[0])
    raise InputError(
      f"{where}: column {series.name!r} is {series.dtype}, and row {row} holds "
      f"{series[row]!r}: floats of that size were rounded, so that different ids "
      "became one. Store ids as text or as integers"
    )
  return whole


def text_keys(frame: pl.DataFrame, where: str) -> pl.DataFrame:
  """The frame with text or integer keys (whole floats become integers)."""
  if frame.schema["key"].is_float():
    return frame.with_columns(whole(frame["key"], where))
  return frame


# What exports and spreadsheets write where an id is missing.
_NO_KEY = ("", "null", "nan", "none", "<na>")


def key_checks(dtypes: Mapping[str, pl.DataType]) -> list[rejects.Check]:
  """Why a row's key names nobody, in a table with these types."""
  checks = [(pl.col("key").is_null(), "null key")]
  if dtypes["key"] == pl.String:
    text = pl.col("key").str.strip_chars().str.to_lowercase()
    checks.append((text.is_in(_NO_KEY), "empty or null-like key"))
  return checks


def no_duplicates(frame: pl.DataFrame, where: str) -> None:
  """Raises InputError where a user has two rows."""
  twice = frame["key"].is_duplicated()
  if not twice.any():
    return
  rows = twice.arg_true()
  some = frame["key"].gather(rows).unique(maintain_order=True).to_list()
  raise InputError(
    f"{where}: {len(some)} user ids stand in more than one row, for example "
    f"{some[:5]} (the first in row {rows[0]}): keep one row a user"
  )


def finite(frame: pl.DataFrame, field, where: str) -> None:
  """Raises InputError where a number of a small table cannot be used."""
  x = frame[field.name].cast(pl.Float64)
  bad = x.is_infinite()
  if not field.nullable:
    bad = bad.fill_null(True) | x.is_nan().fill_null(True)
  if bad.fill_null(False).any():
    row = int(bad.fill_null(False).arg_true()[0])
    raise InputError(
      f"{where}: column {field.name!r} holds {x[row]} in row {row}: correct it, "
      "or leave it empty and declare the field nullable"
    )


def taken(column: encode.Column, rows: np.ndarray) -> encode.Column:
  """Some rows of a column."""
  if isinstance(column, encode.Coded):
    return encode.Coded(column.codes.take(rows), column.values)
  return column.take(rows, axis=0)


def column(
  series: pl.Series, field: schema_lib.Field, where: str = ""
) -> encode.Column:
  """One column in numpy form; see `encode.Column`."""
  if isinstance(field, schema_lib.Categorical):
    return coded(series, where)
  if isinstance(field, schema_lib.Timestamp):
    if series.dtype == pl.Null:
      return np.full(len(series), "NaT", "datetime64[s]")
    return series.to_numpy().astype("datetime64[s]")
  if isinstance(field, schema_lib.Vector):
    return _vectors(series, field, where)
  series = series.cast(pl.Float64)
  if series.null_count():
    series = series.fill_null(float("nan"))
  return series.to_numpy()


def _vectors(series, field, where) -> np.ndarray:
  out = np.full((len(series), field.size), np.nan, np.float32)
  present = series.is_not_null().to_numpy()
  rows = series.drop_nulls()
  lengths = (
    rows.list.len() if isinstance(rows.dtype, pl.List) else rows.arr.len()
  ).to_numpy()
  if np.any(lengths != field.size):
    row = int(np.flatnonzero(present)[np.argmax(lengths != field.size)])
    raise InputError(
      f"{where}: column {field.name!r} holds {lengths[lengths != field.size][0]}"
      f" numbers in row {row}, the schema says {field.size}"
    )
  if len(rows):
    out[present] = rows.explode().to_numpy().reshape(-1, field.size)
  return out


def columns(
  frame: pl.DataFrame, fields: tuple[schema_lib.Field, ...], where: str = ""
) -> dict[str, encode.Column]:
  """Numpy columns of all fields of a table that are made from one column."""
  return {
    f.name: column(frame[f.name], f, where)
    for f in fields
    if schema_lib.column(f)
  }


@dataclasses.dataclass(frozen=True)
class Labels:
  """Label rows in numpy form.

  Attributes:
    labels: The schema's labels, with fitted values.
    ids: int32 [L] position in `labels`.
    values: float32 [L].
    checks: Why rows cannot be used.
  """

  labels: tuple[schema_lib.Label, ...]
  ids: np.ndarray
  values: np.ndarray
  checks: list[rejects.Check]


def labels(
  frame: pl.DataFrame, declared: tuple[schema_lib.Label, ...], where: str
) -> Labels:
  """Encodes columns name and value of the labels table.

  A label whose values are text gets their sorted list as its values.
  """
  name = coded(frame["name"], where)
  at = {x.name: i for i, x in enumerate(declared)}
  lookup = [at.get(v, -1) for v in name.values]
  ids = np.asarray([*lookup, -1], np.int32)[name.codes]
  text = frame["value"].cast(pl.String)
  number = text.cast(pl.Float64, strict=False).fill_null(float("nan"))
  values = number.to_numpy().copy()
  fitted = []
  for i, label in enumerate(declared):
    mine = ids == i
    found = text.filter(pl.Series(mine)).drop_nulls()
    if label.values is None and found.len():
      if found.cast(pl.Float64, strict=False).null_count():
        kinds = tuple(found.unique().sort().to_list())
        label = dataclasses.replace(label, values=kinds)
    if label.values is not None:
      order = {v: float(k) for k, v in enumerate(label.values)}
      chosen = [order.get(v, np.nan) for v in text.filter(pl.Series(mine))]
      values[mine] = chosen
    fitted.append(label)
  checks = [
    rejects.mask(ids < 0, "label not in the schema"),
    rejects.mask(~np.isfinite(values), "label value not usable"),
  ]
  return Labels(tuple(fitted), ids, values.astype(np.float32), checks)
