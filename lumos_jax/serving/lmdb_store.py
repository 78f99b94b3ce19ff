"""The embedded store: LMDB, one process, durable by fsync.

No writemap: a full disk then fails a commit instead of a page in memory. Bytes of
what was removed stay in free pages until `compact` copies the rest.
"""

import os
import pathlib
import threading
from collections.abc import Iterator, Sequence

import lmdb

from lumos_jax.serving.store import (
  HEAD,
  KEY_BYTES,
  PENDING,
  Change,
  StoreError,
  StoreFull,
  version_of,
)

try:
  import fcntl
except ImportError:  # Not a POSIX system.
  fcntl = None

DATA, LOCK = "users.mdb", ".lock"
_META = b"\0"  # With a short name: a user's key is longer.


class LmdbStore:
  """See `store.Store`."""

  shared = False

  def __init__(self, folder: pathlib.Path, map_bytes: int):
    """Opens folder/users.mdb for this process alone.

    Raises:
      StoreError: Another process has it.
    """
    self.path = folder / DATA
    self.about = str(self.path)
    self._map_bytes = map_bytes
    self._lock_file = _locked(folder)
    # Writes are one at a time; the environment is replaced by compact alone.
    self._writing = threading.Lock()
    self._reading, self._readers = threading.Condition(), 0
    self._replacing = False
    self._env = self._open()

  def _open(self) -> lmdb.Environment:
    try:
      return lmdb.open(
        str(self.path),
        subdir=False,
        map_size=self._map_bytes,
        mode=0o600,
        max_readers=64,
        # Threads come and go; a reader belongs to its transaction.
        lock=True,
        readahead=False,
      )
    except lmdb.Error as e:
      raise StoreError(f"{self.path}: LMDB cannot open it: {e}") from e

  def _begin(self) -> lmdb.Environment:
    with self._reading:
      # Behind a replacement that waits: new readers would hold it off for ever.
      self._reading.wait_for(lambda: not self._replacing)
      self._readers += 1
      return self._env

  def _end(self) -> None:
    with self._reading:
      self._readers -= 1
      self._reading.notify_all()

  def read(
    self, users: Sequence[bytes], fields: Sequence[bytes] | None = None
  ) -> list[dict[bytes, bytes]]:
    """See `Store`."""
    env = self._begin()
    try:
      with env.begin() as txn:
        if fields is not None:
          found = [
            {f: v for f in fields if (v := txn.get(u + f)) is not None}
            for u in users
          ]
          return found
        return [dict(_fields(txn, u)) for u in users]
    finally:
      self._end()

  def commit(self, changes: Sequence[Change]) -> list[bool]:
    """See `Store`."""
    done = []
    with self._writing:
      try:
        with self._env.begin(write=True) as txn:
          for change in changes:
            there = version_of(txn.get(change.user + HEAD))
            done.append(there == change.version)
            if not done[-1]:
              continue
            for name, value in change.fields.items():
              if value is None:
                txn.delete(change.user + name)
              else:
                txn.put(change.user + name, value)
      except (lmdb.MapFullError, lmdb.DiskError) as e:
        raise StoreFull(self._full(e)) from e
      except lmdb.Error as e:
        # LMDB reports what the system said, by number in its text.
        raise StoreError(f"{self.path}: a commit failed: {e}") from e
    return done

  def _full(self, error: Exception) -> str:
    return (
      f"{self.path}: no room for more ({error}): free disk space, delete users "
      "and run `lumos serve compact`, or give a larger --store_gib"
    )

  def delete(self, users: Sequence[bytes]) -> list[bool]:
    """See `Store`."""
    done = []
    with self._writing:
      try:
        with self._env.begin(write=True) as txn:
          for user in users:
            names = [name for name, _ in _fields(txn, user)]
            for name in names:
              txn.delete(user + name)
            done.append(bool(names))
          if any(done):
            txn.put(_META + PENDING, b"1")
      except (lmdb.MapFullError, lmdb.DiskError) as e:
        raise StoreFull(self._full(e)) from e
    return done

  def users(self) -> Iterator[bytes]:
    """See `Store`; as of the first step."""
    env = self._begin()
    try:
      with env.begin() as txn, txn.cursor() as cursor:
        there = cursor.first()
        while there:
          user = cursor.key()[:KEY_BYTES]
          if len(cursor.key()) <= KEY_BYTES:
            there = cursor.next()
            continue
          yield user
          there = cursor.set_range(user + b"\xff" * 8)
    finally:
      self._end()

  def get_meta(self, name: bytes) -> bytes | None:
    """See `Store`."""
    env = self._begin()
    try:
      with env.begin() as txn:
        return txn.get(_META + name)
    finally:
      self._end()

  def set_meta(self, name: bytes, value: bytes) -> None:
    """See `Store`."""
    with self._writing:
      try:
        with self._env.begin(write=True) as txn:
          txn.put(_META + name, value)
      except (lmdb.MapFullError, lmdb.DiskError) as e:
        raise StoreFull(self._full(e)) from e

  def compact(self) -> None:
    """See `Store`. Reads go on while the copy is made; writes wait."""
    aside = self.path.with_name(f".{self.path.name}.new")
    with self._writing:
      aside.unlink(missing_ok=True)
      try:
        with open(aside, "wb", opener=_private) as f:
          self._env.copyfd(f.fileno(), compact=True)
      except (lmdb.Error, OSError) as e:
        aside.unlink(missing_ok=True)
        raise StoreError(
          f"{self.path}: it is not compacted, and bytes of deleted users are "
          f"still there: {e}"
        ) from e
      _sync(aside)
      # Without readers, so that none is left in the old file.
      with self._reading:
        self._replacing = True
        self._reading.wait_for(lambda: not self._readers)
        try:
          self._env.close()
          os.replace(aside, self.path)
          _sync(self.path.parent)
          self._env = self._open()
        finally:
          self._replacing = False
          self._reading.notify_all()
      with self._env.begin(write=True) as txn:
        txn.delete(_META + PENDING)

  def size(self) -> int:
    """See `Store`."""
    return self.path.stat().st_size

  def close(self) -> None:
    """See `Store`."""
    with self._writing, self._reading:
      self._reading.wait_for(lambda: not self._readers)
      self._env.close()
    if self._lock_file is not None:
      os.close(self._lock_file)
      self._lock_file = None


def _fields(txn, user: bytes) -> Iterator[tuple[bytes, bytes]]:
  with txn.cursor() as cursor:
    there = cursor.set_range(user)
    while there and cursor.key().startswith(user):
      yield cursor.key()[len(user) :], cursor.value()
      there = cursor.next()


def _private(path: str, flags: int) -> int:
  return os.open(path, flags, 0o600)


def _sync(path: pathlib.Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _locked(folder: pathlib.Path) -> int | None:
  """Holds the folder for this process; the system frees it at its end."""
  if fcntl is None:
    return None
  descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as e:
    os.close(descriptor)
    raise StoreError(
      f"{folder}: another process uses this store. LMDB serves one process, so "
      "that counters and cached states are one: stop that process, or share a "
      "store between several with --redis=redis://HOST:PORT"
    ) from e
  return descriptor
