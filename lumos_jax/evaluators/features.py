"""Hand-made features (data/aggregates.py) and labels of a split's users.

U users, O origins, F features, M tasks.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lumos_jax.data import context as context_lib
from lumos_jax.data import scoring
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.data.aggregates import Maker
from lumos_jax.evaluators import predict

__all__ = ["Maker", "Table", "make", "of_points", "sample"]


@dataclasses.dataclass(frozen=True)
class Table:
  """Features and labels.

  Attributes:
    x: float32 [U, O, F]; NaN where a number is missing.
    y: float32 [U, O, M].  mask: bool [U, O, M].
    key: bytes [U] of predict.hash_keys.
    origins: int [O].
    names: F names.
    categorical: Positions of features that are ids.
  """

  x: np.ndarray
  y: np.ndarray
  mask: np.ndarray
  key: np.ndarray
  origins: np.ndarray
  names: tuple[str, ...]
  categorical: tuple[int, ...]

  def at(self, origins: Sequence[int]) -> "Table":
    """The same users at some of the origins."""
    o = np.searchsorted(self.origins, origins)
    return dataclasses.replace(
      self,
      x=self.x[:, o],
      y=self.y[:, o],
      mask=self.mask[:, o],
      origins=self.origins[o],
    )


def sample(users: int, most: int, seed: int) -> Iterable[int]:
  """All users, or `most` of them drawn by the seed, ascending."""
  if not most or users <= most:
    return range(users)
  drawn = np.random.default_rng(seed).choice(users, most, replace=False)
  return np.sort(drawn).tolist()


def of_points(context: context_lib.Context, points: scoring.Points) -> Table:
  """Context features and labels of scored points: each a row, of one origin."""
  return Table(
    points.context[:, None].astype(np.float32),
    points.y[:, None],
    points.mask[:, None],
    predict.hash_keys(points.key),
    np.zeros(1, np.int64),
    context.names,
    tuple(sorted(context.sizes)),
  )


@functools.lru_cache(maxsize=3)  # Baselines that follow each other share one.
def make(
  records: Any,
  tasks: tuple[tasks_lib.Task, ...],
  split: str,
  origins: tuple[int, ...],
  *,
  future: bool = True,
  max_users: int = 0,
  seed: int = 0,
) -> Table:
  """Features and labels of a split's users at given origins.

  Args:
    records: An open data set.
    tasks: M tasks.
    split: Users to take.
    origins: O ascending days.
    future: Use the calendar after the origin.
    max_users: At most this many, drawn by `seed`; 0 for all.
    seed: Of the draw.
  """
  maker = Maker(records.schema, records.calendar, tasks, future)
  source, origins = records.source(split), np.asarray(origins)
  users = sample(len(source), max_users, seed)
  shape = len(users), len(origins)
  x = np.empty((*shape, len(maker.names)), np.float32)
  y = np.empty((*shape, len(tasks)), np.float32)
  mask, keys = np.empty(y.shape, bool), []
  for row, user in enumerate(users):
    record = source[user]
    x[row] = maker(record, origins)
    y[row], mask[row] = tasks_lib.labels(tasks, records.schema, record, origins)
    keys.append(record["key"])
  hashed = predict.hash_keys(keys)
  return Table(x, y, mask, hashed, origins, maker.names, maker.categorical)
