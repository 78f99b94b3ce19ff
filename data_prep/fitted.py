"""What was fitted before: vocabularies, bins, tokens, scales, calendar columns.

New rows are encoded with it, so that a trained model can read them.
"""

import dataclasses
import datetime

from etils import epath

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib

from . import times
from .inputs import InputError, Inputs


@dataclasses.dataclass(frozen=True)
class Fitted:
  """A fitted schema and what a calendar's columns depend on.

  Attributes:
    where: The data set or run that it is from.
    schema: Fitted.
    spanning: Calendar values with columns of their age and days left.
    calendar: Entries to use where new tables bring none; None for none.
  """

  where: str
  schema: schema_lib.Schema
  spanning: tuple[str, ...] = ()
  calendar: calendar_lib.Calendar | None = None

  def applied(self, raw: Inputs) -> tuple[Inputs, tuple[str, ...]]:
    """The tables with these fields in place of declared ones.

    Returns:
      The inputs, their days counted from this epoch and their activity fields
      those of event rows; and the tables that may be absent.

    Raises:
      InputError: Rows are of another kind, or days cannot be compared.
    """
    mine, new = self.schema, raw.schema
    if mine.rows != new.rows:
      raise InputError(
        f"{self.where} was fitted on rows of {mine.rows}s, these are rows of "
        f"{new.rows}s: give --rows={mine.rows}"
      )
    if bool(mine.epoch) != bool(new.epoch):
      raise InputError(
        f"{self.where} counts days from {mine.epoch or 'a relative day 0'}, the "
        f"new tables from {new.epoch or 'a relative day 0'}"
      )
    if mine.time_zone != raw.time_zone:
      raise InputError(
        f"{self.where} begins days in time zone {mine.time_zone or 'UTC'!r}, the "
        f"new tables in {raw.time_zone or 'UTC'!r}: give both the same one"
      )
    shift = 0
    if mine.epoch:
      day = datetime.date.fromisoformat
      shift = (day(new.epoch) - day(mine.epoch)).days
    fields = mine.events if mine.rows == "day" else mine.activity
    if mine.rows == "day" and not fields:
      raise InputError(
        f"{self.where} was prepared by an older version, which did not store how "
        "events become days: prepare and train it again"
      )
    schema = dataclasses.replace(
      mine,
      name=new.name,
      activity=fields,
      events=(),
      first_day=new.first_day + shift,
      last_day=new.last_day + shift,
    )
    if not new.last_day > new.first_day:  # The data's own.
      schema = dataclasses.replace(schema, first_day=0, last_day=0)
    notes = dict(raw.notes)
    for table in schema_lib.TABLES:
      known = {f.name for f in getattr(schema, table)}
      extra = [f.name for f in getattr(new, table) if f.name not in known]
      dropped = {n for n in extra if getattr(mine, table)}
      if table == "activity":
        dropped = {
          f.name
          for f in new.activity
          if f.name in extra and getattr(f, "daily", "") != "drop"
        }
      if dropped:
        what = f"{table} fields that were not fitted, left out: "
        notes[what + ", ".join(sorted(dropped))] = len(dropped)
    absent = ("profile",)
    if self.calendar is not None:
      absent = ("calendar", "profile")
    schema = dataclasses.replace(schema, labels=self._labels(new, shift))
    return dataclasses.replace(raw, schema=schema, notes=notes), absent

  def _labels(self, new: schema_lib.Schema, shift: int):
    """The labels as fitted, known until the day that the new tables declare."""
    declared = {x.name: x.observed_until for x in new.labels}
    out = []
    for label in self.schema.labels:
      day = declared.get(label.name)
      if day is not None:
        day = times.day_number(day, new.epoch) + shift
      out.append(dataclasses.replace(label, observed_until=day))
    return tuple(out)


def load(path: epath.PathLike, step: int | None = None) -> Fitted:
  """Reads what is fitted from a data set's directory or a run's workdir.

  Args:
    path: Either.
    step: Of a run; default its newest checkpoint.

  Raises:
    InputError: It is neither.
  """
  path = epath.Path(path)
  if (path / records_lib.SCHEMA).exists():
    schema = schema_lib.Schema.load(path / records_lib.SCHEMA)
    calendar = calendar_lib.Calendar.load(path / records_lib.CALENDAR, schema)
    return Fitted(str(path), schema, calendar.spanning, calendar)
  if not (path / "checkpoints").exists():
    raise InputError(
      f"{path} is neither a prepared data set (it has no {records_lib.SCHEMA}) "
      "nor a run's workdir (it has no checkpoints)"
    )
  from lumos_jax import checkpoint  # Imports jax and Orbax.

  meta = checkpoint.Checkpoints(path, read_only=True).meta(step)
  columns = meta["calendar_columns"]
  spanning = [c.removesuffix(":age") for c in columns if c.endswith(":age")]
  schema = schema_lib.Schema.from_json(meta["schema"])
  return Fitted(str(path), schema, tuple(spanning))


def drift(outside: dict) -> list[str]:
  """Lines about values that are not among what was fitted.

  Args:
    outside: stats["fitted"]["outside"] of a data set: {table: {field: counts}}.
  """
  lines = []
  words = {
    "unseen": "hold a value that is not in the fitted vocabulary",
    "beyond_range": "lie beyond the fitted range",
  }
  for table, fields in outside.items():
    for name, counts in fields.items():
      for kind, word in words.items():
        if count := counts.get(kind):
          share = count / max(1, counts["rows"])
          lines.append(f"  {table}.{name}: {count:,} rows ({share:.2%}) {word}")
  return lines
