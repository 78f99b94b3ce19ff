r"""Writes a run's predictions of users to Parquet.

  python -m lumos_jax.export --workdir=runs/pretrain --out=predictions \
    [--what=forecasts,embeddings] [--as_of=2017-12-04] [--users=FILE] \
    [--data_dir=DIR] [--k=10] [--per_event] [--hash_ids]

One folder a kind below --out, in parts of equally many users, and manifest.json,
which says of what model, data and day they are and whether all is there. A part
is complete or absent: the same command continues an interrupted export, and the
same input gives the same bytes. Memory does not grow with the number of users.
"""

import argparse
import hashlib
import hmac
import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import polars as pl
from absl import app, logging
from absl.flags import argparse_flags
from etils import epath
from jax.experimental import multihost_utils

from lumos_jax import (
  blocks,
  evaluate,
  population,
  predictor,
  progress,
  startup,
)
from lumos_jax import run as run_lib
from lumos_jax.data import pipeline
from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.evaluators import predict

MANIFEST = "manifest.json"
SALT = "LUMOS_SALT"  # Environment variable with the key of hashed ids.
_FORMAT = 1
_USERS_A_PART = 8192
_LINE_SECONDS = 10.0
# What a user can mend: printed as one line, without a traceback.
ERRORS = (*evaluate.ERRORS, schema_lib.SchemaError)


class ExportError(ValueError):
  """An export cannot be made as asked for; says what to do."""


class _Export:
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
    self._salt = salt
    self.people = population.Population(records)
    # Not of how many devices there are: parts are the same on any.
    self.size = _USERS_A_PART
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
      "ids": "plain" if self._salt is None else "keyed hash",
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
    elif self.out.exists() and any(self.out.iterdir()):
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
      hashed = [hash_id(key, self._salt) for key in block.keys]
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


def hash_id(key: str, salt: bytes) -> str:
  """32 hex digits that only the salt's owner can make of an id."""
  return hmac.new(salt, key.encode(), hashlib.sha256).hexdigest()[:32]


def _digest(doc: Any) -> str:
  text = json.dumps(doc, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _together(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"export {name}")


def export(
  workdir: epath.PathLike,
  out: epath.PathLike,
  what: Sequence[str] = (),
  *,
  as_of: int | str | None = None,
  users: Sequence[str] | None = None,
  step: int | str | None = None,
  data_dir: epath.PathLike | None = None,
  k: int = 10,
  per_event: bool = False,
  salt: bytes | None = None,
) -> dict[str, Any]:
  """Writes predictions; see the module's text.

  Args:
    workdir: Of the run.
    out: Folder to write to.
    what: Among predictor.KINDS; default all that the recipe gives.
    as_of: Day number or ISO date; default the day after the data's last.
    users: Ids; default all users of the data set.
    step: Checkpoint; default the newest.
    data_dir: A prepared data set; default the run's own.
    k: Values of a user's next event.
    per_event: Embeddings of each event, or token of days.
    salt: Writes ids as keyed hashes.

  Returns:
    The manifest's header.

  Raises:
    ExportError, PredictError: It cannot be made as asked for.
  """
  model = predictor.Predictor(workdir, step)
  kinds = tuple(what) or model.kinds()
  for kind in kinds:
    model.check_kind(kind)
  if k < 1:
    raise ExportError(f"k = {k} must be 1 or more")
  records = model.open_data(data_dir)
  day = model.day(as_of, records.schema)
  people = population.Population(records)
  positions, unknown = model.users(people, users)
  task = _Export(
    model,
    records,
    out,
    kinds,
    day,
    positions,
    k=k,
    per_event=per_event,
    salt=salt,
  )
  if jax.process_index() == 0:
    _tell(task, unknown)
  task.claim()
  task.run()
  return task.header


def _tell(task: _Export, unknown: Sequence[str]) -> None:
  """Says what is written, and what it does not know."""
  h = task.header
  say = lambda text: print(text, file=sys.stderr, flush=True)
  say(
    f"{' and '.join(task.kinds)} of {h['users']:,} users as of {h['as_of']} (day "
    f"{task.day}), checkpoint of step {h['step']}, to {task.out}"
  )
  if unknown:
    say(f"{len(unknown):,} of the listed users are not in the data")
  if "horizon_days" in h:
    last = task.day + h["horizon_days"] - 1
    known = h["calendar_known_until_day"]
    say(
      f"the calendar known by then reaches day {known}; forecasts look ahead to "
      f"day {last}"
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse_flags.ArgumentParser(
    prog="python -m lumos_jax.export",
    description="Writes a run's predictions of users to Parquet.",
  )
  add = parser.add_argument
  add("--workdir", required=True, help="of the run")
  add("--out", required=True, help="folder to write to")
  add(
    "--what",
    default="",
    help=f"among {','.join(predictor.KINDS)}; default all the recipe gives",
  )
  add("--as_of", help="day number or date; default the day after the last")
  add("--users", help="text file with a user id a line; default all users")
  add("--step", type=_step, help="checkpoint, or best; default the newest")
  add("--data_dir", help="a prepared data set; default the run's own")
  add("--k", type=int, default=10, help="values of a user's next event")
  add(
    "--per_event",
    action="store_true",
    help="embeddings of each event (LUMOS: token of days), not each user",
  )
  add(
    "--hash_ids",
    action="store_true",
    help=f"ids as keyed hashes; the key is in the environment, ${SALT}",
  )
  add("--multihost", action="store_true", help="one process of several")
  add("--coordinator", help="HOST:PORT of process 0, as in lumos_jax.main")
  add("--processes", type=int, help="with --coordinator")
  add("--process", type=int, help="with --coordinator: from 0")
  return parser.parse_args(argv[1:])


def _step(text: str) -> int | str:
  return text if text == "best" else int(text)


def _salt(hash_ids: bool) -> bytes | None:
  if not hash_ids:
    return None
  salt = os.environ.get(SALT, "")
  if len(salt) < 16:
    raise ExportError(
      f"--hash_ids needs a secret of 16 characters or more in ${SALT}: small id "
      "spaces are undone by trying all ids where the key is known"
    )
  return salt.encode()


def main(args: argparse.Namespace) -> None:
  """Entry point."""
  if args.multihost or args.coordinator:
    startup.connect(args.coordinator, args.processes, args.process)
    # jax notes it, for a train loop to save first; here nothing would look.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
  startup.keep_compilations()
  progress.quiet_libraries()
  try:
    users = None
    if args.users:
      lines = pathlib.Path(args.users).read_text().splitlines()
      users = [line.strip() for line in lines if line.strip()]
    export(
      args.workdir,
      args.out,
      [name for name in args.what.split(",") if name],
      as_of=args.as_of,
      users=users,
      step=args.step,
      data_dir=args.data_dir,
      k=args.k,
      per_event=args.per_event,
      salt=_salt(args.hash_ids),
    )
  except KeyboardInterrupt:
    print(
      "interrupted: the same command continues with the missing parts",
      file=sys.stderr,
    )
    sys.exit(130)
  except ERRORS as e:
    logging.debug("", exc_info=True)
    print(f"error: {e}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  app.run(main, flags_parser=_arguments)
