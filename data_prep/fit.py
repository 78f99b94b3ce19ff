"""Vocabularies and scales, from training rows only; pure numpy.

The caller hands over training rows; nothing here knows of days or splits.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lumos_jax.data import schema as schema_lib

from . import encode


def vocabulary(
  field: schema_lib.Categorical, values: Sequence[str], counts: np.ndarray
) -> schema_lib.Categorical:
  """The field with its most frequent training values, ties by name.

  Args:
    field: As declared; a declared vocabulary is kept.
    values: Distinct values of the column.
    counts: int [values], training rows that hold each.
  """
  if field.values is not None:
    return field
  found = [(-n, v) for n, v in zip(counts.tolist(), values) if n]
  kept = [v for _, v in sorted(found)[: field.max_values]]
  return dataclasses.replace(field, values=tuple(kept))


def _counts(column: encode.Coded, rows: np.ndarray | None = None) -> np.ndarray:
  """int [values], how many rows (positions) hold each; nulls are left out."""
  codes = column.codes if rows is None else column.codes.take(rows)
  count = len(column.values)
  return np.bincount(codes, minlength=count + 1)[:count]


def vocabularies(
  fields: Sequence[schema_lib.Field],
  columns: Mapping[str, encode.Column],
  train: np.ndarray | None,
) -> tuple[tuple[schema_lib.Field, ...], dict[str, dict[str, int]]]:
  """Fits every Categorical of a table; other fields pass through.

  Args:
    fields: As declared, or fitted.
    columns: Of the whole table.
    train: int positions of the rows to fit on; None to take what is fitted.

  Returns:
    The fields, and {field: {"unseen": rows, "rare": rows}}, rows that become
    UNKNOWN. Unseen values are in no training row, rare ones lost their place in
    the vocabulary to `max_values` more frequent ones; of what was fitted
    elsewhere, both count as unseen.
  """
  unknown = {}

  def one(f):
    if not isinstance(f, schema_lib.Categorical):
      return f
    column = columns[f.name]
    rows, fitted = _counts(column), np.zeros(len(column.values), np.int64)
    if train is not None:
      fitted = _counts(column, train)
      f = vocabulary(f, column.values, fitted)
    known = set(f.values or ())
    outside = np.asarray([v not in known for v in column.values], bool)
    unknown[f.name] = {
      "unseen": int(rows[outside & (fitted == 0)].sum()),
      "rare": int(rows[outside & (fitted > 0)].sum()),
    }
    return f

  return tuple(map(one, fields)), unknown


def with_range(field, x: np.ndarray):
  """The field with the least and greatest of finite numbers x [R]."""
  return dataclasses.replace(field, low=float(x.min()), high=float(x.max()))


def beyond(field, x: np.ndarray) -> int:
  """How many of the numbers x [R] lie outside of what was fitted."""
  if field.low is None or field.high is None:
    return 0
  return int(((x < field.low) | (x > field.high)).sum())


def nullable(fields):
  """The fields with every Numeric nullable: users without a row have none."""
  return tuple(
    dataclasses.replace(f, nullable=True)
    if isinstance(f, schema_lib.Numeric)
    else f
    for f in fields
  )


def absent(fields: Sequence[schema_lib.Field]) -> np.ndarray:
  """float32 [N]: the numbers of a user without a row.

  NaN where the field is nullable; what a model sees as 0, in training the mean
  or the least, where it is not.
  """
  out = []
  for f in fields:
    if schema_lib.has_ids(f):
      continue
    value = np.nan
    if isinstance(f, schema_lib.Numeric) and not f.nullable:
      value = f.offset
      if f.transform == "log1p":
        value = np.sign(value) * np.expm1(abs(value))
    out += [value] * schema_lib.width(f)
  return np.asarray(out, np.float32)


def symlog(x: np.ndarray) -> np.ndarray:
  """sign(x) log1p(|x|)."""
  y = np.abs(x)
  # log(1 + x) is vectorised, unlike log1p, and as exact as a scale needs.
  y += 1.0
  return np.copysign(np.log(y, out=y), x)


def transformed(field: schema_lib.Numeric, x: np.ndarray) -> np.ndarray:
  """What is scaled: x itself, or sign(x) log1p(|x|)."""
  if field.transform == "log1p":
    return symlog(x)
  if field.transform == "none":
    return x.copy()
  raise schema_lib.SchemaError(
    f"field {field.name!r}: transform {field.transform!r}; use 'log1p' or 'none'"
  )


def scaler(field: schema_lib.Numeric, x: np.ndarray) -> schema_lib.Numeric:
  """The field with offset, divisor and range of its training values x [R]."""
  x = x[~np.isnan(x)]
  if not x.size:
    return field
  field = with_range(field, x)
  if field.scale == "none":
    return field
  y = transformed(field, x.astype(np.float64))
  if field.scale == "standard":
    offset = y.mean()
    y -= offset
    y *= y
    divisor = np.sqrt(y.mean())
  elif field.scale == "minmax":
    offset, divisor = y.min(), y.max() - y.min()
  else:
    raise schema_lib.SchemaError(
      f"field {field.name!r}: scale {field.scale!r}; use 'standard', 'minmax' "
      "or 'none'"
    )
  # A constant column says nothing: leave it unscaled rather than divide by 0.
  divisor = divisor if divisor > 1e-12 else 1.0
  # Rounded, so that another machine's last bits give the same schema hash.
  short = lambda x: float(f"{x:.6g}")
  return dataclasses.replace(
    field, offset=short(offset), divisor=short(divisor)
  )


def scalers(
  fields: Sequence[schema_lib.Field],
  numeric: np.ndarray,
  train: np.ndarray | None,
) -> tuple[tuple[schema_lib.Field, ...], dict[str, int]]:
  """Fits every Numeric of a table, and counts numbers beyond what was fitted.

  Args:
    fields: Of the table.
    numeric: float32 [R, N], encoded rows.
    train: int positions of the rows to fit on; None to take what is fitted.
  """
  out, outside, column = [], {}, 0
  for f in fields:
    if isinstance(f, schema_lib.Numeric):
      if train is not None:
        f = scaler(f, numeric[:, column].take(train))
      elif count := beyond(f, numeric[:, column]):
        outside[f.name] = count
    out.append(f)
    if not schema_lib.has_ids(f):
      column += schema_lib.width(f)
  return tuple(out), outside
