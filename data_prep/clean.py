"""Step 2: raw tables -> usable rows in their order, as numpy columns.

The big activity table loses bad rows: each goes to the rejects with a
reason. Profile, calendar, labels and splits are small and the user's own: what is
wrong there is an error to correct, but for rows that speak of users or groups
that are not there.
"""

import dataclasses
from collections.abc import Mapping, Sequence

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
  """

  user: np.ndarray
  columns: Mapping[str, encode.Column]
  time: np.ndarray | None = None
  local: np.ndarray | None = None
  labels: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(
    default_factory=dict
  )

  @property
  def day(self) -> np.ndarray:
    """int32 [R] local days since the epoch."""
    return (self.local // times.DAY).astype(np.int32)


@dataclasses.dataclass
class Clean:
  """All tables, cleaned.

  Attributes:
    raw: What they were made from, with the schema's span filled in.
    people: The users.
    activity: Rows by user and time (order.py).
    read: Rows of the activity before cleaning.
    profile: A row a user who has one; None where the schema has no such fields.
    calendar: None where there is no calendar table.
    groups: user [G], group [G], sorted by user; positions in group names.
    labels: user, id, time, value, event, known [L], sorted; and the labels with
      their values.
    span: int32 [U, 3].
    entries: How many users enter by what, see side_tables.span.
    rejects: Rows that could not be used.
    notes: Counts for stats.json.
  """

  raw: Inputs
  people: people.People
  activity: Rows
  read: int
  profile: Rows | None
  calendar: side_tables.Entries | None
  groups: dict[str, np.ndarray]
  labels: tuple[dict[str, np.ndarray], tuple[schema_lib.Label, ...]]
  span: np.ndarray
  entries: dict[str, int]
  rejects: rejects_lib.Rejects
  notes: dict[str, int]


def clean(
  raw: Inputs, absent: Sequence[str] = (), group_names: Sequence[str] = ("",)
) -> Clean:
  """Cleans all tables.

  Args:
    raw: Of a source; `schema.activity` holds the fields of event rows.
    absent: Tables that may be absent though the schema has fields of them.
    group_names: Groups of the calendar to use where there is no such table.

  Raises:
    InputError: A table cannot be used; names file, column and row.
  """
  inputs_lib.check(raw, absent)
  _check_zones(raw)
  rejects, notes = rejects_lib.Rejects(), dict(raw.notes)
  frame, read, raw = _usable(raw, rejects, notes)
  profile = _profile_frame(raw, rejects)
  keys = columns_lib.coded(frame["key"], raw.where("activity"))
  users = people.People(raw, keys.values, profile)
  calendar = side_tables.calendar(raw, notes)
  if calendar is not None:
    group_names = calendar.group_names
  activity = _activity(raw, frame, users.lookup(keys), rejects)
  span, entries = side_tables.span(
    raw, users, rejects, activity.user, activity.day
  )
  return Clean(
    raw=raw,
    people=users,
    activity=activity,
    read=read,
    profile=_profile(raw, profile, users, rejects),
    calendar=calendar,
    groups=side_tables.membership(raw, group_names, users, rejects),
    labels=side_tables.labels(raw, users, rejects, notes, activity),
    span=span,
    entries=entries,
    rejects=rejects,
    notes=notes,
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


def _usable(raw: Inputs, rejects, notes) -> tuple[pl.DataFrame, int, Inputs]:
  """The activity's usable rows, how many were read, and the schema's span.

  Columns: key, _time, _local (int64), _below and _order where there are such,
  and the fields.
  """
  where = raw.where("activity")
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
  chosen = raw.activity.select("key", *fields, **extra)
  # Streaming touches a third less memory: a table's worth of page faults.
  frame = chosen.collect(engine="streaming")
  frame = columns_lib.text_keys(frame, where)
  read = len(frame)
  raw, frame = _with_span(raw, frame, notes)
  schema, day = raw.schema, pl.col("_local").floordiv(times.DAY)
  checks = [
    *columns_lib.key_checks(frame),
    (pl.col("_time").is_null(), "null or unreadable time"),
    (
      (day < schema.first_day) | (day >= schema.last_day),
      "outside the days of the data",
    ),
  ]
  for f in schema.activity:
    if not isinstance(f, schema_lib.Numeric):
      continue
    x = pl.col(f.name)
    if not f.nullable:
      checks.append((x.is_null(), f"null in {f.name}"))
    if frame[f.name].dtype.is_float():
      bad = x.is_infinite() if f.nullable else ~x.is_finite()
      checks.append((bad, f"NaN or infinite in {f.name}"))
  frame, _ = rejects.split("activity", frame, checks)
  if not len(frame):
    raise InputError(
      f"{where}: no usable row; rejected: {dict(rejects.counts['activity'])}"
    )
  return frame, read, raw


def _activity_column(raw: Inputs, field) -> pl.Expr:
  if isinstance(field, schema_lib.Timestamp):
    zone = field.time_zone or raw.time_zone
    where = raw.where("activity")
    return times.local(raw.activity, field.name, zone, where).alias(field.name)
  return pl.col(schema_lib.column(field)).alias(field.name)


def _with_span(raw: Inputs, frame, notes) -> tuple[Inputs, pl.DataFrame]:
  """Fills in the schema's span from the data; leaves out what is too late."""
  schema, where = raw.schema, raw.where("activity")
  day = frame.select(pl.col("_local").floordiv(times.DAY)).to_series()
  if raw.until is not None:
    until = times.day_number(raw.until, schema.epoch)
    late = (day >= until).fill_null(False)
    if late.any():
      notes[f"activity rows from day {until} on, left out"] = int(late.sum())
      # Rejects name rows of the raw table.
      frame = frame.with_row_index(rejects_lib.ROW).filter(~late)
      day = day.filter(~late)
    schema = dataclasses.replace(
      schema, train_until=min(schema.train_until, until)
    )
    if schema.last_day > schema.first_day:
      schema = dataclasses.replace(schema, last_day=min(schema.last_day, until))
  low, high = day.min(), day.max()
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
  return dataclasses.replace(raw, schema=schema), frame


def _activity(raw: Inputs, frame, user: np.ndarray, rejects) -> Rows:
  """Rows of known users, in order."""
  if (user < 0).any():
    checks = [rejects_lib.mask(user < 0, "user not in the data")]
    frame, keep = rejects.split("activity", frame, checks)
    user = user[keep]
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
  frame, _ = rejects.split("profile", frame, columns_lib.key_checks(frame))
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
