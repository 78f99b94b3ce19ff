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
from .inputs import InputError, Inputs


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
      *columns_lib.key_checks(frame),
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


def labels(
  raw: Inputs,
  users: people.People,
  rejects: rejects_lib.Rejects,
  notes: dict[str, int],
) -> tuple[dict[str, np.ndarray], tuple[schema_lib.Label, ...]]:
  """user, id, time, value [L], sorted; and the labels with values and days."""
  declared = tuple(_with_day(raw, label) for label in raw.schema.labels)
  empty = {
    "user": np.int32,
    "id": np.int32,
    "time": np.int32,
    "value": np.float32,
  }
  if raw.labels is None or not declared:
    return {k: np.zeros(0, d) for k, d in empty.items()}, declared
  frame, user = known(raw, "labels", raw.labels, users, rejects)
  time = np.full(len(frame), encode.NO_TIME, np.int32)
  if "time" in frame.columns:
    day = _days(raw, "labels", frame, "time").fill_null(encode.NO_TIME)
    time = day.to_numpy().astype(np.int32)
  if raw.until is not None:
    until = times.day_number(raw.until, raw.schema.epoch)
    keep = time < until
    if left := int((~keep).sum()):
      notes[f"labels from day {until} on, left out"] = left
    frame, user, time = frame.filter(pl.Series(keep)), user[keep], time[keep]
  table = columns_lib.labels(frame, declared, raw.where("labels"))
  _, keep = rejects.split("labels", frame, table.checks)
  out = {
    "user": user[keep],
    "id": table.ids[keep],
    "time": time[keep],
    "value": table.values[keep],
  }
  place = np.lexsort((out["value"], out["time"], out["id"], out["user"]))
  return {k: v[place] for k, v in out.items()}, table.labels


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
  user: np.ndarray,
  day: np.ndarray,
) -> tuple[np.ndarray, dict[str, int]]:
  """When each user is at risk, and until when it was observed.

  A user is in the data because it acts some day: before that, nobody would have
  known of it. So it enters on the day after its first event unless a day is
  declared; without either, when the data end.

  Args:
    raw: With the schema's span.
    users: U of them.
    rejects: Takes rows of other users.
    user: int [R], ascending, of the activity's usable rows.
    day: int [R], of the same rows, ascending for each user.

  Returns:
    int32 [U, 3], day of entry, of exit, and until when observed; and how many
    users enter by what.
  """
  s, count = raw.schema, len(users.keys)
  out = np.full((count, 3), s.last_day, np.int32)
  first = np.flatnonzero(np.diff(user, prepend=-1))
  acting = user[first]
  out[acting, 0] = day[first] + 1
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
  by_event = np.zeros(count, bool)
  by_event[acting] = True
  by_event &= ~declared
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
