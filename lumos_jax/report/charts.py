"""Figures as Plotly specs: plain dicts; a color "$c0" is the page's --c0."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Spec = dict[str, Any]
# Different marks too, so that colour is never the only difference.
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


def floats(values) -> list[float | None]:
  """JSON's numbers: what is not finite becomes null."""
  return [
    float(f"{v:.6g}") if np.isfinite(v) else None
    for v in np.asarray(values, np.float64)
  ]


def colour(i: int) -> str:
  """The colour of the i-th series."""
  return f"$c{i % 7}"


def shown(name: str) -> str:
  """A name as Plotly shows it literally: it reads some HTML in texts."""
  return name.replace("&", "&amp;").replace("<", "&lt;")


def lift(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Spec:
  """Outcome by decile of forecast, over the mean of all users."""
  data = []
  for i, (name, (y, p)) in enumerate(series.items()):
    # Ties are broken by position: deciles must hold equally many users.
    parts = np.array_split(y[np.argsort(-p, kind="stable")], 10)
    mean = y.mean() if len(y) and y.mean() else np.nan
    data.append(
      {
        "type": "bar",
        "name": shown(name),
        "x": [str(d) for d in range(1, 11)],
        "y": floats([x.mean() / mean if len(x) else np.nan for x in parts]),
        "marker": {"color": colour(i)},
        "hovertemplate": "decile %{x}: %{y:.2f} x mean"
        "<extra>%{fullData.name}</extra>",
      }
    )
  return {
    "data": data,
    "layout": {
      "height": 260,
      "barmode": "group",
      "bargap": 0.25,
      "xaxis": {
        "title": {"text": "decile of forecast, highest first"},
        "type": "category",
      },
      "yaxis": {"title": {"text": "outcome / mean"}},
      "shapes": [_level(1.0)],
    },
  }


def _level(y: float) -> Spec:
  line = {"color": "$quiet", "width": 1, "dash": "dot"}
  where = {"xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y}
  return {"type": "line", "line": line, "layer": "below", **where}


def curves(
  series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  y_title: str,
  levels: Mapping[str, float] | None = None,
  smooth: bool = False,
) -> Spec:
  """Values over steps, {name: (steps, values)}; levels are baselines' values.

  With `smooth` the values are thin and an exponential average is drawn over.
  """
  data: list[Spec] = []
  for i, (name, (steps, values)) in enumerate(series.items()):
    values = np.asarray(values, np.float64)
    line = {
      "type": "scatter",
      "mode": "lines" if len(values) > 1 else "markers",
      "name": shown(name),
      "x": [int(s) for s in steps],
      "y": floats(values),
      "line": {"color": colour(i), "width": 1.75, "dash": DASHES[i // 7 % 4]},
      "hovertemplate": "step %{x:,}: %{y:.4g}<extra>%{fullData.name}</extra>",
    }
    if smooth and len(values) > 20:
      thin = {"color": f"{colour(i)}/30", "width": 1}
      data.append({**line, "line": thin, "showlegend": False} | _SILENT)
      line["y"] = floats(_average(values, len(values) / 20))
    data.append(line)
  for name, value in (levels or {}).items():
    data.append(
      {
        "type": "scatter",
        "mode": "lines",
        "name": shown(name),
        "x": [
          min(min(s) for s, _ in series.values()),
          max(max(s) for s, _ in series.values()),
        ],
        "y": floats([value, value]),
        "line": {"color": "$quiet", "width": 1.25, "dash": "dash"},
      }
    )
  return {
    "data": data,
    "layout": {
      "height": 280,
      "showlegend": len(series) + len(levels or {}) > 1,
      "xaxis": {"title": {"text": "step"}},
      "yaxis": {"title": {"text": y_title}},
    },
  }


_SILENT = {"hoverinfo": "skip", "hovertemplate": None}


def _average(values: np.ndarray, span: float) -> np.ndarray:
  """Exponential moving average that is not biased towards its start."""
  decay = np.exp(-1.0 / span)
  total, weight, out = 0.0, 0.0, []
  for v in values:
    if np.isfinite(v):
      total, weight = decay * total + v, decay * weight + 1.0
    out.append(total / weight if weight else np.nan)
  return np.asarray(out)


def intervals(
  groups: Mapping[str, Sequence[tuple[str, float, float, float]]],
  x_title: str,
) -> Spec:
  """Differences with intervals, {series: [(label, value, low, high)]}."""
  labels = list(dict.fromkeys(r[0] for rows in groups.values() for r in rows))
  # Labels are categories; series of one label stand a little apart.
  offset = np.linspace(0.18, -0.18, len(groups)) if len(groups) > 1 else [0.0]
  data = []
  for i, (name, rows) in enumerate(groups.items()):
    values = np.array([r[1:] for r in rows], np.float64).reshape(-1, 3)
    place = [len(labels) - 1 - labels.index(r[0]) + offset[i] for r in rows]
    data.append(
      {
        "type": "scatter",
        "mode": "markers",
        "name": shown(name),
        "x": floats(values[:, 0]),
        "y": floats(place),
        "text": [shown(r[0]) for r in rows],
        "customdata": [floats(v[1:]) for v in values],
        "error_x": {
          "type": "data",
          "symmetric": False,
          "array": floats(values[:, 2] - values[:, 0]),
          "arrayminus": floats(values[:, 0] - values[:, 1]),
          "color": colour(i),
          "thickness": 2,
          "width": 4,
        },
        "marker": {
          "color": colour(i),
          "size": 9,
          "symbol": SYMBOLS[i % 6],
        },
        "hovertemplate": "%{text}: %{x:.4g} [%{customdata[0]:.4g}, "
        "%{customdata[1]:.4g}]<extra>%{fullData.name}</extra>",
      }
    )
  zero = {"color": "$quiet", "width": 1, "dash": "dot"}
  return {
    "data": data,
    "layout": {
      "height": 90 + (26 + 8 * (len(groups) > 1)) * len(labels),
      "showlegend": len(groups) > 1,
      "xaxis": {"title": {"text": x_title}, "zeroline": False},
      "yaxis": {
        "tickvals": list(range(len(labels)))[::-1],
        "ticktext": [shown(x) for x in labels],
        "range": [-0.6, len(labels) - 0.4],
      },
      "shapes": [
        {
          "type": "line",
          "yref": "paper",
          "y0": 0,
          "y1": 1,
          "x0": 0,
          "x1": 0,
          "line": zero,
          "layer": "below",
        }
      ],
    },
  }


def sweep(points: Sequence[tuple[float, Any]]) -> Spec:
  """Effect over days moved, [(days, load.Difference)], with its band."""
  x = floats([p[0] for p in points])
  effects = [p[1] for p in points]
  low, high = (
    floats([e.low for e in effects]),
    floats([e.high for e in effects]),
  )
  return {
    "data": [
      {
        "type": "scatter",
        "mode": "lines",
        "x": x + x[::-1],
        "y": high + low[::-1],
        "fill": "toself",
        "fillcolor": "$c0/20",
        "line": {"width": 0},
        "showlegend": False,
      }
      | _SILENT,
      {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x,
        "y": floats([e.value for e in effects]),
        "line": {"color": "$c0", "width": 2},
        "customdata": [list(v) for v in zip(low, high, strict=True)],
        "hovertemplate": "%{x:+} days: %{y:.4g} [%{customdata[0]:.4g}, "
        "%{customdata[1]:.4g}]<extra></extra>",
        "showlegend": False,
      },
    ],
    "layout": {
      "height": 260,
      "xaxis": {"title": {"text": "days moved"}},
      "yaxis": {"title": {"text": "change of forecast"}},
      "shapes": [_level(0.0)],
    },
  }
