"""The page of intents: labels, sizes, example sessions, a map, how they were made.

A section of a run's report where WORKDIR/intents is there, and a page of its own.
"""

import json
from collections.abc import Mapping
from typing import Any

from lumos_jax.report import charts, load, page

FOLDER, FILE = "intents", "intents.json"
_OTHER = "other"
_TEACHERS = {
  "model": "a language model labelled a sample, and the student learned from it",
  "clusters": "no language model: the student learned from the clusters, whose "
  "names are their most typical words",
}
_SCORES = (
  ("micro_f1", "micro F1"),
  ("macro_f1", "macro F1"),
  ("covered_micro_f1", "micro F1 of sessions with a label"),
  ("coverage", "sessions with a label"),
  ("teacher_coverage", "sessions to which the teacher gives one"),
  ("top", "best label is the teacher's, of sessions with a label"),
  ("calibration_error", "calibration error"),
  ("sessions", "sessions tested"),
)


def section(run: load.Run) -> page.Html:
  """Of a run; says what to run where there are no intents yet."""
  path = run.workdir / FOLDER / FILE
  if not path.exists():
    why = f"run lumos intents --workdir={run.workdir.name} to make them."
    return page.missing("Intents", why)
  return content(json.loads(path.read_text()))


def document(doc: Mapping[str, Any]) -> str:
  """A page of its own, of intents.json's content."""
  from lumos_jax import report

  title = "Intents"
  header = page.tag("h1", title)
  parts = [page.Section("intents", title, content(doc))]
  return page.page(title, header, parts, report.plotly())


def content(doc: Mapping[str, Any]) -> page.Html:
  """The section's HTML."""
  total = max(doc["sessions"], 1)
  about = (
    f"{doc['sessions']:,} sessions, {len(doc['labels'])} labels, "
    f"{doc['coverage']:.1%} of the sessions have one; made of {doc['clusters']} "
    f"clusters. {_TEACHERS.get(doc['teacher'], doc['teacher'])}.".replace(
      ". no", ". No"
    ).replace(". a", ". A")
  )
  rows = [
    (
      x["name"],
      x["id"],
      page.num(x["sessions"]),
      page.Num(f"{x['sessions'] / total:.1%}"),
      x["definition"],
    )
    for x in doc["labels"]
  ]
  rows.append(
    (
      _OTHER,
      "",
      page.num(doc["other"]),
      page.Num(f"{doc['other'] / total:.1%}"),
      "No label fits well enough.",
    )
  )
  head = ("Intent", "id", "sessions", "share", "definition")
  parts = [page.paragraph(about), page.table(head, rows)]
  parts += [_notes(doc), _map(doc), _examples(doc), _student(doc)]
  return page.join(parts)


def _notes(doc) -> page.Html:
  lines = [f"Note: {x}." for x in doc["told"]]
  lines += [f"Changed by review: {x}." for x in doc["changes"]]
  if not lines:
    return page.Html("")
  return page.tag("ul", *(page.tag("li", x) for x in lines))


def _map(doc) -> page.Html:
  spec = scatter(doc)
  note = (
    f"{doc['map']['kind']} of {len(doc['map']['x']):,} sessions drawn at random; "
    "near sessions have near vectors, distances between groups say little."
  )
  return page.figure("Map of sessions", spec, note, wide=True)


def scatter(doc: Mapping[str, Any]) -> charts.Spec:
  """Sessions in two dimensions, coloured by intent."""
  found, names = doc["map"], {x["id"]: x["name"] for x in doc["labels"]}
  order = [*names, _OTHER]
  data = []
  for i, key in enumerate(order):
    rows = [n for n, x in enumerate(found["intent"]) if x == key]
    if not rows:
      continue
    other = key == _OTHER
    data.append(
      {
        "type": "scatter",
        "mode": "markers",
        "name": charts.shown(names.get(key, _OTHER)),
        "x": charts.floats([found["x"][n] for n in rows]),
        "y": charts.floats([found["y"][n] for n in rows]),
        "marker": {
          "color": "$quiet" if other else charts.colour(i),
          "symbol": charts.SYMBOLS[i // 7 % 6],
          "size": 4 if other else 6,
          "opacity": 0.4 if other else 0.8,
        },
        "hovertemplate": "<extra>%{fullData.name}</extra>",
      }
    )
  axis = {"showticklabels": False, "zeroline": False}
  layout = {"height": 520, "showlegend": True, "xaxis": axis, "yaxis": {**axis}}
  return {"data": data, "layout": layout}


def _examples(doc) -> page.Html:
  parts = []
  for x in doc["labels"]:
    shown = [" → ".join(pages) for pages in x["examples"]]
    if shown:
      parts.append(page.tag("h4", x["name"]))
      parts.append(page.tag("ul", *(page.tag("li", s) for s in shown)))
  if not parts:
    return page.missing("Example sessions", "no labelled session has texts.")
  return page.details("Example sessions of each intent", *parts)


def _student(doc) -> page.Html:
  found = doc["student"].get("test", {})
  rows = [(t, page.num(found[n], 3)) for n, t in _SCORES if n in found]
  parts = [
    page.tag("h3", "Student against teacher"),
    page.table(("on held-out sessions", ""), rows),
  ]
  rows = [
    (who, *(page.num(values.get(m), 3) for m in ("nmi", "ari", "sessions")))
    for who, values in doc["agreement"].items()
  ]
  if rows:
    parts.append(page.tag("h3", "Agreement with known categories"))
    parts.append(page.table(("", "NMI", "adjusted Rand", "sessions"), rows))
  counts = [
    (f"{where}: {what}", page.num(n))
    for where, some in doc["counts"].items()
    for what, n in some.items()
  ]
  parts.append(page.details("Counts", page.table(("", ""), counts)))
  return page.join(parts)
