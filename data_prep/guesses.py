"""What the columns of a raw table are taken for, by names and values."""

import dataclasses
import datetime
import pathlib
import re
from collections.abc import Sequence

import polars as pl

from .inputs import InputError
from .readers import files as files_lib
from .readers import moments, problems

_SAMPLE = 200_000  # Rows of a file that guesses are made on.
_PEOPLE = (
  "user", "customer", "household", "client", "student", "person", "member",
  "visitor", "account", "player", "patient", "session",
)  # fmt: skip
_TIMES = ("timestamp", "datetime", "time", "date", "day", "ts", "when")
_ID = re.compile(r"(^id_)|([a-z]Id$)|(_?(id|ID|key|code)$)|(^(id|key)$)")
_WORTH = ("sales", "amount", "revenue", "spend", "total", "price", "value")
_FIELDS, _FEW = 8, 20


@dataclasses.dataclass
class Table:
  """One file and what is guessed of it.

  Attributes:
    file: Path of the file.
    sample: Its first rows.
    rows: All of its rows.
    key: Column of user ids; "".
    time: Column of times; "".
    declared: Format or unit of the times; {} for none.
    doubt: What of the times cannot be told from their values; "" for nothing.
    unread: Why columns named like times are none; () where one is.
    zoned: Whether its times have a zone.
    parts: Columns of year, month, day and, if there is one, the clock's text,
      where the time is cut into such columns; () otherwise.
    why: Lines that say what was guessed and why.
  """

  file: pathlib.Path
  sample: pl.DataFrame
  rows: int
  key: str = ""
  time: str = ""
  declared: dict = dataclasses.field(default_factory=dict)
  zoned: bool = False
  parts: tuple[str, ...] = ()
  doubt: str = ""
  unread: tuple[str, ...] = ()
  why: list[str] = dataclasses.field(default_factory=list)


def sampled(file: pathlib.Path) -> Table:
  """A file's first rows, and what its columns are taken for."""
  read = files_lib.read(file.parent, "activity", {"file": file.name}, set())
  with problems.named("activity", [file], {}):
    sample = read.frame.head(_SAMPLE).collect()
    table = Table(file, sample, read.frame.select(pl.len()).collect().item())
  people = [c for c in sample.columns if _word(c, _PEOPLE)]
  exact = [c for c in people if _ID.search(c) or c.lower() in _PEOPLE]
  for column in [*exact, *people]:
    dtype = sample[column].dtype
    whole = dtype == pl.String or dtype.is_integer()
    if dtype.is_float():
      numbers = sample[column].drop_nulls()
      whole = bool((numbers == numbers.round()).all())
    if whole:
      table.key = column
      table.why.append(f"key is {column!r}: its name speaks of users")
      break
  _find_time(table)
  return table


def _word(name: str, words: Sequence[str]) -> bool:
  return any(
    w in re.split(r"[^a-z]+|(?<=id)_", name.lower())
    or (name.lower().startswith(w) or name.lower().removeprefix("id_") == w)
    for w in words
  )


def _find_parts(table: Table) -> bool:
  """Whether the time is cut into columns of year, month and day."""
  named = {c.lower(): c for c in table.sample.columns}
  if not {"year", "month", "day"} <= named.keys():
    return False
  date = tuple(named[n] for n in ("year", "month", "day"))
  for clock in (*(named[n] for n in ("time", "clock") if n in named), ""):
    parts = (*date, clock) if clock else date
    read = table.sample.select(time_of_parts(parts)).to_series()
    if read.is_not_null().mean() > 0.99:
      table.parts = parts
      table.why.append(f"time is made of {', '.join(map(repr, parts))}")
      return True
  return False


def parts_format(parts: Sequence[str]) -> tuple[str, str]:
  """How the texts of parts are joined, and the format that reads them."""
  clock = len(parts) == 4
  joined = "{}-{}-{} {}" if clock else "{}-{}-{}"
  return joined, "%Y-%m-%d %H:%M" if clock else "%Y-%m-%d"


def time_of_parts(parts: Sequence[str]) -> pl.Expr:
  """The time of a row whose parts stand in columns."""
  joined, form = parts_format(parts)
  return pl.format(joined, *parts).str.to_datetime(form, strict=False)


def _find_time(table: Table) -> None:
  """The column that reads as times, by type first, then by name."""
  if _find_parts(table):
    return
  columns = table.sample.columns
  typed = [
    c for c in columns if table.sample[c].dtype in (pl.Date, pl.Datetime)
  ]
  named = [c for w in _TIMES for c in columns if w in c.lower()]
  for column in [*typed, *named]:
    frame = table.sample.lazy().select(pl.col(column))
    spelled = moments.formats(frame, column)
    if len(spelled) > 1 and table.rows > len(table.sample):
      file = {"file": table.file.name}  # Later rows may tell.
      whole = files_lib.read(table.file.parent, "activity", file, set()).frame
      spelled = moments.formats(whole, column) or spelled
    units = ({}, {"unit": "s"}, {"unit": "ms"})
    for declared in ({"format": spelled[0]},) if spelled else units:
      dtype = table.sample[column].dtype
      if not (dtype.is_temporal() or dtype == pl.String or dtype.is_integer()):
        continue
      if dtype == pl.Time or ("unit" in declared and not dtype.is_integer()):
        continue
      low = table.sample[column].min()
      if declared.get("unit") == "s" and low > 10**11:
        continue
      try:
        read, _ = moments.resolve(
          frame, column, "", "", moments.Declared(column, **declared)
        )
        dtype = read.collect_schema()[column]
        read.collect()
      except InputError as e:
        if not declared:
          table.unread += (f"{table.file.name}{e}",)
        continue
      except pl.exceptions.PolarsError:
        continue
      table.time, table.declared = column, declared
      table.zoned = isinstance(dtype, pl.Datetime) and bool(dtype.time_zone)
      table.unread = ()
      how = f", numbers in {declared['unit']}" if "unit" in declared else ""
      how = f" by {spelled[0]}" if spelled else how
      table.why.append(f"time is {column!r}: it reads as {dtype}{how}")
      if len(spelled) > 1:
        table.doubt = (
          f"{column!r} can be read in two ways, and day first was taken: if the "
          f'month comes first, its "format" is {spelled[1]!r}'
        )
        table.why.append(f"CHECK: {table.doubt}")
      return


def fields(table: Table, limit: int = _FIELDS) -> list[tuple[str, str, str]]:
  """(type, column, reason) of the columns worth having as fields."""
  out = []
  for column in table.sample.columns:
    series = table.sample[column]
    if column in (
      table.key,
      table.time,
      *table.parts,
    ) or series.null_count() == len(series):
      continue
    count = series.n_unique() if not series.dtype.is_nested() else 0
    if series.dtype.is_nested() or series.dtype.is_temporal() or count < 2:
      continue
    if series.dtype.is_numeric() and not _ID.search(column) and count > _FEW:
      out.append(("Numeric", column, f"{count:,} different numbers"))
    elif count <= 2000 or _ID.search(column):
      if series.dtype.is_float():
        continue
      out.append(("Categorical", column, f"{count:,} values"))
  # Numbers first, then what has few values: those say most in few columns.
  out.sort(key=lambda f: (f[0] != "Numeric", table.sample[f[1]].n_unique()))
  return out[:limit]


def worth(table: Table) -> str:
  """A numeric field that looks like what users spend; "" without one."""
  names = [c for k, c, _ in fields(table) if k == "Numeric"]
  for word in _WORTH:
    for name in names:
      if word in name.lower():
        return name
  return names[0] if names else ""


def day(first, offset: int):
  """The day `offset` days after the first."""
  if isinstance(first, int):
    return first + offset
  return first + datetime.timedelta(days=offset)
