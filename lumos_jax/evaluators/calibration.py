"""Calibration of scores: fitted on validation, kept with the run, applied in use.

Isotonic regression, or one temperature and shift of the logit (Platt 1999).
Calibrated scores are for decisions by cost; what is ranked are raw scores, since
isotonic steps make ties.
"""

import json
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath

from lumos_jax.evaluators import predict

FILE = "calibration.json"
KINDS = ("isotonic", "temperature")
# Of the rarer class; with fewer labels the outer steps are of a few points, 0 or 1.
LEAST_ISOTONIC = 100
_SMALL = 1e-6


class Map(NamedTuple):
  """From raw to calibrated probabilities.

  Attributes:
    kind: Of KINDS, or "none".
    x, y: Corners of isotonic's broken line; of "temperature" slope and shift
      of the logit, in x.
  """

  kind: str
  x: tuple[float, ...] = ()
  y: tuple[float, ...] = ()

  def __call__(self, p: np.ndarray) -> np.ndarray:
    """Calibrated probabilities, float64, of raw ones."""
    p = np.asarray(p, np.float64)
    if self.kind == "isotonic":
      return np.interp(p, self.x, self.y)
    if self.kind == "temperature":
      z = self.x[0] * _logit(p) + self.x[1]
      return 1.0 / (1.0 + np.exp(-z))
    return p


def fit(kind: str, y: np.ndarray, p: np.ndarray) -> Map:
  """A map fitted on labels and raw probabilities [N].

  Of labels of one class nothing can be learned: "none".

  Raises:
    ValueError: There is no such kind.
  """
  if kind not in KINDS:
    raise ValueError(f"calibration {kind!r}; use one of {KINDS}")
  y, p = np.asarray(y, np.float64), np.asarray(p, np.float64)
  if not len(y) or y.min() == y.max():
    return Map("none")
  if kind == "temperature":
    return Map("temperature", _temperature(y, _logit(p)))
  return Map("isotonic", *_isotonic(y, p))


def _isotonic(y, p) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Pool adjacent violators; each pool's ends are corners."""
  order = np.argsort(p, kind="stable")
  values, first, count = np.unique(
    p[order], return_index=True, return_counts=True
  )
  sums = np.add.reduceat(y[order], first)
  pools: list[list[float]] = []  # Weight, sum, first value, last value.
  for value, weight, total in zip(values, count, sums, strict=True):
    pools.append([float(weight), float(total), float(value), float(value)])
    while len(pools) > 1 and (
      pools[-2][1] * pools[-1][0] >= pools[-1][1] * pools[-2][0]
    ):
      weight, total, _, last = pools.pop()
      pools[-1][0] += weight
      pools[-1][1] += total
      pools[-1][3] = last
  x = [v for pool in pools for v in dict.fromkeys(pool[2:])]
  level = [pool[1] / pool[0] for pool in pools for _ in dict.fromkeys(pool[2:])]
  return tuple(x), tuple(level)


def _temperature(y, z) -> tuple[float, float]:
  """Slope and shift of the logit with the least log loss, by Newton steps."""
  a = np.asarray([1.0, 0.0])
  x = np.stack([z, np.ones_like(z)], 1)
  loss = lambda a: np.mean(np.logaddexp(0.0, x @ a) - y * (x @ a))
  for _ in range(100):
    p = 1.0 / (1.0 + np.exp(-x @ a))
    gradient = x.T @ (p - y) / len(y)
    curve = (x * (p * (1 - p))[:, None]).T @ x / len(y) + _SMALL * np.eye(2)
    step, size = np.linalg.solve(curve, gradient), 1.0
    while loss(a - size * step) > loss(a) and size > 1e-4:
      size /= 2
    a = a - size * step
    if np.abs(gradient).max() < 1e-9:
      break
  return float(a[0]), float(a[1])


def _logit(p: np.ndarray) -> np.ndarray:
  p = np.clip(p, _SMALL, 1 - _SMALL)
  return np.log(p) - np.log1p(-p)


def save(workdir: epath.PathLike, maps: dict[str, Map], about: dict) -> None:
  """Writes calibration.json: a map a task, and what they were fitted on."""
  doc: dict[str, Any] = {
    "tasks": {k: m._asdict() for k, m in maps.items()},
    **about,
  }
  text = json.dumps(doc, indent=1, allow_nan=False)
  predict.write_atomic(epath.Path(workdir) / FILE, text.encode())


def load(workdir: epath.PathLike, model_hash: str) -> dict[str, Map]:
  """{task: map} of a run; {} where it has none, or another checkpoint's.

  Args:
    workdir: Of the run.
    model_hash: `predict.params_hash` of the checkpoint that is to be calibrated.

  Raises:
    ValueError: The file is damaged.
  """
  path = epath.Path(workdir) / FILE
  if not path.exists():
    return {}
  try:
    doc = json.loads(path.read_text())
    found = doc["tasks"]
    if doc.get("model_hash") != model_hash:
      logging.warning(
        "%s was fitted on another checkpoint than the one in use: scores are not "
        "calibrated; evaluate this one (python -m lumos_jax.evaluate)",
        path,
      )
      return {}
    return {
      k: Map(m["kind"], tuple(m["x"]), tuple(m["y"])) for k, m in found.items()
    }
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise ValueError(
      f"{path} cannot be read ({e}): evaluate the run again, or remove it"
    ) from e
