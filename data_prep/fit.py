"""Vocabularies and scales, from training rows only; pure numpy.

The caller hands over training rows; nothing here knows of days or splits.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep import encode
from lumos_jax.data import schema as schema_lib


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


def present(
  column: encode.Coded, usable: np.ndarray | None = None
) -> list[str]:
  """Values that some usable row holds (usable: bool [R], None for all)."""
  rows = None if usable is None else np.flatnonzero(usable)
  counts = _counts(column, rows)
  return [v for v, n in zip(column.values, counts.tolist()) if n]


def vocabularies(
  fields: Sequence[schema_lib.Field],
  columns: Mapping[str, encode.Column],
  train: np.ndarray,
  usable: np.ndarray | None = None,
) -> tuple[tuple[schema_lib.Field, ...], dict[str, dict[str, int]]]:
  """Fits every Categorical of a table; other fields pass through.

  Args:
    fields: As declared.
    columns: Of the whole table.
    train: bool [R], rows to fit on.
    usable: bool [R], rows that count at all; None for all.

  Returns:
    The fields, and {field: {"unseen": rows, "rare": rows}}, usable rows that
    become UNKNOWN. Unseen values are in no training row, rare ones lost their
    place in the vocabulary to `max_values` more frequent ones.
  """
  train = np.flatnonzero(train)
  bad = None if usable is None else np.flatnonzero(~usable)

  def one(f):
    if not isinstance(f, schema_lib.Categorical):
      return f, None
    column = columns[f.name]
    rows, fitted = _counts(column), _counts(column, train)
    if bad is not None:
      rows = rows - _counts(column, bad)
    f = vocabulary(f, column.values, fitted)
    known = set(f.values)
    outside = np.asarray([v not in known for v in column.values], bool)
    return f, {
      "unseen": int(rows[outside & (fitted == 0)].sum()),
      "rare": int(rows[outside & (fitted > 0)].sum()),
    }

  found = [one(f) for f in fields]
  unknown = {f.name: count for f, count in found if count is not None}
  return tuple(f for f, _ in found), unknown


def nullable(fields):
  """The fields with every Numeric nullable: users without a row have none."""
  return tuple(
    dataclasses.replace(f, nullable=True)
    if isinstance(f, schema_lib.Numeric)
    else f
    for f in fields
  )


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


def scalers(fields, numeric: np.ndarray, train: np.ndarray):
  """Fits every Numeric of a table.

  Args:
    fields: Of the table.
    numeric: float32 [R, N], encoded rows.
    train: bool [R], rows to fit on.
  """
  train = np.flatnonzero(train)  # Several times as fast as the mask.
  out, column = [], 0
  for f in fields:
    if isinstance(f, schema_lib.Numeric):
      out.append(scaler(f, numeric[:, column].take(train)))
    else:
      out.append(f)
    if not schema_lib.has_ids(f):
      column += schema_lib.width(f)
  return tuple(out)
