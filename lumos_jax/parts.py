"""An export's files: parts of equally many users, and their manifest."""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import polars as pl
from etils import epath
from jax.experimental import multihost_utils

from lumos_jax import blocks, ids, population, predictor
from lumos_jax import run as run_lib
from lumos_jax.data import pipeline
from lumos_jax.data import records as records_lib
from lumos_jax.evaluators import predict

MANIFEST = "manifest.json"
USERS_A_PART = 8192
_FORMAT = 1
_LINE_SECONDS = 10.0


class ExportError(ValueError):
  """An export cannot be made as asked for; says what to do."""


class Export:
  """One export: what it is of, its parts, which of them are there."""

  def __init__(
    self,
    model: predictor.Predictor,
    records: Any,
    out: epath.PathLike,
    kinds: Sequence[str],
    day: int,
    positions: np.ndarray,
    *,
    k: int,
    per_event: bool,
    salt: bytes | None,
  ):
    self.model, self.records, self.day = model, records, day
    self.out, self.kinds = epath.Path(out), tuple(kinds)
    self.positions, self._k, self._per_event = positions, k, per_event
    # Ids that are hashed already stay as they are.
    self._hashed = ids.hashed(records.stats) or salt is not None
    self._salt = None if ids.hashed(records.stats) else salt
    self.people = population.Population(records)
    # Not of how many devices there are: parts are the same on any.
    self.size = USERS_A_PART
    self.count = -(-len(positions) // self.size)
    self.header = self._header()

  def _header(self) -> dict[str, Any]:
    m, schema = self.model, self.records.schema
    chosen = hashlib.sha256(self.positions.astype("<i8").tobytes())
    header = {
      "format": _FORMAT,
      "recipe": m.config.recipe,
      "step": m.step,
      "model_hash": m.model_hash,
      "schema_hash": schema.hash,
      "data": {
        "name": schema.name,
        "days": [schema.first_day, schema.last_day],
        "shards": _digest(self.records.stats.get("shards", {})),
      },
      "as_of": str(run_lib.as_of_value(self.day, schema)),
      "as_of_day": self.day,
      "users": len(self.positions),
      "users_hash": chosen.hexdigest()[:16],
      "users_a_part": self.size,
      "ids": ids.KEYED if self._hashed else ids.PLAIN,
      "what": list(self.kinds),
    }
    if predictor.NEXT_EVENTS in self.kinds:
      header["k"] = self._k
    if predictor.EMBEDDINGS in self.kinds:
      header["per_event"] = self._per_event
    if m.recipe.inputs is pipeline:
      horizon = pipeline.horizon_days(m.tasks)
      header["horizon_days"] = horizon
      header["calendar_known_until_day"] = known_until(
        self.records.calendar, self.day
      )
    return header

  def path(self, kind: str, part: int) -> epath.Path:
    """Of a part of a kind."""
    return self.out / kind / f"part-{part:05d}.parquet"

  def claim(self) -> None:
    """Takes the folder, or finds this export begun there.

    Raises:
      ExportError: Another export is there.
    """
    path = self.out / MANIFEST
    if path.exists():
      there = json.loads(path.read_text()).get("header")
      if there != self.header:
        differ = [
          f"{key}: {(there or {}).get(key)!r} there, {self.header.get(key)!r} now"
          for key in sorted({*(there or {}), *self.header})
          if (there or {}).get(key) != self.header.get(key)
        ]
        raise ExportError(
          f"{self.out} holds another export ({'; '.join(differ)}): choose "
          "another --out, or remove it"
        )
    elif self.out.exists() and any(
      p.name != predict.aside(path).name for p in self.out.iterdir()
    ):
      raise ExportError(
        f"{self.out} is not empty and holds no {MANIFEST}: choose another --out"
      )
    if jax.process_index() == 0 and not path.exists():
      self._write_manifest({}, complete=False)
    _together("claimed")

  def _write_manifest(self, parts, complete: bool) -> None:
    doc = {"header": self.header, "complete": complete, "parts": parts}
    text = json.dumps(doc, indent=1, sort_keys=True)
    predict.write_atomic(self.out / MANIFEST, text.encode())

  def run(self) -> None:
    """Writes the missing parts of all kinds, then the manifest."""
    left = {
      kind: [i for i in range(self.count) if not self.path(kind, i).exists()]
      for kind in self.kinds
    }
    _together("listed")  # Before anyone writes.
    shown = _Shown(sum(map(len, left.values())), self.count * len(self.kinds))
    for kind, parts in left.items():
      self._write(kind, parts, shown)
    _together("written")
    if jax.process_index() == 0:
      self._write_manifest(self._parts(), complete=True)

  def _write(self, kind: str, parts: Sequence[int], shown: "_Shown") -> None:
    hosts, host = jax.process_count(), jax.process_index()
    # Hosts step together: those with a part less take an empty one.
    rounds = -(-len(parts) // hosts)
    mine = [parts[i] for i in range(host, len(parts), hosts)]
    mine += [-1] * (rounds - len(mine))

    def chosen() -> Iterator[tuple[int, np.ndarray]]:
      for i in mine:
        first = i * self.size
        some = self.positions[first : first + self.size] if i >= 0 else ()
        yield i, np.asarray(some, np.int64)

    steps = -(-self.size // self.model.batch_size) if hosts > 1 else None
    for block in self.model.predict(
      kind,
      self.records,
      self.people,
      chosen(),
      self.day,
      k=self._k,
      per_event=self._per_event,
      batches_a_block=steps,
    ):
      if block.index >= 0:
        self._write_part(kind, block)
      shown.done(hosts)

  def _write_part(self, kind: str, block: blocks.Block) -> None:
    schema = self.records.schema
    target = self.model.config.data.get("target", "")
    table = run_lib.frame(kind, [block], self.day, schema, target)
    if self._salt is not None:
      hashed = [ids.hash_id(key, self._salt) for key in block.keys]
      table = table.with_columns(pl.Series("key", hashed, dtype=pl.String))
    path = self.path(kind, block.index)
    aside = path.parent / f".{path.name}.new"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {f"lumos_{k}": str(v) for k, v in self._about(kind).items()}
    with aside.open("wb") as f:
      table.write_parquet(f, metadata=about, compression="zstd")
    aside.replace(path)

  def _about(self, kind: str) -> dict[str, Any]:
    names = ("step", "model_hash", "schema_hash", "as_of", "ids", "format")
    return {"what": kind} | {n: self.header[n] for n in names}

  def _parts(self) -> dict[str, dict[str, Any]]:
    """Rows and checksum of each part, read back."""
    out = {}
    for kind in self.kinds:
      for i in range(self.count):
        path = self.path(kind, i)
        with path.open("rb") as f:
          rows = pl.scan_parquet(f).select(pl.len()).collect().item()
        name = f"{kind}/{path.name}"
        out[name] = {"rows": rows, "sha256": records_lib.checksum(path)}
    return out


class _Shown:
  """Lines on stderr: parts done, and time left."""

  def __init__(self, left: int, total: int):
    self._left, self._total, self._done = left, total, 0
    self._start = self._said = time.monotonic()
    if left < total and jax.process_index() == 0:
      print(f"{total - left} of {total} parts are there", file=sys.stderr)

  def done(self, parts: int) -> None:
    self._done = min(self._done + parts, self._left)
    now = time.monotonic()
    last = self._done == self._left
    if jax.process_index() or (now - self._said < _LINE_SECONDS and not last):
      return
    self._said = now
    seconds = (now - self._start) / self._done * (self._left - self._done)
    done = self._total - self._left + self._done
    print(
      f"{done} of {self._total} parts, {seconds:,.0f} s left",
      file=sys.stderr,
      flush=True,
    )


def known_until(calendar, day: int) -> int:
  """The last day that an entry known on `day` reaches; the day before it if
  none does."""
  known = calendar.announced <= day
  return max([day - 1, *(calendar.end[known] - 1).tolist()])


def _digest(doc: Any) -> str:
  text = json.dumps(doc, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _together(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"export {name}")
