"""Training, validation and test rows that are given as separate files."""

import datetime
from collections.abc import Mapping, Sequence

import polars as pl

from data_prep.inputs import InputError
from data_prep.readers import files as files_lib
from data_prep.readers import moments, rows


def join(
  parts: Mapping[str, files_lib.Read], options: Mapping, table: str
) -> files_lib.Read:
  """All parts below each other, as one table."""
  names = [p.name.removesuffix(f" (table {table})") for p in parts.values()]
  where = f"{', '.join(names)} (table {table})"
  frame = files_lib.join(
    [p.frame for p in parts.values()], names, options, where, frozenset()
  )
  pieces, notes, files = {}, {}, []
  for part in parts.values():
    pieces |= part.pieces
    notes |= part.notes
    files += part.files
  return files_lib.Read(frame, files, where, pieces, notes)


def users(
  parts: Mapping[str, pl.LazyFrame],
  declared: moments.Declared | None,
  words: Sequence[str],
  zone: str,
  where: str,
) -> tuple[pl.DataFrame | None, datetime.date | int | None]:
  """Users by the file that they stand in, or the day where files part.

  Where no user stands in two files, files are splits of users. Where users do,
  each file must begin when the one before it has ended: then all rows of a user
  are one history and training ends where the second file begins.

  Args:
    parts: {split: rows with columns key and time}, in order of time.
    declared: Format or unit of the times.
    words: Text that stands for a missing id.
    zone: Where days begin.
    where: Table and files, for messages.

  Returns:
    Columns key, split, or None; the first day of the second file, or None.

  Raises:
    InputError: Users stand in two files whose times overlap.
  """
  frames = []
  for split, frame in parts.items():
    names = frame.collect_schema()
    if "key" not in names:
      raise InputError(
        f"{where}: 'files' of splits need key as a column of each: name it in "
        "'columns'"
      )
    keys = rows.ids(frame.select("key"), ["key"], words, where)
    keys = keys.drop_nulls().unique().collect()
    frames.append(
      keys.with_columns(pl.col("key").cast(pl.String), split=pl.lit(split))
    )
  table = pl.concat(frames)
  shared = table.filter(pl.col("key").is_duplicated())["key"].n_unique()
  if not shared:
    return table.sort("key"), None
  spans = []
  for frame in parts.values():
    time, _ = moments.resolve(
      frame.select("time"), "time", where, zone, declared
    )
    day = moments.local_day(time, zone, where)
    spans.append(
      time.select(day.min().alias("first"), day.max().alias("last"))
      .collect()
      .row(0)
    )
  order = list(parts)
  for i in range(1, len(spans)):
    if spans[i][0] < spans[i - 1][1]:
      raise InputError(
        f"{where}: {shared:,} users stand in two files, and the times of "
        f"{order[i]!r} (from {spans[i][0]}) begin before those of "
        f"{order[i - 1]!r} end ({spans[i - 1][1]}): give each split its own "
        "users, or files that follow each other in time"
      )
  return None, spans[1][0]
