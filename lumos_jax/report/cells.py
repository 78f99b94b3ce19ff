"""Cells of the report's tables and the names in them."""

import datetime
from collections.abc import Mapping
from typing import Any

from lumos_jax.report import load, page

LABELS = {
  "auc": "AUC",
  "average_precision": "average precision",
  "log_loss": "log loss",
  "calibration_error": "calibration error",
  "base_rate": "base rate",
  "mae": "MAE",
  "mape_nonzero": "MAPE on non-zero",
  "wape": "WAPE",
  "rmse": "RMSE",
  "bias": "total forecast / actual",
  "spearman": "rank correlation",
  "coverage_80": "coverage of the 80 % interval",
  "mean_auc": "mean AUC",
  "mean_wape": "mean WAPE",
  "hit_rate": "HitRate",
  "ndcg": "NDCG",
  "mrr": "MRR",
}


def metric_label(metric: str) -> str:
  """ "churn/auc" -> "churn: AUC", "hit_rate@5" -> "HitRate@5"."""
  task, _, last = metric.rpartition("/")
  name, at, k = last.partition("@")
  shown = LABELS.get(name, name.replace("_", " ")) + at + k
  return f"{task}: {shown}" if task else shown


def interval(
  d: load.Difference | None, metric: str, stacked: bool = False
) -> page.Num:
  """A difference with its interval (below it with `stacked`).

  Colour and sign say what it means.
  """
  if d is None:
    return page.Num("–")
  better = d.better(metric)
  class_ = "" if better is None else "better" if better else "worse"
  word = {None: "≈", True: "✓", False: "✗"}[better]
  ends = f"[{page.signed(d.low)}, {page.signed(d.high)}]"
  shown = page.join(
    [f"{page.signed(d.value)} {word} ", page.tag("span", ends, class_="ends")]
  )
  class_ = f"{class_} stacked".strip() if stacked else class_
  return page.Num(shown, d.value, class_)


def day(schema: Mapping[str, Any], number: int) -> str:
  """A day as a date, or as "day 12" where days are relative."""
  if not schema.get("epoch"):
    return f"day {number}"
  start = datetime.date.fromisoformat(schema["epoch"])
  return str(start + datetime.timedelta(days=number))
