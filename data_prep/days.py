"""Event rows -> one row a user and day, by each field's `daily` rule; numpy.

Input rows are encoded and sorted by user, then time, so that a day's rows stand
together and every rule is one pass over the arrays.
"""

import numpy as np

from lumos_jax.data import schema as schema_lib


def pivot_fields(
  field: schema_lib.Categorical, source: schema_lib.Numeric | None
) -> list[schema_lib.Numeric]:
  """Daily columns "name=value" of a pivoted field.

  They are zero on most days, so that a standard deviation says little and a
  single purchase of a rare value would stand hundreds of them away: min-max.
  """
  transform = source.transform if source else "log1p"
  names, of = dict(field.names or ()), source or field
  titled = bool(names or of.title)
  return [
    schema_lib.Numeric(
      f"{field.name}={v}",
      transform,
      scale="minmax",
      title=f"{of.title or of.name} ({names.get(v, v)})" if titled else "",
    )
    for v in field.values or ()
  ]


def _pivot_source(field, fields):
  """The Numeric that a field's "pivot:F" sums; None for a count, or no pivot."""
  rule, _, name = field.daily.partition(":")
  if rule != "pivot" or not name:
    return None
  found = [
    f for f in fields if isinstance(f, schema_lib.Numeric) and f.name == name
  ]
  if not found:
    raise schema_lib.SchemaError(
      f"field {field.name!r}: daily={field.daily!r} names no numeric field; "
      f"there are "
      f"{[f.name for f in fields if isinstance(f, schema_lib.Numeric)]}"
    )
  return found[0]


def needed(fields) -> tuple[schema_lib.Field, ...]:
  """The fields that day rows are made of: not those that they drop."""
  summed = {getattr(f, "daily", "").partition(":")[2] for f in fields}
  return tuple(
    f
    for f in fields
    if getattr(f, "daily", "mean") != "drop" or f.name in summed
  )


def day_fields(fields) -> tuple[schema_lib.Field, ...]:
  """The fields of day rows that event rows with these fields make."""
  out = []
  for f in fields:
    rule = getattr(f, "daily", "mean").partition(":")[0]
    if rule == "pivot":
      out += pivot_fields(f, _pivot_source(f, fields))
    elif rule != "drop":
      out.append(f)
  return tuple(out)


def day_rows(fields, rows):
  """Sums event rows to day rows.

  Args:
    fields: Fitted fields of the event rows.
    rows: user [R], day [R], categorical [R, C], numeric [R, N]; sorted by user,
      then instant.

  Returns:
    user [D], day [D], categorical [D, C'], numeric float32 [D, N'], in the order
    of `day_fields`.
  """
  user, day = rows["user"], rows["day"]
  new = np.ones(len(day), bool)
  new[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
  start = np.flatnonzero(new)
  row = np.cumsum(new) - 1
  last = np.append(start[1:], len(day)) - 1
  cats = {f.name: i for i, f in enumerate(_categorical(fields))}
  place = _numeric_places(fields)
  categorical, numeric = [], []
  for f in fields:
    rule = getattr(f, "daily", "mean").partition(":")[0]
    if rule == "drop":
      continue
    if isinstance(f, schema_lib.Categorical):
      ids = rows["categorical"][:, cats[f.name]]
      if rule == "pivot":
        source = _pivot_source(f, fields)
        x = rows["numeric"][:, place[source.name]] if source else None
        numeric += list(_pivot(f, ids, x, row, len(start)).T)
      elif rule == "last":
        categorical.append(ids[last])
      elif rule == "mode":
        categorical.append(_mode(ids, row, len(start), f.size))
      else:
        raise _bad_rule(f, "'last', 'mode', 'pivot', 'pivot:F' or 'drop'")
      continue
    first = place[f.name]
    for c in range(first, first + schema_lib.width(f)):
      numeric.append(_reduce(f, rule, rows["numeric"][:, c], start, last))
  shape = len(start)
  out = {
    "user": user[start],
    "day": day[start].astype(np.int32),
    "categorical": np.empty((shape, len(categorical)), np.int32),
    "numeric": np.empty((shape, len(numeric)), np.float32),
  }
  for name, parts in (("categorical", categorical), ("numeric", numeric)):
    for i, part in enumerate(parts):
      out[name][:, i] = part
  return out


def _categorical(fields):
  return [f for f in fields if isinstance(f, schema_lib.Categorical)]


def _numeric_places(fields):
  out, column = {}, 0
  for f in fields:
    if not isinstance(f, schema_lib.Categorical):
      out[f.name] = column
      column += schema_lib.width(f)
  return out


def _bad_rule(field, rules):
  return schema_lib.SchemaError(
    f"field {field.name!r}: daily={field.daily!r}; use {rules}"
  )


def _pivot(field, ids, x, row, days):
  """[days, values]: sum of x, or count of rows, by value."""
  values = len(field.values or ())
  known = ids >= schema_lib.FIRST_VALUE
  flat = row[known] * values + (ids[known] - schema_lib.FIRST_VALUE)
  weight = None if x is None else np.nan_to_num(x[known].astype(np.float64))
  total = np.bincount(flat, weight, minlength=days * values)
  return total.reshape(days, values)


def _mode(ids, row, days, size):
  """Most frequent id of each day, ties by the smaller id; missing loses."""
  flat, count = np.unique(row * size + ids, return_counts=True)
  day, value = flat // size, flat % size
  count = np.where(value == schema_lib.MISSING, 0, count)
  order = np.lexsort((value, -count, day))
  first = order[np.searchsorted(day[order], np.arange(days))]
  return value[first]


def _reduce(field, rule, x, start, last):
  if not len(start):
    return x[:0]
  if rule == "last":
    return x[last]
  x = x.astype(np.float64)
  known = ~np.isnan(x)
  count = np.add.reduceat(known.astype(np.int64), start)
  if rule in ("sum", "mean"):
    total = np.add.reduceat(np.where(known, x, 0.0), start)
    out = total if rule == "sum" else total / np.maximum(count, 1)
  elif rule in ("max", "min"):
    ufunc = np.maximum if rule == "max" else np.minimum
    fill = -np.inf if rule == "max" else np.inf
    out = ufunc.reduceat(np.where(known, x, fill), start)
  else:
    raise _bad_rule(field, "'sum', 'mean', 'max', 'min', 'last' or 'drop'")
  return np.where(count > 0, out, np.nan)
