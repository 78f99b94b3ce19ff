"""The embedded engine: raw tables -> fitted schema, calendar, user records.

A chain of steps, each of which takes tables and gives tables: a source reads,
`clean` makes usable rows in order, `fit` learns vocabularies, bins and scales
from training rows (or what is fitted is taken), `encode` and `days` make numbers
of them, `builder` writes. What is stored is decided by fit, encode, days and
order, which every engine shares.
"""

import dataclasses
from typing import Any

import numpy as np

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import pages as pages_lib
from lumos_jax.data import schema as schema_lib

from . import clean as clean_lib
from . import days as days_lib
from . import derive, encode, fit, side_tables
from . import fitted as fitted_lib
from . import pages as page_table
from . import rejects as rejects_lib
from .inputs import InputError, Inputs


@dataclasses.dataclass
class Prepared:
  """What the builder writes.

  Attributes:
    schema: Fitted.
    calendar: Of the data set.
    users: Encoded users.
    splits: {split: positions in users.keys}.
    rejects: Rows that could not be used.
    stats: Counts, for stats.json.
    pages: Of clicks (lumos_jax.data.pages), or None.
    sessions: Of clicks (`Inputs.sessions`), or None.
  """

  schema: schema_lib.Schema
  calendar: calendar_lib.Calendar
  users: encode.Users
  splits: dict[str, np.ndarray]
  rejects: rejects_lib.Rejects
  stats: dict
  pages: pages_lib.Pages | None = None
  sessions: Any = None


def prepare(raw: Inputs, fitted: fitted_lib.Fitted | None = None) -> Prepared:
  """All of the preparation but the writing.

  Args:
    raw: Of a source.
    fitted: Vocabularies, bins and scales to take; None to fit them.

  Raises:
    InputError: Something is wrong with the raw tables; says what and where.
  """
  absent, groups = (), ("",)
  if fitted is not None:
    raw, absent = fitted.applied(raw)
    groups = fitted.calendar.group_names if fitted.calendar else groups
  elif raw.schema.rows == "day":
    fields = days_lib.needed(raw.schema.activity)
    raw = dataclasses.replace(
      raw, schema=dataclasses.replace(raw.schema, activity=fields)
    )
  raw = dataclasses.replace(
    raw, schema=dataclasses.replace(raw.schema, time_zone=raw.time_zone)
  )
  tables = clean_lib.clean(raw, absent, groups)
  return _Preparation(tables, fitted).run()


class _Preparation:
  """Steps 3 and 4: fits, or takes what is fitted, and encodes each table."""

  def __init__(self, tables: clean_lib.Clean, fitted):
    self.tables, self.fitted = tables, fitted
    self.people, self.schema = tables.people, tables.raw.schema
    self.fits = fitted is None
    if self.fits:
      self.people.check_some_train()
    self.unknown, self.beyond = {}, {}

  def run(self) -> Prepared:
    tables, people = self.tables, self.people
    rows, composites = self._activity()
    profile, without = self._profile()
    calendar = self._calendar()
    labels, declared = tables.labels
    self.schema = dataclasses.replace(self.schema, labels=declared)
    users = encode.Users(
      people.keys, rows, profile, tables.span, tables.groups, labels
    )
    active = len(np.unique(rows["user"]))
    stats = {
      "users": len(people.keys),
      "users_without_activity": len(people.keys) - active,
      "users_without_profile": without,
      "users_without_split": people.outside,
      "entries": tables.entries,
      "activity_rows_read": tables.read,
      "rows": len(rows["user"]),
      "calendar_entries": len(calendar.group),
      "labels": len(labels["id"]),
      "first_day": self.schema.first_day,
      "last_day": self.schema.last_day,
      "rejected": tables.rejects.to_json(),
      "unknown_categories": self.unknown,
      "composites": composites,
      "notes": tables.notes,
    }
    if self.fitted is not None:
      stats["fitted"] = self._drift(len(tables.activity.user), stats)
    found = tables.raw.pages
    if found is not None:
      found, counts = page_table.table(found, self.schema)
      stats["notes"] = stats["notes"] | counts
    return Prepared(
      self.schema,
      calendar,
      users,
      people.splits(),
      tables.rejects,
      stats,
      found,
      tables.raw.sessions,
    )

  def _drift(self, events: int, stats) -> dict:
    """What the rows hold that was not fitted: {table: {field: counts}}."""
    count = {
      "activity": events,
      "profile": len(self.people.keys) - stats["users_without_profile"],
      "calendar": stats["calendar_entries"],
    }
    found = {}
    for table, fields in self.unknown.items():
      for name, kinds in fields.items():
        if total := sum(kinds.values()):
          entry = found.setdefault(table, {}).setdefault(name, {})
          entry["unseen"], entry["rows"] = total, count[table]
    for table, fields in self.beyond.items():
      for name, (total, rows) in fields.items():
        entry = found.setdefault(table, {}).setdefault(name, {})
        entry["beyond_range"], entry["rows"] = total, rows
    return {"by": self.fitted.where, "outside": found}

  def _rows(self, train: np.ndarray) -> np.ndarray | None:
    """Positions of the rows to fit on; None where nothing is fitted."""
    return np.flatnonzero(train) if self.fits else None

  def _vocabularies(self, table, columns, train):
    fields, self.unknown[table] = fit.vocabularies(
      getattr(self.schema, table), columns, train
    )
    return fields

  def _scalers(self, table, fields, numeric, train):
    fields, outside = fit.scalers(fields, numeric, train)
    if outside:
      entries = {n: (count, len(numeric)) for n, count in outside.items()}
      self.beyond.setdefault(table, {}).update(entries)
    return fields

  def _activity(self):
    """Encoded rows {name: array}, and counts of composite tokens."""
    rows, schema = self.tables.activity, self.schema
    user, day, columns = rows.user, rows.day, dict(rows.columns)
    until, daily = schema.train_until, schema.rows == "day"
    train = self.people.train[user] & (day < until)
    if self.fits and not train.any():
      raise InputError(
        f"no activity row of a training user before train_until = day {until}; "
        f"the data span days {schema.first_day} to {schema.last_day - 1}"
      )
    chosen = self._rows(train & ~self._held_out(user))
    fields = self._vocabularies("activity", columns, chosen)
    if not self.fits:
      self._count_beyond_bins(fields, columns)
    clock = lambda f: derive.clock_ids(
      f, user, rows.time, rows.local, self._epoch_day()
    )
    fields, composites = derive.fill(fields, columns, chosen, clock)
    categorical, numeric = encode.matrices(fields, columns, len(user))
    out = {"user": user, "day": day}
    if not daily:
      out["time"] = rows.time
    out |= {"categorical": categorical, "numeric": numeric}
    if daily:
      self.schema = dataclasses.replace(self.schema, events=fields)
      out = days_lib.day_rows(fields, out)
      train = self.people.train[out["user"]] & (out["day"] < until)
      fields = days_lib.day_fields(fields)
      chosen = self._rows(train)
      if not self.fits:  # The same fields, with their scales.
        fields = self.fitted.schema.activity
    fields = self._scalers("activity", fields, out["numeric"], chosen)
    self.schema = dataclasses.replace(self.schema, activity=fields)
    return out, composites

  def _count_beyond_bins(self, fields, columns):
    entries = self.beyond.setdefault("activity", {})
    for f in fields:
      if isinstance(f, schema_lib.Binned):
        if count := fit.beyond(f, columns[f.name]):
          entries[f.name] = count, len(columns[f.name])

  def _held_out(self, user: np.ndarray) -> np.ndarray:
    """bool [R]: the last events of each user, as the source asks."""
    last = np.searchsorted(user, user, side="right")
    return np.arange(len(user)) >= last - self.tables.raw.held_out_events

  def _epoch_day(self) -> int:
    """Days from 1970-01-01 to the epoch; 0 where days are relative."""
    if not self.schema.epoch:
      return 0
    return int(np.datetime64(self.schema.epoch, "D").astype(np.int64))

  def _profile(self):
    """What is known of each user, and how many have no row."""
    count, rows = len(self.people.keys), self.tables.profile
    if rows is None:
      empty = lambda dtype: np.zeros((count, 0), dtype)
      return (empty(np.int32), empty(np.float32)), 0
    train = self._rows(self.people.train[rows.user])
    fields = self._vocabularies("profile", rows.columns, train)
    found = encode.matrices(fields, rows.columns, len(rows.user))
    fields = self._scalers("profile", fields, found[1], train)
    if self.fits and len(rows.user) < count:  # Who has no row has no numbers.
      fields = fit.nullable(fields)
    categorical = np.full(
      (count, found[0].shape[1]), schema_lib.MISSING, np.int32
    )
    numeric = np.repeat(fit.absent(fields)[None], count, 0)
    categorical[rows.user], numeric[rows.user] = found
    self.schema = dataclasses.replace(self.schema, profile=fields)
    return (categorical, numeric), count - len(np.unique(rows.user))

  def _calendar(self) -> calendar_lib.Calendar:
    entries, schema = self.tables.calendar, self.schema
    groups = self.tables.groups
    if entries is None and self.fitted is not None and self.fitted.calendar:
      return self.fitted.calendar
    if entries is None:
      entries = side_tables.Entries([""], *np.zeros((4, 0), np.int32), {})
    # Only what concerns training users before the fit's end may be learned.
    mine = np.zeros(len(entries.group_names), bool)
    mine[groups["group"][self.people.train[groups["user"]]]] = True
    mine[calendar_lib.EVERYONE] = True
    known = mine[entries.group] & (entries.start < schema.train_until)
    train = self._rows(known)
    fields = schema.calendar
    if self.tables.calendar is not None:
      fields = self._vocabularies("calendar", entries.columns, train)
    categorical, numeric = encode.matrices(
      fields, entries.columns, len(entries.group)
    )
    fields = self._scalers("calendar", fields, numeric, train)
    self.schema = dataclasses.replace(schema, calendar=fields)
    return calendar_lib.Calendar(
      self.schema,
      entries.group_names,
      entries.group,
      entries.start,
      entries.end,
      entries.announced,
      categorical,
      numeric,
      spanning=None if self.fits else self.fitted.spanning,
    )
