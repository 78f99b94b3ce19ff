"""A user's record -> rows of cells that text can show: names, numbers, times.

A cell is a text, a number as written (`Number`), `UNSEEN` (a value without an id)
or None (missing): the three are kept apart in every form.
"""

import dataclasses
import datetime
import decimal
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumos_jax.data import instants
from lumos_jax.data import schema as schema_lib
from lumos_jax.names import near

TEXT, NUMBER, TIME = "text", "number", "time"
TIMES = ("none", "day", "minute", "second", "exact")
_PLAIN_BELOW = 1e16  # Numbers from here on are written with an exponent.


class TextError(ValueError):
  """A user cannot be told as asked for; names the field or option."""


class Unseen:
  """A value that has no id; there is one object, `UNSEEN`."""

  def __repr__(self) -> str:
    return "UNSEEN"


UNSEEN = Unseen()


class Number(str):
  """A float32 as it is written; `float()` and `np.float32()` read it."""

  __slots__ = ()


Cell = str | Unseen | None


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of the told table.

  Attributes:
    title: As a reader sees it.
    kind: TEXT, NUMBER or TIME.
  """

  title: str
  kind: str = TEXT


@dataclasses.dataclass(frozen=True)
class Options:
  """How events become text: the keys of a config's part.

  Attributes:
    form: Of the base text, one of forms.FORMS.
    fields: Of the activity, in this order; (): all but those derived from others.
    profile: Fields of the profile that the text opens with. A field that is
      asked for later (a label) does not belong here.
    names: Readable names for fields and values; False: codes as in the data.
    decimals: Of numbers, truncated toward zero; -1: all that float32 has.
    time: "none", "day", "minute", "second", or "exact" (microseconds and the
      offset from UTC).
    group: Field whose values are headings in form "grouped"; "": the told one
      with the fewest values.
  """

  form: str = "table"
  fields: tuple[str, ...] = ()
  profile: tuple[str, ...] = ()
  names: bool = True
  decimals: int = 2
  time: str = "day"
  group: str = ""

  def __post_init__(self):
    for name in ("form", "time", "group"):
      if not isinstance(getattr(self, name), str):
        raise TextError(f"{name} = {getattr(self, name)!r} is no text")
    if type(self.decimals) is not int or type(self.names) is not bool:
      raise TextError(
        f"decimals = {self.decimals!r} must be a whole number, and names = "
        f"{self.names!r} True or False"
      )
    if self.time not in TIMES:
      raise TextError(f"time = {self.time!r}; use one of {list(TIMES)}")
    if not -1 <= self.decimals <= 40:
      raise TextError(f"decimals = {self.decimals}; use -1 to 40")
    for name in ("fields", "profile"):
      found = getattr(self, name)
      if not isinstance(found, tuple) or not all(
        isinstance(x, str) for x in found
      ):
        raise TextError(f"{name} is a list of names of fields")

  @classmethod
  def of(cls, cfg: "Options | Mapping[str, Any] | None") -> "Options":
    """Of a config's part; raises TextError at a key that is not known."""
    if isinstance(cfg, Options):
      return cfg
    known = [f.name for f in dataclasses.fields(cls)]
    values = {}
    for key, value in dict(cfg or {}).items():
      if key not in known:
        raise TextError(f"unknown key {key!r} of text{near(key, known)}")
      values[key] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def number(x: float, decimals: int = -1) -> Number | None:
  """A float32 as text; None for NaN, which means missing.

  Args:
    x: The number.
    decimals: Kept of the shortest decimal that float32 reads back (so 0.29 stays
      0.29); the rest is cut off, toward zero. -1: nothing is cut, and
      `np.float32(text)` has the same bits.
  """
  x = np.float32(x)
  if np.isnan(x):
    return None
  if np.isinf(x):
    return Number("inf" if x > 0 else "-inf")
  if decimals >= 0:
    # Numbers of float32 have at most 39 digits before the point.
    exact = decimal.Context(prec=99, rounding=decimal.ROUND_DOWN)
    cut = exact.quantize(
      decimal.Decimal(np.format_float_scientific(x)),
      decimal.Decimal(1).scaleb(-decimals),
    )
    text = f"{cut:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return Number("0" if text == "-0" else text)
  if x and not 1e-5 <= abs(x) < _PLAIN_BELOW:
    return Number(np.format_float_scientific(x, trim="-", exp_digits=1))
  return Number(np.format_float_positional(x, trim="-"))


class Rows:
  """Reads records of one schema as rows of cells.

  Attributes:
    columns: Of the told table.
    sizes: Values of each column; 0 where it has no vocabulary.
    untold: {field: why it is not told}.
  """

  def __init__(self, schema: schema_lib.Schema, options: Options):
    """Prepares names.

    Raises:
      TextError: An option names a field that is not there or cannot be told, or
        two fields or values have one name.
    """
    self.schema, self.options = schema, options
    self.untold: dict[str, str] = {}
    self._zone = zoneinfo.ZoneInfo(schema.time_zone or "UTC")
    chosen = self._chosen("activity", options.fields)
    titles = [self._title(f) for f in chosen]
    _distinct("fields", titles)
    columns = [
      Column(t, TEXT if schema_lib.has_ids(f) else NUMBER)
      for t, f in zip(titles, chosen, strict=True)
    ]
    self.sizes = [f.size if schema_lib.has_ids(f) else 0 for f in chosen]
    self.names = [f.name for f in chosen]
    if options.time != "none":
      what = "date" if schema.epoch else "day"
      free = (t for t in (what, f"{what} of event", "when") if t not in titles)
      columns.insert(0, Column(next(free), TIME))
      self.sizes.insert(0, 0)
      self.names.insert(0, "")
    if not columns:
      raise TextError(
        f"{schema.name!r}: nothing to tell: of its fields {self.untold}, and "
        "time = 'none'"
      )
    self.columns = tuple(columns)
    self._readers = [self._reader("activity", f) for f in chosen]
    about = self._chosen("profile", options.profile) if options.profile else ()
    self.about = tuple(
      Column(self._title(f), TEXT if schema_lib.has_ids(f) else NUMBER)
      for f in about
    )
    _distinct("profile", [c.title for c in self.about])
    self._about = [self._reader("profile", f) for f in about]

  def read(self, record: Mapping[str, Any], until: int = 0) -> list[list[Cell]]:
    """Rows of events before a day, oldest first; of all where it is 0."""
    stop = events(record, until)
    columns = [
      read(record["categorical"][:stop], record["numeric"][:stop])
      for read in self._readers
    ]
    if self.options.time != "none":
      columns.insert(0, self._times(record, stop))
    return [list(row) for row in zip(*columns, strict=True)]

  def read_profile(self, record: Mapping[str, Any]) -> list[Cell]:
    """Cells of the chosen profile fields."""
    ids = np.asarray(record["profile_categorical"])[None]
    numbers = np.asarray(record["profile_numeric"])[None]
    return [read(ids, numbers)[0] for read in self._about]

  def _chosen(self, table: str, names: Sequence[str]):
    fields = {f.name: f for f in getattr(self.schema, table)}
    if names:
      for name in names:
        if name not in fields:
          raise TextError(
            f"no {table} field {name!r}{near(name, fields)} There are "
            f"{list(fields)}"
          )
        if reason := _cannot(fields[name]):
          raise TextError(f"{table} field {name!r} cannot be told: {reason}")
      return [fields[n] for n in names]
    found = []
    for f in fields.values():
      reason = _cannot(f)
      if isinstance(f, schema_lib.Clock):
        reason = "it is a part of the time"
      elif isinstance(f, schema_lib.Binned) and f.of in fields:
        reason = f"its number is told by field {f.of!r}"
      if reason:
        self.untold[f.name] = reason
      else:
        found.append(f)
    return found

  def _title(self, field) -> str:
    if not self.options.names:
      return field.name
    return getattr(field, "title", "") or field.name.replace("_", " ")

  def _reader(self, table: str, field):
    """(ids [T, C], numbers [T, N]) -> cells of a field."""
    if not schema_lib.has_ids(field):
      at = self.schema.numeric_column(table, field.name)
      decimals = self.options.decimals
      return lambda ids, x: _numbers(x[:, at], decimals)
    at = [f.name for f in self.schema.categorical(table)].index(field.name)
    said = [None, UNSEEN, *self._said(field)]
    return lambda ids, x: [said[i] for i in ids[:, at].tolist()]

  def _said(self, field) -> list[str]:
    if not isinstance(field, schema_lib.Categorical):
      ids = range(schema_lib.FIRST_VALUE, field.size)
      return [field.describe(i) for i in ids]
    names = dict(field.names or ()) if self.options.names else {}
    said = [names.get(v, v) for v in field.values or ()]
    _distinct(f"values of field {field.name!r}", said)
    return said

  def _times(self, record, stop: int) -> list[str]:
    days = np.asarray(instants.days(record)[:stop])
    want = self.options.time
    if want == "day" or self.schema.rows == "day":
      different, at = np.unique(days, return_inverse=True)
      said = [self._day(int(d)) for d in different]
      return [said[i] for i in at.tolist()]
    micros = np.asarray(record["time"][:stop]).tolist()
    if not self.schema.epoch:
      return [_relative(t, want) for t in micros]
    start = datetime.datetime.combine(
      datetime.date.fromisoformat(self.schema.epoch),
      datetime.time(),
      datetime.UTC,
    )
    local = (
      (start + datetime.timedelta(microseconds=t)).astimezone(self._zone)
      for t in micros
    )
    if want == "exact":
      return [t.isoformat(" ") for t in local]
    ends = {"minute": "minutes", "second": "seconds"}[want]
    return [t.replace(tzinfo=None).isoformat(" ", ends) for t in local]

  def _day(self, day: int) -> str:
    if not self.schema.epoch:
      return str(day)
    start = datetime.date.fromisoformat(self.schema.epoch)
    return (start + datetime.timedelta(days=day)).isoformat()


def events(record: Mapping[str, Any], until: int = 0) -> int:
  """Rows before a day; all where it is 0."""
  if not until:
    return len(record["day"])
  return int(np.searchsorted(instants.days(record), until))


def _numbers(x: np.ndarray, decimals: int) -> list[Number | None]:
  """Each number as text; by bits, as -0.0 == 0.0."""
  bits = np.ascontiguousarray(x, np.float32).view(np.int32)
  different, at = np.unique(bits, return_inverse=True)
  said = [number(v, decimals) for v in different.view(np.float32)]
  return [said[i] for i in at.tolist()]


def _relative(micros: int, want: str) -> str:
  """An instant of data without dates: "5 10:22", day 5."""
  day, rest = divmod(micros, 86_400_000_000)
  seconds, micro = divmod(rest, 1_000_000)
  text = f"{day} {seconds // 3600:02d}:{seconds // 60 % 60:02d}"
  if want == "minute":
    return text
  text += f":{seconds % 60:02d}"
  return f"{text}.{micro:06d}" if want == "exact" and micro else text


def _cannot(field) -> str:
  """Why a field cannot be told; "" where it can."""
  if isinstance(field, schema_lib.Composite):
    return f"its parts {list(field.of)} are told"
  if isinstance(field, schema_lib.Timestamp):
    return "the record keeps cyclic parts of it, not the time"
  if isinstance(field, schema_lib.Vector):
    return "it is a vector"
  return ""


def _distinct(what: str, names: Sequence[str]) -> None:
  if len(set(names)) == len(names):
    return
  seen: set[str] = set()
  twice = next(n for n in names if n in seen or seen.add(n))
  raise TextError(
    f"{what}: two are called {twice!r} in text: give other titles or names"
  )
