"""Cells of the report's tables and the names in them."""

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
  "mean_auc": "mean AUC",
  "mean_wape": "mean WAPE",
  "hit_rate@1": "HitRate@1",
  "hit_rate@5": "HitRate@5",
  "hit_rate@10": "HitRate@10",
  "hit_rate@50": "HitRate@50",
  "ndcg@10": "NDCG@10",
  "mrr": "MRR",
}


def metric_label(metric: str) -> str:
  """ "churn/auc" -> "churn: AUC"."""
  task, _, last = metric.rpartition("/")
  shown = LABELS.get(last, last.replace("_", " "))
  return f"{task}: {shown}" if task else shown


def interval(d: load.Difference | None, metric: str) -> page.Num:
  """A difference with its interval; colour and word say what it means."""
  if d is None:
    return page.Num("–")
  better = d.better(metric)
  class_ = "" if better is None else "better" if better else "worse"
  word = {None: "≈", True: "✓", False: "✗"}[better]
  ends = f"[{page.signed(d.low)}, {page.signed(d.high)}]"
  shown = page.join(
    [f"{page.signed(d.value)} {word} ", page.tag("span", ends, class_="ends")]
  )
  return page.Num(shown, d.value, class_)
