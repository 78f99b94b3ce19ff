"""A calendar that is edited from a day on, whose past was lived under another.

What users did before the day they did under the real calendar, so entries that
are over by then stay. Of an entry that is running or ahead:

- removed: it ends on that day; its past days stay.
- moved: all of it moves, also the days of a running one that are past, so that
  no piece of it is left behind and its age is right wherever it is shown.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from lumos_jax.data import calendar as calendar_lib


class Spliced:
  """One calendar before a day and another one from it on.

  Offers what `pipeline.Example` reads of a calendar.
  """

  def __init__(
    self,
    before: calendar_lib.Calendar,
    after: calendar_lib.Calendar,
    day: int,
  ):
    """Both calendars have the same columns; `day` is the first of `after`."""
    self._before, self._after, self._day = before, after, day
    self.late = before.late or after.late
    self.width, self.columns = before.width, before.columns
    self.date_columns = before.date_columns

  def rows(
    self,
    first_day: int,
    last_day: int,
    groups: Iterable[int] = (),
    known_at: int | None = None,
  ) -> np.ndarray:
    """As `Calendar.rows`."""
    groups, day = list(groups), self._day
    parts = []
    if first_day < day:
      end = min(last_day, day)
      parts.append(self._before.rows(first_day, end, groups, known_at))
    if last_day > day:
      start = max(first_day, day)
      parts.append(self._after.rows(start, last_day, groups, known_at))
    return np.concatenate(parts) if parts else self._before.rows(0, 0)


def splice(
  calendar: calendar_lib.Calendar,
  edits: Sequence[calendar_lib.Edit],
  day: int,
) -> Spliced:
  """The calendar as edited from a day on; see the module's text.

  Raises:
    SchemaError: An edit finds no entry that is running or ahead on that day, or
      names an unknown field, value, group or op.
  """
  live = calendar.end > day
  after = calendar.edited(edits, live)
  moved, may = calendar.table(), live.copy()
  for edit in edits:
    if edit.op == "add":
      continue
    hit = may & calendar.matching(edit, moved)
    if edit.op == "remove":
      may &= ~hit
    else:
      moved["start"][hit] += edit.days
      moved["end"][hit] += edit.days
  same = np.array_equal(moved["start"], calendar.start)
  return Spliced(calendar if same else calendar.of(moved), after, day)


def concerned(
  calendar: calendar_lib.Calendar,
  edits: Sequence[calendar_lib.Edit],
  first_day: int,
  last_day: int,
) -> np.ndarray:
  """Entries [E] of the kinds that edits speak of, with a day in a window.

  Those are the entries that a move or a removal matches, whatever its "start",
  and of an addition those with the same categorical values.
  """
  table, hit = calendar.table(), np.zeros(len(calendar.group), bool)
  names = [f.name for f in calendar.schema.categorical("calendar")]
  for edit in edits:
    match = {k: v for k, v in edit.match.items() if k != "start"}
    if edit.op == "add":
      match = {k: v for k, v in edit.values.items() if k in names}
      if not match:
        continue
    hit |= calendar.matching(calendar_lib.Edit(edit.op, match), table)
  return hit & (calendar.start < last_day) & (calendar.end > first_day)


def begun_later(
  calendar: calendar_lib.Calendar,
  edits: Sequence[calendar_lib.Edit],
  day: int,
  start: int,
  until: int,
) -> tuple[Spliced, Spliced] | None:
  """Calendars without an edit's entries, and with them begun on a later day.

  They differ from `start` on only: a negative control for what ends before it.

  Args:
    calendar: Of the data.
    edits: Whose entries are meant: those added, moved or removed.
    day: From which edits hold.
    start: Of the entries in the second calendar.
    until: Entries that begin from here on are left as they are.

  Returns:
    Both calendars; None where no entry is concerned.
  """
  hit = np.zeros(len(calendar.group), bool)
  table, added = calendar.table(), []
  for edit in edits:
    if edit.op == "add":
      end = start + edit.end - edit.start
      added.append(calendar_lib.Edit(
        "add", start=start, end=end, group=edit.group, values=edit.values
      ))  # fmt: skip
    else:
      hit |= calendar.matching(edit, table)
  hit &= (calendar.end > day) & (calendar.start < until)
  if not hit.any() and not added:
    return None
  without = calendar.of({k: v[~hit] for k, v in table.items()})
  table["end"][hit] += start - table["start"][hit]
  table["start"][hit] = start
  later = calendar.of(table).edited(added)
  return Spliced(without, without, day), Spliced(without, later, day)


def for_everyone(
  calendar: calendar_lib.Calendar, entry: int, day: int
) -> tuple[Spliced, Spliced]:
  """Calendars from a day on without an entry, and with it for everyone."""
  table = calendar.table()
  others = np.arange(len(calendar.group)) != entry
  without = calendar.of({k: v[others] for k, v in table.items()})
  table["group"][entry] = calendar_lib.EVERYONE
  everyone = calendar.of(table)
  return Spliced(calendar, without, day), Spliced(calendar, everyone, day)
