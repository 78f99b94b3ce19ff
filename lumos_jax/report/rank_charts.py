"""Charts of what stands first: ROC, precision-recall, hit rate against k."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lumos_jax.report import charts

_POINTS = 200  # Of a drawn curve.


def _counts(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Positives and users from the highest forecast down, after each tie."""
  order = np.argsort(-p, kind="stable")
  y, p = y[order] > 0, p[order]
  ends = np.flatnonzero(np.append(p[1:] != p[:-1], True))
  return np.cumsum(y)[ends], ends + 1.0


def _thin(*arrays: np.ndarray) -> list[np.ndarray]:
  at = np.linspace(0, len(arrays[0]) - 1, _POINTS)
  at = np.unique(np.round(at).astype(int))
  return [x[at] for x in arrays]


def roc_points(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """False and true positive rates, from (0, 0) to (1, 1).

  Args:
    y: 0 or 1, [U]; both occur.
    p: float [U].
  """
  found, shown = _counts(y, p)
  true = np.append(0.0, found / found[-1])
  false = np.append(0.0, (shown - found) / (shown[-1] - found[-1]))
  return false, true


def precision_recall_points(
  y: np.ndarray, p: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Recall and precision at each threshold, from the highest forecast down.

  A precision holds from the recall before its own up to its own; thresholds
  that find no positive have none.
  """
  found, shown = _counts(y, p)
  found, shown = found[found > 0], shown[found > 0]
  return found / found[-1], found / shown


def _line(i: int, name: str, x, y, hover: str, shape: str) -> charts.Spec:
  return {
    "type": "scatter",
    "mode": "lines",
    "name": charts.shown(name),
    "x": charts.floats(x),
    "y": charts.floats(y),
    "line": {
      "color": charts.colour(i),
      "width": 2 if i == 0 else 1.25,
      "dash": charts.DASHES[i % 4],
      "shape": shape,
    },
    "hovertemplate": f"{hover}<extra>%{{fullData.name}}</extra>",
  }


def _reference(x, y) -> charts.Spec:
  return {
    "type": "scatter",
    "mode": "lines",
    "name": "chance",
    "showlegend": False,
    "x": charts.floats(x),
    "y": charts.floats(y),
    "line": {"color": "$quiet", "width": 1, "dash": "dot"},
    "hoverinfo": "skip",
  }


def _square(x_title: str, y_title: str) -> dict[str, Any]:
  axis = {"range": [-0.02, 1.02], "dtick": 0.25}
  return {
    "height": 280,
    "showlegend": True,
    "xaxis": {"title": {"text": x_title}, **axis},
    "yaxis": {"title": {"text": y_title}, **axis},
  }


def roc(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> charts.Spec:
  """Receiver operating characteristic, {name: (y, p)}."""
  data = []
  for i, (name, (y, p)) in enumerate(series.items()):
    x = _thin(*roc_points(y, p))
    hover = "%{y:.1%} of positives<br>%{x:.1%} of negatives"
    data.append(_line(i, name, *x, hover, "linear"))
  data.append(_reference([0, 1], [0, 1]))
  layout = _square("false positive rate", "true positive rate")
  return {"data": data, "layout": layout}


def precision_recall(
  series: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> charts.Spec:
  """Precision against recall, {name: (y, p)}; dotted: the base rate."""
  data, rate = [], 0.0
  for i, (name, (y, p)) in enumerate(series.items()):
    rate = y.mean()
    x = _thin(*precision_recall_points(y, p))
    hover = "precision %{y:.3f}<br>recall %{x:.3f}"
    data.append(_line(i, name, *x, hover, "vh"))
  data.append(_reference([0, 1], [rate, rate]))
  return {"data": data, "layout": _square("recall", "precision")}


def hit_rate(series: Mapping[str, np.ndarray], most: int = 100) -> charts.Spec:
  """Share of users whose rank is at most k, {name: rank [U]}, for k to `most`."""
  ks = np.unique(np.round(np.geomspace(1, most, 40)).astype(int))
  data = []
  for i, (name, rank) in enumerate(series.items()):
    share = np.searchsorted(np.sort(rank), ks, side="right") / len(rank)
    hover = "HitRate@%{x}: %{y:.4f}"
    data.append(_line(i, name, ks, share, hover, "linear"))
  return {
    "data": data,
    "layout": {
      "height": 300,
      "showlegend": True,
      "xaxis": {
        "title": {"text": "k"},
        "type": "log",
        "tickvals": [1, 2, 5, 10, 20, 50, 100],
      },
      "yaxis": {"title": {"text": "HitRate@k"}, "rangemode": "tozero"},
    },
  }
