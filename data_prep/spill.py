"""The activity table on disk, in pieces that fit into memory.

A table that is larger than memory is read three times, a batch at a time: for the
span of its days, for its users, and to part its rows into pieces. A piece has all
rows of some users, so that order, bins, tokens and records are made of a piece as
they are of a whole table. Pieces are ranges of the hash that orders records in
shards: written one after another, they give the shards of a table in memory.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

from lumos_jax.data import schema as schema_lib

from . import clean as clean_lib
from . import columns as columns_lib
from . import encode, overlap, people
from . import rejects as rejects_lib
from .inputs import Inputs

GIB = 1 << 30
# What the program takes beside a piece: its libraries, and batches being read.
BASE_BYTES = int(1.5 * GIB)
# Of a user, all his life: his key as text, in sets and in tables.
USER_BYTES = 600
_LEAST = 32 << 20
_BATCH_ROWS = 1 << 18
_KEY = "key"


class Spill:
  """A folder for the pieces, and how large they may be.

  Attributes:
    folder: Of this preparation alone; removed by `close`.
  """

  def __init__(self, folder: pathlib.Path, memory_gib: float):
    """Pieces are such that the process stays within `memory_gib`.

    Raises:
      ValueError: The memory is less than the program itself takes.
    """
    if memory_gib * GIB <= BASE_BYTES:
      raise ValueError(
        f"memory_gib={memory_gib}: the program itself takes "
        f"{BASE_BYTES / GIB:.2f} GiB, so give more"
      )
    self.folder, self._bytes = folder, memory_gib * GIB - BASE_BYTES
    self.folder.mkdir(parents=True, exist_ok=True)
    self._keys: pl.DataFrame | None = None

  def close(self) -> None:
    """Removes what was written."""
    shutil.rmtree(self.folder, ignore_errors=True)

  def _batches(self, frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    return frame.collect_batches(chunk_size=_BATCH_ROWS, engine="streaming")

  def keys(self, raw: Inputs, chosen: pl.LazyFrame) -> list[str]:
    """Users with usable rows, and as a side effect how many rows each has."""
    numbers = [
      f.name for f in raw.schema.activity if isinstance(f, schema_lib.Numeric)
    ]
    some = chosen.select(_KEY, "_time", "_local", *numbers)
    found, pending = [], 0
    for batch in self._batches(some):
      found.append(counted(raw, batch))
      pending += len(found[-1])
      if pending > _BATCH_ROWS * 4:
        found = [summed(found)]
        pending = 0
    self._keys = summed(found)
    return self._keys[_KEY].cast(pl.String).to_list()

  def rows(
    self,
    raw: Inputs,
    chosen: pl.LazyFrame,
    users: people.People,
    rejects: rejects_lib.Rejects,
    outcomes,
  ) -> "Spilled":
    """Parts the rows into pieces; orders each."""
    where = raw.where("activity")
    part, budget = self._parts(users, len(raw.schema.activity))
    table = self._keys.select(
      _KEY,
      _user=pl.Series(users.positions("activity", self._keys[_KEY])),
    )
    self._keys = None
    read = usable = pending = flushes = 0
    empty = None
    buffer: list[pl.DataFrame] = []

    # Numbered in the order of the files: rejects name rows.
    with overlap.Behind() as behind:
      for batch in self._batches(chosen.with_row_index(rejects_lib.ROW)):
        read += len(batch)
        batch = columns_lib.text_keys(batch, where)
        buffer.append(parted(raw, batch, table, part, rejects))
        usable += len(buffer[-1])
        empty = buffer[-1].clear().drop("_part")
        pending += buffer[-1].estimated_size()
        if pending > budget // 6:
          behind(self._part, buffer, flushes)
          buffer, pending, flushes = [], 0, flushes + 1
      if buffer:
        behind(self._part, buffer, flushes)
    out = Spilled(self.folder, raw, part, read, usable)
    out.order(raw, outcomes, empty)
    return out

  def _part(self, buffer: list[pl.DataFrame], number: int) -> None:
    """Appends rows to the pieces they belong to."""
    frame = pl.concat(buffer)
    buffer.clear()
    for (piece,), rows in frame.partition_by(
      "_part", as_dict=True, include_key=False
    ).items():
      folder = self.folder / f"raw{piece:06d}"
      folder.mkdir(exist_ok=True)
      whole = io.BytesIO()
      rows.write_ipc(whole, compression="lz4")
      path = folder / f"{number:06d}.arrow"
      with _named(path), open(path, "wb") as f:
        f.write(whole.getbuffer())

  def _parts(
    self, users: people.People, fields: int
  ) -> tuple[np.ndarray, float]:
    """int32 [U], the piece of each user, and bytes of a piece."""
    count = len(users.keys)
    budget = max(_LEAST, self._bytes - USER_BYTES * count)
    at = users.positions("activity", self._keys[_KEY])
    known = at >= 0
    rows = np.zeros(count, np.int64)
    rows[at[known]] = self._keys["rows"].to_numpy()[known]
    order = by_hash(users.keys, np.arange(count))
    each = max(1, int(budget // row_bytes(fields) // overlap.PIECES))
    part = np.empty(count, np.int32)
    part[order] = np.maximum(np.cumsum(rows[order]) - 1, 0) // each
    return part, budget


def row_bytes(fields: int) -> int:
  """Memory that a row takes while a piece is made, as measured."""
  return 75 + 25 * fields


def by_hash(keys: Sequence[str], users: np.ndarray) -> list[int]:
  """The users in the order of records: by SHA-256 of their keys."""
  digest = lambda u: hashlib.sha256(keys[u].encode()).digest()
  return sorted(users.tolist(), key=digest)


def counted(raw: Inputs, frame: pl.DataFrame) -> pl.DataFrame:
  """Users with usable rows among some of the activity, and how many rows."""
  frame = columns_lib.text_keys(frame, raw.where("activity"))
  frame = clean_lib.in_time(raw, frame)
  bad = [c for c, _ in clean_lib.checks(raw, frame.schema)]
  frame = frame.filter(~pl.any_horizontal(bad).fill_null(False))
  return frame.group_by(_KEY).agg(rows=pl.len())


def parted(raw: Inputs, frame, table, part, rejects) -> pl.DataFrame:
  """Usable rows of some of the activity, with their users and pieces.

  Args:
    raw: Of a source.
    frame: Rows, numbered.
    table: Keys and positions (_user) of users.
    part: int32 [U], each user's piece.
    rejects: Takes the others.
  """
  frame = clean_lib.usable(raw, frame, rejects)
  found = frame.select(_KEY).join(
    table, on=_KEY, how="left", maintain_order="left"
  )
  user = found["_user"].fill_null(-1).to_numpy()
  frame, user = clean_lib.of_users(frame, user, rejects)
  return frame.with_columns(
    _user=pl.Series(user, dtype=pl.Int32),
    _part=pl.Series(part[user], dtype=pl.Int32),
  ).drop(_KEY, rejects_lib.ROW)


def ordered(raw: Inputs, frame, members, number: int) -> clean_lib.Rows:
  """The rows of a piece, in order."""
  user = frame["_user"].to_numpy()
  rows = clean_lib.piece(raw, frame.drop("_user"), user, rejects_lib.Rejects())
  return dataclasses.replace(rows, members=members, number=number)


def summed(frames: list[pl.DataFrame]) -> pl.DataFrame:
  """Rows of each user."""
  return pl.concat(frames).group_by(_KEY).agg(pl.col("rows").sum())


class Spilled:
  """The activity's rows on disk; see `clean.Whole`.

  Attributes:
    read: Rows before cleaning.
    usable: Rows after it.
    first: int32 [U], each user's first day with an event, NO_TIME for none.
    part: int32 [U], each user's piece.
  """

  def __init__(self, folder, raw: Inputs, part, read: int, usable: int):
    self.read, self.usable, self.part = read, usable, part
    self.folder, self._fields = folder, raw.schema.activity
    self.first = np.full(len(part), encode.NO_TIME, np.int32)
    order = np.argsort(part, kind="stable")
    bounds = np.flatnonzero(np.diff(part[order])) + 1
    self.members = np.split(order.astype(np.int32), bounds)

  def order(self, raw: Inputs, outcomes, empty: pl.DataFrame) -> None:
    """Puts the rows of each piece in order and keeps their columns."""

    def order(number: int) -> clean_lib.Rows:
      members = self.members[number]
      folder = self.folder / f"raw{self.part[members[0]]:06d}"
      files = sorted(folder.glob("*.arrow")) if folder.exists() else []
      frame = empty  # Of users without events.
      if files:
        frame = pl.concat([pl.read_ipc(f.read_bytes()) for f in files])
      rows = ordered(raw, frame, members, number)
      del frame
      shutil.rmtree(folder, ignore_errors=True)
      return rows

    # One after another what counts over all pieces.
    for rows in overlap.each(order, range(len(self.members))):
      clean_lib.note_first(self.first, rows)
      self.keep(rows.number, outcomes.of(rows))

  def keep(self, number: int, rows: clean_lib.Rows) -> None:
    """Keeps a piece."""
    _save(self._path(number), rows, self._fields)

  def piece(self, number: int) -> clean_lib.Rows:
    """Reads a piece."""
    return dataclasses.replace(_load(self._path(number)), number=number)

  def _path(self, number: int) -> pathlib.Path:
    return self.folder / f"piece{number:06d}.npz"

  def each(self, phase: Callable, fresh: Callable, *arguments, last=False):
    """What a step of the engine finds in each piece, in the order of records.

    The `last` step removes them.
    """
    del fresh

    def look(number: int):
      rows = self.piece(number)
      if last:
        self._path(number).unlink()
      return phase(rows, *arguments)

    yield from overlap.each(look, range(len(self.members)))


@contextlib.contextmanager
def _named(path: pathlib.Path):
  """Names the file in errors of writing it."""
  try:
    yield
  except OSError as e:
    raise OSError(e.errno, f"{path}: {e.strerror}") from e


def _save(path: pathlib.Path, rows: clean_lib.Rows, fields) -> None:
  arrays = {"user": rows.user, "time": rows.time, "local": rows.local}
  arrays["members"] = rows.members
  numeric = {f.name for f in fields if isinstance(f, schema_lib.Numeric)}
  for name, column in rows.columns.items():
    if isinstance(column, encode.Coded):
      text = json.dumps(list(column.values)).encode()
      arrays[f"values:{name}"] = np.frombuffer(text, np.uint8)
      column = column.codes.astype(np.min_scalar_type(len(column.values)))
    elif name in numeric:  # As it will be stored; saves half.
      column = column.astype(np.float32)
    arrays[f"column:{name}"] = column
  arrays |= {f"outcome:{k}": v for k, v in rows.outcomes.items()}
  with _named(path):
    np.savez(path, **arrays)


def _load(path: pathlib.Path) -> clean_lib.Rows:
  columns, outcomes = {}, {}
  with np.load(path, allow_pickle=False) as found:
    for key in found:
      kind, _, name = key.partition(":")
      if kind == "column":
        columns[name] = found[key]
        if f"values:{name}" in found:
          values = json.loads(found[f"values:{name}"].tobytes())
          columns[name] = encode.Coded(columns[name], values)
      elif kind == "outcome":
        outcomes[name] = found[key]
    return clean_lib.Rows(
      found["user"],
      columns,
      found["time"],
      found["local"],
      outcomes=outcomes,
      members=found["members"],
    )


class Encoded:
  """Encoded rows of all pieces: the last one in memory, or each on disk.

  Attributes:
    rows, labels: Of the piece in memory, as `encode.Users` has them; empty where
      pieces are on disk.
    composites: {field: counts}, summed over the pieces.
    count, label_count: Rows and labels.
    events: Rows before they became days.
    bytes: Of all rows.
  """

  def __init__(self, folder: pathlib.Path | None, composites: dict):
    self._folder = folder
    self.rows, self.labels, self.composites = {}, {}, composites
    self.count = self.label_count = self.events = self.bytes = 0

  def keep(self, rows: clean_lib.Rows, out: dict) -> None:
    """Keeps the encoded piece `out` of the events `rows`."""
    if self._folder is None:
      self.rows, self.labels = out, rows.outcomes
      return
    path = self._folder / f"encoded{rows.number:06d}.npz"
    labels = {f"outcome:{k}": v for k, v in rows.outcomes.items()}
    with _named(path):
      np.savez(path, members=rows.members, **out, **labels)

  def note(self, found) -> None:
    """Counts a piece (phases.Piece) that was kept."""
    self.events += found.events
    self.count += found.rows
    self.label_count += found.labels
    self.bytes += found.bytes
    for name, counts in found.counts.items():
      total = self.composites.setdefault(name, {})
      for key, number in counts.items():
        total[key] = total.get(key, 0) + number

  def files(self) -> list[pathlib.Path]:
    """Of the pieces, in the order of records."""
    return sorted(self._folder.glob("encoded*.npz")) if self._folder else []

  def __iter__(self):
    """Members, rows and labels of each piece on disk, which are removed."""
    for path in self.files():
      yield read_encoded(path)
      path.unlink()  # Shards take their place.


def read_encoded(path: pathlib.Path):
  """Members, rows and labels of a piece that `Encoded` kept."""
  rows, labels = {}, {}
  with np.load(path, allow_pickle=False) as found:
    for key in found:
      kind, _, name = key.partition(":")
      if kind == "outcome":
        labels[name] = found[key]
      elif key != "members":
        rows[key] = found[key]
    return found["members"], rows, labels
