"""Events under headings: one group a value of a category.

Groups stand by their first event, and events of a group in their order; which of
two events of different groups came first is said only by their times.
"""

from collections.abc import Sequence

from lumos_jax.llm import cells
from lumos_jax.llm import rows as rows_lib

Columns = Sequence[rows_lib.Column]


def line(row: Sequence[rows_lib.Cell]) -> str:
  """Cells between commas, quoted where they hold one; nothing for missing."""
  texts = (cells.mark(c) for c in row)
  return ", ".join(
    "" if t is None else cells.quoted(cells.clean(t), ",") for t in texts
  )


def unline(text: str) -> list[str | None]:
  """The marked texts of a `line`."""
  return [
    cells.unclean(cells.unquoted(p)) if p else None
    for p in cells.split(text, ", ")
  ]


def write(
  columns: Columns, rows: Sequence[Sequence[rows_lib.Cell]], by: int
) -> str:
  """Rows under the values of column `by`."""
  groups: dict = {}
  for row in rows:
    groups.setdefault(row[by], []).append(row)
  out = [_head(columns, by)]
  for value, found in groups.items():
    text = cells.mark(value)
    text = cells.MISSING if text is None else cells.clean(text)
    out.append(f"# {text}\n")
    out += [f"{line([*r[:by], *r[by + 1 :]])}\n" for r in found]
  return "".join(out)


def read(text: str, columns: Columns, by: int) -> list[list[rows_lib.Cell]]:
  """The rows, by group.

  Raises:
    cells.FormError: The text is not of this form.
  """
  head = _head(columns, by)
  if not text.startswith(head) or not text.endswith("\n"):
    raise cells.FormError("the text has other columns, or is cut")
  rest = [*columns[:by], *columns[by + 1 :]]
  out, value, found = [], None, False
  for said in text[len(head) :].split("\n")[:-1]:
    if said.startswith("# "):
      found = True
      value = cells.unmark(cells.unclean(said[2:]), columns[by].kind)
      continue
    texts = unline(said) if rest else []
    if not found or len(texts) != len(rest):
      raise cells.FormError("an event without a group, or with other columns")
    row = [cells.unmark(t, c.kind) for t, c in zip(texts, rest)]
    out.append([*row[:by], value, *row[by:]])
  return out


def _head(columns: Columns, by: int) -> str:
  titles = [cells.clean(c.title) for c in columns]
  rest = ", ".join(
    cells.quoted(t, ",") for i, t in enumerate(titles) if i != by
  )
  return f"Events by {titles[by]}; of each: {rest}\n"
