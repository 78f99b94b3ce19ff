"""A prepared data set that is written again beside itself, and put in place."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator

from etils import epath

from lumos_jax.data import records as records_lib

from . import builder, room

INFO = "dataset_info.json"
_NEW = ".new"
_LEFT = (builder.INCOMPLETE, room.SPILL, _NEW)


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
  for ending in _LEFT:
    left = path.parent / f"{path.name}{ending}"
    if left.exists():
      room.claim(left, lambda _: None)
      left.rmtree()
  new = path.parent / f"{path.name}{_NEW}"
  room.claim(new, lambda _: None)
  try:
    yield new
    (new / "owner").unlink()
    for file in path.iterdir():
      shard = ".array_record" in file.name
      if not (new / file.name).exists() and (keep_shards or not shard):
        _same(file, new / file.name)
    # A crash between these leaves the new version, whole, under its own name.
    old = path.parent / f"{path.name}{builder.INCOMPLETE}"
    path.rename(old)
    new.rename(path)
    old.rmtree()
  finally:
    if new.exists() and path.exists():
      new.rmtree()


def _same(source: epath.Path, target: epath.Path) -> None:
  """The same file under another name; a copy where there are no links."""
  try:
    os.link(source, target)
  except (OSError, TypeError):
    with source.open("rb") as a, target.open("wb") as b:
      shutil.copyfileobj(a, b)


def checksums(folder: epath.Path, files: Iterable[str]) -> dict[str, dict]:
  """{shard: {"bytes", "sha256"}}, for stats.json."""
  return {
    f: {
      "bytes": (folder / f).stat().length,
      "sha256": records_lib.checksum(folder / f),
    }
    for f in files
  }
