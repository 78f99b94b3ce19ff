"""Is a rewritten text still its table? Rows, amounts, dates and names, by counting.

A model may change layout and, where it is asked to, names: every event stands in
its place with its date before its amounts, none is lost, changed or added. Words
that it adds are not seen. What fails is dropped and counted, never mended.
"""

import collections
import decimal
import html
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence

from lumos_jax.llm import cells as cells_lib
from lumos_jax.llm import rows as rows_lib

REASONS = (
  "empty", "characters", "rows", "dates", "amounts", "names", "order", "analysis"
)  # fmt: skip
# Currencies and units may touch a number.
_NUMBER = re.compile(
  r"(?<![\d.])(?:(?<!\w)[-+\u2212])?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)"
  r"(?:\.\d+)?(?:[eE][-+]?\d+(?!\w))?",
  re.ASCII,
)
_ISO = (
  r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[-+]\d\d:\d\d|Z)?)?"
)
_TAG = re.compile(r"<[^>]*>")
_PLAIN_TAG = re.compile(r"</?\w+\s*/?>", re.ASCII)
_DIGITS = 60  # Longer ones are no number of a table,
_EXPONENT = 40  # nor are those that float32 cannot hold.
_ANALYSIS = 1200  # Characters; three sentences are asked for.
_NO_WORD = re.compile(r"[\W_]+")

Columns = Sequence[rows_lib.Column]
Rows = Sequence[Sequence[rows_lib.Cell]]


def broken(
  columns: Columns,
  found: Rows,
  form: str,
  text: str,
  analysis: str = "",
  names: bool = False,
) -> str:
  """What is wrong with a rewritten text: "" or one of REASONS.

  Args:
    columns, found: The table; times are its first column, where it has any.
    form: "html", "json", "yaml", "markdown", "plain" or "table".
    text: Of the model.
    analysis: Of the model, about the table: it may name numbers and dates of the
      table and counts, sums and means of it.
    names: Whether values that are words had to stay as they are.
  """
  if not text.strip():
    return "empty"
  if any(cells_lib.unsafe(c) and c not in "\n\r\t" for c in text + analysis):
    return "characters"
  # Attributes would stand in the text and say anything.
  if form == "html" and not all(map(_PLAIN_TAG.fullmatch, _TAG.findall(text))):
    return "characters"
  count = rows_of(form, text)
  if count is not None and count != len(found):
    return "rows"
  shown = html.unescape(_TAG.sub(" ", text)) if form == "html" else text
  shown = _unescaped(shown)
  pattern = _time_pattern(columns, found)
  pieces = [shown]
  if pattern:
    told, said = [_time(row[0]) for row in found], pattern.findall(shown)
    said = [_time(t) for t in said]
    if sorted(told) != sorted(said):
      return "dates"
    if told != said:
      return "order"
    pieces = pattern.split(shown)
  each = [_amounts(row) for row in found]
  told = [list(_numbers(p)) for p in pieces]
  free, numbering = _of_names(columns, found), _counts(found)
  if pattern and numbering == [p[-1:] for p in told[:-1]]:
    # Each event's number stands before its date.
    told = [*(p[:-1] for p in told[:-1]), told[-1]]
  wanted = collections.Counter(x for row in each for x in row)
  said = collections.Counter(x for p in told for x in p)
  more = {x: n for x, n in (said - wanted).items() if x not in free}
  if wanted - said:
    return "amounts"
  if more and (pattern or more != {x: 1 for (x,) in numbering}):
    return "amounts"
  if pattern:
    for row, piece in zip(each, told[1:], strict=True):
      if collections.Counter(row) - collections.Counter(piece):
        return "order"
  else:
    known = set(wanted) - free - {x for (x,) in numbering}
    order = [x for x in told[0] if x in known]
    if order != [x for row in each for x in row if x in known]:
      return "order"
  words = [row[bool(pattern) :] for row in found]  # A time is no name.
  if names and not _named(words, pieces[1:] if pattern else pieces):
    return "names"
  allowed = set(wanted) | free | {x for (x,) in numbering}
  return _analysis(columns, found, analysis, allowed)


def rows_of(form: str, text: str) -> int | None:
  """Events in a text of a form; -1 where it is none of that form."""
  lines = [line for line in text.splitlines() if line.strip()]
  if form == "json":
    return _json_rows(text, lines)
  if form == "html":
    rows = re.split(r"<tr\b", text, flags=re.I)[1:]
    data = sum("<td" in r.lower() for r in rows)
    return data or len(re.findall(r"<li\b", text, re.I))
  if form == "markdown":
    table = [x for x in lines if x.lstrip().startswith("|")]
    rules = [x for x in table if not set(x.strip()) - set("|-: ")]
    if table:
      return len(table) - 2 * len(rules)
    return sum(bool(re.match(r"\s*(?:[-*+]|\d+\.)\s", x)) for x in lines)
  if form == "yaml":
    items = [x for x in lines if re.match(r"\s*-\s", x)]
    depth = [len(x) - len(x.lstrip()) for x in items]
    return depth.count(min(depth)) if depth else 0
  return len(lines) - (form == "table")


def _json_rows(text: str, lines: Sequence[str]) -> int:
  """Objects of a list, of the only list of an object, or of lines."""
  # Brackets within brackets may be more than Python follows.
  try:
    doc = json.loads(text)
  except (ValueError, RecursionError):
    try:
      return len([json.loads(line) for line in lines])
    except (ValueError, RecursionError):
      return -1
  if isinstance(doc, dict):
    lists = [v for v in doc.values() if isinstance(v, list)]
    if not lists:
      return 1
    doc = lists[0] if len(lists) == 1 else None
  return len(doc) if isinstance(doc, list) else -1


def _time_pattern(columns: Columns, found: Rows) -> re.Pattern | None:
  """Finds times; None where there are none, or day numbers, told as amounts."""
  if columns[0].kind != rows_lib.TIME or not found:
    return None
  told = {row[0] for row in found}
  if all(re.fullmatch(_ISO, t) for t in told):
    return re.compile(rf"(?<![\w-]){_ISO}(?![\w-])")
  if all(":" in t for t in told):
    return re.compile(r"(?<![\w.-])-?\d+ \d\d:\d\d(?::\d\d(?:\.\d+)?)?(?!:?\w)")
  return None


def _time(text: str) -> str:
  return text.replace("T", " ")


def _decimal(text: str) -> decimal.Decimal | None:
  """A number as it is written; None for what no number of a table is."""
  if len(text) > _DIGITS:
    return None
  context = decimal.Context(prec=99, traps=[])
  text = text.replace(",", "").replace("\u2212", "-")
  found = context.create_decimal(text).normalize(context)
  if not found.is_finite() or abs(found.adjusted()) > _EXPONENT:
    return None
  return found


def _numbers(text: str) -> Iterable[decimal.Decimal]:
  """Numbers in a text, in any script's digits."""
  if not text.isascii():
    text = "".join(
      c if c.isascii() else str(unicodedata.decimal(c, c)) for c in text
    )
  found = map(_decimal, _NUMBER.findall(text))
  return [x for x in found if x is not None]


def _is_number(cell: rows_lib.Cell) -> bool:
  """Whether a cell is a number, or a text that is one: a rating, a day."""
  return (
    isinstance(cell, str)
    and bool(_NUMBER.fullmatch(cell))
    and _decimal(cell) is not None
  )


def _amounts(row: Sequence[rows_lib.Cell]) -> list[decimal.Decimal]:
  """Numbers of a row, in its order."""
  return [_decimal(x) for x in row if _is_number(x)]


def _of_names(columns: Columns, found: Rows) -> set[decimal.Decimal]:
  """Numbers inside names and titles: they may stand anywhere."""
  texts = {c.title for c in columns}
  for i, c in enumerate(columns):
    if c.kind == rows_lib.TEXT:
      cells = (row[i] for row in found)
      texts |= {x for x in cells if isinstance(x, str) and not _is_number(x)}
  return {x for t in texts for x in _numbers(t)}


def _counts(found: Rows) -> list[list[decimal.Decimal]]:
  """Numbers that rows may be given, each in a list of its own."""
  return [[_decimal(str(i))] for i in range(1, len(found) + 1)]


def _named(found: Rows, pieces: Sequence[str]) -> bool:
  """Whether texts of rows stand in their pieces, or all in the one there is.

  Signs do not count: a form may quote and escape them.
  """
  bare = lambda text: _NO_WORD.sub("", text.casefold())
  said = [bare(p) for p in pieces]
  if len(said) != len(found):
    said = ["".join(said)] * len(found)
  for row, piece in zip(found, said, strict=True):
    for cell in row:
      if not isinstance(cell, str) or _is_number(cell):
        continue
      if bare(_unescaped(cells_lib.clean(cell))) not in piece:
        return False
  return True


def _unescaped(text: str) -> str:
  """A text without escapes of characters, JSON's and those of `cells`."""
  return re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)


def _analysis(columns, found, analysis: str, allowed) -> str:
  if len(analysis) > _ANALYSIS:
    return "analysis"
  pattern = _time_pattern(columns, found)
  if pattern:
    told = {_time(row[0]) for row in found}
    if {_time(t) for t in pattern.findall(analysis)} - told:
      return "analysis"
    analysis = pattern.sub(" ", analysis)
  allowed = allowed | {_decimal("0"), _decimal("100")}
  for cells in zip(*found):
    x = _amounts(cells)
    if x:
      total = sum(x)
      allowed |= {*_roundings(total), *_roundings(total / len(x))}
  return "analysis" if set(_numbers(analysis)) - allowed else ""


def _roundings(x: decimal.Decimal) -> Iterable[decimal.Decimal]:
  """A number rounded, and cut, to 0, 1 and 2 decimals."""
  for digits in range(3):
    step = decimal.Decimal(1).scaleb(-digits)
    for way in (decimal.ROUND_HALF_UP, decimal.ROUND_DOWN):
      context = decimal.Context(prec=99, rounding=way)
      yield context.quantize(x, step).normalize(context)
