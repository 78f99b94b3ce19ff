"""The report's drift: drift.json of the workdir, of `python -m data_prep drift`."""

from typing import Any

from lumos_jax.report import cells, load, page

_READING = (
  "The index is the population stability index of new rows against those that "
  "vocabularies and scales were fitted on; noise is what it would be on average "
  "without drift. Moved: the index is more than 0.1 above its noise; shifted: more "
  "than 0.25; vanished: all missing now. Beyond: outside the fitted range."
)
_SHARES = ("missing", "unseen", "beyond")


def section(run: load.Run) -> page.Html:
  """A table of fields, what moved most first, and one of labels."""
  if "drift" in run.absent:
    return page.missing("Drift", run.absent["drift"])
  found = run.drift
  fields = sorted(
    found["fields"].items(), key=lambda item: -(item[1]["index"] or 0.0)
  )
  head = ["field", "verdict", "index", "noise", *_SHARES]
  rows = [
    [
      name,
      f["verdict"],
      *(page.num(f[k], 3) for k in ("index", "noise")),
      *(_share(f[k]) for k in _SHARES),
    ]
    for name, f in fields
  ]
  parts = [
    page.paragraph(
      f"New: {_window(run, found['new'])}; "
      f"reference: {_window(run, found['reference'])}."
    ),
    page.table(head, rows),
    page.paragraph(_READING),
  ]
  if found["labels"]:
    rates = [
      [name, x["verdict"], page.num(x["new"], 3), page.num(x["reference"], 3)]
      for name, x in found["labels"].items()
    ]
    head = ["label", "verdict", "now", "before"]
    title = "Outcomes in 1,000 user-days at risk"
    parts.append(page.table(head, rates, title))
  return page.join(parts)


def _window(run: load.Run, window: dict[str, Any]) -> str:
  first, last = (cells.day(run.schema, d) for d in window["days"])
  return f"{window['rows']:,} rows from {first} up to {last}, not included"


def _share(value: float | None) -> page.Num:
  return page.Num("–") if value is None else page.Num(f"{value:.2%}", value)
