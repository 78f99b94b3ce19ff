"""The report's background: training, data, configuration."""

import json
from typing import Any

from lumos_jax.report import cells, charts, load, page


def training(run: load.Run) -> page.Html:
  """Learning curves."""
  if not run.metrics:
    return page.missing("Learning curves", run.absent["metrics"])
  series: dict[str, dict[int, float]] = {}
  for line in run.metrics:
    for name, value in line.items():
      if name not in ("step", "time", "elapsed") and value is not None:
        series.setdefault(name, {})[line["step"]] = value
  pick = lambda names: {
    n: (list(series[n]), list(series[n].values())) for n in names
  }
  losses = [n for n in series if n.startswith("loss/") or n.endswith("/loss")]
  figures = []
  if "loss" in series:
    spec = charts.curves(pick(["loss"]), "loss", smooth=True)
    figures.append(page.figure("Training loss", spec, "sum of its parts"))
  if len(losses) > 1:
    chosen = {
      n.removeprefix("loss/").removesuffix("/loss"): v
      for n, v in pick(losses).items()
    }
    spec = charts.curves(chosen, "loss")
    figures.append(page.figure("Parts of the training loss", spec))
  evals = run.config.get("evals") or {}
  for e in (n for n in evals if run.kind(n).startswith("forecast")):
    for last in load.PRIMARY:
      names = [
        n
        for n in series
        if n.startswith(f"{e}/")
        and not n.startswith(f"{e}/segments/")
        and (n.endswith(f"/{last}") or n == f"{e}/mean_{last}")
        and len(series[n]) > 1
      ]
      if names:
        chosen = {
          n.removeprefix(f"{e}/").removesuffix(f"/{last}").replace("_", " "): v
          for n, v in pick(names).items()
        }
        label = cells.LABELS[last]
        spec = charts.curves(chosen, label)
        figures.append(page.figure(f"{label}, {e}", spec))
  for e in (n for n in evals if run.kind(n) == "next_event"):
    names = [
      n
      for n in series
      if n.startswith((f"{e}/hit_rate@", f"{e}/ndcg@")) and len(series[n]) > 1
    ]
    if names:
      chosen = {
        cells.metric_label(n.removeprefix(f"{e}/")): v
        for n, v in pick(names).items()
      }
      spec = charts.curves(chosen, "share of users")
      figures.append(page.figure(f"Ranking, {e}", spec))
  for name, title in (
    ("tokens_per_second", "Tokens per second"),
    ("input_wait_share", "Share of time waiting for input"),
    ("padding_share", "Share of padding in packed rows"),
    ("learning_rate", "Learning rate"),
    ("gradient_norm", "Gradient norm"),
  ):
    if name in series:
      spec = charts.curves(pick([name]), "", smooth=name == "gradient_norm")
      figures.append(page.figure(title, spec))
  return page.grid(figures)


# Numbers of stats.json, in the order shown.
_COUNTS = {
  "users": "users",
  "users_without_activity": "… without activity",
  "users_without_profile": "… without a profile row",
  "users_without_split": "… in no split",
  "activity_rows_read": "activity rows read",
  "rows": "rows kept",
  "calendar_entries": "calendar entries",
  "labels": "labels",
}


def data(run: load.Run) -> page.Html:
  """What the data set holds and what was rejected."""
  if "data" in run.absent:
    return page.missing("Data statistics", run.absent["data"])
  stats, schema = run.stats, run.schema
  rows: list[list[Any]] = [
    [shown, page.num(stats[name])]
    for name, shown in _COUNTS.items()
    if stats.get(name) is not None
  ]
  if schema.get("rows") == "day":
    rows = [["user-days" if r[0] == "rows kept" else r[0], r[1]] for r in rows]
  if {"first_day", "last_day"} <= stats.keys():
    first, last = (
      cells.day(schema, d) for d in (stats["first_day"], stats["last_day"] - 1)
    )
    rows.append(["days", page.Num(f"{first} to {last}")])
  for what, count in (stats.get("notes") or {}).items():
    rows.append([what, page.num(count)])
  for name, c in (stats.get("composites") or {}).items():
    rows.append([f"{name}: tokens", page.num(c["tokens"])])
    rows.append([f"{name}: smaller tokens", page.num(c["backoff_tokens"])])
    share = page.Num(f"{c['coverage']:.2%}")
    rows.append([f"{name}: training rows with a token", share])
    rows.append(
      [f"{name}: rows with a smaller one", page.num(c["rows_backoff"])]
    )
    rows.append([f"{name}: unknown rows", page.num(c["rows_unknown"])])
  parts = [page.table([run.dataset, ""], rows), _rejected(stats)]
  splits = stats.get("splits") or {}
  if len(splits) > 1:
    cells_ = [
      [n, page.num(s.get("users")), page.num(s.get("rows"))]
      for n, s in splits.items()
    ]
    parts.append(page.table(["split", "users", "rows"], cells_))
  unknown = stats.get("unknown_categories") or {}
  fields = []
  for table in ("activity", "calendar", "profile"):
    for f in schema.get(table) or ():
      counts = (unknown.get(table) or {}).get(f.get("name")) or {}
      values = f.get("values")
      fields.append(
        [
          f.get("name"),
          table,
          str(f.get("type", "")).lower(),
          page.num(len(values)) if values else page.Num(""),
          page.num(counts["unseen"]) if "unseen" in counts else page.Num(""),
        ]
      )
  head = ["field", "table", "type", "values", "rows with unseen values"]
  parts.append(page.details(f"{len(fields)} fields", page.table(head, fields)))
  return page.join(parts)


def _rejected(stats: dict[str, Any]) -> page.Html:
  rows = [
    [reason, table, page.num(count)]
    for table, reasons in (stats.get("rejected") or {}).items()
    for reason, count in reasons.items()
  ]
  if not rows:
    return page.paragraph("No row was rejected.")
  return page.table(["rejected because", "table", "rows"], rows)


def config(run: load.Run) -> page.Html:
  """The whole config, and what ran it."""
  parts = []
  if run.starts:
    names = ["step", "devices", "device_kind", "processes", "jax", "python"]
    rows = [
      [page.num(s.get("step")), *(str(s.get(n, "–")) for n in names[1:])]
      for s in run.starts
    ]
    head = ["start at step", *(n.replace("_", " ") for n in names[1:])]
    parts.append(page.table(head, rows))
  text = json.dumps(run.config, indent=2, sort_keys=True)
  parts.append(page.details("config.json", page.tag("pre", text)))
  return page.join(parts)
