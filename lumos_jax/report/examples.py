"""The report's example users: their events, the next one, and predictions."""

from collections.abc import Mapping
from typing import Any

from lumos_jax.report import cells, load, page


def section(run: load.Run) -> page.Html:
  """A folded part a user; user ids are hashes."""
  doc = run.documents.get(run.model or "") or {}
  users = doc.get("examples") or []
  if not users:
    why = "no next_event evaluator left examples in predictions/."
    return page.missing("Example users", why)
  intro = page.paragraph(
    "Users spread evenly over the split, not chosen by result; names are hashes "
    "of user ids. Right: the most likely values before the event was known."
  )
  return page.join([intro, *(_user(run, i, u) for i, u in enumerate(users))])


def _user(run: load.Run, i: int, user: Mapping[str, Any]) -> page.Html:
  history, rank = int(user["history"]), int(user["rank"])
  summary = (
    f"{user['user'][:8]}: {history:,} event{'s' * (history != 1)}, "
    f"next one at rank {rank:,}"
  )
  events = [
    [cells.day(run.schema, e["day"]), _said(e["values"])]
    for e in user["events"]
  ]
  following = user["next"]
  when = cells.day(run.schema, following["day"])
  events.append(
    [page.tag("b", when), page.tag("b", _said(following["values"]))]
  )
  predicted = [
    [
      _said(p["values"], following["values"]),
      page.Num(f"{p['probability']:.1%}", p["probability"]),
    ]
    for p in user["predicted"]
  ]
  past = page.table(["day", "event"], events, "latest events; bold: the next")
  said = page.table(["predicted", "probability"], predicted)
  content = page.tag("div", past, said, class_="pair")
  # The first is open, to show what there is.
  opened = "open" if i == 0 else None
  return page.tag("details", page.tag("summary", summary), content, open=opened)


def _said(
  values: Mapping[str, str], right: Mapping[str, str] | None = None
) -> page.Html:
  """Values of an event in a line; those equal to `right` are marked."""
  out = []
  for name, value in values.items():
    if value == "":
      continue  # What a smaller token does not say.
    hit = right is not None and right.get(name) == value
    shown = value if len(values) == 1 else f"{name} {value}"
    out.append(page.tag("span", shown, class_="better" if hit else None))
  return page.join(out, " · ") if out else page.Html("–")
