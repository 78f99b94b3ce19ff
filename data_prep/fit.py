"""Vocabularies and scales, from training rows only; pure numpy.

The caller hands over training rows; nothing here knows of days or splits.
"""

import dataclasses

import numpy as np

from data_prep import encode
from lumos_jax.data import schema as schema_lib


def vocabulary(
  field: schema_lib.Categorical, column: encode.Coded, train: np.ndarray
) -> schema_lib.Categorical:
  """The field with its most frequent training values, ties by name.

  Args:
    field: As declared; a declared vocabulary is kept.
    column: Of the whole table.
    train: bool [R], rows to fit on.
  """
  if field.values is not None:
    return field
  counts = _counts(column, train)
  found = [(-n, v) for n, v in zip(counts.tolist(), column.values) if n]
  values = [v for _, v in sorted(found)[: field.max_values]]
  return dataclasses.replace(field, values=tuple(values))


def _counts(column: encode.Coded, rows: np.ndarray | None = None) -> np.ndarray:
  """int [values], rows that hold each value; nulls are left out."""
  codes = column.codes if rows is None else column.codes[rows]
  count = len(column.values)
  return np.bincount(codes, minlength=count + 1)[:count]


def unknown(
  field: schema_lib.Categorical,
  column: encode.Coded,
  train: np.ndarray,
  usable: np.ndarray | None = None,
) -> dict[str, int]:
  """Usable rows that become UNKNOWN: {"unseen": ..., "rare": ...}.

  Unseen values are in no training row, rare ones lost their place in the
  vocabulary to `max_values` more frequent ones.
  """
  rows, fitted = _counts(column, usable), _counts(column, train)
  vocabulary = set(field.values or ())
  inside = np.asarray([v in vocabulary for v in column.values], bool)
  return {
    "unseen": int(rows[~inside & (fitted == 0)].sum()),
    "rare": int(rows[~inside & (fitted > 0)].sum()),
  }


def nullable(fields):
  """The fields with every Numeric nullable: users without a row have none."""
  return tuple(
    dataclasses.replace(f, nullable=True)
    if isinstance(f, schema_lib.Numeric)
    else f
    for f in fields
  )


def transformed(field: schema_lib.Numeric, x: np.ndarray) -> np.ndarray:
  """What is scaled: x itself, or sign(x) log1p(|x|)."""
  if field.transform == "log1p":
    # log(1 + x) for log1p(x): vectorised, and as exact as a scale needs.
    return np.copysign(np.log(1.0 + np.abs(x)), x)
  if field.transform == "none":
    return x
  raise schema_lib.SchemaError(
    f"field {field.name!r}: transform {field.transform!r}; use 'log1p' or 'none'"
  )


def scaler(field: schema_lib.Numeric, x: np.ndarray) -> schema_lib.Numeric:
  """The field with offset and divisor of its training values x [R]."""
  if field.scale == "none" or not x.size:
    return field
  y = transformed(field, x.astype(np.float64))
  if np.isnan(y.min()):
    y = y[~np.isnan(y)]
    if not y.size:
      return field
  if field.scale == "standard":
    offset = y.mean()
    y -= offset
    divisor = np.sqrt(np.dot(y, y) / y.size)
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


def vocabularies(fields, columns, train):
  """Fits every Categorical of a table; other fields pass through."""
  return tuple(
    vocabulary(f, columns[f.name], train)
    if isinstance(f, schema_lib.Categorical)
    else f
    for f in fields
  )


def scalers(fields, numeric: np.ndarray, train: np.ndarray):
  """Fits every Numeric of a table.

  Args:
    fields: Of the table.
    numeric: float32 [R, N], encoded rows.
    train: bool [R], rows to fit on.
  """
  out, column = [], 0
  for f in fields:
    if isinstance(f, schema_lib.Categorical):
      out.append(f)
      continue
    if isinstance(f, schema_lib.Numeric):
      f = scaler(f, numeric[train, column])
    out.append(f)
    column += schema_lib.width(f)
  return tuple(out)
