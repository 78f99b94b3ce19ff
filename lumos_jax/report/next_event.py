"""The report's sections on next-event prediction."""

import numpy as np

from lumos_jax.report import bins, cells, load, page, questions, rank_charts

_RANKS = ("hit_rate@", "ndcg@", "mrr")
_LISTS = ("coverage@", "novelty@")


def _floors(run: load.Run) -> list[tuple[str, str]]:
  """(evaluator, floor) of each floor that was ranked."""
  return [
    (n, key.removesuffix("/mrr"))
    for n in run.of_kind("baseline_next_event")
    for key in run.evals[n]
    if key.count("/") == 1 and key.endswith("/mrr")
  ]


def _columns(run: load.Run, starts: tuple[str, ...]) -> list[str]:
  """Metrics of the model that begin so, in the order of eval.json."""
  found = run.evals.get(run.model or "", {})
  return [m for s in starts for m in found if m.startswith(s) and "/" not in m]


def _missing(run: load.Run, what: str) -> page.Html:
  why = run.absent.get("evals", "no next_event evaluator ran.")
  return page.missing(what, why)


def section(run: load.Run) -> page.Html:
  """Model against floors with paired intervals, lists, then probes."""
  if run.model is None:
    return _missing(run, "Next event")
  columns = _columns(run, _RANKS)
  head = ["ranking", *(cells.metric_label(c) for c in columns)]
  names = run.of_kind("next_event")
  floors = _floors(run)
  rows = [[_title(run, n), *_numbers(run, n, "", columns)] for n in names]
  rows += [[f, *_numbers(run, n, f"{f}/", columns)] for n, f in floors]
  parts = [
    questions.next_event(run),
    page.paragraph(
      "HitRate@k: share of users whose next event is among the first k; NDCG@k "
      "also counts at which place; MRR: mean of 1 / rank. Equal scores count "
      "against model and floors alike."
    ),
    page.table(head, rows),
  ]
  versus = [
    [
      f"against {f}",
      *(
        cells.interval(run.difference(run.model, n, f"{f}/{c}"), c, True)
        for c in columns
      ),
    ]
    for n, f in floors
  ]
  if versus:
    parts += [
      page.tag("h3", "Model minus floor"),
      page.paragraph(
        "On the same users, with the 95 % bootstrap interval over users: ✓ "
        "better, ✗ worse, ≈ the interval includes 0."
      ),
      page.table(["difference", *head[1:]], versus),
    ]
  parts.append(_lists(run, floors))
  parts += [probe(run, n) for n in run.of_kind("probe")]
  return page.join(parts)


def _lists(run: load.Run, floors) -> page.Html:
  columns = _columns(run, _LISTS)
  if not columns:
    return page.Html("")
  rows = [[run.title(run.model), *_numbers(run, run.model, "", columns)]]
  rows += [[f, *_numbers(run, n, f"{f}/", columns)] for n, f in floors]
  return page.join(
    [
      page.tag("h3", "What the lists hold"),
      page.paragraph(
        "Coverage@k: share of all values that stand in some user's first k; "
        "novelty@k: how rare those values are in training, in bits (a value of "
        "one event in 1,024 has 10)."
      ),
      page.table(["ranking", *map(cells.metric_label, columns)], rows),
    ]
  )


def rates(run: load.Run) -> page.Html:
  """Hit rate against k and against history, for the model and the floors."""
  if run.model is None:
    return _missing(run, "Hit rate")
  ranks, hits = {}, {}
  ks = [int(c.split("@")[1]) for c in _columns(run, ("hit_rate@",))]
  most = max(ks, default=10)
  for evaluator, name, title in (
    (run.model, "rank", run.title(run.model)),
    *((n, f"rank_{f}", f) for n, f in _floors(run)),
  ):
    found = run.ranks.get(evaluator, {})
    if name in found and len(found[name]) >= 5:
      rank = found[name].astype(np.float64)
      ranks[title] = rank
      hits[title] = (rank <= most) * 1.0, found["history"].astype(np.float64)
  parts = []
  if ranks:
    left = page.figure("HitRate@k against k", rank_charts.hit_rate(ranks))
    title = f"HitRate@{most} against length of history"
    spec = bins.by_history(hits, f"HitRate@{most}")
    note = "bins of equally many users, 95 % intervals of the model's"
    parts.append(page.grid([left, page.figure(title, spec, note)], pairs=True))
  else:
    why = run.absent.get("predictions", "predictions/ holds no ranks.")
    parts.append(page.missing("Charts", why))
  columns = _columns(run, _RANKS)
  groups = [k.split("/")[0] for k in run.evals[run.model] if _is_group(k)]
  rows = [
    [
      group.replace("_", " "),
      page.num(run.value(run.model, f"{group}/users"), 0),
      *_numbers(run, run.model, f"{group}/", columns),
    ]
    for group in groups
  ]
  if rows:
    head = ["history", "users", *map(cells.metric_label, columns)]
    parts.append(page.table(head, rows))
  return page.join(parts)


def _is_group(key: str) -> bool:
  return key.startswith("history_") and key.endswith("/users")


def parts(run: load.Run) -> page.Html:
  """Calibration of the first value, and accuracy of each part of a token."""
  if run.model is None:
    return _missing(run, "The first value")
  out = []
  found = run.ranks.get(run.model, {})
  if {"top", "probability", "next"} <= found.keys():
    p = found["probability"][:, 0].astype(np.float64)
    right = (found["top"][:, 0] == found["next"]) * 1.0
    spec = bins.reliability({run.title(run.model): (right, p)})
    spec["layout"]["xaxis"]["title"] = {"text": "mean probability"}
    spec["layout"]["yaxis"]["title"] = {"text": "share that came next"}
    error = run.value(run.model, "top_1/calibration_error")
    note = f"expected calibration error {page.number(error)}"
    figure = page.figure("Probability of the first value", spec, note)
    out.append(page.grid([figure], pairs=True))
  names = [
    k.removeprefix("part_accuracy/")
    for k in run.evals[run.model]
    if k.startswith("part_accuracy/")
  ]
  if names:
    columns = [f"part_accuracy/{n}" for n in names]
    rows = [[run.title(run.model), *_numbers(run, run.model, "", columns)]]
    rows += [[f, *_numbers(run, n, f"{f}/", columns)] for n, f in _floors(run)]
    out += [
      page.tag("h3", "Parts of the first token"),
      page.paragraph(
        "Share of users whose first predicted token has the part of the token "
        "that came next."
      ),
      page.table(["ranking", *names], rows),
    ]
  if not out:
    why = "predictions/ holds no lists of this run."
    return page.missing("The first value", why)
  return page.join(out)


def _title(run: load.Run, name: str) -> str:
  return f"{run.title(name)}, {run.setting(name, 'split', 'test')}"


def _numbers(run, evaluator, prefix: str, columns) -> list[page.Num]:
  return [page.num(run.value(evaluator, f"{prefix}{c}")) for c in columns]


def probe(run: load.Run, name: str) -> page.Html:
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
