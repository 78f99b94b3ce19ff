"""Points that are scored: which there are, and how they are parted.

N points, F context features, M tasks.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lumos_jax.data import context as context_lib
from lumos_jax.data import origins
from lumos_jax.data import tasks as tasks_lib

Batch = dict[str, Any]
PARTS = ("train", "validation", "test")
CUTS = ("time", "random")
# Of config.data: what decides which points there are, and their context.
KEYS = (
  "unit",
  "train_origin_first",
  "origin_stride_days",
  "points_per_user",
  "last_events",
  "cut",
  "balanced",
  "known_by",
)
_SHARES = (
  0.7,
  0.85,
)  # Of a random cut: train until the first, then validation.


def marks(cfg) -> dict[str, float]:
  """What every result has to say of how its points were chosen; mostly {}."""
  out = {}
  if cfg.get("cut", "time") == "random":
    out["random_split"] = 1.0
  if cfg.get("balanced", False):
    out["balanced"] = 1.0
  return out


def check_config(cfg, tasks: Sequence[tasks_lib.Task]) -> None:
  """Raises ValueError, naming the keys, where settings exclude each other."""
  for key, known in (("unit", context_lib.UNITS), ("cut", CUTS)):
    if cfg[key] not in known:
      raise ValueError(f"data.{key} = {cfg[key]!r}; use one of {known}")
  if not tasks:
    raise ValueError("config.tasks is empty: say what is to be scored")
  other = [t.name for t in tasks if t.kind != "binary"]
  if other:
    raise ValueError(
      f"config.tasks: {other} are amounts, and this recipe scores: kind='binary'"
    )
  if cfg.unit == "user":
    if events := [t.name for t in tasks if t.reduce == "event"]:
      raise ValueError(
        f"config.tasks: {events} are labels of events (reduce='event'): set "
        "data.unit = 'event'"
      )
    if cfg.train_origin_first > cfg.train_origin_last:
      raise ValueError(
        f"data.train_origin_first = {cfg.train_origin_first} is after "
        f"data.train_origin_last = {cfg.train_origin_last}"
      )
    if cfg.cut == "time":
      for name in ("validation", "test"):
        key = f"data.{name}_origin"
        origins.check_origin(cfg, tasks, name, cfg[f"{name}_origin"], key)
  elif cfg.cut == "time":
    days = (cfg.train_origin_last, cfg.validation_origin, cfg.test_origin)
    same = cfg.train_split == cfg.test_split
    if same and not days[0] <= days[1] < days[2]:
      raise ValueError(
        "data.unit = 'event' needs data.train_origin_last <= validation_origin < "
        f"test_origin; they are {days}"
      )


@dataclasses.dataclass
class Points:
  """The points of a part, in memory.

  Attributes:
    context: float32 [N, F].
    y: float32 [N, M].  mask: bool [N, M], whether the label is known.
    user: int [N], position in `records`.
    place: int [N], day of a user, or event's position in its record.
    records: Records of users with points.
    key: str [N], the users' ids.
  """

  context: np.ndarray
  y: np.ndarray
  mask: np.ndarray
  user: np.ndarray
  place: np.ndarray
  records: list[Batch]

  def __len__(self) -> int:
    return len(self.user)

  @property
  def key(self) -> list[str]:
    """Whose each point is."""
    return [str(self.records[u]["key"]) for u in self.user]

  def take(self, rows: np.ndarray) -> "Points":
    """Some of the points."""
    cut = (x[rows] for x in (self.context, self.y, self.mask))
    return Points(*cut, self.user[rows], self.place[rows], self.records)


def drawn(text: str) -> str:
  """A part by a hash of a text, whatever else there is."""
  share = zlib.crc32(f"part/{text}".encode()) / 2**32
  return PARTS[int(np.searchsorted(_SHARES, share, side="right"))]


def balanced(points: Points, seed: int) -> np.ndarray:
  """As many rows with a positive label as others, drawn; ascending."""
  positive = ((points.y > 0) & points.mask).any(1)
  groups = [
    np.flatnonzero(g & points.mask.any(1)) for g in (positive, ~positive)
  ]
  count, rng = min(map(len, groups)), np.random.default_rng(seed)
  if not count:
    raise ValueError(
      "data.balanced = True has nothing to balance: a part has no point with a "
      "positive label, or none without"
    )
  drawn = [rng.choice(g, count, replace=False) for g in groups]
  return np.sort(np.concatenate(drawn))
