"""Rows that cannot be used: counted by reason, kept, never silently dropped."""

import collections
import io
import pathlib
from collections.abc import Sequence

import numpy as np
import polars as pl
from etils import epath

from lumos_jax import ids

ROW = "_row"
_IN_MEMORY = 1 << 18  # Rows.
Check = tuple[pl.Expr, str]

_SCHEMA = {
  "table": pl.String,
  "row": pl.Int64,
  "reason": pl.String,
  "values": pl.String,
}


class Rejects:
  """Collects rejected rows of all tables.

  Attributes:
    counts: {table: {reason: rows}}.
    salt: Key of hashed ids; None for ids as they stand.
  """

  def __init__(
    self, folder: pathlib.Path | None = None, salt: bytes | None = None
  ):
    """Keeps many rows in a local `folder`; without one, in memory.

    With a `salt`, column key holds keyed hashes.
    """
    self.salt = salt
    self.counts = collections.defaultdict(collections.Counter)
    self._frames, self._folder, self._files = [], folder, []

  def split(
    self, table: str, frame: pl.DataFrame, checks: Sequence[Check]
  ) -> tuple[pl.DataFrame, np.ndarray]:
    """Notes bad rows; returns the others, and which they are: bool [rows]."""
    keep = self.note(table, frame, checks)
    if keep is None:
      return frame, np.ones(len(frame), bool)
    if ROW not in frame.columns:  # Later checks name rows of the raw table.
      frame = frame.with_row_index(ROW)
    return frame.filter(pl.Series(keep)), keep

  def note(
    self, table: str, frame: pl.DataFrame, checks: Sequence[Check]
  ) -> np.ndarray | None:
    """Notes the rows that a check objects to.

    Args:
      table: Name of the table.
      frame: Its rows.
      checks: Conditions with reasons; a row's first one is its reason.

    Returns:
      bool [rows], rows without objection; None where all are.
    """
    bad = frame.select(
      pl.any_horizontal(*(c for c, _ in checks)).fill_null(False).alias("bad")
    ).to_series()
    if not bad.any():
      return None
    # Small integers instead of text: the table may be long.
    which = pl.lit(0, pl.UInt8)
    for i in reversed(range(len(checks))):
      which = pl.when(checks[i][0]).then(pl.lit(i, pl.UInt8)).otherwise(which)
    rows = bad.arg_true()
    which = frame.select(which.alias("which")).to_series().gather(rows)
    found = frame[rows]
    if self.salt is not None and "key" in found.columns:
      found = found.with_columns(self._hashed(found["key"]))
    names = [reason for _, reason in checks]
    values = pl.struct(pl.exclude(ROW).cast(pl.String, strict=False))
    found = found.select(
      table=pl.lit(table),
      row=(found[ROW] if ROW in found.columns else rows).cast(pl.Int64),
      reason=pl.Series([names[i] for i in which], dtype=pl.String),
      values=values.struct.json_encode(),
    )
    self._frames.append(found)
    if self._folder and sum(map(len, self._frames)) > _IN_MEMORY:
      self._files.append(self._folder / f"rejects{len(self._files)}.parquet")
      pl.concat(self._frames).write_parquet(self._files[-1])
      self._frames = []
    for name, count in found["reason"].value_counts().iter_rows():
      self.counts[table][name] += count
    return ~bad.to_numpy()

  def take(self, found: pl.DataFrame) -> None:
    """Takes rows that another has noted and saved."""
    self._frames.append(found)
    for table, reason in found.select("table", "reason").iter_rows():
      self.counts[table][reason] += 1

  def _hashed(self, keys: pl.Series) -> pl.Series:
    keys = keys.cast(pl.String)
    some = keys.drop_nulls().unique().to_list()
    stored = {k: ids.hash_id(k, self.salt) for k in some}
    return keys.replace_strict(stored, default=None, return_dtype=pl.String)

  @property
  def total(self) -> int:
    """Rows rejected in all tables."""
    return sum(sum(c.values()) for c in self.counts.values())

  def to_json(self) -> dict[str, dict[str, int]]:
    """Counts by table and reason, for stats.json."""
    return {t: dict(sorted(c.items())) for t, c in sorted(self.counts.items())}

  def save(self, path: epath.PathLike) -> None:
    """Writes rejects.parquet: table, row (from 0), reason, values as JSON."""
    frame = (
      pl.concat(self._frames) if self._frames else pl.DataFrame(schema=_SCHEMA)
    )
    if self._files:
      parts = [*map(pl.scan_parquet, self._files), frame.lazy()]
      whole = self._folder / "rejects.parquet"
      pl.concat(parts).sink_parquet(whole)
      epath.Path(whole).copy(path, overwrite=True)
      return
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    epath.Path(path).write_bytes(buffer.getvalue())


def mask(bad: np.ndarray, reason: str) -> Check:
  """A check from a numpy mask [rows]."""
  return pl.lit(pl.Series(bad)), reason
