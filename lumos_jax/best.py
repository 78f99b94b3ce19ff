"""The best step by a validation metric: kept, reported, and when to stop.

workdir/best.json: {"metric", "mode", "step", "value", "evaluations": [[step,
value], ...]}, written after each evaluation of the metric.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from lumos_jax import evaluators
from lumos_jax.evaluators import predict
from lumos_jax.names import near

FILE = "best.json"
_MODES = ("max", "min")


def check_config(config) -> None:
  """Raises ValueError, naming the keys, where train.best cannot be followed."""
  t, metric = config.train, config.train.best.metric
  if t.best.mode not in _MODES:
    raise ValueError(f"train.best.mode = {t.best.mode!r}; use one of {_MODES}")
  if t.patience < 0:
    raise ValueError(f"train.patience = {t.patience} must be at least 0")
  if not metric:
    for key in ("patience", "evaluate_best"):
      if t[key]:
        raise ValueError(
          f"train.{key} = {t[key]} needs train.best.metric, for example "
          "'validation/mean_auc'"
        )
    return
  name, slash, _ = metric.partition("/")
  every = {
    k: v.get("every_steps", 0)
    for k, v in config.evals.items()
    if v.type in evaluators.TYPES and evaluators.TYPES[v.type].needs_params
  }
  if not slash or name not in every:
    raise ValueError(
      f"train.best.metric = {metric!r}: use EVALUATOR/METRIC of an evaluator of "
      f"the model in config.evals{near(name, every)} There are {sorted(every)}"
    )
  if not every[name]:
    raise ValueError(
      f"train.best.metric = {metric!r}: evaluator {name!r} runs at the end only; "
      f"set config.evals.{name}.every_steps"
    )


def read(workdir: epath.PathLike) -> dict[str, Any]:
  """The content of best.json.

  Raises:
    ValueError: There is none, or it cannot be read.
  """
  path = epath.Path(workdir) / FILE
  if not path.exists():
    raise ValueError(
      f"{path} is absent: the run was trained without train.best.metric, or has "
      "not been evaluated yet"
    )
  try:
    return json.loads(path.read_text())
  except ValueError as e:
    raise ValueError(f"{path} cannot be read: {e}") from e


class Best:
  """Follows one metric over the evaluations of a run."""

  def __init__(self, config, workdir: epath.PathLike, start: int):
    """Takes up what was found before step `start`; see check_config's errors."""
    check_config(config)
    self.metric, self._mode = config.train.best.metric, config.train.best.mode
    self._patience = config.train.patience
    self._path = epath.Path(workdir) / FILE
    self._found: dict[int, float] = {}
    if not self.metric or not start or not self._path.exists():
      return
    before = read(workdir)
    if (before["metric"], before["mode"]) == (self.metric, self._mode):
      self._found = {
        n: math.nan if x is None else x
        for n, x in before["evaluations"]
        if n <= start
      }

  @property
  def step(self) -> int | None:
    """The best step, the earliest of equals; None before an evaluation."""
    return self._best(self._found)

  @property
  def value(self) -> float:
    """The metric at the best step."""
    return self._found[self.step]

  @property
  def why(self) -> str:
    """What is best, in words."""
    return (
      f"{self.metric} was best at step {self.step}, {self.value:.4g}, of "
      f"{len(self._found)} evaluations"
    )

  def _best(self, found: Mapping[int, float]) -> int | None:
    sign = -1.0 if self._mode == "max" else 1.0
    known = {n: sign * x for n, x in found.items() if math.isfinite(x)}
    return min(known, key=lambda n: (known[n], n), default=None)

  @property
  def exhausted(self) -> bool:
    """Whether train.patience evaluations in a row were no better."""
    if not self._patience or self.step is None:
      return False
    return sum(n > self.step for n in self._found) >= self._patience

  def note(self, step: int, values: Mapping[str, float]) -> bool:
    """Notes the metrics of an evaluation.

    Args:
      step: Steps done.
      values: {"evaluator/metric": value}.

    Returns:
      Whether this step is the best so far.

    Raises:
      ValueError: The evaluator ran and does not yield the metric.
    """
    if not self.metric:
      return False
    if self.metric not in values:
      name = self.metric.partition("/")[0]
      there = sorted(k for k in values if k.startswith(f"{name}/"))
      if there:
        raise ValueError(
          f"train.best.metric = {self.metric!r}: the evaluator yields no such "
          f"metric{near(self.metric, there)} It yields {there}"
        )
      return False
    self._found[step] = float(values[self.metric])
    self._write()
    return self.step == step

  def _write(self) -> None:
    if jax.process_index():
      return
    clean = lambda x: x if math.isfinite(x) else None
    doc = {
      "metric": self.metric,
      "mode": self._mode,
      "step": self.step,
      "value": None if self.step is None else self.value,
      "evaluations": [[n, clean(x)] for n, x in sorted(self._found.items())],
    }
    predict.write_atomic(self._path, json.dumps(doc).encode())
