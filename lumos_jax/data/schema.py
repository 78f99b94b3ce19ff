"""The schema of a data set: typed fields of activity, calendar and profile.

Every input is a table of rows with typed fields. An encoded row is two vectors:
`categorical [C]` (int32 ids) and `numeric [N]` (float32, raw values: scaling is
the model's first step, so that labels read the same numbers). Ids 0 and 1 of
every vocabulary mean "missing" and "not seen in training".
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
from typing import Any

from etils import epath

VERSION = 1
MISSING, UNKNOWN, FIRST_VALUE = 0, 1, 2
TABLES = ("activity", "calendar", "profile")


class SchemaError(ValueError):
  """The schema is malformed, or is not the one that was expected."""


@dataclasses.dataclass(frozen=True)
class Categorical:
  """A field with a vocabulary.

  Attributes:
    name: Column of the raw table.
    max_values: At most this many values, by training frequency, ties by name.
    daily: How rows of one day become one: "last", "mode", "pivot" (one numeric
      column a value: rows of that day with it), "pivot:F" (the day's sum of the
      numeric field F over rows with that value) or "drop".
    values: Fitted vocabulary, most frequent first; id = position + 2.
    attributes: What is known of each value (the categories of an item), as
      numbers from 0; one tuple a value.
  """

  name: str
  max_values: int = 1000
  daily: str = "last"
  values: tuple[str, ...] | None = None
  attributes: tuple[tuple[int, ...], ...] | None = None

  def __post_init__(self):
    if self.attributes is not None and len(self.attributes) != len(
      self.values or ()
    ):
      raise SchemaError(
        f"field {self.name!r}: attributes of {len(self.attributes)} values, "
        f"and there are {len(self.values or ())}"
      )

  @property
  def size(self) -> int:
    """Number of ids, the two reserved ones included."""
    return FIRST_VALUE + len(self.values or ())


@dataclasses.dataclass(frozen=True)
class Numeric:
  """A number; NaN in a record means missing.

  Attributes:
    name: Column of the raw table.
    transform: "log1p" (sign(x) * log1p(|x|)) or "none", before scaling.
    scale: "minmax" (the paper's), "standard" or "none"; fitted in training.
    daily: "sum", "mean", "max", "min", "last" or "drop".
    nullable: Nulls are allowed and shown to the model by an indicator; where it
      is False a null is a rejected row.
    offset, divisor: Fitted; model input = (transform(x) - offset) / divisor.
  """

  name: str
  transform: str = "log1p"
  scale: str = "standard"
  daily: str = "sum"
  nullable: bool = False
  offset: float = 0.0
  divisor: float = 1.0


@dataclasses.dataclass(frozen=True)
class Timestamp:
  """A second time stamp of a row, shown as cyclic parts.

  Attributes:
    name: Column of the raw table.
    parts: Among "hour", "weekday", "monthday", "yearday"; each becomes a sine
      and a cosine. In daily rows they are averaged.
    time_zone: Zone of values that carry none; required where zones differ.
  """

  name: str
  parts: tuple[str, ...] = ("hour", "weekday")
  time_zone: str | None = None


@dataclasses.dataclass(frozen=True)
class Vector:
  """A fixed embedding of text or image, used as it is (daily: mean)."""

  name: str
  size: int = 0


Field = Categorical | Numeric | Timestamp | Vector
_FIELD_TYPES = {
  c.__name__: c for c in (Categorical, Numeric, Timestamp, Vector)
}


def width(field: Field) -> int:
  """Number of columns of the encoded row that hold the field."""
  if isinstance(field, Timestamp):
    return 2 * len(field.parts)
  return field.size if isinstance(field, Vector) else 1


@dataclasses.dataclass(frozen=True)
class Label:
  """An outcome given as data: rows (key, time, value) beside the activity.

  Rows without time hold for the user as a whole (a final result).
  """

  name: str
  values: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Schema:
  """All that is needed to read a data set and to build a model for it.

  Attributes:
    name: Of the data set.
    activity, calendar, profile: Fields of the three tables, in column order.
    labels: Outcomes given as data.
    rows: "day" (one row a user and day) or "event".
    epoch: ISO date of day 0, or "" where days are relative (a course day).
    first_day, last_day: Span of the data in days since epoch, last exclusive.
    train_until: Day before which rows were used to fit vocabularies and scales.
  """

  name: str
  activity: tuple[Field, ...]
  calendar: tuple[Field, ...] = ()
  profile: tuple[Field, ...] = ()
  labels: tuple[Label, ...] = ()
  rows: str = "day"
  epoch: str = ""
  first_day: int = 0
  last_day: int = 0
  train_until: int = 0

  def __post_init__(self):
    if self.rows not in ("day", "event"):
      raise SchemaError(f"rows is {self.rows!r}; use 'day' or 'event'")
    for table in TABLES:
      names = [f.name for f in getattr(self, table)]
      twice = sorted({n for n in names if names.count(n) > 1})
      if twice:
        raise SchemaError(f"{table}: field names given twice: {twice}")

  def categorical(self, table: str) -> tuple[Categorical, ...]:
    """Categorical fields of a table; position = column of `categorical`."""
    return tuple(f for f in getattr(self, table) if isinstance(f, Categorical))

  def dense(self, table: str) -> tuple[Field, ...]:
    """Fields that live in `numeric`, in order; each takes `width` columns."""
    fields = getattr(self, table)
    return tuple(f for f in fields if not isinstance(f, Categorical))

  def numeric_width(self, table: str) -> int:
    """Columns of `numeric` of a table."""
    return sum(width(f) for f in self.dense(table))

  def numeric_column(self, table: str, name: str) -> int:
    """First column of `numeric` that holds the field.

    Raises:
      SchemaError: The table has no such field; names what it has.
    """
    column = self._columns[table].get(name)
    if column is None:
      raise SchemaError(
        f"{table} of {self.name!r} has no numeric field {name!r}; it has "
        f"{list(self._columns[table])}"
      )
    return column

  @functools.cached_property
  def _columns(self) -> dict[str, dict[str, int]]:
    """First numeric column of each dense field, by table."""
    out = {}
    for table in TABLES:
      fields = self.dense(table)
      starts = itertools.accumulate((width(f) for f in fields), initial=0)
      out[table] = {f.name: n for f, n in zip(fields, starts, strict=False)}
    return out

  def to_json(self) -> str:
    """A canonical text: equal schemas give equal texts."""
    doc = {"version": VERSION, **_plain(self)}
    return json.dumps(doc, indent=1, sort_keys=True)

  @classmethod
  def from_json(cls, text: str) -> "Schema":
    """The schema of `to_json`'s text.

    Raises:
      SchemaError: The text is another version's, or not a schema.
    """
    try:
      doc = json.loads(text)
      version = doc.pop("version")
    except (ValueError, KeyError, AttributeError) as e:
      raise SchemaError(f"not a schema.json: {e}") from e
    if version != VERSION:
      raise SchemaError(
        f"schema version {version}, this program reads {VERSION}: prepare the "
        "data again with this program's data_prep"
      )
    try:
      for table in TABLES:
        doc[table] = tuple(_field(f) for f in doc[table])
      doc["labels"] = tuple(_build(Label, d) for d in doc["labels"])
      return cls(**doc)
    except (KeyError, TypeError) as e:
      raise SchemaError(f"not a schema.json: {e}") from e

  def save(self, path: epath.PathLike) -> None:
    """Writes schema.json."""
    epath.Path(path).write_text(self.to_json())

  @classmethod
  def load(cls, path: epath.PathLike) -> "Schema":
    """Reads schema.json; errors name the file."""
    try:
      return cls.from_json(epath.Path(path).read_text())
    except SchemaError as e:
      raise SchemaError(f"{path}: {e}") from e

  @property
  def hash(self) -> str:
    """16 hex digits that change when anything of the schema changes."""
    return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

  def difference(self, other: "Schema") -> str:
    """What differs from another schema, in words, for error messages."""
    parts = []
    for f in dataclasses.fields(self):
      mine, theirs = getattr(self, f.name), getattr(other, f.name)
      if mine == theirs:
        continue
      if f.name not in TABLES:
        parts.append(f"{f.name}: {mine!r} against {theirs!r}")
        continue
      mine = {x.name: x for x in mine}
      theirs = {x.name: x for x in theirs}
      added, lost = sorted(mine - theirs.keys()), sorted(theirs - mine.keys())
      same = [n for n in mine if n in theirs and mine[n] != theirs[n]]
      if not added + lost + same:
        parts.append(f"{f.name}: fields in another order")
      for word, names in (
        ("only here", added),
        ("only there", lost),
        ("fitted or declared otherwise", same),
      ):
        if names:
          parts.append(f"{f.name}: {word}: {', '.join(names)}")
    return "; ".join(parts)


def _plain(value: Any) -> Any:
  if dataclasses.is_dataclass(value):
    doc = {
      f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)
    }
    # Came later: absent where it is not used, so that older hashes stand.
    if doc.get("attributes", 0) is None:
      del doc["attributes"]
    if type(value).__name__ in _FIELD_TYPES:
      doc["type"] = type(value).__name__
    return doc
  if isinstance(value, (tuple, list)):
    return [_plain(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    raise SchemaError("a fitted number is not finite")
  return value


def _field(doc: dict[str, Any]) -> Field:
  doc = dict(doc)
  kind = doc.pop("type")
  if kind not in _FIELD_TYPES:
    raise SchemaError(
      f"unknown field type {kind!r}; known: {list(_FIELD_TYPES)}"
    )
  return _build(_FIELD_TYPES[kind], doc)


def _build(cls, doc):
  return cls(**{k: _tuples(v) for k, v in doc.items()})


def _tuples(value: Any) -> Any:
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
