r"""How a cell stands in text so that it can be read back, in all forms alike.

- A missing value, one without an id and the texts "(missing)" and "(unknown)" are
  four things: such a text gets a backslash before it (`mark`).
- Where a form's cell is bare, characters that end lines, control the terminal or
  are no characters become escapes, as do spaces at an end and the empty text
  (`\_`), so that an event stays where it is (`clean`).
"""

import re
import unicodedata

import numpy as np

from lumos_jax.llm import rows as rows_lib

MISSING, UNKNOWN = "(missing)", "(unknown)"
_RESERVED = re.compile(r"\\*\((missing|unknown)\)", re.ASCII)
_TIME = re.compile(r"-?[0-9][0-9:. +-]*")
# Other, control, surrogate; line and paragraph separators.
_UNSAFE = {"Cc", "Cs", "Zl", "Zp"}
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\"}
_LONG = {v: k for k, v in _SHORT.items()} | {r"\_": ""}
_ESCAPE = re.compile(r"\\u[0-9a-f]{4}|\\.", re.DOTALL)


class FormError(ValueError):
  """A text is not of the form that it should be read as."""


def mark(cell: rows_lib.Cell) -> str | None:
  """A cell as text; None where it is missing."""
  if cell is rows_lib.UNSEEN:
    return UNKNOWN
  if cell is None or isinstance(cell, rows_lib.Number):
    return cell
  return "\\" + cell if _RESERVED.fullmatch(cell) else cell


def unmark(text: str | None, kind: str) -> rows_lib.Cell:
  """The cell of a text that `mark` gave.

  Raises:
    FormError: A number or time is asked for, and the text is none.
  """
  if kind == rows_lib.TIME and not _TIME.fullmatch(text or ""):
    raise FormError(f"{(text or '')[:40]!r} is no time")
  if text is None or text == MISSING:
    return None
  if text == UNKNOWN:
    return rows_lib.UNSEEN
  if kind == rows_lib.NUMBER:
    try:
      return rows_lib.number(np.float32(text))
    except ValueError as e:
      raise FormError(f"{text[:40]!r} is no number") from e
  return text[1:] if _RESERVED.fullmatch(text) else text


def unsafe(c: str) -> bool:
  """Whether a character may not stand in a line as it is."""
  return unicodedata.category(c) in _UNSAFE


def clean(text: str) -> str:
  """A text of one line, with no space at an end and never empty."""
  if not text:
    return r"\_"
  out = text
  if not text.isprintable() or "\\" in text:
    out = "".join(
      _SHORT.get(c) or (f"\\u{ord(c):04x}" if unsafe(c) else c) for c in text
    )
  if out[0].isspace():
    out = f"\\u{ord(out[0]):04x}{out[1:]}"
  if out[-1].isspace():
    out = f"{out[:-1]}\\u{ord(out[-1]):04x}"
  return out


def unclean(text: str) -> str:
  """The text that `clean` was given.

  Raises:
    FormError: It is none of `clean`'s.
  """

  def plain(match: re.Match) -> str:
    found = match[0]
    if len(found) == 6:
      return chr(int(found[2:], 16))
    if found not in _LONG:
      raise FormError(f"unknown escape {found!r}")
    return _LONG[found]

  return _ESCAPE.sub(plain, text)


def quoted(text: str, marks: str) -> str:
  """A clean text, in double quotes where it holds one of `marks`, or a quote."""
  if any(m in text for m in (*marks, '"')) or text[0] == "#":
    return '"' + text.replace('"', '""') + '"'
  return text


def split(line: str, mark: str, limit: int = -1) -> list[str]:
  """Parts of a line between marks outside quotes, quotes still around them.

  Args:
    line: The line.
    mark: What stands between parts.
    limit: Splits at most; -1 for all.
  """
  out, start, i, inside = [], 0, 0, False
  while i < len(line):
    if line[i] == '"':
      inside = not inside
    elif not inside and line.startswith(mark, i) and len(out) != limit:
      out.append(line[start:i])
      i += len(mark)
      start = i
      continue
    i += 1
  if inside:
    raise FormError("a quote is not closed")
  return [*out, line[start:]]


def unquoted(part: str) -> str:
  """The clean text of a part of `split`."""
  if len(part) > 1 and part[0] == part[-1] == '"':
    return part[1:-1].replace('""', '"')
  return part
