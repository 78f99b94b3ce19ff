"""Is a rewritten text still its table? Rows, amounts and dates, by counting.

A model may change names and layout, nothing else: every event stands in its place
with its date before its amounts, none is lost, changed or added. What fails is
dropped and counted, never mended.
"""

import collections
import decimal
import html
import json
import re
from collections.abc import Iterable, Sequence

from lumos_jax.llm import rows as rows_lib

REASONS = ("empty", "rows", "dates", "amounts", "order", "analysis")
_NUMBER = re.compile(
  r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?"
  r"(?:[eE][-+]?\d+)?(?!\w)",
  re.ASCII,
)
_ISO = (
  r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:[-+]\d\d:\d\d|Z)?)?"
)
_TAG = re.compile(r"<[^>]*>")
_DIGITS = 60  # Longer ones are no number of a table.

Columns = Sequence[rows_lib.Column]
Rows = Sequence[Sequence[rows_lib.Cell]]


def broken(
  columns: Columns, found: Rows, form: str, text: str, analysis: str = ""
) -> str:
  """What is wrong with a rewritten text: "" or one of REASONS.

  Args:
    columns, found: The table; times are its first column, where it has any.
    form: "html", "json", "yaml", "markdown", "plain" or "table".
    text: Of the model.
    analysis: Of the model, about the table: it may name numbers and dates of the
      table and counts, sums and means of it.
  """
  if not text.strip():
    return "empty"
  count = rows_of(form, text)
  if count is not None and count != len(found):
    return "rows"
  shown = html.unescape(_TAG.sub(" ", text)) if form == "html" else text
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
  wanted = collections.Counter(x for row in each for x in row)
  said = collections.Counter(x for p in pieces for x in _numbers(p))
  free, numbering = _of_names(columns, found), _counts(found)
  for x in wanted.keys() | said.keys():
    more = said[x] - wanted[x]
    if more < 0 or (more > (x in numbering) and x not in free):
      return "amounts"
  if pattern:
    for row, piece in zip(each, pieces[1:], strict=True):
      if collections.Counter(row) - collections.Counter(_numbers(piece)):
        return "order"
  else:
    known = set(wanted) - free - numbering
    order = [x for x in _numbers(shown) if x in known]
    if order != [x for row in each for x in row if x in known]:
      return "order"
  return _analysis(columns, found, analysis, set(wanted) | free | numbering)


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
  try:
    doc = json.loads(text)
  except ValueError:
    try:
      return len([json.loads(line) for line in lines])
    except ValueError:
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


def _decimal(text: str) -> decimal.Decimal:
  text = text.replace(",", "").replace("\u2212", "-")
  return decimal.Decimal(text).normalize(decimal.Context(prec=99))


def _numbers(text: str) -> Iterable[decimal.Decimal]:
  for found in _NUMBER.findall(text):
    if len(found) <= _DIGITS:
      yield _decimal(found)


def _is_number(cell: rows_lib.Cell) -> bool:
  """Whether a cell is a number, or a text that is one: a rating, a day."""
  return isinstance(cell, str) and bool(_NUMBER.fullmatch(cell))


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


def _counts(found: Rows) -> set[decimal.Decimal]:
  """Numbers of rows: each may stand once more than the table has it."""
  return {_decimal(str(i)) for i in range(1, len(found) + 1)}


def _analysis(columns, found, analysis: str, allowed) -> str:
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
