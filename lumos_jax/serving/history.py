"""A user as the store keeps it: encoded rows, profile, recent requests.

Rows are those that a prepared data set has: events, or days. Where they are days,
the events of the newest day stay beside them (`open`), since a day's row is made of
all of its events. Bytes are numpy's own and JSON: nothing is pickled.

N rows, O events of the open day.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumos_jax.data import schema as schema_lib
from lumos_jax.serving import encoder as encoder_lib
from lumos_jax.serving import store as store_lib

CHUNK = 64  # Rows of a field of the store: what an event rewrites.
# Requests whose keys are remembered, of each user.
REMEMBERED = 64
_NO_TIME = -(2**63)


class OrderError(ValueError):
  """An event comes before one that is there already."""


def row_type(categorical: int, numeric: int, time: bool) -> np.dtype:
  """Structured type of an encoded row."""
  fields = [("day", "<i4")]
  if time:
    fields.append(("time", "<i8"))
  fields += [("categorical", "<i4", (categorical,))]
  fields += [("numeric", "<f4", (numeric,))]
  return np.dtype(fields)


class Layout:
  """Types of a run's rows.

  Attributes:
    row: Of rows that models read.
    event: Of events as they come; the same where rows are events.
    daily: Whether rows are days.
    fields: Of events.
  """

  def __init__(self, schema: schema_lib.Schema):
    self.schema, self.daily = schema, schema.rows == "day"
    self.fields = schema.events if self.daily else schema.activity
    self.row = row_type(
      len(schema.categorical("activity")),
      schema.numeric_width("activity"),
      not self.daily,
    )
    ids = sum(map(schema_lib.has_ids, self.fields))
    width = sum(
      schema_lib.width(f) for f in self.fields if not schema_lib.has_ids(f)
    )
    self.event = row_type(ids, width, True)
    self.user = (
      len(schema.categorical("profile")),
      schema.numeric_width("profile"),
    )

  def rows_of(self, record: Mapping[str, Any]) -> np.ndarray:
    """A data set's record as rows [N]."""
    out = np.zeros(len(record["day"]), self.row)
    for name in self.row.names:
      out[name] = record[name]
    return out

  def events(self, rows: Sequence[encoder_lib.Row]) -> np.ndarray:
    """Encoded events [O]."""
    out = np.zeros(len(rows), self.event)
    for i, row in enumerate(rows):
      out[i] = row.day, row.time, row.categorical, row.numeric
    return out

  def day_rows(self, events: np.ndarray) -> np.ndarray:
    """Events of one or more days, in order, as rows of days."""
    from lumos_jax.data_prep import days  # Numpy; its package brings Polars.

    rows = {"user": np.zeros(len(events), np.int32)}
    rows |= {n: events[n] for n in ("day", "categorical", "numeric")}
    found = days.day_rows(self.fields, rows)
    out = np.zeros(len(found["day"]), self.row)
    for name in self.row.names:
      out[name] = found[name]
    return out


@dataclasses.dataclass(frozen=True)
class User:
  """A user's record; a new one is made of each change.

  Attributes:
    version: Of the store; it never comes again, nor does a deleted user's.
    born: The first version: tells the user from a deleted one of its id.
    rows: [N] structured, oldest first; without the open day.
    open: [O] structured events of the newest day, where rows are days.
    dropped: Rows that were forgotten since the window is full.
    last_time: Instant of the newest event, microseconds; None for none.
    profile_categorical, profile_numeric: Rows of the profile.
    groups: int32 calendar groups.
    enter: Day from which there are predictions.
    requests: {hash: digest of the body} of the newest requests, hex.
  """

  version: int
  born: int
  rows: np.ndarray
  open: np.ndarray
  dropped: int
  last_time: int | None
  profile_categorical: np.ndarray
  profile_numeric: np.ndarray
  groups: np.ndarray
  enter: int
  requests: Mapping[str, str]

  @property
  def events(self) -> int:
    """Rows ever, the open day's events as one."""
    return self.dropped + len(self.rows) + (1 if len(self.open) else 0)

  def all_rows(self, layout: Layout) -> np.ndarray:
    """Rows with the open day's."""
    if not len(self.open):
      return self.rows
    return np.concatenate([self.rows, layout.day_rows(self.open)])

  def record(self, layout: Layout, rows: np.ndarray | None = None) -> dict:
    """As `data.records` gives a user; the id is not among it."""
    rows = self.all_rows(layout) if rows is None else rows
    none = np.zeros(0, np.int32)
    last = int(rows["day"][-1]) + 1 if len(rows) else self.enter
    return {
      "key": "",
      **{n: rows[n] for n in rows.dtype.names},
      "profile_categorical": self.profile_categorical,
      "profile_numeric": self.profile_numeric,
      "groups": self.groups,
      "span": np.asarray([self.enter, last, last], np.int32),
      "label_id": none,
      "label_time": none,
      "label_value": np.zeros(0, np.float32),
    }

  def appended(
    self,
    layout: Layout,
    events: Sequence[encoder_lib.Row],
    window: int,
  ) -> "User":
    """The user with more events, in order; equal instants as they come.

    Args:
      layout: Of the run.
      events: Encoded.
      window: Rows to keep.

    Raises:
      OrderError: An event is older than the newest one, or of a day that is
        closed.
    """
    last = _NO_TIME if self.last_time is None else self.last_time
    for i, event in enumerate(events):
      if event.time < last:
        raise OrderError(
          f"events[{i}] is older than the event before it: events of a user come "
          "in order of time"
        )
      last = event.time
    new, rows, opened = layout.events(events), self.rows, self.open
    if not layout.daily:
      rows = np.concatenate([rows, new])
    else:
      newest = int(rows["day"][-1]) if len(rows) else None
      if newest is not None and events and events[0].day <= newest:
        raise OrderError(
          "events[0] is of a day whose row was made already: it came with the "
          "data set, and its events are not kept"
        )
      opened = np.concatenate([opened, new])
      # Local days can fall where clocks go back: as instants.days.
      opened["day"] = np.maximum.accumulate(opened["day"])
      last_day = opened["day"][-1:] if len(opened) else opened["day"]
      closed = opened["day"] != last_day
      if closed.any():
        rows = np.concatenate([rows, layout.day_rows(opened[closed])])
        opened = opened[~closed]
    gone = max(len(rows) - window, 0)
    enter = self.enter
    if not self.events and events:
      enter = events[0].day + 1  # The day after the first event.
    return dataclasses.replace(
      self,
      version=self.version + 1,
      rows=rows[gone:],
      open=opened,
      dropped=self.dropped + gone,
      last_time=None if last == _NO_TIME else last,
      enter=enter,
    )

  def until(self, rows: int) -> "User":
    """The user as of its first rows; not to be stored."""
    return dataclasses.replace(self, rows=self.rows[:rows])

  def remembering(self, request: str, digest: str) -> "User":
    """The user with one more request remembered, the oldest forgotten."""
    kept = dict(self.requests)
    kept[request] = digest
    while len(kept) > REMEMBERED:
      kept.pop(next(iter(kept)))
    return dataclasses.replace(self, requests=kept)


def from_record(
  layout: Layout, record: Mapping[str, Any], window: int, version: int
) -> User:
  """A user of a prepared data set."""
  rows = layout.rows_of(record)
  # Of days, no instant is known: `appended` compares their days.
  last = int(rows["time"][-1]) if len(rows) and not layout.daily else None
  gone = max(len(rows) - window, 0)
  return User(
    version=version,
    born=version,
    rows=rows[gone:],
    open=np.zeros(0, layout.event),
    dropped=gone,
    last_time=last,
    profile_categorical=np.array(record["profile_categorical"], np.int32),
    profile_numeric=np.array(record["profile_numeric"], np.float32),
    groups=np.array(record["groups"], np.int32),
    enter=int(record["span"][0]),
    requests={},
  )


def chunk_name(number: int) -> bytes:
  """Field of the store that holds rows [number * CHUNK, ...) of all."""
  return b"rows" + number.to_bytes(4, "big")


def fields_of(
  user: User, before: User | None = None
) -> dict[bytes, bytes | None]:
  """Fields of the store that differ from those of an earlier version."""
  out: dict[bytes, bytes | None] = {}
  first, last = user.dropped // CHUNK, _chunks(user)
  changed = first
  if before is not None:
    # Rows are only added: the last chunk of before and all behind it.
    changed = max(first, (before.dropped + len(before.rows)) // CHUNK)
    for n in range(before.dropped // CHUNK, first):
      out[chunk_name(n)] = None
  for n in range(changed, last):
    start = max(n * CHUNK - user.dropped, 0)
    rows = user.rows[start : (n + 1) * CHUNK - user.dropped]
    out[chunk_name(n)] = _chunk(user, n, rows)
  out[store_lib.HEAD] = _head(user)
  return out


def _chunks(user: User) -> int:
  return -(-(user.dropped + len(user.rows)) // CHUNK)


def _chunk(user: User, number: int, rows: np.ndarray) -> bytes:
  """First row's place among all, then the rows."""
  place = max(number * CHUNK, user.dropped)
  return place.to_bytes(8, "big") + rows.tobytes()


def _head(user: User) -> bytes:
  doc = {
    "born": user.born,
    "dropped": user.dropped,
    "rows": len(user.rows),
    "last_time": user.last_time,
    "enter": user.enter,
    "groups": user.groups.tolist(),
    "requests": dict(user.requests),
    "ids": user.profile_categorical.tolist(),
    # NaN has no JSON: bytes, in hex.
    "numbers": user.profile_numeric.astype("<f4").tobytes().hex(),
    "open": user.open.tobytes().hex(),
  }
  version = user.version.to_bytes(store_lib.VERSION_BYTES, "big")
  return version + json.dumps(doc, separators=(",", ":")).encode()


def from_fields(layout: Layout, fields: Mapping[bytes, bytes]) -> User | None:
  """A user as read from the store; None where it is not there.

  Raises:
    StoreError: The fields do not fit together.
  """
  head = fields.get(store_lib.HEAD)
  if head is None:
    return None
  doc = json.loads(head[store_lib.VERSION_BYTES :])
  dropped, count = doc["dropped"], doc["rows"]
  parts = []
  for n in range(dropped // CHUNK, -(-(dropped + count) // CHUNK)):
    data = fields.get(chunk_name(n), b"")
    place = int.from_bytes(data[:8], "big")
    # An older version's rows that the window has left since stand in front.
    skip = max(dropped - place, 0)
    parts.append(np.frombuffer(data[8:], layout.row)[skip:])
  rows = np.concatenate(parts) if parts else np.zeros(0, layout.row)
  if len(rows) < count:
    raise store_lib.StoreError(
      f"a user's record holds {len(rows)} rows of {count}: the store is damaged; "
      "restore a copy of it"
    )
  return User(
    version=store_lib.version_of(head),
    born=doc["born"],
    rows=rows[:count],
    open=np.frombuffer(bytes.fromhex(doc["open"]), layout.event),
    dropped=dropped,
    last_time=doc["last_time"],
    profile_categorical=np.asarray(doc["ids"], np.int32),
    profile_numeric=np.frombuffer(bytes.fromhex(doc["numbers"]), "<f4"),
    groups=np.asarray(doc["groups"], np.int32),
    enter=doc["enter"],
    requests=doc["requests"],
  )
