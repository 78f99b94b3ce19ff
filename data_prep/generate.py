"""A world with known truth: users, campaigns and outcomes of any number.

python -m data_prep generate --users=100000 --out=world --seed=0
python -m lumos_jax.main --config=world/world_config.py:smoke

Writes raw tables, a description and a config of them, and what is true: every
lift and rate (truth.json), and each user's probabilities with and without a
kind of campaign (truth/). See docs/data.md. A user depends on the seed and its
number alone: a larger world begins with the users of a smaller one.
"""

import argparse
import json
import pathlib
import shutil
import sys
import time

import numpy as np
import polars as pl

from .inputs import InputError
from .world import block as block_lib
from .world import spec, tables, texts

_PART_BLOCKS = 5
_LEAST_DAYS = 7 * spec.HORIZON_DAYS
_MARK = "truth.json"


def generate(
  users: int, out: str, seed: int = 0, days: int = 448, overwrite: bool = False
) -> pathlib.Path:
  """Writes a world, a part of users at a time.

  Args:
    users: How many.
    out: Folder to write, which becomes the world's.
    seed: Of the world.
    days: Length of the data, whole horizons of 28 days.
    overwrite: Replaces a world that stands there.

  Returns:
    The folder.

  Raises:
    InputError: An impossible number, or a folder of something else.
  """
  if users < 1 or seed < 0:
    raise InputError(f"users={users} must be 1 or more, seed={seed} 0 or more")
  if days % spec.HORIZON_DAYS or days < _LEAST_DAYS:
    raise InputError(
      f"days={days} must be a multiple of {spec.HORIZON_DAYS}, at least "
      f"{_LEAST_DAYS}: the last two horizons are validation and test"
    )
  root = pathlib.Path(out)
  if root.exists() and any(root.iterdir()):
    if not (root / _MARK).exists():
      raise InputError(f"{root} is a folder of something else: choose --out")
    if not overwrite:
      raise InputError(f"{root} is a world already: give --overwrite")
    for name in tables.TABLES:
      shutil.rmtree(root / name, ignore_errors=True)
  # What says that the world is complete comes last.
  (root / _MARK).unlink(missing_ok=True)
  for name in tables.TABLES:
    (root / name).mkdir(parents=True, exist_ok=True)
  entries = spec.calendar(seed, days)
  _calendar(entries).write_parquet(root / "calendar.parquet")
  totals, blocks = _Totals(), -(-users // block_lib.BLOCK)
  for part, first in enumerate(range(0, blocks, _PART_BLOCKS)):
    found: dict[str, list[pl.DataFrame]] = {n: [] for n in tables.TABLES}
    for number in range(first, min(first + _PART_BLOCKS, blocks)):
      block = block_lib.simulate(seed, number, days, entries)
      for name, frame in tables.tables(block, entries, days, users).items():
        found[name].append(frame)
    for name, frames in found.items():
      frame = pl.concat(frames)
      frame.write_parquet(root / name / f"part-{part:05d}.parquet")
      totals.count(name, frame)
  (root / "world.py").write_text(texts.description(days))
  (root / "world_config.py").write_text(texts.config(days))
  told = spec.describe(seed, days) | {"users": users} | totals.told()
  (root / _MARK).write_text(json.dumps(told, indent=1) + "\n")
  return root


def _calendar(entries) -> pl.DataFrame:
  epoch = np.datetime64(spec.EPOCH, "D")
  date = lambda x: pl.Series(epoch + np.asarray(x, np.int64))
  announced = [e.announced for e in entries]
  return pl.DataFrame(
    {
      "group": [e.group for e in entries],
      "start": date([e.start for e in entries]),
      "end": date([e.end - 1 for e in entries]),  # The last day.
      "announced": date(announced),
      "kind": [e.kind for e in entries],
      "discount": [e.discount for e in entries],
    }
  ).with_columns(
    pl.when(pl.Series(announced) >= 0).then("announced").alias("announced")
  )


class _Totals:
  """Sums over all users, a part at a time."""

  def __init__(self):
    self._rows = dict.fromkeys(tables.TABLES, 0)
    self._sums: dict[tuple[int, str], list[float]] = {}

  def count(self, name: str, frame: pl.DataFrame) -> None:
    """Adds a part of a table."""
    self._rows[name] += len(frame)
    if name != "truth":
      return
    kinds = [c[4:] for c in frame.columns if c.startswith("got_")]
    for (origin,), rows in frame.group_by("origin", maintain_order=True):
      for kind in kinds:
        got = rows[f"got_{kind}"]
        for task in [t for t in frame.columns if f"{t}_with_{kind}" in frame]:
          effect = rows[f"{task}_with_{kind}"] - rows[f"{task}_without_{kind}"]
          sums = self._sums.setdefault((origin, f"{kind}/{task}"), [0.0] * 4)
          new = (len(rows), effect.sum(), got.sum(), effect.filter(got).sum())
          sums[:] = [a + float(b) for a, b in zip(sums, new, strict=True)]

  def told(self) -> dict:
    """{"rows": ..., "effects": {origin: {"kind/task": means}}}."""
    effects: dict[str, dict] = {}
    for (origin, name), (n, every, got, own) in self._sums.items():
      effects.setdefault(str(origin), {})[name] = {
        "users": int(n),
        "mean": every / n,
        "invited": int(got),
        "mean_of_invited": own / got if got else None,
      }
    return {"rows": self._rows, "effects": effects}


def main(argv: list[str]) -> int:
  """The command; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m data_prep generate",
    description="Writes a world of users whose probabilities are known.",
  )
  parser.add_argument("--users", type=int, default=10_000, help="How many.")
  parser.add_argument("--out", required=True, help="Folder to write.")
  parser.add_argument("--seed", type=int, default=0, help="Of the world.")
  parser.add_argument(
    "--days", type=int, default=448, help="Length; whole horizons of 28 days."
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="Replaces a world there."
  )
  args = parser.parse_args(argv)
  start = time.monotonic()
  try:
    root = generate(args.users, args.out, args.seed, args.days, args.overwrite)
  except (InputError, OSError) as e:
    print(f"error: {e}", file=sys.stderr)
    return 1
  rows = json.loads((root / _MARK).read_text())["rows"]["activity"]
  print(
    f"{args.users:,} users, {rows:,} events in "
    f"{time.monotonic() - start:.1f} s: {root}"
  )
  return 0
