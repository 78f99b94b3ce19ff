"""Item sequences of the recommendation benchmarks: who took what, in order.

Reads the text files that SASRec, S3-Rec and their followers use, plain or .gz:
`user item item ...`, one line a user, or `user item`, one line an event. There
are no times: the position in the sequence stands for the second since 1970. A user
on several lines continues where the previous line ended; lines of several items that do
so are counted.

With `attributes`, a JSON file {item: [number, ...]}, each item carries what is
known of it (categories, brand).

The catalogue is known in advance: every item of the file is in the vocabulary,
also those that only stand last in some sequence, ordered by how often they occur
among the events that train (all but the last two of a user).
"""

import collections
import gzip
import json
import os
import pathlib
import zlib

import numpy as np
import polars as pl

from lumos_jax.data import schema as schema_lib

from ..inputs import InputError, Inputs

ENVIRONMENT = "LUMOS_SEQUENCES_DIR"
_LIMIT = 1 << 63
_HELD_OUT = 2  # Validation and test event of each user.


def load(*, path: str = "", attributes: str = "", name: str = "") -> Inputs:
  """Reads a file of sequences.

  Args:
    path: The file; a name without folder also in $LUMOS_SEQUENCES_DIR.
    attributes: JSON file of the items' attributes, beside `path` or anywhere.
    name: Of the data set and its directory.
  """
  if not path:
    raise InputError("source 'sequences' needs path=FILE, the sequences")
  if not name:
    raise InputError(
      "source 'sequences' needs name=NAME: without one, data sets of two files "
      "would share a directory"
    )
  file = _found(path)
  user, item, told = _read(file)
  count = collections.Counter()
  # Position from the end of the user's sequence, to leave out what is held out.
  order = np.argsort(user, kind="stable")
  user, item = user[order], item[order]
  first = np.flatnonzero(np.diff(user, prepend=-1))
  length = np.diff(np.append(first, len(user)))
  position = np.arange(len(user)) - np.repeat(first, length)
  trains = position < np.repeat(length, length) - _HELD_OUT
  count.update(item[trains].tolist())
  items = sorted(set(item.tolist()), key=lambda i: (-count[i], i))
  known, notes = None, {}
  pieces = {file.name: file.stat().st_size}
  if attributes:
    beside = _found(attributes, file.parent)
    known, notes = _attributes(beside, items)
    pieces[beside.name] = beside.stat().st_size
  field = schema_lib.Categorical(
    "item",
    max_values=len(items),
    values=tuple(map(str, items)),
    attributes=known,
  )
  schema = schema_lib.Schema(
    name=name,
    activity=(field,),
    rows="event",
    epoch="1970-01-01",
    first_day=0,
    last_day=int(position.max()) // 86_400 + 1,
    train_until=int(position.max()) // 86_400 + 1,
  )
  time = position.astype("datetime64[s]").astype("datetime64[ms]")
  activity = pl.DataFrame({"key": user, "time": time, "item": item})
  return Inputs(
    schema=schema,
    activity=activity.lazy(),
    held_out_events=_HELD_OUT,
    files={"activity": file.name},
    notes={
      "items": len(items),
      "items without a training event": sum(not count[i] for i in items),
      "users with fewer than 3 events": int((length < 3).sum()),
    }
    | told
    | notes,
    pieces=pieces,
  )


def _found(name: str, *folders: pathlib.Path) -> pathlib.Path:
  """The file where it is given, in a folder, or where the environment says."""
  named = os.environ.get(ENVIRONMENT)
  places = [*folders, *([pathlib.Path(named)] if named else [])]
  for file in (pathlib.Path(name), *(p / name for p in places)):
    if file.is_file():
      return file
  where = f"{named} (${ENVIRONMENT})" if named else f"${ENVIRONMENT}, not set"
  raise InputError(f"no file {name}, neither as it stands nor in {where}")


def lines(file: pathlib.Path) -> list[str]:
  """Lines of a text file, plain or .gz."""
  opened = gzip.open if file.suffix == ".gz" else open
  try:
    with opened(file, "rt", encoding="utf-8") as opened_file:
      return opened_file.readlines()
  except (OSError, EOFError, UnicodeDecodeError, zlib.error) as e:
    raise InputError(f"{file.name} cannot be read as text: {e}") from e


def _read(
  file: pathlib.Path,
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
  """Users and items [R], int64, in the file's order; and counts to report."""
  user, item, users, empty, more = [], [], set(), 0, 0
  for n, line in enumerate(lines(file), 1):
    if not line.strip():
      continue
    try:
      who, *what = map(int, line.split())
    except ValueError as e:
      raise InputError(
        f"{file.name}: line {n} is no user number and item numbers: "
        f"{line.strip()[:60]!r}"
      ) from e
    if not all(-_LIMIT <= x < _LIMIT for x in (who, *what)):
      raise InputError(
        f"{file.name}: line {n} holds a number of 2^63 or beyond, which is no "
        f"64-bit integer: renumber it: {line.strip()[:60]!r}"
      )
    empty += not what
    more += len(what) > 1 and who in users
    users.add(who)
    user += [who] * len(what)
    item += what
  if not user:
    raise InputError(f"{file.name}: no event in the file")
  told = {
    "lines without an item": empty,
    "lines of several items that continue an earlier line's user": more,
  }
  return np.asarray(user, np.int64), np.asarray(item, np.int64), told


def _attributes(file: pathlib.Path, items: list[int]):
  """Each item's attributes, numbered from 0; and counts to report."""
  try:
    table = json.loads("".join(lines(file)))
  except ValueError as e:
    raise InputError(f"{file.name} is no JSON: {e}") from e
  if not isinstance(table, dict):
    raise InputError(f"{file.name}: {{item: [number, ...]}} is expected")
  for name, found in table.items():
    if not isinstance(found, list) or not all(type(a) is int for a in found):
      raise InputError(
        f"{file.name}: item {name}: a list of whole numbers is expected, not "
        f"{str(found)[:60]}"
      )
  numbers = sorted({a for v in table.values() for a in v})
  at = {a: i for i, a in enumerate(numbers)}
  known = tuple(
    tuple(at[a] for a in dict.fromkeys(table.get(str(i), ()))) for i in items
  )
  return known, {
    "items without attributes": sum(not a for a in known),
    "items with attributes that do not occur": len(
      set(table) - set(map(str, items))
    ),
  }
