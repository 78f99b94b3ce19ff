"""Rows of a raw table: ids, equal rows, the span of its times."""

import datetime
import math
import pathlib
import tempfile
from collections.abc import Collection, Sequence

import numpy as np
import polars as pl

from ..inputs import InputError

NULL_IDS = ("", "NULL", "null", "NaN", "nan", "None", "<NA>")
_EXACT = 2**53  # Floats from here on stand for more than one integer.
_MANY, _YEARS = 5, 3650
# Hashes in memory, and files of them (a power of two) beyond.
_HASHES, _FILES = 1 << 23, 32


def ids(
  frame: pl.LazyFrame, names: Collection[str], words: Sequence[str], where: str
) -> pl.LazyFrame:
  """Ids and categories without null words, and floats as the integers they are.

  Args:
    frame: The table.
    names: Columns of ids or categories.
    words: Text that stands for a missing id.
    where: Table and file, for messages.

  Raises:
    InputError: A float is no integer, or not exactly one; names the first row.
  """
  schema, exprs, floats = frame.collect_schema(), [], []
  for name in names:
    dtype, column = schema.get(name), pl.col(name)
    if dtype == pl.String and words:
      exprs.append(pl.when(~column.is_in(list(words))).then(column).alias(name))
    elif dtype is not None and dtype.is_float():
      floats.append(name)
  if floats:
    bad = lambda c: c.is_not_nan() & ~((c == c.round()) & (c.abs() < _EXACT))
    found = frame.select(
      e
      for n in floats
      for e in (
        bad(pl.col(n)).arg_true().first().alias(f"row of {n}"),
        pl.col(n).filter(bad(pl.col(n))).first().alias(n),
      )
    ).collect()
    for name in floats:
      row, value = found[f"row of {name}"][0], found[name][0]
      if row is not None:
        reason = "is no integer"
        if abs(value) >= _EXACT:
          reason = "is beyond 2^53, where a float stands for several integers"
        raise InputError(
          f"{where}: column {name!r} is {schema[name]}, used as an id or a "
          f"category, and row {row} holds {value!r}, which {reason}: write it as "
          "text or as an integer in the file, or declare the field as Numeric"
        )
      exprs.append(pl.col(name).fill_nan(None).cast(pl.Int64))
  return frame.with_columns(exprs) if exprs else frame


def duplicates(frame: pl.LazyFrame) -> int:
  """Rows that repeat a whole row before them, by a 64-bit hash a row.

  The hashes of a long table are parted into files, so that memory stays.
  """
  hashes = frame.select(pl.struct(pl.all()).hash().alias("hash"))
  batches = hashes.collect_batches(chunk_size=1 << 18, engine="streaming")
  pending, total = [], 0
  with tempfile.TemporaryDirectory(prefix="data_prep") as folder:
    files = [pathlib.Path(folder) / f"{i}" for i in range(_FILES)]

    def flush():
      found = np.concatenate(pending)
      pending.clear()
      place = found >> np.uint64(64 - _FILES.bit_length() + 1)
      order = np.argsort(place, kind="stable")
      bounds = np.searchsorted(place[order], np.arange(_FILES + 1))
      for i, file in enumerate(files):
        with open(file, "ab") as f:
          f.write(found[order[bounds[i] : bounds[i + 1]]].tobytes())

    for batch in batches:
      pending.append(batch["hash"].to_numpy())
      total += len(batch)
      if sum(map(len, pending)) > _HASHES:
        flush()
    if not any(f.exists() for f in files):
      return total - sum(
        map(_kinds, [np.concatenate(pending)] if total else [])
      )
    if pending:
      flush()
    return total - sum(_kinds(np.fromfile(f, np.uint64)) for f in files)


def _kinds(hashes: np.ndarray) -> int:
  return pl.Series(hashes).n_unique()


def span(
  frame: pl.LazyFrame, day: pl.Expr, limits: Sequence, where: str
) -> tuple:
  """First and last day of the rows: dates, or integer days.

  Args:
    frame: The activity table.
    day: Its days, as dates or integers.
    limits: Declared first day and the one after the last; () for none.
    where: Table and file, for messages.

  Raises:
    InputError: There is no time, or a few rows stretch the span.
  """
  when = day
  days = frame.select(when.alias("day")).filter(pl.col("day").is_not_null())
  if limits:
    low, high = (_limit(v) for v in limits)
    days = days.filter((pl.col("day") >= low) & (pl.col("day") < high))
  dates = days.collect_schema()["day"] == pl.Date
  # There are few days, however many rows.
  found = days.group_by("day").len().collect(engine="streaming").sort("day")
  count, day, number = (
    found["len"].sum(),
    found["day"],
    found["day"].to_physical(),
  )
  rank = found["len"].cum_sum()
  place = lambda r: number[int(rank.search_sorted(r, side="right"))]
  if count:
    first, last = day[0], day[-1]
    low = place(math.ceil(0.0005 * (count - 1)))
    high = place(math.floor(0.9995 * (count - 1)))
  if not count:
    raise InputError(
      f"{where}: no row has a readable time"
      + (f" within time_range={tuple(limits)}" if limits else "")
    )
  if limits or not dates:
    return first, last
  if 10 <= count < 2000:  # One row at each end is a handful.
    low, high = place(1), place(count - 2)
  whole, core = (last - first).days, high - low
  stretched = whole > _MANY * max(core, 30) and whole - core > _YEARS
  if stretched and count >= 10 or last.year >= 2262:
    name = "first" if low - _number(first) > _number(last) - high else "last"
    far = first if name == "first" else last
    row = frame.select(when.alias("day")).select(
      (pl.col("day") == far).arg_true().first()
    )
    near = [_date(low), _date(high)]
    raise InputError(
      f"{where}: a few rows stretch the data to {whole:,} days, {first} to "
      f"{last}; nearly all lie within {near[0]} to {near[1]}. The {name} day is "
      f"that of row {row.collect().item()} (from 0, without a header). Correct "
      f'it, or say what to keep: TIME_RANGE = ("{near[0]}", '
      f'"{near[1] + datetime.timedelta(1)}") in the description rejects the '
      "others, a wider one accepts them"
    )
  return first, last


def _limit(value):
  if isinstance(value, str):
    try:
      return datetime.date.fromisoformat(value)
    except ValueError as e:
      raise InputError(f"time_range: {value!r} is no date: {e}") from e
  return value


def _number(day: datetime.date) -> int:
  return (day - datetime.date(1970, 1, 1)).days


def _date(number: int) -> datetime.date:
  return datetime.date(1970, 1, 1) + datetime.timedelta(number)
