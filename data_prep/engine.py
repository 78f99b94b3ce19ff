"""The embedded engine: raw tables -> fitted schema, calendar, user records.

A chain of steps, each of which takes tables and gives tables: a source reads,
`clean` makes usable rows in order, `fit` learns vocabularies, bins and scales
from training rows (or what is fitted is taken), `encode` and `days` make numbers
of them, `builder` writes. What is stored is decided by fit, encode, days and
order, which every engine shares. The activity comes in one piece, or in many that
lie on disk (spill.py).
"""

import dataclasses

import numpy as np
import polars as pl

from lumos_jax import ids
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import schema as schema_lib

from . import clean as clean_lib
from . import days as days_lib
from . import derive, encode, fit, phases, side_tables
from . import fitted as fitted_lib
from . import pages as page_table
from . import spill as spill_lib
from .inputs import InputError, Inputs
from .prepared import Prepared


def prepare(
  raw: Inputs,
  fitted: fitted_lib.Fitted | None = None,
  spill: spill_lib.Spill | None = None,
  salt: bytes | None = None,
  k_anonymous: int = 0,
) -> Prepared:
  """All of the preparation but the writing.

  Args:
    raw: Of a source.
    fitted: Vocabularies, bins and scales to take; None to fit them.
    spill: Where to keep the activity in pieces; None for memory. Records are the
      same. It may be closed when `pieces` were read.

    salt: Key of hashed ids; None for ids as they stand.
    k_anonymous: Least number of training users who hold a value of a category, or
      a token, for it to have an id of its own; 0 for no such rule.

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
  tables = clean_lib.clean(raw, absent, groups, spill, salt)
  prepared = _Preparation(tables, fitted, spill, k_anonymous).run()
  prepared.stats["ids"] = ids.form(salt)
  if salt is not None and prepared.sessions is not None:
    prepared.sessions = _hashed(prepared.sessions, salt)
  return prepared


def _hashed(sessions: pl.DataFrame, salt: bytes) -> pl.DataFrame:
  """The sessions of clicks with keyed hashes of every id."""
  hashed = lambda key: ids.hash_id(key, salt)
  return sessions.with_columns(
    pl.col(name).cast(pl.String).map_elements(hashed, pl.String)
    for name in ("key", "visitor", "user")
    if name in sessions.columns
  )


class _Preparation:
  """Steps 3 and 4: fits, or takes what is fitted, and encodes each table."""

  def __init__(self, tables: clean_lib.Clean, fitted, spill, k_anonymous: int):
    self.tables, self.fitted, self.spill = tables, fitted, spill
    self.k_anonymous, self.withheld = k_anonymous, {}
    self.people, self.schema = tables.people, tables.raw.schema
    self.fits = fitted is None
    if self.fits:
      self.people.check_some_train()
    self.unknown, self.beyond, self.inexact = {}, {}, {}

  def run(self) -> Prepared:
    tables, people = self.tables, self.people
    found = self._activity()
    profile, without = self._profile()
    calendar = self._calendar()
    self.schema = dataclasses.replace(self.schema, labels=tables.labels)
    users = encode.Users(
      people.keys, found.rows, profile, tables.span, tables.groups, found.labels
    )
    active = int((tables.activity.first != encode.NO_TIME).sum())
    stats = {
      "users": len(people.keys),
      "users_without_activity": len(people.keys) - active,
      "users_without_profile": without,
      "users_without_split": people.outside,
      "entries": tables.entries,
      "activity_rows_read": tables.activity.read,
      "rows": found.count,
      "calendar_entries": len(calendar.group),
      "labels": found.label_count,
      "first_day": self.schema.first_day,
      "last_day": self.schema.last_day,
      "rejected": tables.rejects.to_json(),
      "unknown_categories": self.unknown,
      "composites": found.composites,
      "notes": tables.notes,
    }
    if self.k_anonymous:
      stats["k_anonymous"] = {"k": self.k_anonymous, "withheld": self.withheld}
    if self.inexact:
      stats["inexact"] = self.inexact
    if self.fitted is not None:
      stats["fitted"] = self._drift(found.events, stats)
    pages = tables.raw.pages
    if pages is not None:
      pages, counts = page_table.table(pages, self.schema)
      stats["notes"] = stats["notes"] | counts
    return Prepared(
      self.schema,
      calendar,
      users,
      people.splits(),
      tables.rejects,
      stats,
      found.bytes + sum(a.nbytes for a in (*profile, tables.span)),
      found if self.spill else None,
      pages,
      tables.raw.sessions,
      self.tables.activity if hasattr(self.tables.activity, "write") else None,
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

  def _vocabularies(self, table, columns, train, user=None):
    """Fitted fields of a small table; `user` [R] where rows are users'."""
    counts = self._counts(table, user is not None)
    counts.add(columns, train, user)
    return self._counted(table, counts)

  def _counts(self, table: str, of_users: bool) -> fit.Counts:
    least = self.k_anonymous if of_users else 0
    return fit.Counts(getattr(self.schema, table), least_users=least)

  def _counted(self, table: str, counts: fit.Counts):
    fields, self.unknown[table] = counts.fitted(self.fits)
    if counts.withheld:
      self.withheld[table] = counts.withheld
    for name, short in counts.short.items():
      self.inexact[name] = {"count_short_by": short}
    return fields

  def _scalers(self, table, fields, numeric, train):
    fields, outside = fit.scalers(fields, numeric, train)
    if outside:
      entries = {n: (count, len(numeric)) for n, count in outside.items()}
      self.beyond.setdefault(table, {}).update(entries)
    return fields

  def _activity(self) -> spill_lib.Encoded:
    """Fits the activity's fields and encodes its rows, a piece at a time."""
    fields = self._first_fit()
    fields, composites = self._fit_composites(fields)
    return self._encoded(fields, composites)

  def _train(self, user: np.ndarray, day: np.ndarray) -> np.ndarray:
    return self.people.train[user] & (day < self.schema.train_until)

  def _chosen(self, rows: clean_lib.Rows) -> np.ndarray | None:
    """Positions of the events to fit on; None where nothing is fitted."""
    train = self._train(rows.user, rows.day)
    return self._rows(train & ~self._held_out(rows.user))

  def _first_fit(self) -> tuple[schema_lib.Field, ...]:
    """Fits what needs one look at the events: vocabularies and bins."""
    fields, schema = self.schema.activity, self.schema
    fresh = lambda: phases.First(fields, self.k_anonymous)
    total = fresh()
    for found in self.tables.activity.each(self._first, fresh):
      total.merge(found)
    if self.fits and not total.some:
      raise InputError(
        "no activity row of a training user before train_until = day "
        f"{schema.train_until}; the data span days {schema.first_day} to "
        f"{schema.last_day - 1}"
      )
    fields = self._counted("activity", total.counts)
    if self.fits:
      fields = tuple(
        derive.fit_bins(f, total.numbers[f.name])
        if f.name in total.numbers
        else f
        for f in fields
      )
    for name, x in total.numbers.items():
      if x.rank_error:
        self.inexact[name] = {"rank_error": x.rank_error, "rows": x.count}
    self.beyond["activity"] = {n: (c, 0) for n, c in total.beyond.items()}
    return fields

  def _first(self, rows: clean_lib.Rows) -> phases.First:
    found = phases.First(self.schema.activity, self.k_anonymous)
    train = self._train(rows.user, rows.day)
    found.add(rows, self._chosen(rows), bool(train.any()))
    return found

  def _with_parts(self, fields, rows: clean_lib.Rows) -> dict:
    """Columns of a piece, with ids of bins and of parts of the time."""
    columns = dict(rows.columns)
    derive.fill_parts(
      fields,
      columns,
      lambda f: derive.clock_ids(
        f, rows.user, rows.time, rows.local, self._epoch_day()
      ),
    )
    return columns

  def _fit_composites(self, fields):
    """The fields with tokens, and counts of them."""
    stats, out = {}, list(fields)
    composites = [f for f in fields if isinstance(f, schema_lib.Composite)]
    if not self.fits or not composites:
      return fields, stats
    fresh = lambda: phases.Tokens(composites, self.k_anonymous)
    total = fresh()
    for found in self.tables.activity.each(
      self._products, fresh, fields, composites
    ):
      total.merge(found)
    parts = derive.Parts(fields, {})
    for i, f in enumerate(fields):
      if f in composites:
        found = total.products[f.name]
        out[i], stats[f.name] = derive.fit_composite(parts.products(f), found)
        if found.short:
          self.inexact[f.name] = {"count_short_by": found.short}
    return tuple(out), stats

  def _products(self, rows, fields, composites) -> phases.Tokens:
    found = phases.Tokens(composites, self.k_anonymous)
    chosen = self._chosen(rows)
    parts = derive.Parts(fields, self._with_parts(fields, rows))
    for f in composites:
      some = [p.take(chosen) for p in parts.of(f)]
      numbers = parts.products(f).numbers(some)
      found.products[f.name].add(numbers, rows.user.take(chosen))
    return found

  def _encoded(self, fields, composites) -> spill_lib.Encoded:
    """All rows with fitted fields; fits the scales of numbers."""
    daily, scaled = self.schema.rows == "day", fields
    if daily:
      scaled = days_lib.day_fields(fields)
      self.schema = dataclasses.replace(self.schema, events=fields)
    if daily and not self.fits:  # The same fields, with their scales.
      scaled = self.fitted.schema.activity
    stored = spill_lib.Encoded(self.spill and self.spill.folder, composites)
    total = fit.Scales(scaled)
    fresh, arguments = lambda: phases.Piece(scaled), (fields, scaled, stored)
    for found in self.tables.activity.each(
      self._encode, fresh, *arguments, last=True
    ):
      total.merge(found.scales)
      stored.note(found)
    if total.outside:
      entries = {n: (c, total.rows) for n, c in total.outside.items()}
      self.beyond["activity"].update(entries)
    for name, (count, rows) in self.beyond["activity"].items():
      self.beyond["activity"][name] = count, rows or stored.events
    self.schema = dataclasses.replace(self.schema, activity=total.fitted())
    return stored

  def _encode(self, rows, fields, scaled, stored) -> phases.Piece:
    """Encodes a piece and keeps it."""
    columns = self._with_parts(fields, rows)
    counts = derive.fill_composites(fields, columns)
    out = {"user": rows.user, "day": rows.day}
    if self.schema.rows == "event":
      out["time"] = rows.time
    categorical, numeric = encode.matrices(fields, columns, len(rows.user))
    out |= {"categorical": categorical, "numeric": numeric}
    chosen = None
    if self.schema.rows == "day":
      out = days_lib.day_rows(fields, out)
      chosen = self._rows(self._train(out["user"], out["day"]))
    elif self.fits:
      chosen = self._chosen(rows)
    stored.keep(rows, out)
    found = phases.Piece(scaled)
    found.add(rows, out, counts, chosen)
    return found

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
    fields = self._vocabularies("profile", rows.columns, train, rows.user)
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
