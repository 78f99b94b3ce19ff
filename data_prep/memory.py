"""Raw rows in memory -> encoded users, without files.

One user's last events or a frame of a million rows, encoded as a data set's
rows were: the same chain, so that predictions are the same.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from lumos_jax.data import schema as schema_lib

from . import encode, engine, times
from .fitted import Fitted, drift
from .inputs import TIMES, InputError, Inputs
from .readers import moments

_TABLES = ("activity", "calendar", "membership", "profile", "labels", "span")


class Users(Sequence):
  """Encoded users, one record each, as `lumos_jax.data.records.Source`."""

  def __init__(self, users: encode.Users, chosen: Sequence[int]):
    self._records = list(encode.records(users, chosen))

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, i: int) -> dict[str, Any]:
    return self._records[i]

  def __getitems__(self, positions: Iterable[int]) -> list[dict[str, Any]]:
    return [self._records[i] for i in positions]


class MemoryRecords:
  """A data set in memory, with what readers of `Records` use.

  Attributes:
    schema, calendar, stats: As of a prepared data set.
    splits: Names of the splits.
    path: Says where it is from, for messages.
  """

  def __init__(self, prepared: engine.Prepared):
    self.schema, self.calendar = prepared.schema, prepared.calendar
    self.stats = prepared.stats
    self.splits, self.path = sorted(prepared.splits), "tables in memory"
    rows = np.bincount(
      prepared.users.rows["user"], minlength=len(prepared.users.keys)
    )
    self.stats["splits"] = {
      s: {
        "users": len(at),
        "rows": int(rows[at].sum()),
        "longest": int(rows[at].max(initial=0)),
      }
      for s, at in prepared.splits.items()
    }
    self._prepared = prepared

  def source(self, split: str) -> Users:
    """Records of a split."""
    if split not in self._prepared.splits:
      raise InputError(f"no split {split!r}; there are {self.splits}")
    return Users(self._prepared.users, self._prepared.splits[split])


def records(
  tables: Mapping[str, pl.DataFrame],
  fitted: Fitted,
) -> MemoryRecords:
  """Encodes tables in memory with what was fitted.

  Args:
    tables: {"activity": frame, ...}, whole histories, columns named as a source
      hands them over (`data_prep.inputs.Inputs`): key, time and the fields. All
      but activity may be absent: profile values are then missing, and the
      calendar is the fitted data set's.
    fitted: See `data_prep.fitted.load`.

  Warns:
    UserWarning: Values were not fitted, or lie beyond the fitted range; with the
      counts that `data_prep --fitted` prints.

  Raises:
    InputError: A table or column is unknown, absent or of another type.
  """
  unknown = sorted(set(tables) - set(_TABLES))
  if unknown or "activity" not in tables:
    raise InputError(
      f"tables needs 'activity' and may have {list(_TABLES[1:])}; it has "
      f"{sorted(tables)}"
    )
  frames = {n: t.lazy().collect() for n, t in tables.items()}
  schema, notes = fitted.schema, {}
  for table in frames:
    frames[table] = _timed(frames[table], table, schema, notes)
  activity = frames.pop("activity").lazy()
  day = times.moment(
    activity, "time", schema.time_zone, schema.epoch, "table activity"
  ).day
  low, high = activity.select(low=day.min(), high=day.max()).collect().row(0)
  if low is None:
    raise InputError("table activity: no row has a readable time")
  raw = Inputs(
    # Users' whole histories: what lies before them was observed, and is empty.
    schema=dataclasses.replace(
      schema, first_day=min(low, schema.first_day), last_day=high + 1
    ),
    activity=activity,
    time_zone=schema.time_zone,
    notes=notes,
    **frames,
  )
  prepared = engine.prepare(raw, fitted)
  if lines := drift(prepared.stats["fitted"]["outside"]):
    text = f"tables in memory, encoded as fitted by {fitted.where}:"
    warnings.warn("\n".join([text, *lines]), stacklevel=2)
  return MemoryRecords(prepared)


def _timed(frame, table: str, schema, notes: dict) -> pl.DataFrame:
  """The table, its times read as those of files are (readers/moments.py)."""
  where, lazy = f"table {table}", frame.lazy()
  daily = table == "activity" and schema.rows == "day"
  fields = schema.events if daily else getattr(schema, table, ())
  stamps = [f.name for f in fields if isinstance(f, schema_lib.Timestamp)]
  names = dict.fromkeys([*TIMES.get(table, ()), *stamps])
  for name in (n for n in names if n in frame.columns):
    try:
      lazy, told = moments.resolve(lazy, name, where, schema.time_zone)
    except InputError as e:
      raise InputError(
        f"{e}. Of a frame in memory: read the column before, as in "
        f'frame.with_columns(pl.col({name!r}).str.to_datetime("%d/%m/%Y"))'
      ) from e
    notes |= {f"{table}: {k}": v for k, v in told.items()}
  return lazy.collect()
