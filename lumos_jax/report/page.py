"""HTML of the report: escaping, tables, figures and the page around them."""

import dataclasses
import html
import importlib.resources
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
  """Text that is already HTML; any other str is escaped where it is placed."""


def text(value: Any) -> Html:
  """HTML of a value: escaped, unless it is Html already."""
  return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[Any], between: str = "") -> Html:
  """Parts, each escaped if need be, with HTML between them."""
  return Html(between.join(text(p) for p in parts))


def tag(name: str, *content: Any, **attributes: Any) -> Html:
  """An element; class_="x" sets class, data_x="y" sets data-x."""
  shown = "".join(
    f' {k.rstrip("_").replace("_", "-")}="{html.escape(str(v))}"'
    for k, v in attributes.items()
    if v is not None
  )
  return Html(f"<{name}{shown}>{join(content)}</{name}>")


def number(value: Any, digits: int = 4) -> str:
  """A number as shown: fixed digits, thousands separated, "–" where absent."""
  if value is None or (isinstance(value, float) and not math.isfinite(value)):
    return "–"
  if isinstance(value, int):
    return f"{value:,}"
  if value and abs(value) >= 1000:
    return f"{value:,.0f}"
  if value and abs(value) < 0.5 * 10.0**-digits:
    # Two digits, written out as far as that can be read.
    places = 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{places}f}" if places <= 9 else f"{value:.1e}"
  return f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 4) -> str:
  """A difference with its sign; the minus is a real one."""
  if value is None or not math.isfinite(value):
    return "–"
  return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
  """3661 -> "1 h 1 min"; under two minutes in seconds."""
  if seconds < 120:
    return f"{seconds:.0f} s"
  minutes = round(seconds / 60)
  return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else (
    f"{minutes} min"
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Num:
  """A cell that is aligned right; `value` is kept in full as a title."""

  shown: str  # Or Html.
  value: float | None = None
  class_: str = ""


def num(value: float | None, digits: int = 4, class_: str = "") -> Num:
  """A number's cell."""
  return Num(number(value, digits), value, class_)


def _cell(value: Any, name: str) -> Html:
  if isinstance(value, Num):
    title = None if value.value is None else repr(float(value.value))
    classes = f"num {value.class_}".strip()
    return tag(name, value.shown, class_=classes, title=title)
  scope = "row" if name == "th" else None
  return tag(name, value, scope=scope)


def table(
  head: Sequence[Any], rows: Iterable[Sequence[Any]], caption: str = ""
) -> Html:
  """A table; the first cell of a row heads it, Num cells are aligned right."""
  rows = [list(r) for r in rows]
  # A column is numeric where its cells are.
  numeric = [
    any(isinstance(r[i], Num) for r in rows if i < len(r))
    for i in range(len(head))
  ]
  top = join(
    tag("th", h, scope="col", class_="num" if n else None)
    for h, n in zip(head, numeric, strict=True)
  )
  body = join(
    tag("tr", *(_cell(c, "th" if i == 0 else "td") for i, c in enumerate(r)))
    for r in rows
  )
  return tag(
    "div",
    tag(
      "table",
      tag("caption", caption) if caption else "",
      tag("thead", tag("tr", top)),
      tag("tbody", body),
    ),
    class_="scroll",
    tabindex=0,
  )


def paragraph(*content: Any) -> Html:
  """A paragraph of text."""
  return tag("p", *content)


def missing(what: str, why: str) -> Html:
  """Stands where a part is absent, and says why."""
  return tag("p", tag("b", f"{what}: not available. "), why, class_="missing")


def details(summary: str, *content: Any) -> Html:
  """A part that is folded until it is asked for."""
  return tag("details", tag("summary", summary), *content)


def script_json(value: Any) -> str:
  """JSON that can stand inside a script element."""
  dumped = json.dumps(value, allow_nan=False, separators=(",", ":"))
  return dumped.replace("<", "\\u003c").replace(">", "\\u003e")


def figure(title: str, spec: dict, caption: str = "", wide=False) -> Html:
  """A chart (charts.py) with its title; drawn by report.js.

  Args:
    title: Said above it, and to screen readers.
    spec: Plotly's data and layout.
    caption: How to read it.
    wide: Takes the whole width of a grid.
  """
  height = spec.get("layout", {}).get("height", 280)
  return tag(
    "figure",
    tag("figcaption", tag("b", title), " ", caption),
    tag(
      "div",
      Html(f'<script type="application/json">{script_json(spec)}</script>'),
      class_="chart",
      role="img",
      aria_label=title,
      style=f"height:{height}px",
    ),
    class_="wide" if wide else None,
  )


def grid(figures: Iterable[Html], pairs: bool = False) -> Html:
  """Figures side by side as far as the screen allows; with `pairs` at most two."""
  return tag("div", *figures, class_="grid pairs" if pairs else "grid")


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report; `anchor` is its name in links."""

  anchor: str
  title: str
  content: Html


# Nothing may be loaded from anywhere, whatever a name in the data says.
_POLICY = (
  "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
  "img-src data: blob:"
)


def _resource(name: str) -> str:
  files = importlib.resources.files(__package__)
  return files.joinpath(name).read_text(encoding="utf-8")


def page(
  title: str, header: Html, sections: Sequence[Section], plotly: str | None
) -> str:
  """The whole document.

  Args:
    title: Of the browser's tab.
    header: What stands above the sections.
    sections: In order; they make the table of contents.
    plotly: plotly.js, or None to leave charts out.
  """
  contents = tag(
    "nav",
    tag(
      "ul",
      *(tag("li", tag("a", s.title, href=f"#{s.anchor}")) for s in sections),
    ),
    aria_label="Contents",
  )
  main = tag(
    "main",
    header,
    *(
      tag("section", tag("h2", s.title), s.content, id=s.anchor)
      for s in sections
    ),
  )
  scripts = ""
  if plotly is not None:
    scripts = (
      f"<script>{plotly}</script>\n<script>{_resource('report.js')}</script>"
    )
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n'
    f"<title>{text(title)}</title>\n<style>\n{_resource('style.css')}</style>\n"
    f"</head>\n<body>\n{contents}\n{main}\n{scripts}\n</body>\n</html>\n"
  )
