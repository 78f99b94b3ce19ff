"""Types of fields, of which a schema's tables are made, and labels.

Ids 0 and 1 of every field with ids mean "missing" and "not seen in training".
"""

import collections
import dataclasses
from collections.abc import Mapping

MISSING, UNKNOWN, FIRST_VALUE = 0, 1, 2


class SchemaError(ValueError):
  """The schema is malformed, or is not the one that was expected."""


def _at_least_one(field, name: str) -> None:
  number = getattr(field, name)
  if number < 1:
    raise SchemaError(
      f"field {field.name!r}: {name} = {number} must be 1 or more"
    )


def _check_title(field) -> None:
  if not isinstance(field.title, str):
    raise SchemaError(f"field {field.name!r}: title {field.title!r} is no text")


def _pairs(field) -> tuple[tuple[str, str], ...] | None:
  """A field's `names` as pairs; a value and a name stand once in them."""
  if field.names is None:
    return None
  names = field.names
  pairs = tuple(names.items() if isinstance(names, Mapping) else names)
  texts = lambda p: len(p) == 2 and all(isinstance(t, str) for t in p)
  if not all(map(texts, pairs)):
    raise SchemaError(
      f"field {field.name!r}: names is {{value: name}}, both of them text"
    )
  for what, found in zip(("value", "name"), zip(*pairs)):
    if len(set(found)) < len(found):
      count = collections.Counter(found)
      twice = [t for t, n in count.items() if n > 1][:3]
      raise SchemaError(
        f"field {field.name!r}: names: {what} {twice} stands twice; names must "
        "tell values apart"
      )
  return pairs or None


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
    title: What the field is called in text (llm/text.py); "": its name. No model
      of events depends on it, nor on `names`.
    names: {value: name} in text, where the value is a code; kept as pairs.
  """

  name: str
  max_values: int = 1000
  daily: str = "last"
  values: tuple[str, ...] | None = None
  attributes: tuple[tuple[int, ...], ...] | None = None
  title: str = ""
  names: Mapping[str, str] | tuple[tuple[str, str], ...] | None = None

  def __post_init__(self):
    _check_title(self)
    object.__setattr__(self, "names", _pairs(self))
    if self.attributes is not None and len(self.attributes) != len(
      self.values or ()
    ):
      raise SchemaError(
        f"field {self.name!r}: attributes of {len(self.attributes)} values, "
        f"and there are {len(self.values or ())}"
      )
    flat = [a for known in self.attributes or () for a in known]
    if not all(isinstance(a, int) and a >= 0 for a in flat):
      raise SchemaError(
        f"field {self.name!r}: attributes are whole numbers from 0"
      )
    if len(set(self.values or ())) != len(self.values or ()):
      raise SchemaError(f"field {self.name!r}: a value stands twice in values")
    _at_least_one(self, "max_values")

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
    low, high: Fitted: least and greatest number of the training rows. Nothing
      is clipped to them; numbers beyond are counted in later data.
    title: As in `Categorical`.
  """

  name: str
  transform: str = "log1p"
  scale: str = "standard"
  daily: str = "sum"
  nullable: bool = False
  offset: float = 0.0
  divisor: float = 1.0
  low: float | None = None
  high: float | None = None
  title: str = ""

  def __post_init__(self):
    _check_title(self)


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

  def __post_init__(self):
    if self.size < 0:
      raise SchemaError(f"field {self.name!r}: size = {self.size}")


@dataclasses.dataclass(frozen=True)
class Binned:
  """A number of the row, cut into bins; ids are in the order of the bins.

  Attributes:
    name: Of the field.
    of: Column of the raw table with the number.
    bins: At most this many; equal numbers share a bin.
    scale: "frequency" (equally many training rows a bin) or "log" (equal steps
      of sign(x) * log1p(|x|) between the training rows' extremes).
    edges: Fitted, ascending; a bin holds edges[i - 1] <= x < edges[i].
    low, high: As in `Numeric`.
    title: As in `Categorical`.
  """

  name: str
  of: str
  bins: int = 100
  scale: str = "frequency"
  edges: tuple[float, ...] | None = None
  low: float | None = None
  high: float | None = None
  title: str = ""

  def __post_init__(self):
    _check_title(self)

  @property
  def size(self) -> int:
    """Number of ids, the two reserved ones included."""
    return FIRST_VALUE + 1 + len(self.edges or ())

  def describe(self, i: int) -> str:
    """The bin of an id, as text."""
    edges = self.edges or ()
    i -= FIRST_VALUE
    low = f"{edges[i - 1]:g}" if i else "-inf"
    high = f"{edges[i]:g}" if i < len(edges) else "inf"
    return f"{low}..{high}"


CLOCK_PARTS = {"hour": 24, "weekday": 7, "monthday": 31, "gap": 32}


@dataclasses.dataclass(frozen=True)
class Clock:
  """A part of an event's own time, or the time since the user's last event.

  Attributes:
    name: Of the field.
    part: "hour", "weekday" (Monday is 0), "monthday" (the 1st is 0), or "gap":
      whole logarithm to base 2 of 1 + the seconds since the user's event
      before; missing for the first one.
    title: As in `Categorical`.
  """

  name: str
  part: str
  title: str = ""

  def __post_init__(self):
    _check_title(self)
    if self.part not in CLOCK_PARTS:
      raise SchemaError(
        f"field {self.name!r}: part {self.part!r}; use one of "
        f"{list(CLOCK_PARTS)}"
      )

  @property
  def size(self) -> int:
    """Number of ids, the two reserved ones included."""
    return FIRST_VALUE + CLOCK_PARTS[self.part]

  def describe(self, i: int) -> str:
    """The part of an id, as text."""
    i -= FIRST_VALUE
    return f"{2**i - 1}..{2 ** (i + 1) - 2} s" if self.part == "gap" else str(i)


ANY = -1


@dataclasses.dataclass(frozen=True)
class Composite:
  """A PANTHER token: the product of other fields of the row, top K of them.

  Attributes:
    name: Of the field.
    of: Its parts: Categorical, Binned or Clock fields of the table, before it.
    max_values: K, by training frequency, ties by the parts' ids.
    min_count: Products of fewer training rows are not kept: 2 leaves rows to
      learn the smaller tokens from where K is larger than the products.
    backoff: Parts that a smaller token keeps where the product is not among the
      K; () for one unknown token, as in the paper.
    max_backoff: At most this many smaller tokens, by what training rows need.
    values: Fitted: ids of the parts, most frequent first; the smaller tokens
      come behind, with ANY in the other places. id = position + 2.
  """

  name: str
  of: tuple[str, ...]
  max_values: int = 60_000
  min_count: int = 1
  backoff: tuple[str, ...] = ()
  max_backoff: int = 10_000
  values: tuple[tuple[int, ...], ...] | None = None

  def __post_init__(self):
    if not self.of or len(set(self.of)) != len(self.of):
      raise SchemaError(
        f"field {self.name!r}: of = {self.of} must name different fields"
      )
    other = [n for n in self.backoff if n not in self.of]
    if other or (self.backoff and len(self.backoff) >= len(self.of)):
      raise SchemaError(
        f"field {self.name!r}: backoff = {self.backoff} must be some of, and "
        f"fewer than, {self.of}"
      )
    for name in ("max_values", "min_count", "max_backoff"):
      _at_least_one(self, name)

  @property
  def size(self) -> int:
    """Number of ids, the two reserved ones included."""
    return FIRST_VALUE + len(self.values or ())


Derived = Binned | Clock | Composite
Field = Categorical | Numeric | Timestamp | Vector | Derived
FIELD_TYPES = {
  c.__name__: c
  for c in (
    Categorical,
    Numeric,
    Timestamp,
    Vector,
    Binned,
    Clock,
    Composite,
  )
}


@dataclasses.dataclass(frozen=True)
class Label:
  """An outcome given as data: rows (key, time, value) beside the activity.

  Rows without time hold for the user as a whole (a final result). A label of
  events is a column of the activity that has its name, and no input: a row where
  it is null has no label.

  Whoever learns as of a day uses what was known by then: a row is known from its
  `known_at` on (a column beside `time`, or beside an event label NAME a column
  NAME_known_at), or `delay_days` after its time where it has none.

  Attributes:
    name: Of the label, as in the table.
    values: Where they are text.
    observed_until: Day from which on no row can be known yet: an ISO date or
      day in a description, a day once prepared. None: as the user's activity.
    level: "event" for labels of events; None for those of users.
    delay_days: Days from the time of an outcome until it is known, its absence
      too (fraud is confirmed weeks later); None for 0.
    known_at: Set when prepared, where rows say from which day on they are known.
  """

  name: str
  values: tuple[str, ...] | None = None
  observed_until: int | str | None = None
  level: str | None = None
  delay_days: int | None = None
  known_at: bool | None = None

  def __post_init__(self):
    if self.level not in (None, "event"):
      raise SchemaError(
        f"label {self.name!r}: level = {self.level!r}; use 'event', or leave it "
        "out for labels of users"
      )
    if self.delay_days is not None and self.delay_days < 0:
      raise SchemaError(
        f"label {self.name!r}: delay_days = {self.delay_days} must be 0 or more"
      )

  @property
  def late(self) -> bool:
    """Whether a row may be known later than its time."""
    return bool(self.delay_days or self.known_at)


def width(field: Field) -> int:
  """Number of columns of the encoded row that hold the field."""
  if isinstance(field, Timestamp):
    return 2 * len(field.parts)
  return field.size if isinstance(field, Vector) else 1


def column(field: Field) -> str:
  """Column of the raw table that the field reads; "" for none of its own."""
  if isinstance(field, Binned):
    return field.of
  return "" if isinstance(field, Clock | Composite) else field.name


def has_ids(field: Field) -> bool:
  """Whether the field lives in `categorical`."""
  return isinstance(field, Categorical | Derived)
