"""Derived fields of events: bins, clock parts and composite tokens; numpy only.

PANTHER's structured tokenization (arXiv 2510.10102, sec. 3.1): a token is the
product of an event's attributes, the K most frequent products are kept.
R rows.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lumos_jax.data import schema as schema_lib

from . import encode, sketches
from . import fit as fit_lib

_SECOND = 1_000_000  # Microseconds.
_HOUR = 3600 * _SECOND
_DAY = 24 * _HOUR
_MOST_PRODUCTS = 1 << 62


def fit_bins(
  field: schema_lib.Binned, x: np.ndarray | sketches.Quantiles
) -> schema_lib.Binned:
  """The field with edges from the training rows' numbers x.

  Equal numbers never part, so that there may be fewer bins than asked for.

  Args:
    field: As declared; declared edges are kept.
    x: [R], or `Quantiles` of all pieces of the rows.
  """
  if field.edges is not None:  # Declared.
    return field
  if field.bins < 1:
    raise schema_lib.SchemaError(
      f"field {field.name!r}: bins = {field.bins} must be 1 or more"
    )
  if isinstance(x, np.ndarray):
    numbers, x = x, sketches.Quantiles()
    x.add(numbers[np.isfinite(numbers)])
  if not x.count:
    return dataclasses.replace(field, edges=())
  field = dataclasses.replace(field, low=x.low, high=x.high)
  if field.scale == "frequency":
    edges = x.at(np.arange(1, field.bins) / field.bins)  # Numbers of the data.
  elif field.scale == "log":
    low, high = fit_lib.symlog(np.asarray([x.low, x.high]))
    steps = np.linspace(low, high, field.bins + 1)[1:-1]
    edges = np.sign(steps) * np.expm1(np.abs(steps))
    # Rounded, so that another machine's last bits give the same schema hash.
    edges = np.asarray([float(f"{e:.6g}") for e in edges])
  else:
    raise schema_lib.SchemaError(
      f"field {field.name!r}: scale {field.scale!r}; use 'frequency' or 'log'"
    )
  edges = np.unique(edges) + 0.0  # No -0.0.
  # An edge at or below the least number would leave its bin empty.
  edges = edges[edges > x.low]
  return dataclasses.replace(field, edges=tuple(edges.tolist()))


def bin_ids(field: schema_lib.Binned, x: np.ndarray) -> np.ndarray:
  """int32 [R] ids of numbers; MISSING for NaN."""
  place = np.searchsorted(np.asarray(field.edges), x, side="right")
  ids = (place + schema_lib.FIRST_VALUE).astype(np.int32)
  ids[np.isnan(x)] = schema_lib.MISSING
  return ids


def clock_ids(
  field: schema_lib.Clock,
  user: np.ndarray,
  time: np.ndarray,
  local: np.ndarray,
  epoch_day: int,
) -> np.ndarray:
  """int32 [R] ids of a part of each event's time.

  Args:
    field: Which part.
    user: int [R]; rows stand by user, then time.
    time: int64 [R] microseconds since the epoch, of the instant: gaps.
    local: int64 [R], of the local clock: hours and days.
    epoch_day: Days from 1970-01-01 to the epoch.
  """
  first = schema_lib.FIRST_VALUE
  day = local // _DAY + epoch_day
  if field.part == "hour":
    return (local % _DAY // _HOUR + first).astype(np.int32)
  if field.part == "weekday":  # 1970-01-01 was a Thursday.
    return ((day + 3) % 7 + first).astype(np.int32)
  if field.part == "monthday":
    dates = day.astype("datetime64[D]")
    place = dates - dates.astype("datetime64[M]").astype("datetime64[D]")
    return (place.astype(np.int64) + first).astype(np.int32)
  out = np.full(len(time), schema_lib.MISSING, np.int32)
  if len(time) > 1:
    gap = np.maximum(np.diff(time), 0)
    most = schema_lib.CLOCK_PARTS["gap"] - 1
    # Exact for whole numbers, unlike a rounded logarithm.
    place = np.frexp(gap / _SECOND + 1.0)[1] - 1
    same = user[1:] == user[:-1]
    out[1:] = np.where(same, np.minimum(place, most) + first, out[1:])
  return out


class Products:
  """Numbers the products of a composite's parts.

  The number of a product is one 64-bit integer, so that millions of rows are
  counted by sorting integers.
  """

  def __init__(self, field: schema_lib.Composite, sizes: Sequence[int]):
    """`sizes` are the numbers of ids of the parts.

    Raises:
      SchemaError: There are too many products for 64 bits.
    """
    self.field, self.sizes = field, tuple(int(s) for s in sizes)
    total = 1
    for s in self.sizes:
      total *= s + 1  # ANY has the place behind the last id.
    if total >= _MOST_PRODUCTS:
      raise schema_lib.SchemaError(
        f"field {field.name!r}: its parts have {self.sizes} values, and so "
        f"{total:.1e} products, too many for 64 bits: use coarser parts"
      )

  def numbers(
    self, parts: Sequence[np.ndarray], keep: Sequence[str] | None = None
  ) -> np.ndarray:
    """int64 [R]; parts that are not in `keep` count as ANY."""
    out = np.zeros(len(parts[0]), np.int64)
    for name, size, ids in zip(self.field.of, self.sizes, parts, strict=True):
      out *= size + 1
      out += ids if keep is None or name in keep else size
    return out

  def parts(self, numbers: np.ndarray) -> np.ndarray:
    """int64 [n, parts]: the ids behind numbers, ANY where a part is left out."""
    out = np.empty((len(numbers), len(self.sizes)), np.int64)
    for i in reversed(range(len(self.sizes))):
      numbers, out[:, i] = np.divmod(numbers, self.sizes[i] + 1)
      out[out[:, i] == self.sizes[i], i] = schema_lib.ANY
    return out

  def of_values(self) -> np.ndarray:
    """int64 [values]: the numbers of the fitted values."""
    values = np.asarray(self.field.values, np.int64)
    values = values.reshape(-1, len(self.sizes))
    columns = [
      np.where(v == schema_lib.ANY, s, v) for v, s in zip(values.T, self.sizes)
    ]
    return self.numbers(columns)


def _top(numbers, counts, most: int, least: int = 1) -> np.ndarray:
  """Places of the most frequent of ascending numbers, ties by size.

  Numbers that occur less than `least` times are not among them.
  """
  order = np.argsort(-counts, kind="stable")[:most]
  return order[counts[order] >= least]


def _known(field, parts, names) -> np.ndarray:
  """bool [R]: rows without an unknown value in the named parts."""
  out = np.ones(len(parts[0]), bool)
  for name, ids in zip(field.of, parts, strict=True):
    if name in names:
      out &= ids != schema_lib.UNKNOWN
  return out


def fit_composite(
  products: Products, found: sketches.Products
) -> tuple[schema_lib.Composite, dict[str, float]]:
  """The field with its tokens, and what they cover.

  A product with an unknown part is no token: it would say the same of rare
  values and of those that come later.

  Args:
    products: Of the field.
    found: Products of training rows.

  Returns:
    The field; {"products": different products, "tokens": kept, "coverage":
    share of training rows whose product is kept, "backoff_tokens": ...,
    "backoff_idle": no row was left to learn smaller tokens from}.
  """
  field = products.field
  numbers, counts = found.counts()
  parts = list(products.parts(numbers).T)
  known = np.flatnonzero(_known(field, parts, field.of))
  kept = known[
    _top(numbers[known], counts[known], field.max_values, field.min_count)
  ]
  small = np.zeros(0, np.int64)
  if field.backoff:
    rest = _known(field, parts, field.backoff)
    rest[kept] = False
    some = products.numbers([p[rest] for p in parts], field.backoff)
    some, place = np.unique(some, return_inverse=True)
    total = np.bincount(place, counts[rest], len(some)).astype(np.int64)
    small = some[_top(some, total, field.max_backoff)]
  values = products.parts(np.concatenate([numbers[kept], small])).tolist()
  field = dataclasses.replace(field, values=tuple(map(tuple, values)))
  return field, {
    "products": len(known),
    "tokens": len(kept),
    "coverage": int(counts[kept].sum()) / found.rows if found.rows else 0.0,
    "backoff_tokens": len(small),
    "backoff_idle": bool(field.backoff and not len(small)),
  }


def composite_ids(
  products: Products, parts: Sequence[np.ndarray]
) -> np.ndarray:
  """int32 [R] ids: the product's token, its smaller token, or UNKNOWN."""
  field = products.field
  known = products.of_values()
  order = np.argsort(known)
  ordered = known[order]

  def look(numbers):
    at = np.searchsorted(ordered, numbers)
    at = np.minimum(at, len(ordered) - 1)
    hit = ordered[at] == numbers
    return np.where(hit, order[at] + schema_lib.FIRST_VALUE, schema_lib.UNKNOWN)

  if not len(known):
    return np.full(len(parts[0]), schema_lib.UNKNOWN, np.int32)
  ids = look(products.numbers(parts)).astype(np.int32)
  if field.backoff:
    left = np.flatnonzero(ids == schema_lib.UNKNOWN)
    some = [p[left] for p in parts]
    ids[left] = look(products.numbers(some, field.backoff))
  return ids


def fill_parts(
  fields: Sequence[schema_lib.Field],
  columns: dict[str, encode.Column],
  clock: Callable[[schema_lib.Clock], np.ndarray],
) -> None:
  """Puts ids of Binned and Clock fields into the columns of some rows.

  Args:
    fields: Of the activity table, fitted but for composites.
    columns: Of these fields; Binned ones hold numbers, and ids afterwards.
    clock: Ids of a Clock field, see `clock_ids`.
  """
  for f in fields:
    if isinstance(f, schema_lib.Binned):
      columns[f.name] = bin_ids(f, columns[f.name])
    elif isinstance(f, schema_lib.Clock):
      columns[f.name] = clock(f)


class Parts:
  """Ids of the parts of composites, of rows after `fill_parts`."""

  def __init__(
    self,
    fields: Sequence[schema_lib.Field],
    columns: Mapping[str, encode.Column],
  ):
    self._named = {f.name: f for f in fields}
    self._columns, self._ids = columns, {}

  def products(self, field: schema_lib.Composite) -> Products:
    """Numbers of a field's products."""
    return Products(field, [self._named[n].size for n in field.of])

  def of(self, field: schema_lib.Composite) -> list[np.ndarray]:
    """int32 [R] of each part."""
    return [self._of(n) for n in field.of]

  def _of(self, name: str) -> np.ndarray:
    if name not in self._ids:
      field, column = self._named[name], self._columns[name]
      if isinstance(field, schema_lib.Categorical):
        column = encode.category_ids(field, column.values)[column.codes]
      self._ids[name] = column
    return self._ids[name]


def fill_composites(
  fields: Sequence[schema_lib.Field], columns: dict[str, encode.Column]
) -> dict[str, dict[str, int]]:
  """Puts ids of composites into the columns of some rows.

  Returns:
    {field: {"rows_unknown": ..., "rows_backoff": ...}}.
  """
  parts, counts = Parts(fields, columns), {}
  for f in fields:
    if not isinstance(f, schema_lib.Composite):
      continue
    ids = columns[f.name] = composite_ids(parts.products(f), parts.of(f))
    small = [schema_lib.ANY in v for v in f.values or ()]
    first = schema_lib.FIRST_VALUE + len(small) - sum(small)
    counts[f.name] = {
      "rows_unknown": int((ids == schema_lib.UNKNOWN).sum()),
      "rows_backoff": int((ids >= first).sum()),
    }
  return counts
