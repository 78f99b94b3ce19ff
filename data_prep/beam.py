"""The local engine's steps on Apache Beam: many machines read, order and encode.

python -m data_prep --source=tables --out=data --set schema=shop.py \
  --beam --runner=FlinkRunner --flink_master=HOST:8081

Workers read ranges of the activity, check its rows and group them by piece; a piece
has all rows of some users, as in spill.py, and is put in order, looked at by each step
of the fit, encoded and written as a shard of its own, a piece a worker. What workers
find merges on the machine that started the program, which also holds users' keys and
the small tables. Pieces lie in a folder that all machines see, beside the data set.
Options after --beam that data_prep does not have are Beam's own.
"""

import copy
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.options.pipeline_options import PipelineOptions

from . import builder, encode, people, spill, states
from . import columns as columns_lib
from . import rejects as rejects_lib
from .inputs import InputError, Inputs

_RANGE_ROWS = 1 << 20
_KEY = "key"


def _run(options, items: Sequence, work: Callable, name: str) -> None:
  """Calls `work` on each item, on some worker."""
  with beam.Pipeline(options=PipelineOptions(list(options))) as p:
    (
      p
      | f"{name}: items" >> beam.Create(list(items))
      | f"{name}: spread" >> beam.Reshuffle()
      | name >> beam.Map(work)
    )


def _small(raw: Inputs) -> Inputs:
  """The inputs without their tables, for workers."""
  tables = ("calendar", "membership", "profile", "labels", "span", "split")
  empty = raw.activity.head(0).collect().lazy()
  return dataclasses.replace(raw, activity=empty, **dict.fromkeys(tables))


def _bytes(frame: pl.DataFrame) -> bytes:
  out = io.BytesIO()
  frame.write_ipc(out, compression="lz4")
  return out.getvalue()


def _write(path: pathlib.Path, doc: Any) -> None:
  """JSON that is whole or absent: a worker may do its work twice."""
  aside = path.with_suffix(f".{os.getpid()}.part")
  aside.write_text(json.dumps(doc))
  aside.replace(path)


class Runner(spill.Spill):
  """Runs the steps of a preparation on Beam; see `spill.Spill`."""

  def __init__(
    self, folder: pathlib.Path, memory_gib: float, options: Sequence[str]
  ):
    """Pieces fit into workers of `memory_gib`; `options` are Beam's."""
    super().__init__(folder, memory_gib)
    self.options = tuple(options)
    self._starts: list[int] = []
    self._size = self._rows = 0

  def keys(self, raw: Inputs, chosen: pl.LazyFrame) -> list[str]:
    """As `Spill.keys`."""
    rows = chosen.select(pl.len()).collect(engine="streaming").item()
    self._size = _RANGE_ROWS
    self._starts, self._rows = list(range(0, rows, self._size)), rows
    work = _Keys(_small(raw), chosen, self.folder, self._size)
    _run(self.options, self._starts, work, "users")
    files = sorted(self.folder.glob("keys*.parquet"))
    self._keys = spill.summed([pl.read_parquet(f) for f in files])
    return self._keys[_KEY].cast(pl.String).to_list()

  def rows(
    self,
    raw: Inputs,
    chosen: pl.LazyFrame,
    users: people.People,
    rejects: rejects_lib.Rejects,
    outcomes,
  ) -> "Pieces":
    """As `Spill.rows`."""
    part, _ = self._parts(users, len(raw.schema.activity))
    table = self._keys.select(
      _KEY,
      _user=pl.Series(users.positions("activity", self._keys[_KEY])),
    )
    self._keys, small = None, _small(raw)
    out = Pieces(self.folder, raw, part, 0, 0)
    out.options, out.small = self.options, small
    numbers = {int(part[m[0]]): i for i, m in enumerate(out.members)}
    read = _Read(
      small, chosen, self.folder, self._size, table, part, rejects.salt
    )
    empty = chosen.head(0).collect()
    empty = empty.with_columns(_user=pl.lit(0, pl.Int32)).drop(_KEY)
    outcomes = copy.copy(outcomes)
    outcomes.raw, notes = small, outcomes.notes
    order = _Order(small, out, numbers, empty, outcomes)
    with beam.Pipeline(options=PipelineOptions(list(self.options))) as p:
      rows = (
        p
        | "ranges" >> beam.Create(self._starts)
        | "spread" >> beam.Reshuffle()
        | "read" >> beam.FlatMap(read)
      )
      every = p | "pieces" >> beam.Create([(n, b"") for n in numbers])
      (
        (rows, every)
        | beam.Flatten()
        | "by piece" >> beam.GroupByKey()
        | "order" >> beam.MapTuple(order)
      )
    for start in self._starts:
      told = json.loads((self.folder / f"read{start:012d}.json").read_text())
      out.read += told["read"]
      out.usable += told["usable"]
      rejects.take(pl.read_parquet(self.folder / f"lost{start:012d}.parquet"))
    if out.read != self._rows:
      raise InputError(
        f"{raw.where('activity')} changed while it was read: {self._rows:,} rows, "
        f"then {out.read:,}"
      )
    for number in numbers.values():
      with np.load(self.folder / f"first{number:06d}.npz") as found:
        out.first[found["user"]] = found["day"]
      told = json.loads((self.folder / f"told{number:06d}.json").read_text())
      for what, count in told.items():
        notes[what] = notes.get(what, 0) + count
    return out


class _Keys:
  """A range's users with usable rows, and how many."""

  def __init__(self, raw: Inputs, chosen: pl.LazyFrame, folder, size: int):
    self._raw, self._chosen, self._folder = raw, chosen, folder
    self._size = size

  def __call__(self, start: int) -> None:
    frame = self._chosen.slice(start, self._size).collect()
    counted = spill.counted(self._raw, frame)
    path = self._folder / f"keys{start:012d}.parquet"
    counted.write_parquet(path)


class _Read:
  """A range's usable rows by piece; others are rejected, with a reason."""

  def __init__(self, raw, chosen, folder, size: int, table, part, salt):
    self._raw, self._chosen, self._folder = raw, chosen, folder
    self._size = size
    self._table, self._part, self._salt = table, part, salt

  def __call__(self, start: int) -> Iterator[tuple[int, bytes]]:
    rejects = rejects_lib.Rejects(salt=self._salt)
    frame = self._chosen.slice(start, self._size)
    frame = frame.with_row_index(rejects_lib.ROW, offset=start).collect()
    read = len(frame)
    frame = columns_lib.text_keys(frame, self._raw.where("activity"))
    frame = spill.parted(self._raw, frame, self._table, self._part, rejects)
    rejects.save(self._folder / f"lost{start:012d}.parquet")
    told = {"read": read, "usable": len(frame)}
    _write(self._folder / f"read{start:012d}.json", told)
    for (number,), rows in frame.partition_by(
      "_part", as_dict=True, include_key=False
    ).items():
      yield int(number), _bytes(rows)


class _Order:
  """Puts the rows of a piece in order, and keeps their columns."""

  def __init__(self, raw, pieces: "Pieces", numbers, empty, outcomes):
    self._raw, self._pieces, self._numbers = raw, pieces, numbers
    self._empty, self._outcomes = empty, outcomes

  def __call__(self, part: int, parts: Iterable[bytes]) -> None:
    number, outcomes = self._numbers[part], copy.copy(self._outcomes)
    outcomes.notes = {}
    frames = [pl.read_ipc(b) for b in parts if b]
    frame = pl.concat(frames) if frames else self._empty
    members = self._pieces.members[number]
    rows = spill.ordered(self._raw, frame, members, number)
    first = np.flatnonzero(np.diff(rows.user, prepend=-1))
    folder = self._pieces.folder
    np.savez(
      folder / f"first{number:06d}.npz",
      user=rows.user[first],
      day=rows.day[first],
    )
    self._pieces.keep(number, outcomes.of(rows))
    _write(folder / f"told{number:06d}.json", outcomes.notes)


class Pieces(spill.Spilled):
  """Pieces that workers look at; see `spill.Spilled`.

  Attributes:
    options: Beam's.
    small: Inputs without tables.
  """

  def each(self, phase: Callable, fresh: Callable, *arguments, last=False):
    """What a step of the engine finds in each piece; `fresh()` is of nothing."""
    del last
    name = phase.__name__.strip("_")
    work = _Phase(self, phase, name, arguments)
    numbers = list(range(len(self.members)))
    _run(self.options, numbers, work, name)
    for number in numbers:
      yield states.load(self.folder / f"{name}{number:06d}.npz", fresh())

  def write(self, prepared, templates, names) -> dict[str, dict[str, Any]]:
    """Writes a shard a piece and split; see `builder.Users`."""
    files = prepared.files()
    split = np.full(len(prepared.users.keys), -1, np.int32)
    for i, at in enumerate(prepared.splits.values()):
      split[at] = i
    # Which shard of how many a piece is, of each split.
    shards: list[dict[str, tuple[int, int]]] = [{} for _ in self.members]
    for i, name in enumerate(prepared.splits):
      mine = [n for n, m in enumerate(self.members) if (split[m] == i).any()]
      for shard, number in enumerate(mine):
        shards[number][name] = shard, len(mine)
    work = _Shards(
      self.folder, prepared, files, split, shards, templates, names
    )
    _run(self.options, list(range(len(files))), work, "shards")
    out: dict[str, dict[str, Any]] = {}
    for number, mine in enumerate(shards):
      path = self.folder / f"wrote{number:06d}.json"
      told = json.loads(path.read_text())
      for name in mine:
        total = out.setdefault(
          name, {"lengths": [], "bytes": 0, "rows": 0, "longest": 0}
        )
        total["lengths"].append(told[name]["users"])
        total["bytes"] += told[name]["bytes"]
        total["rows"] += told[name]["rows"]
        total["longest"] = max(total["longest"], told[name]["longest"])
    return out


class _Phase:
  """A step of the engine on one piece."""

  def __init__(self, pieces: Pieces, phase: Callable, name: str, arguments):
    # Of the preparation, what a step asks for; not the tables.
    prep = copy.copy(phase.__self__)
    prep.tables = dataclasses.replace(
      prep.tables,
      raw=pieces.small,
      people=None,
      activity=None,
      profile=None,
      calendar=None,
      rejects=None,
    )
    few = copy.copy(prep.people)
    few.keys, few._at, few.split, few._raw = [], {}, None, None
    prep.people, prep.spill = few, None
    self._phase, self._name = getattr(prep, phase.__name__), name
    self._pieces, self._arguments = pieces, arguments

  def __call__(self, number: int) -> None:
    found = self._phase(self._pieces.piece(number), *self._arguments)
    path = self._pieces.folder / f"{self._name}{number:06d}.npz"
    states.save(path, found)


class _Shards:
  """The shards of one piece."""

  def __init__(self, folder, prepared, files, split, shards, templates, names):
    self._folder, self._files, self._split = folder, files, split
    self._users, self._shards = prepared.users, shards
    self._splits, self._names = list(prepared.splits), names
    self._templates = templates

  def __call__(self, number: int) -> None:
    members, rows, labels = spill.read_encoded(self._files[number])
    piece = self._users.part(members, rows, labels)
    lengths = np.bincount(piece.rows["user"], minlength=len(piece.keys))
    told = {}
    for name, (shard, count) in self._shards[number].items():
      mine = self._split[members] == self._splits.index(name)
      order = spill.by_hash(piece.keys, np.flatnonzero(mine))
      path = self._templates[name].sharded_filepath(
        shard_index=shard, num_shards=count
      )
      writer = builder.Split(name, builder.OneFile(path), len(order), 1)
      for record in encode.records(piece, order):
        writer.write({n: record[n] for n in self._names})
      told[name] = {
        "users": len(order),
        "bytes": writer.close(),
        "rows": int(lengths[order].sum()),
        "longest": int(lengths[order].max(initial=0)),
      }
    _write(self._folder / f"wrote{number:06d}.json", told)
