"""Vectors of users that another model made, for a model that learns to meet them.

U users, W numbers of a vector.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

# Of a window of a user: the vector, and whether there is one.
VECTOR, KNOWN = "profile_teacher", "profile_taught"


class TeacherError(ValueError):
  """The vectors cannot be used; says of which file, and why."""


class Teacher:
  """Vectors by user, each of length 1; 0 for users without one."""

  def __init__(self, keys: Sequence[str], vectors: np.ndarray, where: str):
    """Takes vectors [U, W] of users.

    Raises:
      TeacherError: A user stands there twice, or a vector has no direction.
    """
    self._at = {key: i for i, key in enumerate(keys)}
    if len(self._at) < len(keys):
      raise TeacherError(
        f"{where}: {len(keys) - len(self._at):,} of {len(keys):,} rows repeat a "
        "user; export one vector a user"
      )
    length = np.linalg.norm(vectors.astype(np.float64), axis=-1)
    bad = ~np.isfinite(length) | (length == 0)
    if bad.any():
      raise TeacherError(
        f"{where}: {bad.sum():,} of {len(keys):,} vectors are 0 or not finite"
      )
    self._vectors = (vectors / length[:, None]).astype(np.float32)
    self._none = np.zeros((1, self.width), np.float32)

  @classmethod
  def read(cls, path: epath.PathLike) -> "Teacher":
    """Reads a Parquet file, or a folder of them that `export` wrote.

    Raises:
      TeacherError: No such file, no columns `key` and `embedding`, or vectors of
        several widths.
    """
    import polars as pl

    path = epath.Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    files = [f for f in files if f.exists()]
    if not files:
      raise TeacherError(
        f"data.teacher = {str(path)!r}: there is no Parquet file; lumos export "
        "--what=embeddings writes them"
      )
    try:
      table = pl.concat([pl.read_parquet(str(f)) for f in files])
      found = table.select("key", "embedding")
    except pl.exceptions.PolarsError as e:
      raise TeacherError(
        f"data.teacher = {str(path)!r} must have the columns key and embedding: "
        f"{e}"
      ) from e
    widths = found["embedding"].cast(pl.List(pl.Float32)).list.len().unique()
    if len(widths) != 1 or not widths[0]:
      raise TeacherError(
        f"data.teacher = {str(path)!r}: vectors have {sorted(widths)} numbers; "
        "all must have as many"
      )
    vectors = np.stack(found["embedding"].to_numpy())
    return cls(found["key"].cast(pl.String).to_list(), vectors, str(path))

  @property
  def width(self) -> int:
    """W."""
    return self._vectors.shape[1]

  def of(self, key: str) -> dict[str, np.ndarray]:
    """What a window of the user carries: {VECTOR: [1, W], KNOWN: float32 [1]}."""
    at = self._at.get(key)
    if at is None:
      return {VECTOR: self._none, KNOWN: np.zeros(1, np.float32)}
    return {VECTOR: self._vectors[at][None], KNOWN: np.ones(1, np.float32)}

  def check(self, source: Any, name: str) -> None:
    """Tells how many users of a split have no vector.

    Raises:
      TeacherError: None has one.
    """
    missing = sum(source[i]["key"] not in self._at for i in range(len(source)))
    if missing == len(source):
      raise TeacherError(
        f"data.teacher: none of {len(source):,} users of split {name!r} has a "
        "vector there; its keys must be those of the data set"
      )
    if missing:
      logging.info(
        "data.teacher: %s of %s users of split %s have no vector: they learn "
        "from the other losses alone",
        f"{missing:,}",
        f"{len(source):,}",
        name,
      )
