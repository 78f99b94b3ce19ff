"""The report's results: headline, baselines, ablation."""

import datetime
from typing import Any

from lumos_jax.report import baselines as baselines_lib
from lumos_jax.report import cells, charts, load, page, risk

_READING = (
  "A difference is the model's value minus the baseline's on the same users, "
  "with its 95 % bootstrap interval over users: ✓ better, ✗ worse, ≈ the "
  "interval includes 0."
)
_AMOUNTS = (
  "Of amounts, WAPE is the sum of absolute errors over the sum of amounts, of "
  "the median forecast where there is one. It favours forecasts that are too "
  "low: the total of the mean forecasts over the actual total says how much, and "
  "should be 1; RMSE is the mean's error."
)
_HEADLINE = ("mean_auc", "mean_wape")
_BESIDE = ("bias", "rmse", "coverage_80")  # A regression task's WAPE.


def _ranked(run: load.Run) -> list[str]:
  """The first and the last HitRate@k and the last NDCG@k, where there are."""
  found = run.evals.get(run.model or "", {})
  hits, gains = (
    sorted(
      (m for m in found if m.startswith(s)), key=lambda m: int(m[len(s) :])
    )
    for s in ("hit_rate@", "ndcg@")
  )
  return list(dict.fromkeys([*hits[:1], *hits[-1:], *gains[-1:]]))


def header(run: load.Run) -> page.Html:
  """Title, what ran where, and the headline numbers."""
  config = run.config
  parts = [f"{config.get('recipe', '?')} on {run.dataset}"]
  if run.starts:
    last = run.starts[-1]
    kind = last.get("device_kind") or "device"
    if kind == "cpu":
      parts.append(f"CPU, {last.get('cpu_cores', '?')} cores")
    else:
      parts.append(f"{last.get('devices', 1)} × {kind}")
  if run.metrics:
    steps = max(x.get("step", 0) for x in run.metrics)
    parts.append(f"{steps:,} steps")
    seconds = max(x.get("elapsed", 0.0) for x in run.metrics)
    parts.append(f"{page.duration(seconds)} of training")
    last_time = max(x.get("time", 0.0) for x in run.metrics)
    when = datetime.datetime.fromtimestamp(last_time, datetime.UTC)
    parts.append(f"{when:%Y-%m-%d %H:%M} UTC")
  if len(run.starts) > 1:
    parts.append(f"resumed {len(run.starts) - 1} times")
  if run.tasks and run.origin is not None:
    parts.append(f"forecast of {cells.day(run.schema, run.origin)}")
  cards = [_card(run, m) for m in (*_HEADLINE, *_ranked(run))]
  cards += [_card(run, run.primary(t)) for t in run.tasks]
  cards = [c for c in cards if c]
  return page.join(
    [
      page.tag("h1", config.get("name", "run")),
      page.tag("p", " · ".join(parts), class_="quiet"),
      *risk.warnings(run),
      page.tag("div", *cards, class_="cards")
      if cards
      else page.missing("Results", run.absent.get("evals", "no forecast ran.")),
    ]
  )


def _card(run: load.Run, metric: str) -> page.Html | None:
  value = run.value(run.model, metric)
  if value is None:
    return None
  notes: list[Any] = []
  few = baselines_lib.few(run, run.model, metric)
  found = _rival(run, metric)
  if found:
    baseline, shown, their = found
    other = run.value(baseline, their)
    gain = value - other
    good = gain > 0 if load.higher_is_better(metric) else gain < 0
    d = run.difference(run.model, baseline, their)
    unsure = gain == 0 or (d is not None and d.better(metric) is None)
    class_ = "" if unsure else "better" if good else "worse"
    notes = [
      page.tag("span", page.signed(gain), class_=class_ or None),
      f" to {shown}",
      " (within noise)" if unsure else "",
    ]
  return page.tag(
    "div",
    page.tag("div", cells.metric_label(metric), class_="label"),
    page.tag("div", page.number(value), class_="value"),
    page.tag("div", *notes, few, class_="note"),
    class_="card",
  )


def _rival(run: load.Run, metric: str) -> tuple[str, str, str] | None:
  """Baseline, its title and its metric: the first one, or the best floor."""
  for b in run.rivals:
    if run.value(b, metric) is not None:
      return b, run.title(b), metric
    floors = {
      k.rpartition("/")[0]: v
      for k, v in run.evals[b].items()
      if k.endswith(f"/{metric}") and k.count("/") == 1 and v is not None
    }
    if floors:
      best = max(floors, key=floors.get)
      return b, best, f"{best}/{metric}"
  return None


def comparison(run: load.Run) -> page.Html:
  """The model against its baselines, task by task."""
  model, baselines = run.model, run.rivals
  if model is None:
    why = run.absent.get(
      "evals", "eval.json has no evaluator of type forecast."
    )
    return page.missing("Results", why)
  first = [m for m in ("mean_auc", "mean_wape") if m in run.evals[model]]
  rows = list(first)
  for t in run.tasks:
    more = [f"{t}/{m}" for m in _BESIDE if run.value(model, f"{t}/{m}")]
    rows += [run.primary(t), *more]
  parts = [
    page.table(
      _comparison_head(run, baselines),
      [_comparison_row(run, model, baselines, m) for m in rows],
    )
  ]
  if any(kind == "regression" for kind in run.tasks.values()):
    parts.append(page.paragraph(_AMOUNTS))
  if baselines:
    parts.append(page.paragraph(_READING))
    parts += baselines_lib.every(run, model, rows)
    parts.append(_difference_chart(run, model, baselines[0], rows))
  else:
    parts.append(page.missing("Baselines", "no evaluator of their type ran."))
  parts += segments(run)
  everything = [
    m
    for m in run.evals[model]
    if m not in rows
    and not m.startswith("segments/")
    # Counts, which tell what the others stand on.
    and not m.endswith("/positives")
  ]
  parts.append(
    page.details(
      "All metrics",
      page.table(
        _comparison_head(run, baselines),
        [_comparison_row(run, model, baselines, m) for m in everything],
      ),
    )
  )
  return page.join(parts)


def segments(run: load.Run) -> list[page.Html]:
  """Tables of the model's metric by segment of users, where it has some."""
  found: dict[str, dict[str, dict[str, Any]]] = {}
  for key, value in run.evals[run.model].items():
    where, _, last = key.removeprefix("segments/").rpartition("/")
    task = next((t for t in run.tasks if where.endswith(f"/{t}")), None)
    if key.startswith("segments/") and task:
      name, _, segment = where.removesuffix(f"/{task}").partition("=")
      row = found.setdefault(name, {}).setdefault(segment, {})
      row[f"{task}/{last}"] = value
  parts = []
  for name, rows in found.items():
    head = [name, "users", *(cells.metric_label(m) for m in _of(run))]
    body = [
      [segment, _most(run, values), *(_segment(values, m) for m in _of(run))]
      for segment, values in rows.items()
    ]
    parts += [
      page.tag("h3", f"By {name}"),
      page.table(head, body),
    ]
  if parts:
    least = run.setting(run.model, "min_positives", 20)
    parts.append(
      page.paragraph(
        "In brackets: users with a label whose outcome is not 0. A segment with "
        f"fewer than {least} of them (or, for AUC, of the others) has no value."
      )
    )
  return parts


def _of(run: load.Run) -> list[str]:
  return [run.primary(t) for t in run.tasks]


def _most(run: load.Run, values) -> page.Num:
  users = [values.get(f"{t}/users") or 0 for t in run.tasks]
  return page.num(int(max(users)))


def _segment(values, metric: str) -> page.Num:
  """A segment's metric with its positives."""
  value = values.get(metric)
  positives = values.get(f"{metric.rpartition('/')[0]}/positives") or 0
  count = page.tag("span", f" ({int(positives):,})", class_="ends")
  return page.Num(page.join([page.number(value, 3), count]), value)


def _comparison_head(run, baselines) -> list[str]:
  head = ["metric", "base rate", run.title(run.model)]
  for b in baselines:
    head += [run.title(b), f"difference to {run.title(b)}"]
  return head


def _comparison_row(run, model, baselines, metric) -> list[Any]:
  task, _, last = metric.rpartition("/")
  values = [run.value(e, metric) for e in (model, *baselines)]
  present = [v for v in values if v is not None]
  best = load.best(metric, present) if len(present) > 1 else None
  is_best = lambda v: v is not None and v == best
  cell = lambda e, v: baselines_lib.with_spread(
    run, e, metric, "best" if is_best(v) else ""
  )
  rate = run.value(model, f"{task}/base_rate")
  show_rate = rate is not None and last == "auc"
  row = [
    cells.metric_label(metric),
    page.num(rate, 3) if show_rate else page.Num(""),
    cell(model, values[0]),
  ]
  for b, v in zip(baselines, values[1:], strict=True):
    row += [
      cell(b, v),
      cells.interval(run.difference(model, b, metric), metric),
    ]
  return row


def _difference_chart(run, model, baseline, metrics) -> page.Html:
  figures = []
  for last, better in (("auc", "right"), ("wape", "left")):
    rows = []
    for m in metrics:
      d = run.difference(model, baseline, m)
      if d and (m.endswith(f"/{last}") or m == f"mean_{last}"):
        label = m.rpartition("/")[0] or "mean"
        rows.append((label, d.value, d.low, d.high))
    if rows:
      title = (
        f"{cells.LABELS[last]}: {run.title(model)} minus {run.title(baseline)}"
      )
      spec = charts.intervals(
        {title: rows}, f"difference of {cells.LABELS[last]}"
      )
      note = f"{better} of the line the model is better"
      figures.append(page.figure(title, spec, note))
  return page.grid(figures)


def ablation(run: load.Run) -> page.Html:
  """What the forecasts lose without future, past or context."""
  tables = []
  for e in run.of_kind("ablation"):
    variants = _variants(run.evals[e])
    if not variants:
      continue
    full = run.evals.get(run.model or "", {})
    metrics = [m for m in ("mean_auc", "mean_wape") if m in full]
    metrics += [run.primary(t) for t in run.tasks]
    rows = [
      [
        cells.metric_label(m),
        page.num(run.value(run.model, m)),
        *(_ablated(run, values, m) for values in variants.values()),
      ]
      for m in metrics
    ]
    names = [v.replace("_", " ") for v in variants]
    tables.append(page.table(["metric", "full", *names], rows))
  if not tables:
    return page.missing("Ablation", "no evaluator of type ablation ran.")
  return page.join(
    [
      page.paragraph(
        "The same model is shown less: no future calendar (no_future), no "
        "activity (no_past), or no calendar at all (no_context). What changes "
        "is what the forecast draws from that part; below each value is its "
        "change with a 95 % bootstrap interval over users."
      ),
      *tables,
    ]
  )


def _ablated(run: load.Run, values: dict[str, Any], metric: str) -> page.Num:
  """A metric without a part, and below it the change from the full model."""
  value, full = values.get(metric), run.value(run.model, metric)
  if value is None or full is None:
    return page.num(value)
  d = load.differences(values).get(metric)
  change = (
    cells.interval(d, metric) if d else page.Num(page.signed(value - full))
  )
  below = page.tag(
    "div", change.shown, class_=f"change {change.class_}".strip()
  )
  return page.Num(page.join([page.number(value), below]), value)


def _variants(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """{"no_future/churn/auc": v} -> {"no_future": {"churn/auc": v}}."""
  out: dict[str, dict[str, Any]] = {}
  for name, value in metrics.items():
    variant, _, metric = name.partition("/")
    if variant.startswith("no_") and metric:
      out.setdefault(variant, {})[metric] = value
  return out
