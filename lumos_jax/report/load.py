"""Reads what a run left in its workdir; absent parts are noted, not fatal."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from lumos_jax import metric_writer

# Higher is better for these; lower for all other metrics.
_HIGHER = ("auc", "average_precision", "r2", "mrr", "accuracy", "spearman")
_HIGHER_AT = (
  "hit_rate@",
  "ndcg@",
  "coverage@",
  "novelty@",
  "recall_",
  "money_",
)  # Followed by a number.
# Best at this value.
_AT = {"bias": 1.0, "coverage_80": 0.8}
# Of amounts; of the others the mean counts (evaluators/metrics.py).
_OF_MEDIAN = ("mae", "mape_nonzero", "wape")
_TITLES = {
  "baseline_lightgbm": "LightGBM",
  "baseline_lightgbm_states": "LightGBM with states",
  "baseline_catboost": "CatBoost",
  "baseline_linear": "linear",
  "baseline_tabm": "TabM",
  "baseline_calendar": "calendar",
  "baseline_naive": "naive",
  "baseline_best": "best baseline",
  "baseline_stack": "stack of baselines",
}
# A task's metric that a reader looks at first.
PRIMARY = ("auc", "wape")


@dataclasses.dataclass(frozen=True)
class Difference:
  """A paired difference a - b of a metric, with its bootstrap interval."""

  value: float
  low: float
  high: float

  def better(self, metric: str) -> bool | None:
    """Whether a is better than b; None where the interval includes 0."""
    if not (self.low > 0 or self.high < 0):
      return None
    return (self.value > 0) == higher_is_better(metric)


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Forecasts of one evaluator: tasks are M names, the others [U, M].

  `p` is the probability, or of an amount the mean.
  """

  tasks: tuple[str, ...]
  y: np.ndarray
  p: np.ndarray
  mask: np.ndarray

  def of(self, task: str) -> tuple[np.ndarray, np.ndarray]:
    """(y, p) of the users with label and forecast of the task."""
    m = self.tasks.index(task)
    y, p = self.y[:, m], self.p[:, m]
    use = self.mask[:, m].astype(bool) & np.isfinite(y) & np.isfinite(p)
    return y[use].astype(np.float64), p[use].astype(np.float64)


@dataclasses.dataclass
class Run:
  """A run's outputs.

  Attributes:
    workdir: Where it is.
    config: config.json.
    metrics: Lines of metrics.jsonl; of equal (step, name) the last counts.
    starts: Lines of starts.jsonl, one for each start.
    evals: eval.json: {evaluator: {metric: value}}.
    predictions: {evaluator: Predictions}.
    ranks: {evaluator: arrays of U users}: "history", and "rank" of a model or
      "rank_<floor>" of floors.
    documents: {evaluator: predictions/<evaluator>.json}.
    stats, schema: Of the data set, where it can be found.
    drift: drift.json of the workdir, where `data_prep drift` wrote one.
    absent: {part: why it is absent}.
  """

  workdir: epath.Path
  config: dict[str, Any] = dataclasses.field(default_factory=dict)
  metrics: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  starts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  evals: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  predictions: dict[str, Predictions] = dataclasses.field(default_factory=dict)
  ranks: dict[str, dict[str, np.ndarray]] = dataclasses.field(
    default_factory=dict
  )
  documents: dict[str, Any] = dataclasses.field(default_factory=dict)
  stats: dict[str, Any] = dataclasses.field(default_factory=dict)
  schema: dict[str, Any] = dataclasses.field(default_factory=dict)
  drift: dict[str, Any] = dataclasses.field(default_factory=dict)
  absent: dict[str, str] = dataclasses.field(default_factory=dict)

  @property
  def empty(self) -> bool:
    """Whether the run has left nothing yet but its config."""
    left = self.metrics, self.evals, self.predictions, self.ranks
    return not (any(left) or self.documents)

  def kind(self, evaluator: str) -> str:
    """The evaluator's type in the config; its own name where it has none."""
    evals = self.config.get("evals") or {}
    return str((evals.get(evaluator) or {}).get("type", evaluator))

  def of_kind(self, prefix: str) -> list[str]:
    """Evaluators with results whose type starts so, in the config's order."""
    names = [n for n in self.evals if "_vs_" not in n]
    order = list(self.config.get("evals") or {})
    names.sort(key=lambda n: order.index(n) if n in order else len(order))
    return [n for n in names if self.kind(n).startswith(prefix)]

  @property
  def model(self) -> str | None:
    """The evaluator that holds the model's own forecast of the test origin."""
    names = self.of_kind("risk") or self.of_kind("forecast")
    names = names or self.of_kind("next_event")
    for n in names:
      # The evaluators' own default is the test split.
      if self.setting(n, "split", "test") == "test":
        return n
    return names[-1] if names else None

  def title(self, evaluator: str | None) -> str:
    """How an evaluator's forecasts are called in tables."""
    kind = self.kind(evaluator or "")
    if kind.startswith(("forecast", "next_event", "risk")):
      return str(self.config.get("recipe", "model")).upper()
    return _TITLES.get(kind, kind)

  def value(self, evaluator: str | None, metric: str) -> float | None:
    """A metric of eval.json; None where it is absent or undefined."""
    value = self.evals.get(evaluator or "", {}).get(metric)
    return None if value is None else float(value)

  @property
  def rivals(self) -> list[str]:
    """What the model is shown beside: the best baseline, or all there are."""
    best = self.of_kind("baseline_best")
    return best or self.of_kind("baseline")

  def chosen(self, evaluator: str | None, metric: str) -> str | None:
    """The baseline that the best baseline is for a metric's task.

    Means and medians of amounts are chosen apart.
    """
    task, _, last = metric.rpartition("/")
    goals = self.documents.get(evaluator or "", {}).get(task, {})
    amount = "median" if last in _OF_MEDIAN else "mean"
    for goal in ("probability", amount):
      one = goals.get(goal) if isinstance(goals, dict) else None
      if one and "baseline" in one:
        return one["baseline"]
    return None

  def spread(self, evaluator: str | None, metric: str) -> float | None:
    """Standard deviation of a metric over a baseline's members.

    The best baseline's is that of the one chosen for the task.
    """
    one = self.chosen(evaluator, metric) or evaluator
    return self.value(one, f"spread/{metric}")

  def setting(self, evaluator: str | None, name: str, default: Any) -> Any:
    """A setting of an evaluator in the config."""
    evals = self.config.get("evals") or {}
    return (evals.get(evaluator or "") or {}).get(name, default)

  @property
  def origin(self) -> int | None:
    """Day of the model's test forecast."""
    data = self.config.get("data") or {}
    split = self.setting(self.model, "split", "test")
    own = self.setting(self.model, "origin", None)
    return data.get(f"{split}_origin") if own is None else own

  @property
  def dataset(self) -> str:
    """Name of the data set."""
    data = self.config.get("data") or {}
    return str(self.schema.get("name") or data.get("source") or "unknown data")

  @property
  def tasks(self) -> dict[str, str]:
    """{task: kind}, in the order of the predictions (config.json sorts)."""
    tasks = self.config.get("tasks") or {}
    first = next(iter(self.predictions.values()), None)
    order = list(first.tasks) if first else []
    names = [t for t in order if t in tasks]
    names += [t for t in tasks if t not in names]
    return {n: str(tasks[n].get("kind", "")) for n in names}

  def primary(self, task: str) -> str:
    """The metric that stands for a task."""
    last = "auc" if self.tasks.get(task) == "binary" else "wape"
    return f"{task}/{last}"

  def difference(self, a: str, b: str, metric: str) -> Difference | None:
    """a - b of a metric, if eval.json has the pair in either order."""
    for first, second, sign in ((a, b, 1.0), (b, a, -1.0)):
      found = differences(self.evals.get(f"{first}_vs_{second}") or {})
      d = found.get(metric)
      if d:
        ends = sorted((sign * d.low, sign * d.high))
        return Difference(sign * d.value, *ends)
    return None


def higher_is_better(metric: str) -> bool:
  """Of a metric's name, such as "churn/auc" or "mean_auc"."""
  last = metric.rsplit("/", 1)[-1]
  if last.startswith(_HIGHER_AT):
    return True
  return any(last == h or last.endswith(f"_{h}") for h in _HIGHER)


def best(metric: str, values: Sequence[float]) -> float | None:
  """The best of some models' values; None where none is."""
  last = metric.rsplit("/", 1)[-1]
  if last == "base_rate" or not values:
    return None
  if last in _AT:
    return min(values, key=lambda v: abs(v - _AT[last]))
  return max(values) if higher_is_better(metric) else min(values)


def differences(metrics: Mapping[str, Any]) -> dict[str, Difference]:
  """{m: Difference} of each "m/low" and "m/high".

  Their value is "m/difference", or "m" itself (an effect of a what-if).
  """
  out = {}
  for key in metrics:
    name, _, last = key.rpartition("/")
    if last == "low":
      value = metrics.get(f"{name}/difference", metrics.get(name))
      three = (value, metrics[key], metrics.get(f"{name}/high"))
      if all(x is not None and math.isfinite(x) for x in three):
        out[name] = Difference(*map(float, three))
  return out


def _json(path: epath.Path) -> Any:
  return json.loads(path.read_text())


def _arrays(path: epath.Path) -> dict[str, np.ndarray]:
  with path.open("rb") as f, np.load(f, allow_pickle=False) as z:
    return {name: z[name] for name in z.files}


def _predictions(z: Mapping[str, np.ndarray]) -> Predictions:
  names = [str(t) for t in z["tasks"]]
  y, p, mask = z["y"], z["p"], z["mask"]
  if not y.shape == p.shape == mask.shape == (len(y), len(names)):
    raise ValueError(
      f"y {y.shape}, p {p.shape} and mask {mask.shape} for {len(names)} tasks"
    )
  return Predictions(tuple(names), y, p, mask)


def data_directory(config: Mapping[str, Any]) -> epath.Path:
  """Where the run's data set lies (relative to the current directory)."""
  from lumos_jax.data import records

  data = config["data"]
  name = records.directory_name(data["source"], dict(data.get("options") or {}))
  return epath.Path(data["root"]) / name


def load(
  workdir: epath.PathLike, data_dir: epath.PathLike | None = None
) -> Run:
  """Reads a run.

  Args:
    workdir: The run's outputs.
    data_dir: Its data set; by default where the config says.

  Raises:
    FileNotFoundError: The workdir holds no run, or `data_dir` no data set.
    ValueError: config.json is damaged.
  """
  workdir = epath.Path(workdir)
  if not (workdir / "config.json").exists():
    raise FileNotFoundError(
      f"{workdir} holds no run: there is no config.json in it"
    )
  if data_dir and not (epath.Path(data_dir) / "stats.json").exists():
    raise FileNotFoundError(
      f"{data_dir} holds no data set: there is no stats.json in it"
    )
  try:
    run = Run(workdir, config=_json(workdir / "config.json"))
  except ValueError as e:
    raise ValueError(f"{workdir}/config.json cannot be read: {e}") from e
  run.metrics = metric_writer.read(workdir)
  if not run.metrics:
    run.absent["metrics"] = f"{metric_writer.METRICS} is absent or empty."
  starts = workdir / metric_writer.STARTS
  if starts.exists():
    run.starts = [json.loads(x) for x in starts.read_text().splitlines()]
  try:
    run.evals = _json(workdir / "eval.json")
  except FileNotFoundError:
    run.absent["evals"] = (
      "there is no eval.json: the run has not come to its evaluation yet."
    )
  except ValueError as e:
    run.absent["evals"] = f"eval.json cannot be read: {e}."
  try:
    run.drift = _json(workdir / "drift.json")
  except FileNotFoundError:
    pass  # Nobody looked for it.
  except ValueError as e:
    run.absent["drift"] = f"drift.json cannot be read: {e}."
  folder = workdir / "predictions"
  for path in sorted(folder.iterdir()) if folder.exists() else ():
    try:
      if path.suffix == ".npz":
        found = _arrays(path)
        if "history" in found:
          run.ranks[path.stem] = found
        else:
          run.predictions[path.stem] = _predictions(found)
      elif path.suffix == ".json":
        run.documents[path.stem] = _json(path)
    except (ValueError, KeyError, OSError) as e:
      run.absent["predictions"] = f"{path.name} cannot be read: {e}."
  if not run.predictions and not run.ranks:
    run.absent.setdefault(
      "predictions", "no evaluator left a file in predictions/."
    )
  try:
    data_dir = epath.Path(data_dir or data_directory(run.config))
    run.stats = _json(data_dir / "stats.json")
    run.schema = _json(data_dir / "schema.json")
  except (OSError, ValueError, KeyError, TypeError, ImportError) as e:
    run.absent["data"] = f"stats.json and schema.json cannot be read: {e}."
  return run
