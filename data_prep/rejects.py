"""Rows that cannot be used: counted by reason, kept, never silently dropped."""

import collections
import io

import polars as pl
from etils import epath

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
  """

  def __init__(self):
    self.counts = collections.defaultdict(collections.Counter)
    self._frames = []

  def split(
    self, table: str, frame: pl.DataFrame, reason: pl.Expr
  ) -> tuple[pl.DataFrame, pl.Series]:
    """Keeps rows whose reason is null, notes the others.

    Args:
      table: Name of the table.
      frame: Its rows.
      reason: Text expression: why the row cannot be used, or null.

    Returns:
      The rows kept, and positions of all rows kept (bool, [rows]).
    """
    reasons = frame.select(reason.alias("reason")).to_series()
    keep = reasons.is_null()
    if keep.all():
      return frame, keep
    bad = frame.with_row_index("_row").filter(~keep)
    values = pl.struct(pl.exclude("_row").cast(pl.String, strict=False))
    bad = bad.select(
      table=pl.lit(table),
      row=pl.col("_row").cast(pl.Int64),
      reason=reasons.filter(~keep),
      values=values.struct.json_encode(),
    )
    self._frames.append(bad)
    for name, count in bad["reason"].value_counts().iter_rows():
      self.counts[table][name] += count
    return frame.filter(keep), keep

  @property
  def total(self) -> int:
    """Rows rejected in all tables."""
    return sum(sum(c.values()) for c in self.counts.values())

  def to_json(self) -> dict[str, dict[str, int]]:
    """Counts by table and reason, for stats.json."""
    return {t: dict(sorted(c.items())) for t, c in sorted(self.counts.items())}

  def save(self, path: epath.PathLike) -> None:
    """Writes rejects.parquet: table, row (from 0), reason, values as JSON."""
    frame = pl.concat(self._frames) if self._frames else pl.DataFrame(schema=_SCHEMA)
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    epath.Path(path).write_bytes(buffer.getvalue())


def first(*reasons: tuple[pl.Expr, str]) -> pl.Expr:
  """The first reason whose condition holds, or null."""
  expr = pl.lit(None, pl.String)
  for condition, reason in reversed(reasons):
    expr = pl.when(condition).then(pl.lit(reason)).otherwise(expr)
  return expr
