"""Groups of users that a forecast's metrics are shown for.

U users, M tasks.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import metrics, predict

HISTORY = "history"
_QUANTILES = 4
_MOST_VALUES = 15  # Of a categorical field; the rest are one group.
_METRICS = {"binary": ("auc", "base_rate"), "regression": ("wape",)}


def check(
  names: Sequence[str], schema: schema_lib.Schema, config_key: str
) -> None:
  """Raises ValueError where a segment is no profile field and not "history"."""
  known = [
    f.name
    for f in schema.profile
    if schema_lib.has_ids(f) or isinstance(f, schema_lib.Numeric)
  ]
  unknown = [n for n in names if n != HISTORY and n not in known]
  if unknown:
    raise ValueError(
      f"{config_key}: no profile field {unknown}; use some of "
      f"{[*known, HISTORY]}"
    )


def of_users(
  names: Sequence[str], records: Any, split: str, origin: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """The segment of each user, by each of the names.

  A categorical field's segments are its values, beyond the 15 most frequent
  "(other)". A number's are its quartiles over these users, equal numbers in
  one. "history" is the number of activity rows before the origin: user-days
  or events.

  Args:
    names: Checked by `check`.
    records: An open data set.
    split: Of the users.
    origin: Day of forecast.

  Returns:
    keys bytes [U], ascending as in predict.Predictions, and {name: text [U]}.
  """
  schema, source = records.schema, records.source(split)
  ids = [f.name for f in schema.categorical("profile")]
  keys, raw = [], {n: [] for n in names}
  for i in range(len(source)):
    record = source[i]
    keys.append(record["key"])
    for name in names:
      if name == HISTORY:
        value = np.searchsorted(record["day"], origin)
      elif name in ids:
        value = record["profile_categorical"][ids.index(name)]
      else:
        column = schema.numeric_column("profile", name)
        value = record["profile_numeric"][column]
      raw[name].append(float(value))
  key = predict.hash_keys(keys)
  at = np.argsort(key, kind="stable")
  found = {}
  for name, values in raw.items():
    values = np.asarray(values)[at]
    if name in ids:
      field = schema.categorical("profile")[ids.index(name)]
      found[name] = _by_value(field, values.astype(int))
    else:
      found[name] = _by_quantile(values)
  return key[at], found


def _by_value(field, ids: np.ndarray) -> np.ndarray:
  first = schema_lib.FIRST_VALUE
  shown = ["(missing)", "(unknown)", *map(str, field.values or ())]
  shown += [str(i) for i in range(len(shown), field.size)]
  number = np.bincount(ids, minlength=field.size)
  frequent = np.argsort(-number, kind="stable")[:_MOST_VALUES]
  keep = np.isin(ids, [*range(first), *frequent])
  return np.where(keep, np.asarray(shown)[ids], "(other)")


def _by_quantile(values: np.ndarray) -> np.ndarray:
  """Text of the quartile that each number lies in: "20 to 34"."""
  known = ~np.isnan(values)
  out = np.full(len(values), "(missing)", dtype=object)
  if known.any():
    x = values[known]
    edges = np.quantile(x, np.arange(1, _QUANTILES) / _QUANTILES)
    group = np.searchsorted(np.unique(edges), x, side="left")
    shown = np.empty(len(x), dtype=object)
    for g in np.unique(group):
      low, high = x[group == g].min(), x[group == g].max()
      same = low == high
      shown[group == g] = f"{low:.6g}" if same else f"{low:.6g} to {high:.6g}"
    out[known] = shown
  return out.astype(str)


def of_tasks(
  segments: Mapping[str, np.ndarray],
  tasks: Sequence[tasks_lib.Task],
  y: np.ndarray,
  mask: np.ndarray,
  p: Mapping[str, np.ndarray],
  least: int,
) -> Iterator[tuple[str, float]]:
  """Metrics of each segment and task, with counts.

  Yields "segments/<name>=<segment>/<task>/" with "users" (that have a label),
  "positives" (users whose label is not 0), AUC and base rate or WAPE. A metric
  is NaN in a segment with fewer than `least` positives or, for AUC, fewer than
  `least` negatives: it would be noise.

  Args:
    segments: {name: text [U]}.
    tasks: M tasks.
    y, mask: [U, M].
    p: {task: [U]}, and quantiles of amounts as in `metrics.of_tasks`.
    least: Positives that a segment needs.
  """
  for name, of_user in segments.items():
    for segment in sorted(set(of_user.tolist()), key=_order):
      mine = of_user == segment
      for m, task in enumerate(tasks):
        use = mine & mask[:, m].astype(bool)
        where = f"segments/{name}={segment}/{task.name}"
        positives = int(np.sum(y[use, m] != 0))
        yield f"{where}/users", float(use.sum())
        yield f"{where}/positives", float(positives)
        few = positives < least
        for metric in _METRICS[task.kind]:
          negatives = use.sum() - positives
          small = few or (metric == "auc" and negatives < least)
          value = np.nan
          if not small:
            forecast = metrics.scored(metric, task.name, p)
            value = metrics.metric(metric, y[:, m], forecast, use)
          yield f"{where}/{metric}", value


def _order(segment: str) -> tuple[bool, float, str]:
  """Numbers in their order, then texts; what is no value last."""
  try:
    number = float(segment.split(" ")[0])
  except ValueError:
    number = np.inf
  return segment.startswith("("), number, segment
