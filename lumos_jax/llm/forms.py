r"""Tables of events as text in several forms, and back.

Each form keeps missing, unseen and written values apart, and keeps numbers as they
are written: where nothing was cut off, float32 reads the same bits. What a form
cannot carry is in `FORMS[name].loses`. Values are data: none can end its cell, line
or table.

An event's text ends with a line end and so does what stands before and behind the
events, so that a text can be cut between events.
"""

import dataclasses
import html
import json
import re
from collections.abc import Callable, Sequence

from lumos_jax.llm import cells, grouped
from lumos_jax.llm import rows as rows_lib
from lumos_jax.llm.cells import FormError

Columns = Sequence[rows_lib.Column]
Row = Sequence[rows_lib.Cell]


@dataclasses.dataclass(frozen=True)
class Form:
  """One way to write events.

  Attributes:
    head, foot: Columns -> text before and behind the events.
    event: (columns, row) -> an event's text.
    read: (text, columns) -> rows, as `unmark` gives them; raises FormError.
    loses: What it cannot carry; "" for nothing.
  """

  head: Callable[[Columns], str]
  event: Callable[[Columns, Row], str]
  read: Callable[[str, Columns], list[list[rows_lib.Cell]]]
  foot: Callable[[Columns], str] = lambda columns: ""
  loses: str = ""


def write(form: str, columns: Columns, rows: Sequence[Row], by: int = 0) -> str:
  """Rows as text.

  Args:
    form: One of `NAMES`.
    columns: Of the rows.
    rows: Cells.
    by: Column whose values are headings in form "grouped".

  Raises:
    rows_lib.TextError: There is no such form.
  """
  if form == GROUPED:
    return grouped.write(columns, rows, by)
  f = of(form)
  events = "".join(f.event(columns, row) for row in rows)
  return f.head(columns) + events + f.foot(columns)


def read(
  form: str, text: str, columns: Columns, by: int = 0
) -> list[list[rows_lib.Cell]]:
  """The rows that `write` was given, in their order (grouped: by group).

  Raises:
    FormError: The text is not of that form, or has other columns.
  """
  if form == GROUPED:
    return grouped.read(text, columns, by)
  return of(form).read(text, columns)


def of(form: str) -> Form:
  """A form by name, but "grouped", whose events do not stand alone."""
  if form not in FORMS:
    raise rows_lib.TextError(f"form = {form!r}; use one of {list(NAMES)}")
  return FORMS[form]


def _lines(text: str) -> list[str]:
  """Lines of a text whose last one has ended."""
  if text and not text.endswith("\n"):
    raise FormError("the text ends within a line")
  return text.split("\n")[:-1]


def _body(text: str, head: str, foot: str = "") -> list[str]:
  if not text.startswith(head) or not text.endswith(foot):
    raise FormError("the text has other columns, or is of another form")
  if len(text) < len(head) + len(foot):
    raise FormError("the text is cut")
  return _lines(text[len(head) : len(text) - len(foot)])


def _row(found: Sequence[str | None], columns: Columns) -> list[rows_lib.Cell]:
  if len(found) != len(columns):
    raise FormError(f"{len(found)} cells, {len(columns)} are expected")
  return [cells.unmark(t, c.kind) for t, c in zip(found, columns, strict=True)]


def _title(c: rows_lib.Column) -> str:
  return cells.clean(c.title)


# Table: a header line, then one event a line (the paper's base text).


def _table_head(columns):
  return ", ".join(cells.quoted(_title(c), ",") for c in columns) + "\n"


def _table_event(columns, row):
  return grouped.line(row) + "\n"


def _table_read(text, columns):
  return [
    _row(grouped.unline(line), columns)
    for line in _body(text, _table_head(columns))
  ]


# JSON: an object a line.


def _json_text(text: str) -> str:
  out = json.dumps(text, ensure_ascii=False)
  if out.isprintable():
    return out
  return "".join(f"\\u{ord(c):04x}" if cells.unsafe(c) else c for c in out)


def _json_cell(cell) -> str:
  if isinstance(cell, rows_lib.Number):
    # JSON has no infinity.
    return f'"{cell}"' if "inf" in cell else str(cell)
  text = cells.mark(cell)
  return "null" if text is None else _json_text(text)


def _json_event(columns, row):
  pairs = (
    f"{_json_text(c.title)}: {_json_cell(x)}" for c, x in zip(columns, row)
  )
  return "{" + ", ".join(pairs) + "}\n"


def _json_read(text, columns):
  out, titles = [], [c.title for c in columns]
  for line in _lines(text):
    try:
      doc = json.loads(line, parse_int=str, parse_float=str)
    except ValueError as e:
      raise FormError(f"not JSON: {e}") from e
    if not isinstance(doc, dict) or list(doc) != titles:
      raise FormError("the text has other columns, or is of another form")
    out.append(_row(list(doc.values()), columns))
  return out


# YAML: a list of mappings. Words that YAML reads as something else are quoted.

_BARE = re.compile(r"[A-Za-z](?:[A-Za-z0-9_()/&'.,+-]| (?! ))*(?<! )")
_NOT_BARE = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def _yaml_text(text: str) -> str:
  bare = _BARE.fullmatch(text) and text.lower() not in _NOT_BARE
  if bare and text.isascii() and len(text) < 1000:
    return text
  return _json_text(text).replace("\x7f", r"\x7f")


def _yaml_cell(cell) -> str:
  if isinstance(cell, rows_lib.Number):
    if "inf" in cell:
      return cell.replace("inf", ".inf")
    # YAML 1.1 takes 1e+20 for a text.
    mantissa, e, power = cell.partition("e")
    sign = "" if not e or power[0] in "+-" else "+"
    point = ".0" if e and "." not in mantissa else ""
    return f"{mantissa}{point}{e}{sign}{power}"
  text = cells.mark(cell)
  return "null" if text is None else _yaml_text(text)


def _yaml_event(columns, row):
  pairs = [
    f"{_yaml_text(c.title)}: {_yaml_cell(x)}\n" for c, x in zip(columns, row)
  ]
  return "- " + "  ".join(pairs)


def _yaml_scalar(text: str) -> str | None:
  if text[:1] == '"':
    try:
      return json.loads(text)
    except ValueError as e:
      raise FormError(f"not a quoted text: {e}") from e
  return None if text == "null" else text


def _yaml_read(text, columns):
  lines, width = _lines(text), len(columns)
  if len(lines) % width:
    raise FormError(f"{len(lines)} lines of {width} an event")
  out = []
  for i in range(0, len(lines), width):
    found = []
    for n, (c, line) in enumerate(zip(columns, lines[i : i + width])):
      lead = f"{'  ' if n else '- '}{_yaml_text(c.title)}: "
      if not line.startswith(lead):
        raise FormError(f"line {i + n + 1} does not begin with {lead!r}")
      cell = _yaml_scalar(line[len(lead) :])
      if c.kind == rows_lib.NUMBER and cell:
        cell = cell.replace(".inf", "inf")
      found.append(cell)
    out.append(_row(found, columns))
  return out


# Markdown: a pipe table; marks within a cell (*, _) stay as they are.

_ENTITY = re.compile(r"&(amp|lt|gt);")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">"}


def _markdown_text(text: str) -> str:
  return re.sub(r"([\\|])", r"\\\1", html.escape(text, quote=False))


def _markdown_line(texts) -> str:
  return "| " + " | ".join(texts) + " |\n"


def _markdown_head(columns):
  titles = _markdown_line(_markdown_text(_title(c)) for c in columns)
  return titles + _markdown_line("---" for _ in columns)


def _markdown_event(columns, row):
  texts = map(cells.mark, row)
  return _markdown_line(
    "" if t is None else _markdown_text(cells.clean(t)) for t in texts
  )


def _plain(text: str) -> str | None:
  """A cell's clean text without entities, read; None for an empty one."""
  if not text:
    return None
  return cells.unclean(_ENTITY.sub(lambda m: _ENTITIES[m[1]], text))


def _markdown_read(text, columns):
  out = []
  for line in _body(text, _markdown_head(columns)):
    if not (line.startswith("| ") and line.endswith(" |")):
      raise FormError("a line is no row of a table")
    # A pipe behind an even number of backslashes parts cells.
    found = re.findall(r"((?:[^\\|]|\\.)*)\|", line[1:])
    plain = [re.sub(r"\\([\\|])", r"\1", t[1:-1]) for t in found]
    out.append(_row([_plain(t) for t in plain], columns))
  return out


# HTML: a table; a reader of HTML shows runs of spaces as one.


def _html_line(texts, tag: str) -> str:
  inner = "".join(f"<{tag}>{t}</{tag}>" for t in texts)
  return f"<tr>{inner}</tr>\n"


def _html_head(columns):
  titles = (html.escape(_title(c), quote=False) for c in columns)
  return "<table>\n" + _html_line(titles, "th")


def _html_event(columns, row):
  texts = (cells.mark(cell) for cell in row)
  return _html_line(
    (
      "" if t is None else html.escape(cells.clean(t), quote=False)
      for t in texts
    ),
    "td",
  )


def _html_read(text, columns):
  out = []
  for line in _body(text, _html_head(columns), "</table>\n"):
    if not re.fullmatch(r"<tr>(<td>[^<]*</td>)+</tr>", line):
      raise FormError("a line is no row of a table")
    found = re.findall(r"<td>([^<]*)</td>", line)
    out.append(_row([_plain(t) for t in found], columns))
  return out


# Sentences: "On 2020-01-05, channel was web, sales was 10." Brief: a day a line,
# without what is zero.


def _said(lead: str, joint: str, end: str, leaves_out: str | None) -> Form:
  """Form of events as lists of what was; one value is left out (None: missing)."""
  marks = (",", joint.strip(), ".")

  def name(c):
    return cells.quoted(_title(c), marks)

  def event(columns, row):
    said = [cells.mark(x) for x in row]
    head = "Event" if columns[0].kind != rows_lib.TIME else said[0]
    texts = []
    for c, t in list(zip(columns, said))[columns[0].kind == rows_lib.TIME :]:
      skip = leaves_out is None or c.kind == rows_lib.NUMBER
      if skip and t == leaves_out:
        continue
      t = cells.MISSING if t is None else cells.clean(t)
      texts.append(name(c) + joint + cells.quoted(t, ",." if end else ","))
    return lead + ", ".join([head, *texts]) + end + "\n"

  def read(text, columns):
    timed = columns[0].kind == rows_lib.TIME
    out = []
    for line in _lines(text):
      if not (line.startswith(lead) and line.endswith(end)):
        raise FormError("a line is no sentence of this form")
      line = line[len(lead) : len(line) - len(end)]
      first, *parts = cells.split(line, ", ")
      found = dict(cells.split(p, joint, 1) for p in parts if joint in p)
      known = [name(c) for c in columns[timed:]]
      if len(found) < len(parts) or not found.keys() <= set(known):
        raise FormError("a sentence tells of other columns")
      row = [first] if timed else []
      for c in columns[timed:]:
        default = leaves_out if c.kind == rows_lib.NUMBER else None
        t = found.get(name(c))
        if t is None and leaves_out is not None and default is None:
          raise FormError("a sentence does not tell of a column")
        if t is not None:
          t = cells.unquoted(t)
          t = t if c.kind == rows_lib.NUMBER else cells.unclean(t)
        row.append(default if t is None else t)
      out.append(_row(row, columns))
    return out

  return Form(lambda columns: "", event, read)


FORMS = {
  "table": Form(_table_head, _table_event, _table_read),
  "json": Form(lambda columns: "", _json_event, _json_read),
  "yaml": Form(lambda columns: "", _yaml_event, _yaml_read),
  "markdown": Form(
    _markdown_head,
    _markdown_event,
    _markdown_read,
    loses="marks of Markdown inside a cell are shown as marks",
  ),
  "html": Form(
    _html_head,
    _html_event,
    _html_read,
    lambda columns: "</table>\n",
    loses="runs of spaces, which a browser shows as one",
  ),
  "sentences": _said("On ", " was ", ".", None),
  "brief": _said("", ": ", "", "0"),
}
GROUPED = "grouped"
NAMES = (*FORMS, GROUPED)
