"""Who got a calendar entry: can history tell?

Where it can, users with the entry differ from those without it in what they did
before, and a difference between them is no effect of the entry.

U users, F features.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from scipy import special

from lumos_jax.data import schema as schema_lib
from lumos_jax.evaluators import bootstrap, metrics, predict

_WINDOWS_DAYS = (7, 28, 112)
_FOLDS = 5
_RIDGE = 10.0
_CLIP = (0.02, 0.98)  # Of a propensity.


def who(
  schema: schema_lib.Schema,
  real: Iterable[Mapping[str, Any]],
  without: Iterable[Mapping[str, Any]],
) -> tuple[np.ndarray, np.ndarray]:
  """Users in whose calendar ahead an entry is, and features of their history.

  Args:
    schema: Of the data.
    real: Batches of `pipeline.eval_batches` under the real calendar.
    without: The same under the calendar without the entry.

  Returns:
    bool [U] and float64 [U, F] of all hosts' users, ordered as
    `predict.Predictions` are.
  """
  features, rows = History(schema), []
  for a, b in zip(real, without, strict=True):
    differs = (a["future_calendar"] != b["future_calendar"]).any((1, 2, 3))
    keys = predict.hash_keys(a["key"]).view(np.uint8)
    keys = keys.reshape(len(differs), -1)
    rows.append((a["user_mask"], keys, differs, features(a)))
  table = [np.concatenate(x) for x in zip(*rows, strict=True)]
  if jax.process_count() > 1:
    table = multihost_utils.process_allgather(table, tiled=True)
  mask, keys, got, x = map(np.asarray, table)
  mask = mask.astype(bool)
  keys = np.ascontiguousarray(keys[mask]).view(f"S{keys.shape[1]}")[:, 0]
  at = np.argsort(keys, kind="stable")
  return got[mask][at].astype(bool), x[mask][at]


class History:
  """Features of users before an origin, from batches of the pipeline.

  Window sums, active days and the profile: nothing of the calendar, in which
  the assignment itself stands.
  """

  def __init__(self, schema: schema_lib.Schema):
    self._sizes = [f.size for f in schema.categorical("profile")]

  def __call__(self, batch: Mapping[str, Any]) -> np.ndarray:
    """float64 [B, F] of a batch with one origin."""
    mask = np.asarray(batch["history_mask"], bool)[..., None]
    x = np.where(mask, np.nan_to_num(batch["history_numeric"]), 0.0)
    active = (x != 0).any(-1, keepdims=True)
    x = np.concatenate([x, active], -1).astype(np.float64)
    parts = []
    for days in (*_WINDOWS_DAYS, x.shape[1]):
      total = x[:, -days:].sum(1)
      parts.append(np.sign(total) * np.log1p(np.abs(total)))
    ids = np.asarray(batch["profile_categorical"])
    for c, size in enumerate(self._sizes):
      parts.append(np.eye(size)[np.clip(ids[:, c], 0, size - 1)])
    numbers = np.asarray(batch["profile_numeric"], np.float64)
    parts += [np.nan_to_num(numbers), np.isnan(numbers)]
    return np.concatenate(parts, -1)


def propensity(x: np.ndarray, got: np.ndarray, seed: int = 0) -> np.ndarray:
  """P(got | x) of each user from a fit on others, float64 [U].

  Ridge logistic regression on standardised features, five folds.

  Args:
    x: float [U, F].
    got: bool [U].
    seed: Of the folds.
  """
  deviation = x.std(0)
  x = (x - x.mean(0))[:, deviation > 1e-9] / deviation[deviation > 1e-9]
  x = np.concatenate([np.ones((len(x), 1)), x], 1)
  fold = np.random.default_rng(seed).permutation(len(x)) % _FOLDS
  out = np.empty(len(x))
  for k in range(_FOLDS):
    beta = _logistic(x[fold != k], got[fold != k].astype(np.float64))
    out[fold == k] = special.expit(x[fold == k] @ beta)
  return np.clip(out, *_CLIP)


def _logistic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Newton's method; the intercept is not penalised."""
  penalty = np.full(x.shape[1], _RIDGE)
  penalty[0] = 1e-6
  beta = np.zeros(x.shape[1])
  for _ in range(12):
    p = special.expit(x @ beta)
    gradient = x.T @ (y - p) - penalty * beta
    hessian = (x.T * (p * (1 - p))) @ x + np.diag(penalty)
    step = np.linalg.solve(hessian, gradient)
    beta += step
    if np.abs(step).max() < 1e-6:
      break
  return beta


def separation(
  got: np.ndarray, p: np.ndarray, n: int = 1000, seed: int = 0
) -> bootstrap.Interval:
  """AUC of a propensity, .5 where nothing in history tells who got it."""
  every = np.ones(len(got), bool)
  auc = metrics.statistic("auc", got.astype(np.float64), p, every)
  drawn = [auc(w) for w in bootstrap.draws(len(got), n, seed)]
  value = float(auc(np.ones((1, len(got))))[0])
  return bootstrap.interval(value, np.concatenate(drawn))
