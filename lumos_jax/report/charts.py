"""Figures as Plotly specs: plain dicts; a color "$c0" is the page's --c0."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Spec = dict[str, Any]
# Different marks too, so that colour is never the only difference.
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


def _floats(values) -> list[float | None]:
  """JSON's numbers: what is not finite becomes null."""
  return [
    float(f"{v:.6g}") if np.isfinite(v) else None
    for v in np.asarray(values, np.float64)
  ]


def _colour(i: int) -> str:
  return f"$c{i % 7}"


def _shown(name: str) -> str:
  """A name as Plotly shows it literally: it reads some HTML in texts."""
  return name.replace("&", "&amp;").replace("<", "&lt;")


def equal_mass(
  y: np.ndarray, p: np.ndarray, bins: int = 10
) -> dict[str, np.ndarray]:
  """Means of outcomes and forecasts in bins of equally many users.

  Args:
    y, p: float [U].
    bins: At most this many; each has at least five users.

  Returns:
    forecast, outcome, low, high (95 % interval of the outcome's mean) and
    users, each [bins], from the lowest forecasts to the highest. Equal
    forecasts share a bin.
  """
  order = np.argsort(p, kind="stable")
  y, p = y[order], p[order]
  count = max(1, min(bins, len(y) // 5))
  edges = np.round(np.linspace(0, len(y), count + 1)).astype(int)
  # A tie must not be cut in two: the cut moves to its beginning.
  edges = np.unique(
    [np.searchsorted(p, p[e]) if 0 < e < len(p) else e for e in edges]
  )
  parts = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
  n = np.array([s.stop - s.start for s in parts], float)
  mean = np.array([y[s].mean() for s in parts])
  z = 1.96
  if np.isin(y, (0.0, 1.0)).all():  # Wilson's interval of a proportion.
    centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    half = z * half / (1 + z**2 / n)
  else:
    centre = mean
    half = z * np.array([y[s].std() for s in parts]) / np.sqrt(n)
  return {
    "forecast": np.array([p[s].mean() for s in parts]),
    "outcome": mean,
    "low": centre - half,
    "high": centre + half,
    "users": n,
  }


def reliability(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Spec:
  """Forecast against outcome, {name: (y, p)}; the first one has intervals."""
  data: list[Spec] = []
  top, bottom = 0.0, 0.0
  for i, (name, (y, p)) in enumerate(series.items()):
    b = equal_mass(y, p)
    top = max(top, *b["forecast"], *b["outcome"])
    bottom = min(bottom, *b["forecast"])
    trace = {
      "type": "scatter",
      "mode": "lines+markers",
      "name": _shown(name),
      "x": _floats(b["forecast"]),
      "y": _floats(b["outcome"]),
      "customdata": [int(n) for n in b["users"]],
      "hovertemplate": "forecast %{x:.4g}<br>outcome %{y:.4g}"
      "<br>%{customdata:,} users<extra>%{fullData.name}</extra>",
      "line": {"color": _colour(i), "width": 2 if i == 0 else 1.25},
      "marker": {"symbol": _SYMBOLS[i % 6], "size": 7 if i == 0 else 5},
    }
    if i == 0:
      trace["error_y"] = {
        "type": "data",
        "symmetric": False,
        "array": _floats(b["high"] - b["outcome"]),
        "arrayminus": _floats(b["outcome"] - b["low"]),
        "color": "$c0/50",
        "thickness": 1.25,
        "width": 0,
      }
    data.append(trace)
  data.append(
    {
      "type": "scatter",
      "mode": "lines",
      "name": "perfect",
      "showlegend": False,
      "x": [bottom, top],
      "y": [bottom, top],
      "line": {"color": "$quiet", "width": 1, "dash": "dot"},
      "hoverinfo": "skip",
    }
  )
  return {
    "data": data,
    "layout": {
      "height": 300,
      "xaxis": {"title": {"text": "mean forecast"}, "rangemode": "tozero"},
      "yaxis": {"title": {"text": "mean outcome"}, "rangemode": "tozero"},
    },
  }


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
        "name": _shown(name),
        "x": [str(d) for d in range(1, 11)],
        "y": _floats([x.mean() / mean if len(x) else np.nan for x in parts]),
        "marker": {"color": _colour(i)},
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
      "name": _shown(name),
      "x": [int(s) for s in steps],
      "y": _floats(values),
      "line": {"color": _colour(i), "width": 1.75, "dash": _DASHES[i // 7 % 4]},
      "hovertemplate": "step %{x:,}: %{y:.4g}<extra>%{fullData.name}</extra>",
    }
    if smooth and len(values) > 20:
      thin = {"color": f"{_colour(i)}/30", "width": 1}
      data.append({**line, "line": thin, "showlegend": False} | _SILENT)
      line["y"] = _floats(_average(values, len(values) / 20))
    data.append(line)
  for name, value in (levels or {}).items():
    data.append(
      {
        "type": "scatter",
        "mode": "lines",
        "name": _shown(name),
        "x": [
          min(min(s) for s, _ in series.values()),
          max(max(s) for s, _ in series.values()),
        ],
        "y": _floats([value, value]),
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
        "name": _shown(name),
        "x": _floats(values[:, 0]),
        "y": _floats(place),
        "text": [_shown(r[0]) for r in rows],
        "customdata": [_floats(v[1:]) for v in values],
        "error_x": {
          "type": "data",
          "symmetric": False,
          "array": _floats(values[:, 2] - values[:, 0]),
          "arrayminus": _floats(values[:, 0] - values[:, 1]),
          "color": _colour(i),
          "thickness": 2,
          "width": 4,
        },
        "marker": {
          "color": _colour(i),
          "size": 9,
          "symbol": _SYMBOLS[i % 6],
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
        "ticktext": [_shown(x) for x in labels],
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
  x = _floats([p[0] for p in points])
  effects = [p[1] for p in points]
  low, high = (
    _floats([e.low for e in effects]),
    _floats([e.high for e in effects]),
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
        "y": _floats([e.value for e in effects]),
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
