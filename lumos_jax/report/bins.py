"""Users in bins of a forecast: calibration, and metrics by history."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lumos_jax.report import charts

_RARE = 0.1  # Mean outcome below which axes are logarithmic.
_LEAST_USERS = 20  # Of a halved bin.
_Z = 1.96


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
  count = max(1, min(bins, len(y) // 5))
  return _binned(y, p, np.linspace(0, len(y), count + 1))


def halving(y: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
  """As `equal_mass`, but each bin half as large as the one below it.

  For rare outcomes, which the highest forecasts hold: the half of the users
  with the lowest forecasts, the next quarter, the next eighth, ...
  """
  edges = [0.0]
  while (len(y) - edges[-1]) / 2 >= _LEAST_USERS:
    edges.append((len(y) + edges[-1]) / 2)
  return _binned(y, p, [*edges, len(y)])


def _binned(y, p, edges) -> dict[str, np.ndarray]:
  order = np.argsort(p, kind="stable")
  y, p = y[order], p[order]
  # A tie must not be cut in two: the cut moves to its beginning.
  edges = np.round(edges).astype(int)
  edges = np.unique(
    [np.searchsorted(p, p[e]) if 0 < e < len(p) else e for e in edges]
  )
  parts = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
  n = np.array([s.stop - s.start for s in parts], float)
  mean = np.array([y[s].mean() for s in parts])
  if np.isin(y, (0.0, 1.0)).all():  # Wilson's interval of a proportion.
    centre = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = np.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2))
    half = _Z * half / (1 + _Z**2 / n)
  else:
    centre = mean
    half = _Z * np.array([y[s].std() for s in parts]) / np.sqrt(n)
  return {
    "forecast": np.array([p[s].mean() for s in parts]),
    "outcome": mean,
    "low": centre - half,
    "high": centre + half,
    "users": n,
  }


def is_rare(y: np.ndarray) -> bool:
  """Whether an outcome is so rare that calibration needs logarithmic axes."""
  return bool(np.isin(y, (0.0, 1.0)).all() and 0 < y.mean() < _RARE)


def _trace(i: int, name: str, b: Mapping[str, np.ndarray], floor: float | None):
  """A line through the bins; the first series has intervals and counts."""
  outcome, low = b["outcome"], b["low"]
  none = np.zeros(len(outcome), bool)
  if floor is not None:  # A logarithmic axis has no 0: it lies at its foot.
    none = outcome <= 0
    outcome, low = np.maximum(outcome, floor), np.maximum(low, floor)
  symbol = charts.SYMBOLS[i % 6]
  trace = {
    "type": "scatter",
    "mode": "lines+markers",
    "name": charts.shown(name),
    "x": charts.floats(b["forecast"]),
    "y": charts.floats(outcome),
    "customdata": [
      [int(n), f"{o:.4g}"]
      for n, o in zip(b["users"], b["outcome"], strict=True)
    ],
    "hovertemplate": "forecast %{x:.4g}<br>outcome %{customdata[1]}"
    "<br>%{customdata[0]:,} users<extra>%{fullData.name}</extra>",
    "line": {"color": charts.colour(i), "width": 2 if i == 0 else 1.25},
    "marker": {
      "symbol": [f"{symbol}-open" if n else symbol for n in none],
      "size": 7 if i == 0 else 5,
    },
  }
  if i == 0:
    trace["error_y"] = {
      "type": "data",
      "symmetric": False,
      "array": charts.floats(b["high"] - outcome),
      "arrayminus": charts.floats(outcome - low),
      "color": "$c0/50",
      "thickness": 1.25,
      "width": 0,
    }
  return trace


def _axis(title: str, log: bool, ends: tuple[float, float]) -> dict[str, Any]:
  axis: dict[str, Any] = {"title": {"text": title}}
  if not log:
    return axis | {"rangemode": "tozero"}
  low, high = np.log10(ends)
  axis |= {"type": "log", "range": charts.floats([low - 0.1, low + 0.1])}
  axis["range"][1] = float(f"{high + 0.1:.6g}")
  return axis | {"dtick": 1 if high - low > 2.5 else "D2"}


def reliability(
  series: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> charts.Spec:
  """Forecast against outcome, {name: (y, p)}; the first one has intervals.

  Axes are logarithmic where the outcome `is_rare`; a bin without a positive
  then lies at the foot of the axis and has an open mark.
  """
  rare = any(is_rare(y) for y, _ in series.values())
  make = halving if rare else equal_mass
  found = {name: make(y, p) for name, (y, p) in series.items()}
  every = lambda *names: np.concatenate(
    [b[n] for b in found.values() for n in names]
  )
  x, y = every("forecast"), every("outcome")
  values = np.append(x, y)
  top, bottom = float(values.max()), float(min(values.min(), 0.0))
  rare, floor = rare and top > 0, None
  x_ends = y_ends = (0.0, 0.0)
  if rare:
    floor = float(y[y > 0].min()) / 2
    x_ends = float(x[x > 0].min()), float(x.max())
    y_ends = floor, float(every("outcome", "high").max())
    bottom, top = min(x_ends + y_ends), max(x_ends + y_ends)
  data = [
    _trace(i, name, b, floor) for i, (name, b) in enumerate(found.items())
  ]
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
      "xaxis": _axis("mean forecast", rare, x_ends),
      "yaxis": _axis("mean outcome", rare, y_ends),
    },
  }


def by_history(
  series: Mapping[str, tuple[np.ndarray, np.ndarray]], y_title: str
) -> charts.Spec:
  """Share of hits against length of history, {name: (hit, history)}."""
  data, low = [], np.inf
  for i, (name, (hit, history)) in enumerate(series.items()):
    b = equal_mass(hit, history, 8)
    low = min(low, b["forecast"].min())
    trace = _trace(i, name, b, None)
    trace["hovertemplate"] = (
      "%{x:.4g} events: %{y:.4f}<br>%{customdata[0]:,} users"
      "<extra>%{fullData.name}</extra>"
    )
    data.append(trace)
  return {
    "data": data,
    "layout": {
      "height": 300,
      "showlegend": True,
      "xaxis": {
        "title": {"text": "events before the next one (mean of a bin)"},
        **({"type": "log", "dtick": "D2"} if low > 0 else {}),
      },
      "yaxis": {"title": {"text": y_title}, "rangemode": "tozero"},
    },
  }
