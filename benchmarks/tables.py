"""Writes the figures of README.md and docs/*.md from benchmarks/results/*.json.

  python benchmarks/tables.py            # rewrites what stands between markers
  python benchmarks/tables.py --check    # fails where a table or value is stale

A table stands between two markers; NAME is a file of benchmarks/results:

  <!-- table:NAME metrics=mean_auc,redeem/auc dataset=complete_journey -->
  <!-- /table -->

Options: metrics= (which, in order; default all), models= (which, in order),
layout=metrics (a row a metric, for many metrics and few models), digits=4,
seeds=no (no column of run counts), heads= (titles of the columns before the
metrics, in order), and any field of a result row (dataset=, split=, protocol=,
config=, steps=) to keep rows that have that value, or, where it ends in *, begin
with it. Fields that differ among the kept rows become columns. A cell is the mean
over seeds +- their standard deviation (n - 1). A metric that rows have as
NAME/difference, NAME/low and NAME/high can be asked for as NAME: the cell is then
the difference with its interval, of one row. A rank metric of fewer than 30
positives is marked.

A figure of running text stands in its sentence, as one cell without a leading 0:

  <!-- value:NAME metric=mean_auc model=stack protocol=pooled -->.8733<!-- /value -->

Options: metric=, model=, digits=, the fields that keep rows, seed= (one alone),
seeds=no (no standard deviation), and as=excess (of a ratio: how many per cent it
is away from 1, without a sign).
"""

import argparse
import json
import pathlib
import re
import shlex
import statistics
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from lumos_jax import positives  # noqa: E402

_MARKER = re.compile(
  r"^(<!-- table:(?P<name>[\w.-]+)(?P<options>[^>]*?) *-->\n)"
  r"(?P<body>.*?)"
  r"(<!-- /table -->)",
  re.DOTALL | re.MULTILINE,
)
_VALUE = re.compile(
  r"(<!-- value:(?P<name>[\w.-]+)(?P<options>[^>]*?) *-->)"
  r"(?P<body>[^<]*)"
  r"(<!-- /value -->)"
)
_FIRST = re.compile(r"^[ \t]*<!-- value:(?P<name>[\w.-]+)", re.MULTILINE)
# An opening marker that finds no end is a mistake.
_OPENING = re.compile(r"^<!-- table:|<!-- value:", re.MULTILINE)
_FIELDS = ("dataset", "split", "protocol", "model", "config", "steps")
_OPTIONS = (
  "metrics", "models", "layout", "digits", "seeds", "heads", *_FIELDS
)  # fmt: skip
_VALUE_OPTIONS = ("metric", "digits", "seeds", "seed", "as", *_FIELDS)
_NAMES = {"hit_rate": "HitRate", "ndcg": "NDCG", "mrr": "MRR"}
_SHORT = {
  "auc": "AUC",
  "average_precision": "AP",
  "wape": "WAPE",
  "mae": "MAE",
  "mape_nonzero": "MAPE on non-zero",
}


_FEW = "†"
_ENDS = ("difference", "low", "high")


class TableError(ValueError):
  """A marker that cannot be filled; says where and why."""


def _label(metric: str) -> str:
  """ "redeem/auc" -> "redeem AUC", "mean_auc" -> "mean AUC"."""
  for name, shown in _NAMES.items():
    metric = metric.replace(name, shown)
  words = metric.replace("/", " ").replace("_nonzero", "#").replace("_", " ")
  words = words.replace("#", "_nonzero").split()
  return " ".join(_SHORT.get(w, w) for w in words)


def _options(text: str, known: tuple[str, ...] = _OPTIONS) -> dict[str, str]:
  """Reads "a=1 b='2 3'"."""
  out = {}
  for part in shlex.split(text):
    key, given, value = part.partition("=")
    if not given or key not in known:
      raise TableError(
        f"option {part!r} is none of {', '.join(k + '=' for k in known)}"
      )
    out[key] = value
  return out


def _cell(values: list[float], digits: int) -> str:
  """Mean and spread of one metric over the runs that have it."""
  if not values:
    return "–"
  text = f"{statistics.fmean(values):,.{digits}f}"
  if len(values) > 1:
    text += f" ± {statistics.stdev(values):.{digits}f}"
  return text


def _interval(metrics: dict[str, float], name: str, digits: int) -> str | None:
  """A difference with its interval, where a row has one of that name."""
  found = [metrics.get(f"{name}/{end}") for end in _ENDS]
  if None in found:
    return None
  value, low, high = (f"{x:+.{digits}f}".replace("-", "−") for x in found)
  return f"{value} [{low}, {high}]"


def _few(runs: list[dict], metric: str) -> bool:
  return any(
    positives.few(r["metrics"], metric) is not None
    for r in runs
    if metric in r["metrics"]
  )


def _markdown(head: list[str], body: list[list[str]], left: int) -> str:
  """A table whose first `left` columns are text."""
  rule = ["---"] * left + ["---:"] * (len(head) - left)
  escape = lambda row: [str(x).replace("|", "\\|") for x in row]
  rows = [escape(head), rule, *map(escape, body)]
  return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _kept(result: dict, options: dict[str, str]) -> list[dict]:
  """Rows whose fields are those of the options."""
  fields = [f for f in (*_FIELDS, "seed") if f in options]

  def has(row: dict, field: str) -> bool:
    begin, star, _ = options[field].partition("*")
    text = str(row.get(field))
    return text.startswith(begin) if star else text == begin

  rows = [r for r in result["rows"] if all(has(r, f) for f in fields)]
  if not rows:
    raise TableError(f"no row of {result['name']!r} has {options}")
  return rows


def value(result: dict, options: dict[str, str]) -> str:
  """A figure of running text.

  Raises:
    TableError: No row is left, none has the metric, or rows of different models
      or protocols would be averaged.
  """
  rows, name = _kept(result, options), options.get("metric", "")
  digits, form = int(options.get("digits", "4")), options.get("as", "")
  mixed = [f for f in _FIELDS if len({str(r.get(f)) for r in rows}) > 1]
  if set(mixed) - {"steps"}:
    raise TableError(f"rows differ in {', '.join(mixed)}: say which")
  shown = (
    _interval(rows[0]["metrics"], name, digits) if len(rows) == 1 else None
  )
  if not shown:
    values = [r["metrics"][name] for r in rows if name in r["metrics"]]
    if not values:
      raise TableError(f"no row has the metric {name!r}")
    if form == "excess":
      values = [100 * abs(statistics.fmean(values) - 1)]
    elif form:
      raise TableError(f"as={form}: use excess")
    if options.get("seeds") == "no":
      values = [statistics.fmean(values)]
    shown = _cell(values, digits)
  return re.sub(r"(?<![\d.])0\.(?=\d)", ".", shown)


def render(result: dict, options: dict[str, str] | None = None) -> str:
  """The markdown of a result file's content.

  Args:
    result: What benchmarks/results/NAME.json holds.
    options: As the module's docstring says.

  Raises:
    TableError: No row is left, or an asked-for model or metric is absent.
  """
  options = options or {}
  rows = _kept(result, options)
  models = list(dict.fromkeys(r["model"] for r in rows))
  metrics = list(dict.fromkeys(m for r in rows for m in r["metrics"]))
  for what, have in (("models", models), ("metrics", metrics)):
    if what in options:
      asked = options[what].split(",")
      known = [*have, *(m.removesuffix("/difference") for m in have)]
      absent = [x for x in asked if x not in known]
      if absent:
        raise TableError(f"{what}: no {absent} in {result['name']!r}: {have}")
      have[:] = asked
  rows = [r for r in rows if r["model"] in models]
  digits = int(options.get("digits", "4"))
  differ = [f for f in _FIELDS if len({str(r.get(f)) for r in rows}) > 1]
  # Steps may differ from seed to seed (early stopping): not another model.
  keys = [f for f in differ if f not in ("model", "steps")]
  keys.append("model")
  groups: dict[tuple, list[dict]] = {}
  for r in sorted(rows, key=lambda r: models.index(r["model"])):
    groups.setdefault(tuple(str(r.get(k, "")) for k in keys), []).append(r)

  def cell(runs, metric):
    if len(runs) == 1:
      text = _interval(runs[0]["metrics"], metric, digits)
      if text:
        return text
    values = [r["metrics"].get(metric) for r in runs]
    text = _cell([v for v in values if v is not None], digits)
    return text + f" {_FEW}" * _few(runs, metric)

  if options.get("layout") == "metrics":
    head = ["", *(", ".join(k) for k in groups)]
    body = [
      [_label(m), *(cell(runs, m) for runs in groups.values())] for m in metrics
    ]
    text = _markdown(head, body, 1)
  else:
    seeds = options.get("seeds") != "no"
    titles = options["heads"].split(",") if "heads" in options else keys
    if len(titles) != len(keys):
      raise TableError(f"heads: {len(titles)} titles for the columns {keys}")
    head = titles + ["runs"] * seeds + [_label(m) for m in metrics]
    body = [
      [*key, *[len(runs)] * seeds, *(cell(runs, m) for m in metrics)]
      for key, runs in groups.items()
    ]
    text = _markdown(head, body, len(keys))
  origins = dict.fromkeys(map(_origin, [*result.get("earlier", []), result]))
  if f" {_FEW}" in text:
    text += (
      f"\n{_FEW} Few positives: fewer than {positives.LEAST} among the users.\n"
    )
  return f"{text}\nFrom {'; and '.join(origins)}.\n"


def _origin(result: dict) -> str:
  """Command, machine and day of a result."""
  machine = result.get("machine", {})
  where = machine.get("accelerator") or machine.get("cpu", "")
  if machine.get("cores") and not machine.get("accelerator"):
    where += f", {machine['cores']} cores"
  parts = [f"`{result['command']}`", where, str(result.get("date", ""))[:10]]
  return "; ".join(p for p in parts if p)


def fill(text: str, results: pathlib.Path, where: str) -> tuple[str, list[str]]:
  """A page's text with its tables and values rendered, and what is wrong.

  What cannot be rendered stays as it is; a message names the page, the table or
  value, and the mistake.
  """
  errors: list[str] = []

  def of(match: re.Match, what: str, make, known: tuple[str, ...]) -> str:
    """The markers with what belongs between them."""
    name = match["name"]
    path = results / f"{name}.json"
    try:
      if not path.exists():
        raise TableError(f"there is no {path.name} in {path.parent}")
      found = make(
        json.loads(path.read_text()), _options(match["options"], known)
      )
    except (TableError, KeyError, ValueError) as e:
      errors.append(f"{where}, {what}:{name}: {e}")
      return match[0]
    shown = f"\n{found}\n" if what == "table" else found
    return f"{match[1]}{shown}{match[5]}"

  def table(match: re.Match) -> str:
    return of(match, "table", render, _OPTIONS)

  def figure(match: re.Match) -> str:
    return of(match, "value", value, _VALUE_OPTIONS)

  found = len(_MARKER.findall(text)) + len(_VALUE.findall(text))
  if len(_OPENING.findall(text)) != found:
    return text, [f"{where}: a marker is malformed or never closed"]
  errors += [
    f"{where}, value:{m['name']}: stands at the beginning of a line, where a "
    "comment ends the paragraph: put a word before it"
    for m in _FIRST.finditer(text)
  ]
  return _VALUE.sub(figure, _MARKER.sub(table, text)), errors


def main(argv: list[str] | None = None, root: pathlib.Path = ROOT) -> int:
  """Rewrites or checks the pages; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--check", action="store_true", help="change nothing")
  args = parser.parse_args(argv)
  stale, errors = [], []
  for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
    if not page.exists():
      continue
    name = str(page.relative_to(root))
    old = page.read_text(encoding="utf-8")
    new, wrong = fill(old, root / "benchmarks/results", name)
    errors += wrong
    if new != old:
      stale.append(name)
      if not args.check:
        page.write_text(new, encoding="utf-8")
  for e in errors:
    print(f"error: {e}", file=sys.stderr)
  if args.check and stale:
    names = ", ".join(stale)
    print(f"stale: {names}; run python benchmarks/tables.py", file=sys.stderr)
  if errors or (args.check and stale):
    return 2 if errors else 1
  print(f"{'stale' if args.check else 'rewritten'}: {stale or 'none'}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
