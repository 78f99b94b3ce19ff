"""Vocabularies and scales, from training rows only.

The caller hands over training rows, in one piece or in many; nothing here knows
of days or splits.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

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


def _holders(column: encode.Coded, user, rows: np.ndarray) -> np.ndarray:
  """int [values], how many users hold each in some rows (positions)."""
  count = len(column.values) + 1
  pairs = user.take(rows).astype(np.int64) * count + column.codes.take(rows)
  codes = np.unique(pairs) % count
  return np.bincount(codes, minlength=count)[: count - 1]


_COUNTED = ("rows", "train", "users")


class Counts:
  """How many rows, and training rows, hold each value of a table's fields.

  Pieces of a table are added one after another; the sum is exact up to
  `most_values` different values of a field. Beyond, the rarest half is forgotten
  and counts may be short, by `short` rows at most.

  Attributes:
    short: {field: rows by which a count may be short}; exact fields are absent.
    withheld: {field: values that too few users hold}.
  """

  def __init__(
    self,
    fields: Sequence[schema_lib.Field],
    most_values: int = 1 << 21,
    least_users: int = 0,
  ):
    """Of fields; a value of fewer training users than `least_users` is rare."""
    self._fields, self._least = tuple(fields), least_users
    self.withheld: dict[str, int] = {}
    self._most = most_values
    self._parts = {
      f.name: [] for f in fields if isinstance(f, schema_lib.Categorical)
    }
    self._pending: dict[str, int] = dict.fromkeys(self._parts, 0)
    self.short: dict[str, int] = {}

  def add(
    self,
    columns: Mapping[str, encode.Column],
    train: np.ndarray | None,
    user: np.ndarray | None = None,
  ) -> None:
    """Adds rows.

    Args:
      columns: Of the rows.
      train: Positions of those to fit on, None for none.
      user: int [R], who holds a row; all rows of a user are in one piece.
    """
    for name, parts in self._parts.items():
      column = columns[name]
      rows = _counts(column)
      fitted = np.zeros(len(rows), np.int64)
      if train is not None:
        fitted = _counts(column, train)
      users = np.zeros(len(rows), np.int64)
      if train is not None and self._least:
        users = _holders(column, user, train)
      parts.append((column.values, rows, fitted, users))
      self._pending[name] += len(rows)
      if len(parts) > 1 and self._pending[name] > self._most:
        self._merge(name)

  def merge(self, other: "Counts") -> None:
    """Adds what another has counted."""
    for name, parts in other._parts.items():
      self._parts[name] += parts
      self._pending[name] += sum(len(p[0]) for p in parts)
      if len(self._parts[name]) > 1 and self._pending[name] > self._most:
        self._merge(name)
    for name, short in other.short.items():
      self.short[name] = self.short.get(name, 0) + short

  def _merge(self, name: str) -> None:
    parts = self._parts[name]
    if len(parts) > 1:
      frames = [
        pl.DataFrame(
          {"value": list(v), "rows": r, "train": t, "users": u},
          schema={"value": pl.String} | dict.fromkeys(_COUNTED, pl.Int64),
        )
        for v, r, t, u in parts
      ]
      total = pl.concat(frames).group_by("value").sum()
      if len(total) > self._most:
        total = total.sort(["train", "rows", "value"], descending=True)
        kept = self._most // 2
        lost = int(total["train"][kept])
        self.short[name] = self.short.get(name, 0) + lost
        total = total[:kept]
      values = total["value"].to_list()
      found = [total[c].to_numpy() for c in _COUNTED]
      self._parts[name] = [(values, *found)]
    self._pending[name] = 0

  def fitted(
    self, fits: bool
  ) -> tuple[tuple[schema_lib.Field, ...], dict[str, dict[str, int]]]:
    """The fields with vocabularies, and counts; see `vocabularies`."""
    unknown = {}

    def one(f):
      if f.name not in self._parts:
        return f
      self._merge(f.name)
      empty = np.zeros(0, np.int64)
      parts = self._parts[f.name] or [([], empty, empty, empty)]
      values, rows, fitted, users = parts[0]
      if fits:
        enough = np.where(users >= self._least, fitted, 0)
        if count := int(((enough == 0) & (fitted > 0)).sum()):
          self.withheld[f.name] = count
        f = vocabulary(f, values, enough)
      known = set(f.values or ())
      outside = np.asarray([v not in known for v in values], bool)
      unknown[f.name] = {
        "unseen": int(rows[outside & (fitted == 0)].sum()),
        "rare": int(rows[outside & (fitted > 0)].sum()),
      }
      return f

    return tuple(map(one, self._fields)), unknown


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
  counts = Counts(fields)
  counts.add(columns, train)
  return counts.fitted(train is not None)


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


class Moments:
  """Range, mean and deviation of a field's transformed training values.

  Pieces are merged as in Chan, Golub and LeVeque (1979), so that no order of
  rows or cut into pieces shows in the six digits that are kept.
  """

  def __init__(self, field: schema_lib.Numeric):
    self.field = field
    self._count, self._mean, self._squares = 0, 0.0, 0.0
    self._low = self._high = None

  def add(self, x: np.ndarray) -> None:
    """Adds training values x [R]; NaN are left out."""
    x = x[~np.isnan(x)]
    if not x.size:
      return
    low, high = float(x.min()) + 0.0, float(x.max()) + 0.0  # No -0.0.
    if self._low is not None:
      low, high = min(low, self._low), max(high, self._high)
    self._low, self._high = low, high
    if self.field.scale != "standard":
      return
    y = transformed(self.field, x.astype(np.float64))
    mean = y.mean()
    y -= mean
    y *= y
    self._join(len(y), mean, y.sum())

  def _join(self, count: int, mean: float, squares: float) -> None:
    total = self._count + count
    apart = mean - self._mean
    self._squares += squares + apart**2 * self._count * count / total
    self._mean += apart * count / total
    self._count = total

  def merge(self, other: "Moments") -> None:
    """Adds what another has seen."""
    if other._low is None:
      return
    if self._low is None:
      self._low, self._high = other._low, other._high
    self._low = min(self._low, other._low)
    self._high = max(self._high, other._high)
    if other._count:
      self._join(other._count, other._mean, other._squares)

  def fitted(self) -> schema_lib.Numeric:
    """The field with offset, divisor and range; as it was without values."""
    field = self.field
    if self._low is None:
      return field
    ends = np.asarray([self._low, self._high])
    field = dataclasses.replace(field, low=self._low, high=self._high)
    if field.scale == "none":
      return field
    if field.scale == "standard":
      offset, divisor = self._mean, np.sqrt(self._squares / self._count)
    elif field.scale == "minmax":
      offset, most = transformed(field, ends)
      divisor = most - offset
    else:
      raise schema_lib.SchemaError(
        f"field {field.name!r}: scale {field.scale!r}; use 'standard', 'minmax' "
        "or 'none'"
      )
    # A constant column says nothing: leave it unscaled rather than divide by 0.
    constant = self._low == self._high or divisor <= 1e-12
    divisor = 1.0 if constant else divisor
    # Rounded, so that another machine's last bits give the same schema hash.
    short = lambda x: float(f"{x:.6g}")
    return dataclasses.replace(
      field, offset=short(offset), divisor=short(divisor)
    )


def scaler(field: schema_lib.Numeric, x: np.ndarray) -> schema_lib.Numeric:
  """The field with offset, divisor and range of its training values x [R]."""
  moments = Moments(field)
  moments.add(x)
  return moments.fitted()


class Scales:
  """Fits every Numeric of a table piece by piece, or counts what lies beyond.

  Attributes:
    outside: {field: numbers beyond what was fitted}.
    rows: Added so far.
  """

  def __init__(self, fields: Sequence[schema_lib.Field]):
    self._fields = tuple(fields)
    self._moments = {
      f.name: Moments(f) for f in fields if isinstance(f, schema_lib.Numeric)
    }
    self.outside: dict[str, int] = {}
    self.rows = 0

  def add(self, numeric: np.ndarray, train: np.ndarray | None) -> None:
    """Adds encoded rows, float32 [R, N]; see `scalers`."""
    column = 0
    self.rows += len(numeric)
    for f in self._fields:
      if isinstance(f, schema_lib.Numeric):
        if train is not None:
          self._moments[f.name].add(numeric[:, column].take(train))
        elif count := beyond(f, numeric[:, column]):
          self.outside[f.name] = self.outside.get(f.name, 0) + count
      if not schema_lib.has_ids(f):
        column += schema_lib.width(f)

  def merge(self, other: "Scales") -> None:
    """Adds what another has seen."""
    self.rows += other.rows
    for name, moments in self._moments.items():
      moments.merge(other._moments[name])
    for name, count in other.outside.items():
      self.outside[name] = self.outside.get(name, 0) + count

  def fitted(self) -> tuple[schema_lib.Field, ...]:
    """The fields; as they were where nothing was added to fit on."""
    found = {n: m.fitted() for n, m in self._moments.items()}
    return tuple(found.get(f.name, f) for f in self._fields)


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
  scales = Scales(fields)
  scales.add(numeric, train)
  return scales.fitted(), scales.outside
