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
from collections.abc import Mapping
from typing import Any

from etils import epath

from lumos_jax.data import typed
from lumos_jax.data.fields import (
  ANY,
  CLOCK_PARTS,
  FIELD_TYPES,
  FIRST_VALUE,
  MISSING,
  UNKNOWN,
  Binned,
  Categorical,
  Clock,
  Composite,
  Derived,
  Field,
  Label,
  Numeric,
  SchemaError,
  Timestamp,
  Vector,
  column,
  has_ids,
  width,
)

__all__ = [
  "ANY",
  "CLOCK_PARTS",
  "FIRST_VALUE",
  "MISSING",
  "UNKNOWN",
  "Binned",
  "Categorical",
  "Clock",
  "Composite",
  "Derived",
  "Field",
  "Label",
  "Numeric",
  "Schema",
  "SchemaError",
  "Timestamp",
  "Vector",
  "column",
  "has_ids",
  "width",
]

VERSION = 3  # 3: users enter on the day after their first event.
TABLES = ("activity", "calendar", "profile")
# Describes one data set; no model depends on it.
_OF_DATA = ("name", "first_day", "last_day", "train_until")
# The same of a field or label.
_OF_ROWS = ("low", "high", "observed_until", "delay_days", "known_at")
# What a field and its values are called in text; no model of events reads it.
_OF_TEXT = ("title", "names")
# Came later: absent where they are not used, so that older hashes stand.
_OPTIONAL = (
  "attributes", "events", "time_zone", "level", *_OF_ROWS, *_OF_TEXT
)  # fmt: skip
# What the ids below FIRST_VALUE say of a value, and of a composite token.
_NO_VALUE = ("(missing)", "(unknown)")
_NO_TOKEN = ("(no event)", "(unknown)")


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
    events: Where rows are days: fields of the event rows that make them, fitted,
      so that later events can be encoded alike.
    time_zone: Where local days begin; "" for UTC.
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
  events: tuple[Field, ...] = ()
  time_zone: str = ""

  def __post_init__(self):
    if self.rows not in ("day", "event"):
      raise SchemaError(f"rows is {self.rows!r}; use 'day' or 'event'")
    for table in TABLES:
      given = getattr(self, table)
      if not isinstance(given, tuple | list):
        raise SchemaError(
          f"{table} = {given!r} is no tuple of fields: a tuple of one has a "
          "comma, (Categorical(...),)"
        )
      names = [f.name for f in getattr(self, table)]
      twice = sorted({n for n in names if names.count(n) > 1})
      if twice:
        raise SchemaError(f"{table}: field names given twice: {twice}")
    self._check_derived()

  def _check_derived(self):
    """Derived fields stand in rows of events, behind what they are made of."""
    for table in TABLES:
      seen = set()
      fits = table == "activity" and self.rows == "event"
      for f in getattr(self, table):
        if isinstance(f, Derived) and not fits:
          raise SchemaError(
            f"{table}: field {f.name!r} is {type(f).__name__}, which needs the "
            "activity table and rows of events (rows=event)"
          )
        if isinstance(f, Composite) and not set(f.of) <= seen:
          raise SchemaError(
            f"{table}: field {f.name!r} is made of {f.of}; before it stand the "
            f"fields {sorted(seen)} that have ids"
          )
        if has_ids(f):
          seen.add(f.name)

  def categorical(self, table: str) -> tuple[Categorical | Derived, ...]:
    """Fields with ids of a table; position = column of `categorical`."""
    return tuple(f for f in getattr(self, table) if has_ids(f))

  def dense(self, table: str) -> tuple[Field, ...]:
    """Fields that live in `numeric`, in order; each takes `width` columns."""
    return tuple(f for f in getattr(self, table) if not has_ids(f))

  def columns(self, table: str) -> set[str]:
    """Columns of the raw table that its fields are made of."""
    return {column(f) for f in getattr(self, table)} - {""}

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

  def token(self, name: str, i: int) -> dict[str, str]:
    """What an id of an activity field with ids says: {field: value as text}.

    "" stands for a part that a smaller token does not say; a missing value is
    "(missing)", one without an id "(unknown)". A composite's ids 0, no event, and
    1, an event that is none of its tokens, say "(no event)" and "(unknown)" in
    every part.

    Raises:
      SchemaError: There is no such field or id.
    """
    f = self._field(name)
    if i == ANY:
      return {name: ""}
    if not 0 <= i < f.size:
      raise SchemaError(f"{name!r} has the ids 0 to {f.size - 1}, not {i}")
    if isinstance(f, Composite):
      if i < FIRST_VALUE:
        return dict.fromkeys(f.of, _NO_TOKEN[i])
      parts = f.values[i - FIRST_VALUE]
      return {n: self.token(n, p)[n] for n, p in zip(f.of, parts)}
    if i < FIRST_VALUE:
      return {name: _NO_VALUE[i]}
    if isinstance(f, Categorical):
      return {name: f.values[i - FIRST_VALUE]}
    return {name: f.describe(i)}

  def token_id(self, name: str, values: Mapping[str, str]) -> int:
    """The id of what `token` says; UNKNOWN where there is no such token.

    Raises:
      SchemaError: There is no such field; `values` lacks a part, or names
        another.
    """
    f = self._field(name)
    of = f.of if isinstance(f, Composite) else (name,)
    if set(values) != set(of):
      raise SchemaError(
        f"a token of {name!r} is made of {list(of)}, not of {sorted(values)}"
      )
    text = values.get(name)
    if isinstance(f, Composite):
      if set(values.values()) == {_NO_TOKEN[MISSING]}:
        return MISSING
      parts = tuple(
        ANY if values[n] == "" else self.token_id(n, {n: values[n]}) for n in of
      )
      return self._places[name].get(parts, UNKNOWN)
    if text == _NO_VALUE[MISSING]:
      return MISSING
    return self._places[name].get(text, UNKNOWN)

  def _field(self, name: str) -> Field:  # Of the activity, with ids.
    fields = {f.name: f for f in self.categorical("activity")}
    if name not in fields:
      raise SchemaError(
        f"no activity field {name!r} with ids; there are {list(fields)}"
      )
    return fields[name]

  @functools.cached_property
  def _places(self) -> dict[str, dict[Any, int]]:
    """{field: {value: id}} of the activity fields with ids."""
    out = {}
    for f in self.categorical("activity"):
      if isinstance(f, Categorical | Composite):
        values = f.values or ()
      else:
        ids = range(FIRST_VALUE, f.size)
        values = [f.describe(i) for i in ids]
      out[f.name] = {v: i + FIRST_VALUE for i, v in enumerate(values)}
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
    except (
      ValueError,
      KeyError,
      AttributeError,
      TypeError,
      RecursionError,
    ) as e:
      raise SchemaError(f"not a schema.json: {e}") from e
    if version != VERSION:
      raise SchemaError(
        f"schema version {version}, this program reads {VERSION}: prepare the "
        "data again with this program's data_prep"
      )
    try:
      for table in TABLES:
        doc[table] = tuple(_field(f) for f in doc[table])
      doc["events"] = tuple(_field(f) for f in doc.get("events", ()))
      doc["labels"] = tuple(typed.build(Label, d) for d in doc["labels"])
      typed.check_tokens({t: doc[t] for t in TABLES})
      return typed.check(cls(**doc))
    except SchemaError:
      raise
    except (KeyError, TypeError, ValueError, AttributeError) as e:
      raise SchemaError(f"not a schema.json: {e}") from e

  def save(self, path: epath.PathLike) -> None:
    """Writes schema.json."""
    epath.Path(path).write_text(self.to_json())

  @classmethod
  def load(cls, path: epath.PathLike) -> "Schema":
    """Reads schema.json; errors name the file."""
    try:
      return cls.from_json(epath.Path(path).read_bytes().decode())
    except (SchemaError, UnicodeDecodeError) as e:
      raise SchemaError(f"{path}: {e}") from e

  @property
  def hash(self) -> str:
    """16 hex digits that change when anything of the schema changes."""
    return _digest(self.to_json())

  @property
  def model_hash(self) -> str:
    """16 hex digits of what a model depends on.

    Fields, vocabularies, scales, labels, kind of rows, epoch and time zone; not
    the data set's name and days, nor the range seen in training, nor what fields
    and values are called in text.
    """
    doc = {k: v for k, v in _plain(self).items() if k not in _OF_DATA}
    return _digest(json.dumps(_of_model(doc), sort_keys=True))

  def difference(self, other: "Schema") -> str:
    """What of a model's inputs differs from another schema, in words."""
    parts = []
    for f in dataclasses.fields(self):
      if f.name in _OF_DATA:
        continue
      mine, theirs = getattr(self, f.name), getattr(other, f.name)
      if mine == theirs:
        continue
      if f.name not in (*TABLES, "events", "labels"):
        parts.append(f"{f.name}: {mine!r} against {theirs!r}")
        continue
      mine = {x.name: _of_model(_plain(x)) for x in mine}
      theirs = {x.name: _of_model(_plain(x)) for x in theirs}
      if list(mine.items()) == list(theirs.items()):
        continue
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


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _of_model(value: Any) -> Any:
  """A plain document without what describes one data set's rows, or names."""
  if isinstance(value, list):
    return [_of_model(v) for v in value]
  if not isinstance(value, dict):
    return value
  return {
    k: _of_model(v) for k, v in value.items() if k not in (*_OF_ROWS, *_OF_TEXT)
  }


def _plain(value: Any) -> Any:
  if dataclasses.is_dataclass(value):
    doc = {
      f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)
    }
    for name in _OPTIONAL:
      if name in doc and doc[name] in (None, [], ""):
        del doc[name]
    if type(value).__name__ in FIELD_TYPES:
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
  if kind not in FIELD_TYPES:
    raise SchemaError(
      f"unknown field type {kind!r}; known: {list(FIELD_TYPES)}"
    )
  return typed.build(FIELD_TYPES[kind], doc)
