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
    "Users spread evenly over the split, not chosen by result; their names are "
    "the beginnings of hashes of user ids."
  )
  return page.join([intro, *(_user(run, i, u) for i, u in enumerate(users))])


def _user(run: load.Run, i: int, user: Mapping[str, Any]) -> page.Html:
  history, rank = int(user["history"]), int(user["rank"])
  summary = (
    f"{user['user'][:8]}: {history:,} event{'s' * (history != 1)}, "
    f"next one at rank {rank:,}"
  )
  following = user["next"]
  fields = list(following["values"])
  events = [
    [_day(run, e["day"]), *(_part(e["values"], f) for f in fields)]
    for e in user["events"]
  ]
  next_one = [_day(run, following["day"])]
  next_one += [_part(following["values"], f) for f in fields]
  events.append([page.tag("b", x) for x in next_one])
  predicted = [
    [
      page.Num(f"{p['probability']:.1%}", p["probability"]),
      *(_part(p["values"], f, following["values"]) for f in fields),
    ]
    for p in user["predicted"]
  ]
  caption = "Latest events; bold: the next one."
  past = page.table(["day", *fields], events, caption)
  caption = "Predicted before it; green: as in the next event."
  said = page.table(["probability", *fields], predicted, caption)
  # The first is open, to show what there is.
  opened = "open" if i == 0 else None
  return page.tag(
    "details", page.tag("summary", summary), past, said, open=opened
  )


def _day(run: load.Run, day: int) -> page.Html:
  return page.tag("span", cells.day(run.schema, day), class_="day")


def _part(
  values: Mapping[str, str],
  field: str,
  right: Mapping[str, str] | None = None,
) -> page.Html:
  """A field of an event; "any" where a smaller token does not say it."""
  shown = values.get(field) or "any"
  hit = right is not None and right.get(field) == values.get(field)
  return page.tag("span", shown, class_="better" if hit else None)
