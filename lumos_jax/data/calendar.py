"""The calendar: what is known about days, stored once, joined at load time.

A calendar is a list of entries (a campaign, a holiday, a due date) that span
days and concern everyone or one group of users. A day's row is the sum of what
its active entries say, so no entry is a row of zeros and an edited calendar
needs no new code (LUMOS, section on event context; what-if questions).
"""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from lumos_jax.data import schema as schema_lib

EVERYONE = 0
ALWAYS_KNOWN = np.iinfo(np.int32).min
# A campaign's age and days left are shown as log1p(days) over this.
_PHASE_SCALE = 4.0
_ENTRY = ("group", "start", "end", "announced", "categorical", "numeric")


def _table(values, dtype, rows: int) -> np.ndarray:
  values = np.asarray(values, dtype)
  return values if values.ndim == 2 else values.reshape(rows, -1)


@dataclasses.dataclass(frozen=True)
class Edit:
  """One change of a calendar.

  Attributes:
    op: "add", "remove" or "move".
    match: Which entries to remove or move: {field: value}; besides the fields,
      "group" (its name) and "start" (day) can be matched. Empty matches all.
    days: Shift of a move, in days.
    start, end: Days of an added entry, end exclusive.
    group: Group name of an added entry; "" for everyone.
    values: {field: value} of an added entry; absent numerics are 0.
  """

  op: str
  match: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  days: int = 0
  start: int = 0
  end: int = 0
  group: str = ""
  values: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Calendar:
  """Entries of a calendar and the day rows they make.

  Attributes:
    schema: Its `calendar` fields name the columns below.
    group_names: Names of groups; position 0 is everyone.
    group, start, end, announced: int32 [E]; end exclusive; announced is the day
      from which the entry is known (ALWAYS_KNOWN where it always was).
    categorical: int32 [E, C] ids.  numeric: float32 [E, N] raw values.
    columns: Names of the K columns of a day row; the last `date_columns` of
      them describe the date itself and stay under every edit or ablation.
  """

  def __init__(
    self,
    schema: schema_lib.Schema,
    group_names: Sequence[str],
    group: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    announced: np.ndarray,
    categorical: np.ndarray,
    numeric: np.ndarray,
    spanning: Sequence[str] | None = None,
  ):
    """Builds the calendar; `spanning` is derived unless another one's is kept.

    Raises:
      SchemaError: An entry ends before it starts, or shapes disagree.
    """
    entries = len(group)
    self.schema = schema
    self.group_names = tuple(group_names) or ("",)
    self.group, self.start, self.end, self.announced = (
      np.asarray(x, np.int32) for x in (group, start, end, announced)
    )
    self.categorical = _table(categorical, np.int32, entries)
    self.numeric = _table(numeric, np.float32, entries)
    if np.any(self.end <= self.start):
      bad = int(np.argmax(self.end <= self.start))
      raise schema_lib.SchemaError(
        f"calendar entry {bad} ends on day {self.end[bad]}, not after its "
        f"start on day {self.start[bad]} (the end is exclusive)"
      )
    self._fields = schema.categorical("calendar")
    if spanning is None:
      long = self.end - self.start > 1
      spanning = [
        f"{f.name}={v}"
        for c, f in enumerate(self._fields)
        for i, v in enumerate(f.values or ())
        if np.any(long & (self.categorical[:, c] == i + schema_lib.FIRST_VALUE))
      ]
    # Only values that span days get phase columns: a holiday has no phase.
    self.spanning = tuple(spanning)
    self._place, self.columns = self._layout()
    first = min([schema.first_day, *self.start.tolist()])
    last = max([schema.last_day, *self.end.tolist()])
    self._first, self._last = first, last
    self._late = self.announced > first
    self._by_group: dict[int, np.ndarray] = {}
    for i, g in enumerate(self.group.tolist()):
      self._by_group.setdefault(g, []).append(i)
    self._matrices: dict[tuple[int, bool], np.ndarray] = {}

  def _layout(self):
    place, columns = {}, []
    for c, f in enumerate(self._fields):
      for i, v in enumerate(f.values or ()):
        name = f"{f.name}={v}"
        place[c, i + schema_lib.FIRST_VALUE] = (
          len(columns),
          name in self.spanning,
        )
        columns.append(name)
        if name in self.spanning:
          columns += [name + ":age", name + ":left"]
    for f in self.schema.dense("calendar"):
      n = schema_lib.width(f)
      columns += [f.name if n == 1 else f"{f.name}:{i}" for i in range(n)]
    if self.schema.epoch:
      columns += [f"weekday={i}" for i in range(7)]
    else:
      columns.append("day")
    return place, columns

  @property
  def date_columns(self) -> int:
    """How many of the last columns describe the date itself."""
    return 7 if self.schema.epoch else 1

  @property
  def width(self) -> int:
    """K, the number of columns of a day row."""
    return len(self.columns)

  def _entry_rows(self, e: int, days: np.ndarray) -> np.ndarray:
    """What entry e adds to the given active days: [days, K]."""
    rows = np.zeros((len(days), self.width), np.float32)
    for c in range(len(self._fields)):
      at = self._place.get((c, int(self.categorical[e, c])))
      if at is None:  # Missing, or a value unseen in training.
        continue
      column, spans = at
      rows[:, column] += 1.0
      if spans:
        age = np.log1p(days - self.start[e]) / _PHASE_SCALE
        left = np.log1p(self.end[e] - 1 - days) / _PHASE_SCALE
        rows[:, column + 1] += age
        rows[:, column + 2] += left
    column = self.width - self.date_columns - self.numeric.shape[1]
    at = 0
    for f in self.schema.dense("calendar"):
      for _ in range(schema_lib.width(f)):
        value = float(self.numeric[e, at])
        if isinstance(f, schema_lib.Numeric) and np.isfinite(value):
          if f.transform == "log1p":
            value = np.sign(value) * np.log1p(abs(value))
          value = (value - f.offset) / f.divisor
        rows[:, column + at] += value if np.isfinite(value) else 0.0
        at += 1
    return rows

  def _matrix(self, group: int, late: bool) -> np.ndarray | None:
    """Day rows [days, K] of a group's always-known or late-known entries.

    A late entry shows itself from the day it was announced: a history row
    knows no more than that day did.
    """
    key = (group, late)
    if key not in self._matrices:
      entries = [
        e for e in self._by_group.get(group, ()) if bool(self._late[e]) == late
      ]
      matrix = None
      if entries:
        shape = (self._last - self._first, self.width)
        matrix = np.zeros(shape, np.float32)
        for e in entries:
          start = self.start[e]
          if late:
            start = max(start, self.announced[e])
          days = np.arange(start, self.end[e])
          if len(days):
            matrix[days - self._first] += self._entry_rows(e, days)
      self._matrices[key] = matrix
    return self._matrices[key]

  def rows(
    self,
    first_day: int,
    last_day: int,
    groups: Iterable[int] = (),
    known_at: int | None = None,
  ) -> np.ndarray:
    """Day rows of a user.

    Args:
      first_day, last_day: Days [first_day, last_day).
      groups: The user's groups; everyone's entries are always there.
      known_at: Only entries announced by this day. None: each day's row holds
        what was announced by that very day (the view for history).

    Returns:
      float32 [last_day - first_day, K].
    """
    out = np.zeros((last_day - first_day, self.width), np.float32)
    lo, hi = max(first_day, self._first), min(last_day, self._last)
    inside = slice(lo - first_day, max(hi, lo) - first_day)
    stored = slice(lo - self._first, max(hi, lo) - self._first)
    for g in (EVERYONE, *groups):
      matrix = self._matrix(g, late=False)
      if matrix is not None:
        out[inside] += matrix[stored]
      if known_at is None:
        matrix = self._matrix(g, late=True)
        if matrix is not None:
          out[inside] += matrix[stored]
        continue
      for e in self._by_group.get(g, ()):
        if self._late[e] and self.announced[e] <= known_at:
          a, b = max(self.start[e], first_day), min(self.end[e], last_day)
          if a < b:
            days = np.arange(a, b)
            out[days - first_day] += self._entry_rows(e, days)
    days = np.arange(first_day, last_day)
    if self.schema.epoch:
      epoch = datetime.date.fromisoformat(self.schema.epoch)
      weekday = (days + epoch.weekday()) % 7
      out[np.arange(len(days)), self.width - 7 + weekday] = 1.0
    else:
      out[:, -1] = days / 365.0
    return out

  @property
  def late(self) -> bool:
    """Whether any entry becomes known only during the data's span."""
    return bool(self._late.any())

  def table(self) -> dict[str, np.ndarray]:
    """Copies of the entries' columns, by name."""
    return {k: getattr(self, k).copy() for k in _ENTRY}

  def of(self, table: Mapping[str, np.ndarray]) -> "Calendar":
    """A calendar of other entries with the columns of this one."""
    return Calendar(
      self.schema, self.group_names, spanning=self.spanning, **table
    )

  def edited(
    self, edits: Iterable[Edit], only: np.ndarray | None = None
  ) -> "Calendar":
    """A calendar with the edits applied in order (this one is unchanged).

    Args:
      edits: What to change.
      only: bool [E], entries that may be removed or moved; default all.

    Raises:
      SchemaError: An edit matches nothing, or names an unknown field, value,
        group or op; the message says what there is.
    """
    table = self.table()
    may = np.ones(len(self.group), bool) if only is None else only.copy()
    for edit in edits:
      if edit.op == "add":
        new = self._new_entry(edit)
        table = {k: np.concatenate([v, new[k][None]]) for k, v in table.items()}
        may = np.append(may, True)
        continue
      hit = self.matching(edit, table)
      if not (hit & may).any():
        over = " that is running or ahead" if hit.any() else ""
        raise schema_lib.SchemaError(
          f"calendar edit {edit.op!r} with match {dict(edit.match)} finds no "
          f"entry{over}"
        )
      hit &= may
      if edit.op == "remove":
        table, may = {k: v[~hit] for k, v in table.items()}, may[~hit]
      elif edit.op == "move":
        table["start"][hit] += edit.days
        table["end"][hit] += edit.days
      else:
        raise schema_lib.SchemaError(
          f"calendar edit {edit.op!r}: use 'add', 'remove' or 'move'"
        )
    return self.of(table)

  def _group_id(self, name: str) -> int:
    if not name:
      return EVERYONE
    if name not in self.group_names:
      raise schema_lib.SchemaError(
        f"no calendar group {name!r}; there are {list(self.group_names[1:21])}"
      )
    return self.group_names.index(name)

  def _value_id(self, c: int, value: str) -> int:
    values = self._fields[c].values or ()
    if str(value) not in values:
      raise schema_lib.SchemaError(
        f"calendar field {self._fields[c].name!r} has no value {value!r}; it "
        f"has {list(values[:20])}"
      )
    return values.index(str(value)) + schema_lib.FIRST_VALUE

  def _field_index(self, name: str) -> int:
    names = [f.name for f in self._fields]
    if name not in names:
      raise schema_lib.SchemaError(
        f"the calendar has no categorical field {name!r}; it has {names}"
      )
    return names.index(name)

  def matching(self, edit: Edit, table: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which entries [E] of a table an edit's `match` finds."""
    hit = np.ones(len(table["group"]), bool)
    for name, value in edit.match.items():
      if name == "group":
        hit &= table["group"] == self._group_id(value)
      elif name == "start":
        hit &= table["start"] == value
      else:
        c = self._field_index(name)
        hit &= table["categorical"][:, c] == self._value_id(c, value)
    return hit

  def _new_entry(self, edit: Edit) -> dict[str, np.ndarray]:
    categorical = np.zeros(len(self._fields), np.int32)
    numeric = np.zeros(self.numeric.shape[1], np.float32)
    for name, value in edit.values.items():
      if name in [f.name for f in self.schema.dense("calendar")]:
        number = isinstance(value, (int, float, np.number))
        if not number or isinstance(value, bool):
          raise schema_lib.SchemaError(
            f"calendar field {name!r} takes a number, not {value!r}"
          )
        numeric[self.schema.numeric_column("calendar", name)] = value
      else:
        c = self._field_index(name)
        categorical[c] = self._value_id(c, value)
    return {
      "group": np.int32(self._group_id(edit.group)),
      "start": np.int32(edit.start),
      "end": np.int32(edit.end),
      "announced": np.int32(ALWAYS_KNOWN),
      "categorical": categorical,
      "numeric": numeric,
    }

  def save(self, path: epath.PathLike) -> None:
    """Writes the entries as .npz (no pickled objects)."""
    with epath.Path(path).open("wb") as f:
      np.savez(
        f,
        group_names=np.asarray(self.group_names, np.str_),
        group=self.group,
        start=self.start,
        end=self.end,
        announced=self.announced,
        categorical=self.categorical,
        numeric=self.numeric,
        spanning=np.asarray(self.spanning, np.str_),
      )

  @classmethod
  def load(cls, path: epath.PathLike, schema: schema_lib.Schema) -> "Calendar":
    """Reads what `save` wrote."""
    with epath.Path(path).open("rb") as f:
      with np.load(f, allow_pickle=False) as z:
        table = {k: z[k] for k in z.files}
    names = [str(n) for n in table.pop("group_names")]
    spanning = [str(n) for n in table.pop("spanning")]
    return cls(schema, names, spanning=spanning, **table)


def empty(schema: schema_lib.Schema, spanning: Sequence[str] = ()) -> Calendar:
  """A calendar without entries, with the columns of one that had some."""
  none = np.zeros(0, np.int32)
  categorical = np.zeros((0, len(schema.categorical("calendar"))), np.int32)
  numeric = np.zeros((0, schema.numeric_width("calendar")), np.float32)
  return Calendar(
    schema, ("",), none, none, none, none, categorical, numeric, spanning
  )
