"""The report's section on next-event prediction."""

from lumos_jax.report import cells, load, page

_COLUMNS = (
  "hit_rate@1",
  "hit_rate@5",
  "hit_rate@10",
  "hit_rate@50",
  "ndcg@10",
  "mrr",
)
_HEAD = [cells.metric_label(c) for c in _COLUMNS]
_FLOORS = ("popularity", "markov", "recency")


def section(run: load.Run) -> page.Html:
  """Model against floors, then groups of users, then probes."""
  names = run.of_kind("next_event")
  if not names:
    why = run.absent.get("evals", "no next_event evaluator ran.")
    return page.missing("Next event", why)
  rows = [[_title(run, n), *_numbers(run.evals[n], "")] for n in names]
  for n in run.of_kind("baseline_next_event"):
    found = run.evals[n]
    rows += [
      [floor, *_numbers(found, f"{floor}/")]
      for floor in _FLOORS
      if f"{floor}/mrr" in found
    ]
  parts = [
    page.tag(
      "p",
      "Share of users whose next event is among the k that the model puts "
      "first, of all values (HitRate@k); NDCG@10; mean reciprocal rank.",
      class_="quiet",
    ),
    page.table(["ranking", *_HEAD], rows),
  ]
  tested = [n for n in names if _split(run, n) == "test"]
  for n in tested[:1]:
    groups = _groups(run.evals[n])
    rows = [
      [
        group.replace("_", " "),
        page.num(run.evals[n].get(f"{group}/users"), 0),
        *_numbers(run.evals[n], f"{group}/"),
      ]
      for group in groups
    ]
    parts += [
      page.tag("h3", "By events before the next one"),
      page.table(["history", "users", *_HEAD], rows),
    ]
  parts += [_probe(run, n) for n in run.of_kind("probe")]
  return page.join(parts)


def _split(run: load.Run, name: str) -> str:
  evals = run.config.get("evals") or {}
  return (evals.get(name) or {}).get("split", "test")


def _title(run: load.Run, name: str) -> str:
  return (
    f"{str(run.config.get('recipe', 'model')).upper()}, {_split(run, name)}"
  )


def _numbers(found, prefix: str) -> list[page.Num]:
  return [page.num(found.get(f"{prefix}{c}")) for c in _COLUMNS]


def _groups(found) -> list[str]:
  """Groups of history, in the order of eval.json."""
  out = []
  for key in found:
    group, _, last = key.rpartition("/")
    if last == "users" and group.startswith("history_"):
      out.append(group)
  return out


def _probe(run: load.Run, name: str) -> page.Html:
  """What frozen embeddings know of a label."""
  found, rows = run.evals[name], []
  for key, value in found.items():
    features, _, last = key.partition("/")
    if last.endswith(("/auc", "/accuracy")):
      spread = found.get(f"{key}_deviation")
      rows.append([features, last, page.num(value), page.num(spread)])
  told = found.get("label_in_profile")
  note = (
    "The model was shown this label as part of the profile." if told else ""
  )
  return page.join(
    [
      page.tag("h3", f"Probe: {name}"),
      page.tag("p", note, class_="quiet") if note else "",
      page.table(["features", "model", "mean", "deviation of folds"], rows),
    ]
  )
