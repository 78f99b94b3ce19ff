"""How new rows differ from those that a data set was fitted on.

python -m data_prep drift --reference=data/shop --new=new/shop [--since=2024-10-01]

Reference rows are those before `train_until`, new ones those of --new (default: the
reference itself) from --since on (default: `train_until`). Both data sets are
encoded alike: prepare the new one with --fitted.

Each field is cut into bins: missing, not seen in training, and its values, or
tenths of the reference's numbers with what lies below and above them. The index is
the population stability index, sum of (q - p) log(q / p) over the shares p of
reference and q of new rows, a half added to each count. `noise` is what it is on
average without any drift, (bins - 1) (1 / n + 1 / m); a field is "moved" where the
index is more than 0.1 above it, "shifted" from 0.25. Fewer rows than --min_rows give
no verdict.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib

from . import sketches, times
from .inputs import InputError

MOVED, SHIFTED = 0.1, 0.25
_MIN_ROWS = 100
_BLOCK = 512
_TENTHS = np.arange(1, 10) / 10
# Rates of outcomes differ where chance seldom makes them: 3 deviations.
_DEVIATIONS = 3.0


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of a table's arrays.

  Attributes:
    table: "activity" or "profile".
    name: Of the field, with a number where it has several columns.
    place: Column of `categorical` or `numeric`.
    size: Number of ids; 0 of numbers.
  """

  table: str
  name: str
  place: int
  size: int = 0


def columns(schema: schema_lib.Schema) -> list[Column]:
  """All columns of activity and profile."""
  out = []
  for table in ("activity", "profile"):
    ids = numbers = 0
    for f in getattr(schema, table):
      if schema_lib.has_ids(f):
        out.append(Column(table, f.name, ids, f.size))
        ids += 1
        continue
      width = schema_lib.width(f)
      for i in range(width):
        name = f.name if width == 1 else f"{f.name}[{i}]"
        out.append(Column(table, name, numbers + i))
      numbers += width
  return out


def stability(reference: np.ndarray, new: np.ndarray) -> tuple[float, float]:
  """The index of counts in the same bins [bins], and its noise.

  Bins that are empty in both are left out; equal shares give 0.
  """
  some = (reference + new) > 0
  a, b = reference[some] + 0.5, new[some] + 0.5
  n, m = a.sum(), b.sum()
  p, q = a / n, b / m
  return float(((q - p) * np.log(q / p)).sum()), float(
    (some.sum() - 1) * (1 / n + 1 / m)
  )


class _Window:
  """Rows of a data set on some days."""

  def __init__(self, data: records_lib.Records, first: int, last: int):
    self.data, self.first, self.last = data, first, last

  def blocks(self) -> Iterator[dict[str, Any]]:
    """activity and profile: (categorical, numeric); days at risk; labels."""
    for split in self.data.splits:
      source = self.data.source(split)
      for start in range(0, len(source), _BLOCK):
        stop = min(start + _BLOCK, len(source))
        users = source.__getitems__(range(start, stop))
        rows = [
          (u["day"] >= self.first) & (u["day"] < self.last) for u in users
        ]
        there = [u for u, r in zip(users, rows, strict=True) if r.any()]
        yield {
          "activity": [
            np.concatenate([u[n][r] for u, r in zip(users, rows, strict=True)])
            for n in ("categorical", "numeric")
          ],
          "profile": [
            np.stack([u[f"profile_{n}"] for u in there])
            for n in ("categorical", "numeric")
          ]
          if there
          else None,
          "users": users,
        }

  def outcomes(self, users) -> tuple[int, dict[int, int]]:
    """Days at risk, and rows of each label in the window that are not 0."""
    days, found = 0, {}
    for u in users:
      enter, leave, until = (int(x) for x in u["span"])
      stop = min(leave, until, self.last)
      days += max(0, stop - max(enter, self.first))
      when = u["label_time"]
      mine = (when >= self.first) & (when < self.last) & (u["label_value"] != 0)
      for i in u["label_id"][mine].tolist():
        found[i] = found.get(i, 0) + 1
    return days, found


def drift(
  reference: epath.PathLike,
  new: epath.PathLike | None = None,
  since: int | str | None = None,
  min_rows: int = _MIN_ROWS,
) -> dict[str, Any]:
  """Compares; see the module's text.

  Returns:
    {"rows": {...}, "fields": {table.field: {...}}, "labels": {name: {...}}}; no
    number in it is NaN, what cannot be said is None.

  Raises:
    InputError: The data sets are encoded differently, or the days are none.
  """
  before = records_lib.Records.open(reference)
  after = before if new is None else records_lib.Records.open(new)
  schema, theirs = before.schema, after.schema
  if schema.model_hash != theirs.model_hash:
    raise InputError(
      f"{new} is not encoded as {reference}: prepare it with "
      f"--fitted={reference}"
    )
  first = schema.train_until
  if since is not None:
    first = times.day_number(since, theirs.epoch)
  elif new is not None:
    first = theirs.first_day
  end = min(schema.train_until, schema.last_day)
  old = _Window(before, schema.first_day, end)
  recent = _Window(after, first, theirs.last_day)
  if first >= theirs.last_day:
    raise InputError(
      f"no day of {after.path} lies at or after day {first}: it ends on day "
      f"{theirs.last_day - 1}; give an earlier --since"
    )
  every = columns(schema)
  edges = _edges(every, old)
  a, b = (_Counted(every, edges, w, schema.labels) for w in (old, recent))
  fields = {}
  for column, x, y in zip(every, a.counts, b.counts, strict=True):
    fields[f"{column.table}.{column.name}"] = _compared(column, x, y, min_rows)
  return {
    "reference": {"days": [old.first, old.last], "rows": a.rows},
    "new": {"days": [recent.first, recent.last], "rows": b.rows},
    "min_rows": min_rows,
    "fields": fields,
    "labels": {
      label.name: _rates(i, a, b, min_rows)
      for i, label in enumerate(schema.labels)
      if label.level != "event"
    },
  }


def _edges(every, window: _Window) -> list[np.ndarray | None]:
  """Of each number: least, tenths and greatest of the reference."""
  found = [None if c.size else sketches.Quantiles() for c in every]
  for block in window.blocks():
    for column, quantiles in zip(every, found, strict=True):
      if quantiles is not None and block[column.table] is not None:
        x = block[column.table][1][:, column.place].astype(np.float64)
        quantiles.add(x[np.isfinite(x)])
  out = []
  for quantiles in found:
    if quantiles is None or not quantiles.count:
      out.append(None if quantiles is None else np.zeros(0))
      continue
    inner = np.unique(quantiles.at(_TENTHS))
    inner = inner[inner > quantiles.low]
    above = np.nextafter(quantiles.high, np.inf)
    out.append(np.unique([quantiles.low, *inner, above]))
  return out


class _Counted:
  """Counts of a window's rows by bin: missing, unseen, and values."""

  def __init__(self, every, edges, window: _Window, labels):
    sizes = [c.size or len(e) + 3 for c, e in zip(every, edges, strict=True)]
    self.counts = [np.zeros(n, np.int64) for n in sizes]
    self.rows = self.days = 0
    self.labels = np.zeros(len(labels), np.int64)
    for block in window.blocks():
      self.rows += len(block["activity"][0])
      days, found = window.outcomes(block["users"])
      self.days += days
      for i, count in found.items():
        self.labels[i] += count
      for column, edge, total in zip(every, edges, self.counts, strict=True):
        if block[column.table] is None:
          continue
        x = block[column.table][0 if column.size else 1][:, column.place]
        if column.size:
          bins = x
        else:
          bins = 2 + np.searchsorted(edge, x.astype(np.float64), side="right")
          bins[np.isnan(x)] = schema_lib.MISSING
        total += np.bincount(bins, minlength=len(total))


def _compared(column: Column, x, y, min_rows: int) -> dict[str, Any]:
  """One field: index, noise, shares of missing and unseen, verdict."""
  n, m = int(x.sum()), int(y.sum())
  share = lambda counts, bin_: float(counts[bin_] / counts.sum())
  out: dict[str, Any] = {"reference_rows": n, "new_rows": m}
  out |= dict.fromkeys(("index", "noise", "missing", "unseen", "beyond"))
  if m:
    out["missing"] = share(y, schema_lib.MISSING)
    if column.size:
      out["unseen"] = share(y, schema_lib.UNKNOWN)
    else:  # Below the least or above the greatest of the reference.
      out["beyond"] = float((y[2] + y[-1]) / m) if len(y) > 3 else None
  if min(n, m) < min_rows:
    return out | {"verdict": "too few rows"}
  out["index"], out["noise"] = stability(x, y)
  excess = out["index"] - out["noise"]
  verdict = "stable"
  if excess > MOVED:
    verdict = "shifted" if excess > SHIFTED else "moved"
  if out["missing"] == 1.0 and share(x, schema_lib.MISSING) < 1.0:
    verdict = "vanished"
  return out | {"verdict": verdict}


def _rates(label: int, a: _Counted, b: _Counted, min_rows: int):
  """Outcomes per 1,000 user-days at risk, before and now."""
  counts = int(a.labels[label]), int(b.labels[label])
  out: dict[str, Any] = {"reference": None, "new": None, "deviations": None}
  for name, count, days in zip(out, counts, (a.days, b.days)):
    out[name] = 1000 * count / days if days else None
  if min(a.days, b.days) < min_rows or not sum(counts):
    return out | {"verdict": "too few rows"}
  # Given their sum, the new outcomes are binomial by the days.
  share = b.days / (a.days + b.days)
  mean = sum(counts) * share
  out["deviations"] = (counts[1] - mean) / math.sqrt(mean * (1 - share))
  apart = abs(out["deviations"]) > _DEVIATIONS
  return out | {"verdict": "moved" if apart else "stable"}


def table(found: Mapping[str, Any]) -> str:
  """The comparison as text, what moved most first."""
  a, b = found["reference"], found["new"]
  text = lambda x, form: "-" if x is None else format(x, form)
  days = lambda w: (
    f"{w['rows']:,} rows of days {w['days'][0]}..{w['days'][1] - 1}"
  )
  lines = [f"reference: {days(a)}; new: {days(b)}"]
  head = ("field", "index", "noise", "missing", "unseen", "beyond", "verdict")
  rows = [head]
  order = lambda item: -(item[1]["index"] or 0.0)
  for name, f in sorted(found["fields"].items(), key=order):
    shares = [text(f[k], ".2%") for k in ("missing", "unseen", "beyond")]
    numbers = [text(f[k], ".3f") for k in ("index", "noise")]
    rows.append((name, *numbers, *shares, f["verdict"]))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    cells = [row[0].ljust(widths[0])]
    cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
    lines.append("  ".join(cells))
  for name, x in found["labels"].items():
    lines.append(
      f"label {name}: {text(x['new'], '.3f')} in 1,000 user-days, "
      f"{text(x['reference'], '.3f')} before: {x['verdict']}"
    )
  return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
  """The command; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m data_prep drift",
    description="Compares new rows with those that a data set was fitted on.",
  )
  add = parser.add_argument
  add("--reference", required=True, help="The data set that was fitted.")
  add("--new", help="A data set prepared with --fitted; default the same.")
  add("--since", help="First new day, number or date.")
  add("--min_rows", type=int, default=_MIN_ROWS, help="For a verdict.")
  add("--out", help="JSON file to write beside the table.")
  args = parser.parse_args(argv)
  try:
    found = drift(args.reference, args.new, args.since, args.min_rows)
    if args.out:
      text = json.dumps(found, indent=1, allow_nan=False)
      pathlib.Path(args.out).write_text(text + "\n")
  except (ValueError, OSError) as e:
    print(f"error: {e}", file=sys.stderr)
    return 1
  print(table(found))
  return 0
