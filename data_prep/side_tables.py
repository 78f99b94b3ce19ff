"""The tables beside the activity: calendar, membership, labels and spans."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import schema as schema_lib

from . import columns as columns_lib
from . import encode, people, times
from . import rejects as rejects_lib
from .inputs import InputError, Inputs, missing_column


@dataclasses.dataclass(frozen=True)
class Entries:
  """The calendar's entries, as `calendar_lib.Calendar` takes them."""

  group_names: list[str]
  group: np.ndarray
  start: np.ndarray
  end: np.ndarray
  announced: np.ndarray
  columns: Mapping[str, encode.Column]


def moment(raw: Inputs, table: str, frame, name: str) -> times.Moment:
  """Reads a time column of a table."""
  return times.moment(
    frame, name, raw.time_zone, raw.schema.epoch, raw.where(table)
  )


def _days(raw: Inputs, table: str, frame: pl.DataFrame, name: str) -> pl.Series:
  """A time column as int64 local days since the epoch."""
  day = moment(raw, table, frame, name).day
  return frame.select(day.alias(name)).to_series()


def known(raw: Inputs, table: str, frame, users: people.People, rejects):
  """Rows of users that are in the data set, and the users' positions."""
  frame = columns_lib.text_keys(frame, raw.where(table))
  user = users.positions(table, frame["key"])
  if (user < 0).any():
    checks = [
      *columns_lib.key_checks(frame.schema),
      rejects_lib.mask(user < 0, "user not in the data"),
    ]
    frame, keep = rejects.split(table, frame, checks)
    user = user[keep]
  return frame, user


def calendar(raw: Inputs, notes: dict[str, int]) -> Entries | None:
  """The calendar's entries; None where there is no such table."""
  frame, where = raw.calendar, raw.where("calendar")
  if frame is None:
    return None
  start, end = (_days(raw, "calendar", frame, c) for c in ("start", "end"))
  bad = (start.is_null() | end.is_null() | (end <= start)).fill_null(True)
  if bad.any():
    row = int(bad.arg_true()[0])
    raise InputError(
      f"{where}: row {row} lasts from {frame['start'][row]} to "
      f"{frame['end'][row]}: both days are needed, and the end is exclusive"
    )
  always = calendar_lib.ALWAYS_KNOWN
  announced = np.full(len(frame), always, np.int32)
  if "announced" in frame.columns:
    day = _days(raw, "calendar", frame, "announced").fill_null(always)
    announced = day.to_numpy().astype(np.int32)
  keep = np.ones(len(frame), bool)
  if raw.until is not None:
    until = times.day_number(raw.until, raw.schema.epoch)
    keep = announced <= until
    if left := int((~keep).sum()):
      notes[f"calendar entries announced after day {until}, left out"] = left
    frame, announced = frame.filter(pl.Series(keep)), announced[keep]
  names, group = [""], np.zeros(len(frame), np.int32)
  if "group" in frame.columns:
    coded = columns_lib.coded(frame["group"], where)
    names += list(coded.values)
    ids = [*range(1, len(names)), calendar_lib.EVERYONE]
    group = np.asarray(ids, np.int32)[coded.codes]
  for f in raw.schema.calendar:
    if isinstance(f, schema_lib.Numeric):
      columns_lib.finite(frame, f, where)
  return Entries(
    names,
    group,
    start.to_numpy()[keep],
    end.to_numpy()[keep],
    announced,
    columns_lib.columns(frame, raw.schema.calendar, where),
  )


def membership(
  raw: Inputs,
  names: Sequence[str],
  users: people.People,
  rejects: rejects_lib.Rejects,
) -> dict[str, np.ndarray]:
  """Who is in which group: user [G], group [G] (position in `names`)."""
  empty = np.zeros(0, np.int32)
  if raw.membership is None:
    return {"user": empty, "group": empty}
  frame, user = known(raw, "membership", raw.membership, users, rejects)
  coded = columns_lib.coded(frame["group"], raw.where("membership"))
  at = {n: i for i, n in enumerate(names) if n}
  lookup = np.asarray([at.get(v, -1) for v in coded.values] + [-1], np.int32)
  group = lookup[coded.codes]
  checks = [rejects_lib.mask(group < 0, "no calendar entry of this group")]
  _, keep = rejects.split("membership", frame, checks)
  pairs = np.unique(np.stack([user[keep], group[keep]], 1), axis=0)
  return {"user": pairs[:, 0], "group": pairs[:, 1]}


_LABELS = {
  "user": np.int32,
  "id": np.int32,
  "time": np.int32,
  "value": np.float32,
  "event": np.int32,
  "known": np.int32,
}


class Outcomes:
  """Labels: rows of the labels table, and those of the activity's events.

  Attributes:
    declared: The labels, with values and days.
    raw: With the schema's span.
    notes: Takes counts.
  """

  def __init__(self, raw: Inputs, declared, of_table, notes: dict[str, int]):
    self.raw, self._fitted, self._table = raw, declared, of_table
    self.notes = notes
    self.declared = tuple(
      dataclasses.replace(x, known_at=True if _tells(raw, x) else None)
      for x in declared
    )

  def of(self, rows):
    """The piece `rows` (clean.Rows, in order) with its users' labels."""
    mine = self._table
    if rows.members is not None:
      keep = np.isin(mine["user"], rows.members)
      mine = {k: v[keep] for k, v in mine.items()}
    parts = [mine, *_of_activity(self.raw, self._fitted, rows, self.notes)]
    out = {k: np.concatenate([p[k] for p in parts]) for k in _LABELS}
    out = {k: v.astype(_LABELS[k]) for k, v in out.items()}
    names = ("known", "value", "event", "time", "id", "user")
    place = np.lexsort([out[n] for n in names])
    outcomes = {k: v[place] for k, v in out.items()}
    return dataclasses.replace(rows, outcomes=outcomes, labels={})


def labels(
  raw: Inputs,
  users: people.People,
  rejects: rejects_lib.Rejects,
  notes: dict[str, int],
) -> Outcomes:
  """The labels of a data set.

  Args:
    raw: With the schema's span.
    users: Of the data set.
    rejects: Takes rows that cannot be used.
    notes: Takes counts.
  """
  declared = tuple(_with_day(raw, label) for label in raw.schema.labels)
  of_users, fitted = _of_users(raw, declared, users, rejects, notes)
  return Outcomes(raw, fitted, of_users, notes)


def _tells(raw: Inputs, label: schema_lib.Label) -> bool:
  """Whether rows of a label say from when on they are known."""
  if label.level == "event":
    names = raw.activity.collect_schema().names()
    return f"{label.name}_known_at" in names
  return raw.labels is not None and "known_at" in raw.labels.columns


def _of_users(raw, declared, users, rejects, notes):
  """Rows of the labels table, and the labels with their values."""
  if raw.labels is None or not declared:
    return {k: np.zeros(0, d) for k, d in _LABELS.items()}, declared
  frame, user = known(raw, "labels", raw.labels, users, rejects)
  time = np.full(len(frame), encode.NO_TIME, np.int32)
  if "time" in frame.columns:
    day = _days(raw, "labels", frame, "time").fill_null(encode.NO_TIME)
    time = day.to_numpy().astype(np.int32)
  known_at = np.full(len(frame), encode.NO_TIME, np.int32)
  if "known_at" in frame.columns:
    day = _days(raw, "labels", frame, "known_at").fill_null(encode.NO_TIME)
    known_at = day.to_numpy().astype(np.int32)
  until = None
  if raw.until is not None:
    until = times.day_number(raw.until, raw.schema.epoch)
    keep = time < until
    if left := int((~keep).sum()):
      notes[f"labels from day {until} on, left out"] = left
    frame = frame.filter(pl.Series(keep))
    user, time, known_at = user[keep], time[keep], known_at[keep]
  table = columns_lib.labels(frame, declared, raw.where("labels"))
  of_event = np.asarray([x.level == "event" for x in declared] + [False])
  why = "a label of events, which a column of the activity gives"
  checks = [*table.checks, rejects_lib.mask(of_event[table.ids], why)]
  _, keep = rejects.split("labels", frame, checks)
  delay = np.asarray([x.delay_days or 0 for x in declared] + [0], np.int32)
  late = np.where(time == encode.NO_TIME, time, time + delay[table.ids])
  known_at = np.where(known_at == encode.NO_TIME, late, known_at)
  if until is not None:
    unknown = keep & (known_at > until)
    if left := int(unknown.sum()):
      notes[f"labels known after day {until}, left out"] = left
    keep &= ~unknown
  return {
    "user": user[keep],
    "id": table.ids[keep],
    "time": time[keep],
    "value": table.values[keep],
    "event": np.full(int(keep.sum()), -1, np.int32),
    "known": known_at[keep],
  }, table.labels


def event_labels(raw: Inputs) -> dict[str, pl.Expr]:
  """Columns "_label:NAME" and "_known:NAME" of labels of events."""
  names = raw.activity.collect_schema().names()
  out: dict[str, pl.Expr] = {}
  for label in raw.schema.labels:
    if label.level != "event":
      continue
    where = raw.where("activity")
    if raw.schema.rows != "event":
      raise InputError(
        f"label {label.name!r} is of events, and rows are days: set rows='event'"
      )
    if label.name not in names:
      raise missing_column(where, label.name, names, "a label of events")
    value = pl.col(label.name).cast(pl.Float64, strict=False)
    out[f"_label:{label.name}"] = value
    when = f"{label.name}_known_at"
    if when in names:
      day = moment(raw, "activity", raw.activity, when).day
      out[f"_known:{label.name}"] = day
  return out


def of_events(
  schema: schema_lib.Schema, frame: pl.DataFrame, local: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """{label: (value, day known)} of rows, of `event_labels`' columns."""
  out = {}
  for label in schema.labels:
    name = f"_label:{label.name}"
    if name not in frame.columns:
      continue
    value = frame[name].fill_null(float("nan")).to_numpy().astype(np.float32)
    known_at = local // times.DAY + (label.delay_days or 0)
    if f"_known:{label.name}" in frame.columns:
      given = frame[f"_known:{label.name}"].cast(pl.Int64)
      known_at = given.fill_null(pl.Series(known_at)).to_numpy()
    out[label.name] = value, known_at.astype(np.int32)
  return out


def _of_activity(raw: Inputs, declared, activity, notes):
  """Label rows of the activity's labels of events."""
  start = np.searchsorted(activity.user, activity.user)
  event = np.arange(len(activity.user)) - start
  for i, label in enumerate(declared):
    if label.name not in activity.labels:
      continue
    value, known_at = activity.labels[label.name]
    keep = np.isfinite(value)
    if raw.until is not None:
      until = times.day_number(raw.until, raw.schema.epoch)
      late = keep & (known_at > until)
      if left := int(late.sum()):
        what = f"labels known after day {until}, left out"
        notes[what] = notes.get(what, 0) + left
      keep &= ~late
    yield {
      "user": activity.user[keep],
      "id": np.full(int(keep.sum()), i, np.int32),
      "time": activity.day[keep],
      "value": value[keep],
      "event": event[keep],
      "known": known_at[keep],
    }


def _with_day(raw: Inputs, label: schema_lib.Label) -> schema_lib.Label:
  """The label with `observed_until` as a day of the data."""
  day, epoch = label.observed_until, raw.schema.epoch
  if day is None:
    return label
  try:
    day = times.day_number(day, epoch)
  except InputError as e:
    raise InputError(f"label {label.name!r}: observed_until: {e}") from e
  if raw.until is not None:
    day = min(day, times.day_number(raw.until, epoch))
  return dataclasses.replace(label, observed_until=day)


def span(
  raw: Inputs,
  users: people.People,
  rejects: rejects_lib.Rejects,
  first: np.ndarray,
) -> tuple[np.ndarray, dict[str, int]]:
  """When each user is at risk, and until when it was observed.

  A user is in the data because it acts some day: before that, nobody would have
  known of it. So it enters on the day after its first event unless a day is
  declared; without either, when the data end.

  Args:
    raw: With the schema's span.
    users: U of them.
    rejects: Takes rows of other users.
    first: int32 [U], each user's first day with an event, NO_TIME for none.

  Returns:
    int32 [U, 3], day of entry, of exit, and until when observed; and how many
    users enter by what.
  """
  s, count = raw.schema, len(users.keys)
  out = np.full((count, 3), s.last_day, np.int32)
  acting = first != encode.NO_TIME
  out[acting, 0] = first[acting] + 1
  declared = np.zeros(count, bool)
  if raw.span is not None:
    where = raw.where("span")
    frame, at = known(raw, "span", raw.span, users, rejects)
    columns_lib.no_duplicates(frame, where)
    for i, name in enumerate(("enter", "exit", "observed_until")):
      if name not in frame.columns:
        continue
      given = _days(raw, "span", frame, name)
      some = given.is_not_null().to_numpy()
      out[at[some], i] = given.drop_nulls().to_numpy()
      if name == "enter":
        declared[at[some]] = True
  by_event = acting & ~declared
  if raw.until is not None:
    until = times.day_number(raw.until, s.epoch)
    out[:, 1:] = np.minimum(out[:, 1:], until)
  days = np.clip(out[:, 0], s.first_day, s.last_day) - s.first_day
  return out, {
    "declared": int(declared.sum()),
    "after_first_event": int(by_event.sum()),
    "never": int(count - declared.sum() - by_event.sum()),
    "user_days_before": int(days.sum()),
  }
