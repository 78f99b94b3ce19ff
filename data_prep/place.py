"""A prepared data set that is written again beside itself, and put in place."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from lumos_jax.data import shards as shards_lib

from . import builder, room

INFO = "dataset_info.json"
NEW, _OLD = ".new", ".old"
_LEFT = (builder.INCOMPLETE, room.SPILL, NEW)


def num_bytes(split: Mapping[str, Any], stats: Mapping[str, Any]) -> int:
  """Bytes of a split's records.

  Args:
    split: Of dataset_info.json. Where an append of an earlier version wrote a size
      for people, its shards' bytes are taken.
    stats: The data set's stats.json.
  """
  if split["numBytes"].isdecimal():
    return int(split["numBytes"])
  files = stats["splits"][split["name"]]["shards"]
  return sum(stats["shards"][f]["bytes"] for f in files)


@contextlib.contextmanager
def renewed(path: epath.Path, keep_shards: bool = True) -> Iterator[epath.Path]:
  """A folder for the new version, which takes the old one's place at the end.

  Files that the new version does not write are the old one's, its shards only with
  `keep_shards`. What interrupted
  runs left beside the data set is removed: it holds older versions. Where writing
  fails, the old version stays.

  Raises:
    FileExistsError: Another process writes the data set.
  """
  clean(path, lambda _: None)
  new = path.parent / f"{path.name}{NEW}"
  room.claim(new, lambda _: None)
  try:
    yield new
    (new / "owner").unlink()
    for file in path.iterdir():
      shard = ".array_record" in file.name
      if not (new / file.name).exists() and (keep_shards or not shard):
        _same(file, new / file.name)
    swap(new, path)
  finally:
    if new.exists() and path.exists():
      new.rmtree()


def clean(path: epath.Path, say: Callable[[str], None]) -> None:
  """Removes what interrupted runs left beside the data set.

  Raises:
    FileExistsError: Another process writes there.
  """
  recover(path)
  for ending in _LEFT:
    left = path.parent / f"{path.name}{ending}"
    if left.exists():
      room.claim(left, say)
      left.rmtree()


def swap(new: epath.Path, path: epath.Path) -> None:
  """Puts a whole new version in the place of the old one.

  A crash between the two renames leaves no data set under the name, but the old
  one beside it, which `recover` puts back.
  """
  old = path.parent / f"{path.name}{_OLD}"
  path.rename(old)
  new.rename(path)
  old.rmtree()


def recover(path: epath.Path) -> None:
  """Mends what a crash within `swap` left: an old version beside its place."""
  old = path.parent / f"{path.name}{_OLD}"
  if old.exists():
    if path.exists():
      old.rmtree()
    else:
      old.rename(path)


def _same(source: epath.Path, target: epath.Path) -> None:
  """The same file under another name; a copy where there are no links."""
  try:
    os.link(source, target)
  except (OSError, TypeError):
    with source.open("rb") as a, target.open("wb") as b:
      shutil.copyfileobj(a, b)


def checksums(folder: epath.Path, files: Iterable[str]) -> dict[str, dict]:
  """{shard: what stats.json keeps of it}."""
  return {f: shards_lib.entry(folder / f) for f in files}
