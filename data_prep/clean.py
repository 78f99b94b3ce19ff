"""Step 2: raw tables -> usable rows in their order, as numpy columns.

The big activity table loses bad rows: each goes to the rejects with a
reason. Profile, calendar, labels and splits are small and the user's own: what is
wrong there is an error to correct, but for rows that speak of users or groups
that are not there.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from lumos_jax.data import schema as schema_lib

from . import columns as columns_lib
from . import encode, order, people, side_tables, times
from . import inputs as inputs_lib
from . import rejects as rejects_lib
from .inputs import InputError, Inputs

_INT32 = np.iinfo(np.int32)


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of a table.

  Attributes:
    user: int32 [R], position in `People.keys`.
    columns: Of the fields that are made from one column.
    time: int64 [R] microseconds since the epoch, activity only.
    local: int64 [R], the same of the local clock.
    labels: {label of events: value float32 [R], NaN for none, and day from which
      on it is known, int32 [R]}.
    outcomes: user, id, time, value, event, known [L], sorted: labels of the
      piece's users.
    members: int32 [m], ascending, the users of a piece; None for all.
    number: Of the piece, in the order of records.
  """

  user: np.ndarray
  columns: Mapping[str, encode.Column]
  time: np.ndarray | None = None
  local: np.ndarray | None = None
  labels: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(
    default_factory=dict
  )
  outcomes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  members: np.ndarray | None = None
  number: int = 0

  @property
  def day(self) -> np.ndarray:
    """int32 [R] local days since the epoch."""
    return (self.local // times.DAY).astype(np.int32)


class Whole:
  """The activity's rows in memory, as one piece.

  Attributes:
    read: Rows before cleaning.
    first: int32 [U], each user's first day with an event, NO_TIME for none.
  """

  def __init__(self, rows: Rows, read: int, users: int):
    self.rows, self.read = rows, read
    self.first = np.full(users, encode.NO_TIME, np.int32)
    note_first(self.first, rows)

  def each(self, phase: Callable, fresh: Callable, *arguments, last=False):
    """What a step of the engine finds in the rows."""
    del fresh, last
    yield phase(self.rows, *arguments)


def note_first(first: np.ndarray, rows: Rows) -> None:
  """Notes the first day [U] of the users of a piece."""
  start = np.flatnonzero(np.diff(rows.user, prepend=-1))
  first[rows.user[start]] = rows.day[start]


@dataclasses.dataclass
class Clean:
  """All tables, cleaned.

  Attributes:
    raw: What they were made from, with the schema's span filled in.
    people: The users.
    activity: `Whole` or `spill.Spilled`: pieces of rows by user and time
      (order.py), each with all rows of some users.
    profile: A row a user who has one; None where the schema has no such fields.
    calendar: None where there is no calendar table.
    groups: user [G], group [G], sorted by user; positions in group names.
    labels: With their values.
    span: int32 [U, 3].
    entries: How many users enter by what, see side_tables.span.
    rejects: Rows that could not be used.
    notes: Counts for stats.json.
  """

  raw: Inputs
  people: people.People
  activity: Any
  profile: Rows | None
  calendar: side_tables.Entries | None
  groups: dict[str, np.ndarray]
  labels: tuple[schema_lib.Label, ...]
  span: np.ndarray
  entries: dict[str, int]
  rejects: rejects_lib.Rejects
  notes: dict[str, int]


def clean(
  raw: Inputs,
  absent: Sequence[str] = (),
  group_names: Sequence[str] = ("",),
  spill=None,
  salt: bytes | None = None,
) -> Clean:
  """Cleans all tables.

  Args:
    raw: Of a source; `schema.activity` holds the fields of event rows.
    absent: Tables that may be absent though the schema has fields of them.
    group_names: Groups of the calendar to use where there is no such table.
    spill: A `spill.Spill` to keep the activity in, in pieces; None for memory.
    salt: Key of hashed ids; None for ids as they stand.

  Raises:
    InputError: A table cannot be used; names file, column and row.
  """
  inputs_lib.check(raw, absent)
  _check_zones(raw)
  rejects = rejects_lib.Rejects(spill and spill.folder, salt)
  notes = dict(raw.notes)
  chosen = _chosen(raw)
  if spill is None:
    # Streaming touches a third less memory: a table's worth of page faults.
    frame = chosen.collect(engine="streaming")
    frame = columns_lib.text_keys(frame, raw.where("activity"))
    read = len(frame)
    raw = with_span(raw, frame.lazy(), notes)
    frame = usable(raw, frame, rejects)
    _some_usable(raw, len(frame), rejects)
    keys = columns_lib.coded(frame["key"], raw.where("activity"))
    found = keys.values
  else:
    raw = with_span(raw, chosen, notes)
    found = spill.keys(raw, chosen)
  profile = _profile_frame(raw, rejects)
  users = people.People(raw, found, profile, salt)
  calendar = side_tables.calendar(raw, notes)
  if calendar is not None:
    group_names = calendar.group_names
  outcomes = side_tables.labels(raw, users, rejects, notes)
  if spill is None:
    rows = piece(raw, frame, users.lookup(keys), rejects)
    del frame
    activity = Whole(outcomes.of(rows), read, len(users.keys))
  else:
    activity = spill.rows(raw, chosen, users, rejects, outcomes)
    _some_usable(raw, activity.usable, rejects)
  span, entries = side_tables.span(raw, users, rejects, activity.first)
  return Clean(
    raw=raw,
    people=users,
    activity=activity,
    profile=_profile(raw, profile, users, rejects),
    calendar=calendar,
    groups=side_tables.membership(raw, group_names, users, rejects),
    labels=outcomes.declared,
    span=span,
    entries=entries,
    rejects=rejects,
    notes=notes,
  )


def _some_usable(raw: Inputs, rows: int, rejects) -> None:
  if not rows:
    raise InputError(
      f"{raw.where('activity')}: no usable row; rejected: "
      f"{dict(rejects.counts['activity'])}"
    )


def _check_zones(raw: Inputs) -> None:
  """Refuses times with zone beside times without, unless a zone is given."""
  if raw.time_zone:
    return
  seen = {}
  places = [("activity", "time"), ("calendar", "start"), ("labels", "time")]
  places += [
    ("activity", f.name)
    for f in raw.schema.activity
    if isinstance(f, schema_lib.Timestamp) and not f.time_zone
  ]
  for table, name in places:
    frame = getattr(raw, table)
    if frame is None or name not in frame.collect_schema():
      continue
    zoned = times.has_zone(frame, name)
    if zoned is not None:
      seen.setdefault(zoned, f"{raw.where(table)}: column {name!r}")
  if len(seen) == 2:
    raise InputError(
      f"{seen[False]} has times without zone, {seen[True]} has times with a "
      'zone: say how to read the former with time_zone="Europe/Paris" or "UTC"'
    )


def _chosen(raw: Inputs) -> pl.LazyFrame:
  """The activity's columns that are used, not read yet.

  Columns: key, _time, _local (int64), _below and _order where there are such,
  and the fields.
  """
  at = side_tables.moment(raw, "activity", raw.activity, "time")
  extra = {"_time": at.instant, "_local": at.local}
  if at.below is not None:
    extra["_below"] = at.below
  if raw.order:
    extra["_order"] = pl.col(raw.order).cast(pl.Int64)
  fields = [
    _activity_column(raw, f)
    for f in raw.schema.activity
    if schema_lib.column(f)
  ]
  extra |= side_tables.event_labels(raw)
  return raw.activity.select("key", *fields, **extra)


_DAY = pl.col("_local").floordiv(times.DAY)


def in_time(raw: Inputs, frame):
  """The rows before `until`, numbered as in the raw table."""
  if raw.until is None:
    return frame
  until = times.day_number(raw.until, raw.schema.epoch)
  if rejects_lib.ROW not in frame.collect_schema():
    frame = frame.with_row_index(rejects_lib.ROW)
  return frame.filter((_DAY < until).fill_null(True))


def checks(raw: Inputs, dtypes: Mapping[str, pl.DataType]):
  """Why a row of the activity cannot be used, by its own values."""
  schema = raw.schema
  out = [
    *columns_lib.key_checks(dtypes),
    (pl.col("_time").is_null(), "null or unreadable time"),
    (
      (_DAY < schema.first_day) | (_DAY >= schema.last_day),
      "outside the days of the data",
    ),
  ]
  for f in schema.activity:
    if not isinstance(f, schema_lib.Numeric):
      continue
    x = pl.col(f.name)
    if not f.nullable:
      out.append((x.is_null(), f"null in {f.name}"))
    if dtypes[f.name].is_float():
      bad = x.is_infinite() if f.nullable else ~x.is_finite()
      out.append((bad, f"NaN or infinite in {f.name}"))
  return out


def usable(raw: Inputs, frame: pl.DataFrame, rejects) -> pl.DataFrame:
  """The rows that can be used by their own values."""
  frame = in_time(raw, frame)
  found = checks(raw, frame.schema)
  return rejects.split("activity", frame, found)[0]


def _activity_column(raw: Inputs, field) -> pl.Expr:
  if isinstance(field, schema_lib.Timestamp):
    zone = field.time_zone or raw.time_zone
    where = raw.where("activity")
    return times.local(raw.activity, field.name, zone, where).alias(field.name)
  return pl.col(schema_lib.column(field)).alias(field.name)


def with_span(raw: Inputs, chosen: pl.LazyFrame, notes) -> Inputs:
  """Fills in the schema's span from the data; counts what is too late."""
  schema, where = raw.schema, raw.where("activity")
  until, late = None, pl.lit(False)
  if raw.until is not None:
    until = times.day_number(raw.until, schema.epoch)
    late = (_DAY >= until).fill_null(False)
  day = _DAY.filter(~late)
  count, low, high = (
    chosen.select(late=late.sum(), low=day.min(), high=day.max())
    .collect(engine="streaming")
    .row(0)
  )
  if until is not None:
    if count:
      notes[f"activity rows from day {until} on, left out"] = count
    schema = dataclasses.replace(
      schema, train_until=min(schema.train_until, until)
    )
    if schema.last_day > schema.first_day:
      schema = dataclasses.replace(schema, last_day=min(schema.last_day, until))
  if low is None:
    raise InputError(f"{where}: no row has a readable time")
  if not schema.last_day > schema.first_day:
    schema = dataclasses.replace(schema, first_day=low, last_day=high + 1)
  first, last = schema.first_day, schema.last_day
  if not _INT32.min < first <= last <= _INT32.max:
    raise InputError(
      f"{where}: times span days {first}..{last} since the epoch "
      f"{schema.epoch!r}, too far for 32 bits: move the epoch"
    )
  return dataclasses.replace(raw, schema=schema)


def of_users(frame: pl.DataFrame, user: np.ndarray, rejects):
  """The rows of known users, and the users [R]."""
  if (user < 0).any():
    found = [rejects_lib.mask(user < 0, "user not in the data")]
    frame, keep = rejects.split("activity", frame, found)
    user = user[keep]
  return frame, user


def piece(raw: Inputs, frame, user: np.ndarray, rejects) -> Rows:
  """Rows of known users, in order."""
  frame, user = of_users(frame, user, rejects)
  where = raw.where("activity")
  columns = columns_lib.columns(frame, raw.schema.activity, where)
  keys = ["_time", *(k for k in ("_below", "_order") if k in frame.columns)]
  keys = [frame[k].fill_null(0).to_numpy() for k in keys]
  local = frame["_local"].to_numpy()
  labels = side_tables.of_events(raw.schema, frame, local)
  del frame  # The table is long.
  place = order.of_rows(user, keys, columns)
  if place is None:
    return Rows(user, columns, keys[0], local, labels)
  columns = {n: columns_lib.taken(c, place) for n, c in columns.items()}
  labels = {n: (v[place], k[place]) for n, (v, k) in labels.items()}
  return Rows(user[place], columns, keys[0][place], local[place], labels)


def _profile_frame(raw: Inputs, rejects) -> pl.DataFrame | None:
  """The profile table, checked: one row a user, finite numbers."""
  if raw.profile is None:
    return None
  where = raw.where("profile")
  frame = columns_lib.text_keys(raw.profile, where)
  for f in raw.schema.profile:
    if isinstance(f, schema_lib.Numeric):
      columns_lib.finite(frame, f, where)
  frame, _ = rejects.split(
    "profile", frame, columns_lib.key_checks(frame.schema)
  )
  columns_lib.no_duplicates(frame, where)
  return frame


def _profile(raw: Inputs, frame, users: people.People, rejects) -> Rows | None:
  fields = raw.schema.profile
  if not fields:
    return None
  if frame is None:
    frame = pl.DataFrame(
      {"key": [], **{schema_lib.column(f): [] for f in fields}}
    ).cast({"key": pl.String})
  frame, user = side_tables.known(raw, "profile", frame, users, rejects)
  columns = columns_lib.columns(frame, fields, raw.where("profile"))
  return Rows(user, columns)
