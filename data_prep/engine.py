"""The embedded engine: Polars tables -> fitted schema, calendar, user records.

Cleans, fits on training rows, encodes. What is stored is decided by fit, encode
and days, which every engine shares.
"""

import dataclasses

import numpy as np
import polars as pl

from data_prep import clean, derive, encode, fit, people, times
from data_prep import columns as columns_lib
from data_prep import days as days_lib
from data_prep import inputs as inputs_lib
from data_prep import rejects as rejects_lib
from data_prep.inputs import InputError, Inputs
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import schema as schema_lib


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
  """

  schema: schema_lib.Schema
  calendar: calendar_lib.Calendar
  users: encode.Users
  splits: dict[str, np.ndarray]
  rejects: rejects_lib.Rejects
  stats: dict


class Engine:
  """One preparation."""

  def __init__(self, raw: Inputs):
    """Checks the tables' columns and collects the usable activity rows."""
    inputs_lib.check(raw)
    clean.check_zones(raw)
    if raw.schema.rows == "day":
      fields = days_lib.needed(raw.schema.activity)
      schema = dataclasses.replace(raw.schema, activity=fields)
      raw = dataclasses.replace(raw, schema=schema)
    self.rejects = rejects_lib.Rejects()
    self.activity, self.usable, self.schema = clean.activity(raw, self.rejects)
    self.activity_read = len(self.activity)
    self.raw = dataclasses.replace(raw, schema=self.schema)
    self.profile = clean.profile(self.raw, self.rejects)
    where = self.raw.where("activity")
    self.keys = columns_lib.coded(self.activity["key"], where)
    users = fit.present(self.keys, self.usable)
    self.people = people.People(self.raw, users, self.profile)
    self.unknown = {}

  def run(self) -> Prepared:
    """Fits and encodes all tables."""
    rows, order = self._activity()
    profile, without = self._profile()
    calendar, groups = self._calendar()
    labels = self._labels()
    users = encode.Users(
      self.people.keys, rows, order, profile, self._span(), groups, labels
    )
    owner = users.row_users()
    active = int(np.count_nonzero(np.bincount(owner)))
    stats = {
      "users": len(users.keys),
      "users_without_activity": len(users.keys) - active,
      "users_without_profile": without,
      "users_without_split": self.people.outside,
      "activity_rows_read": self.activity_read,
      "rows": len(owner),
      "calendar_entries": len(calendar.group),
      "labels": len(labels["id"]),
      "first_day": self.schema.first_day,
      "last_day": self.schema.last_day,
      "rejected": self.rejects.to_json(),
      "unknown_categories": self.unknown,
      "composites": self.composites,
      "notes": dict(self.raw.notes),
    }
    return Prepared(
      self.schema, calendar, users, self.people.splits(), self.rejects, stats
    )

  def _fit_vocabularies(self, table, columns, train, usable=None):
    fields, self.unknown[table] = fit.vocabularies(
      getattr(self.schema, table), columns, train, usable
    )
    return fields

  def _known(self, table, frame):
    """Rows of users that are in the data set, and the users' positions."""
    frame = clean.text_keys(self.raw, table, frame)
    user = self.people.positions(table, frame["key"])
    if (user < 0).any():
      checks = [
        (pl.col("key").is_null(), "null key"),
        rejects_lib.mask(user < 0, "user not in the data"),
      ]
      frame, keep = self.rejects.split(table, frame, checks)
      user = user[keep]
    return frame, user

  def _activity(self):
    frame, usable = self.activity, self.usable
    self.activity = None  # Large; what follows has its own copy.
    user = self.people.lookup(self.keys)
    known = user >= 0
    if usable is not None:
      known |= ~usable  # Noted already.
    if not known.all():
      checks = [rejects_lib.mask(~known, "user not in the data")]
      self.rejects.note("activity", frame, checks)
      usable = user >= 0 if usable is None else usable & (user >= 0)
    time = frame["_time"].to_numpy()
    daily = self.schema.rows == "day"
    day = time if daily else time // times.DAY_SECONDS
    until = self.schema.train_until
    train = self.people.train[user] & (day < until)
    if usable is not None:
      train &= usable
    if not train.any():
      raise InputError(
        f"no activity row of a training user before train_until = day {until}; "
        f"the data span days {self.schema.first_day} to "
        f"{self.schema.last_day - 1}"
      )
    where = self.raw.where("activity")
    columns = columns_lib.columns(frame, self.schema.activity, where)
    del frame
    order = sort_order(user, time, usable)
    train = self._without_held_out(train, user, order)
    fields = self._fit_vocabularies("activity", columns, train, usable)
    fields, self.composites = derive.fill(
      fields, columns, train, usable, time, user, order, self._epoch_day()
    )
    categorical, numeric = encode.matrices(fields, columns, len(user))
    del columns
    rows = {"user": user, "time": time}
    rows |= {"categorical": categorical, "numeric": numeric}
    if daily:
      if order is not None:
        rows = {k: np.take(v, order, axis=0) for k, v in rows.items()}
        order = None
      rows = days_lib.day_rows(fields, rows)
      fields = days_lib.day_fields(fields)
      train = self.people.train[rows["user"]] & (rows["time"] < until)
    fields = fit.scalers(fields, rows["numeric"], train)
    self.schema = dataclasses.replace(self.schema, activity=fields)
    return rows, order

  def _without_held_out(self, train, user, order):
    """Leaves out the last events of each user, as the source asks."""
    count = self.raw.held_out_events
    if not count:
      return train
    at = np.arange(len(user)) if order is None else order
    owner = user[at]
    last = np.searchsorted(owner, owner, side="right")
    held_out = at[np.arange(len(at)) >= last - count]
    train = train.copy()
    train[held_out] = False
    return train

  def _epoch_day(self) -> int:
    """Days from 1970-01-01 to the epoch; 0 where days are relative."""
    if not self.schema.epoch:
      return 0
    return int(np.datetime64(self.schema.epoch, "D").astype(np.int64))

  def _profile(self):
    """What is known of each user, and how many have no row."""
    count, fields = len(self.people.keys), self.schema.profile
    if not fields:
      empty = lambda dtype: np.zeros((count, 0), dtype)
      return (empty(np.int32), empty(np.float32)), 0
    frame, user = self._known("profile", self.profile)
    columns = columns_lib.columns(frame, fields, self.raw.where("profile"))
    train = self.people.train[user]
    fields = self._fit_vocabularies("profile", columns, train)
    found = encode.matrices(fields, columns, len(frame))
    fields = fit.scalers(fields, found[1], train)
    if len(user) < count:  # Who has no row has no numbers.
      fields = fit.nullable(fields)
    categorical = np.full(
      (count, found[0].shape[1]), schema_lib.MISSING, np.int32
    )
    numeric = np.full((count, found[1].shape[1]), np.nan, np.float32)
    categorical[user], numeric[user] = found
    self.schema = dataclasses.replace(self.schema, profile=fields)
    return (categorical, numeric), count - len(np.unique(user))

  def _calendar(self):
    frame, names = self.raw.calendar, [""]
    if frame is None:
      frame = pl.DataFrame({"group": [], "start": [], "end": []}, strict=False)
      frame = frame.cast(
        {"group": pl.String, "start": pl.Int32, "end": pl.Int32}
      )
    raw = dataclasses.replace(self.raw, calendar=frame)
    day = lambda c: frame.select(clean.time_expr(raw, "calendar", c, "days"))
    start, end = (day(c).to_series() for c in ("start", "end"))
    bad = (start.is_null() | end.is_null() | (end <= start)).fill_null(True)
    if bad.any():
      row = int(bad.arg_true()[0])
      raise InputError(
        f"{raw.where('calendar')}: row {row} lasts from {frame['start'][row]} to "
        f"{frame['end'][row]}: both days are needed, and the end is exclusive"
      )
    announced = np.full(len(frame), calendar_lib.ALWAYS_KNOWN, np.int32)
    if "announced" in frame.columns:
      always = calendar_lib.ALWAYS_KNOWN
      announced = day("announced").to_series().fill_null(always).to_numpy()
    group = np.zeros(len(frame), np.int32)
    if "group" in frame.columns:
      coded = columns_lib.coded(frame["group"], raw.where("calendar"))
      names += list(coded.values)
      everyone = calendar_lib.EVERYONE
      ids = np.asarray([*range(1, len(names)), everyone], np.int32)
      group = ids[coded.codes]
    groups = self._membership(names)
    # Only what concerns training users before the fit's end may be learned.
    mine = np.zeros(len(names), bool)
    mine[groups["group"][self.people.train[groups["user"]]]] = True
    mine[calendar_lib.EVERYONE] = True
    start, end = start.to_numpy(), end.to_numpy()
    train = mine[group] & (start < self.schema.train_until)
    for f in self.schema.calendar:
      if isinstance(f, schema_lib.Numeric):
        clean.finite(raw, "calendar", frame, f)
    columns = columns_lib.columns(
      frame, self.schema.calendar, raw.where("calendar")
    )
    fields = self._fit_vocabularies("calendar", columns, train)
    categorical, numeric = encode.matrices(fields, columns, len(frame))
    fields = fit.scalers(fields, numeric, train)
    self.schema = dataclasses.replace(self.schema, calendar=fields)
    calendar = calendar_lib.Calendar(
      self.schema, names, group, start, end, announced, categorical, numeric
    )
    return calendar, groups

  def _membership(self, names):
    empty = np.zeros(0, np.int32)
    if self.raw.membership is None:
      return {"user": empty, "group": empty}
    frame, user = self._known("membership", self.raw.membership)
    coded = columns_lib.coded(frame["group"], self.raw.where("membership"))
    at = {n: i for i, n in enumerate(names)}
    lookup = np.asarray([at.get(v, -1) for v in coded.values] + [-1], np.int32)
    group = lookup[coded.codes]
    checks = [rejects_lib.mask(group < 0, "no calendar entry of this group")]
    _, keep = self.rejects.split("membership", frame, checks)
    pairs = np.unique(np.stack([user[keep], group[keep]], 1), axis=0)
    return {"user": pairs[:, 0], "group": pairs[:, 1]}

  def _labels(self):
    empty = {
      "user": np.int32,
      "id": np.int32,
      "time": np.int32,
      "value": np.float32,
    }
    if self.raw.labels is None or not self.schema.labels:
      return {k: np.zeros(0, d) for k, d in empty.items()}
    frame, user = self._known("labels", self.raw.labels)
    time = np.full(len(frame), encode.NO_TIME, np.int32)
    if "time" in frame.columns:
      raw = dataclasses.replace(self.raw, labels=frame)
      day = frame.select(clean.time_expr(raw, "labels", "time", "days"))
      time = (
        day.to_series().fill_null(encode.NO_TIME).to_numpy().astype(np.int32)
      )
    where = self.raw.where("labels")
    table = columns_lib.labels(frame, self.schema.labels, where)
    self.schema = dataclasses.replace(self.schema, labels=table.labels)
    _, keep = self.rejects.split("labels", frame, table.checks)
    out = {
      "user": user[keep],
      "id": table.ids[keep],
      "time": time[keep],
      "value": table.values[keep],
    }
    order = np.lexsort((out["time"], out["id"], out["user"]))
    return {k: v[order] for k, v in out.items()}

  def _span(self):
    s = self.schema
    out = np.empty((len(self.people.keys), 3), np.int32)
    default = (s.first_day, s.last_day, s.last_day)
    out[:] = default
    if self.raw.span is not None:
      frame, user = self._known("span", self.raw.span)
      clean.no_duplicates(self.raw, "span", frame)
      raw = dataclasses.replace(self.raw, span=frame)
      for i, name in enumerate(("enter", "exit", "observed_until")):
        day = frame.select(clean.time_expr(raw, "span", name, "days"))
        out[user, i] = day.to_series().fill_null(default[i]).to_numpy()
    return out


def sort_order(
  user: np.ndarray, time: np.ndarray, usable: np.ndarray | None = None
) -> np.ndarray | None:
  """Stable order of the usable rows by user, then time; None: as they stand."""
  chosen = None
  if usable is not None:
    chosen = np.flatnonzero(usable)
    user, time = user[chosen], time[chosen]
  ascending = bool(np.all(time[1:] >= time[:-1]))
  if ascending and np.all(user[1:] >= user[:-1]):
    return chosen
  if ascending and user.max() < 1 << 16:
    # In time order already: a radix sort by user is enough.
    order = np.argsort(user.astype(np.uint16), kind="stable")
  else:
    # One 64-bit key sorts several times faster than two columns.
    key = (user.astype(np.int64) << 32) + (time.astype(np.int64) + (1 << 31))
    order = np.argsort(key, kind="stable")
  return order if chosen is None else chosen[order]


def prepare(raw: Inputs) -> Prepared:
  """All of the preparation but the writing.

  Raises:
    InputError: Something is wrong with the raw tables; says what and where.
  """
  return Engine(raw).run()
