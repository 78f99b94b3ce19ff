"""Where the service keeps users: one small interface, LMDB or Redis behind it.

A user is a few named fields of bytes under a keyed hash of its id: no file and
no message holds the id. `head` begins with the user's version (8 bytes): a commit
names the version that it was made from, so that two writers never lose an event.
"""

import dataclasses
import hashlib
import hmac
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from lumos_jax import ids

HEAD = b"head"
VERSION_BYTES = 8
KEY_BYTES = 32  # Of a user: LMDB allows 1 to 511 with the field's name.
KEY_FILE = "key"
_IDS = b"ids"
PENDING = b"pending"  # Meta: bytes of deleted users are still there.
NEW = 0  # Version of a user that is not there.


class StoreError(RuntimeError):
  """The store cannot be opened or used; says what to do."""


class StoreFull(StoreError):
  """The map or the disk is full: nothing of this commit was written."""


@dataclasses.dataclass(frozen=True)
class Change:
  """What becomes of one user.

  Attributes:
    user: Of `Keys.user`.
    version: That it was read with; NEW for one that is not there.
    fields: {name: bytes}, None to remove one. They hold `head`.
  """

  user: bytes
  version: int
  fields: Mapping[bytes, bytes | None]


class Store(Protocol):
  """Users' fields. Reads may come from any thread, writes from one.

  Attributes:
    shared: Whether other processes write too, so that what was read may be old.
    about: Says where it is, without secrets.
  """

  shared: bool
  about: str

  def read(
    self, users: Sequence[bytes], fields: Sequence[bytes] | None = None
  ) -> list[dict[bytes, bytes]]:
    """Fields of users, all by default; {} of a user who is not there."""

  def commit(self, changes: Sequence[Change]) -> list[bool]:
    """Writes all changes whose version is still the user's, durably.

    Returns:
      Whether each was written; it was only after the disk has it.

    Raises:
      StoreFull: Nothing was written.
    """

  def delete(self, users: Sequence[bytes]) -> list[bool]:
    """Removes users; whether each was there.

    Their bytes go with `compact`, which the meta PENDING asks for until then.
    """

  def users(self) -> Iterator[bytes]:
    """Hashes of all users."""

  def get_meta(self, name: bytes) -> bytes | None:
    """What is known of the store as a whole."""

  def set_meta(self, name: bytes, value: bytes) -> None:
    """Writes it."""

  def compact(self) -> None:
    """Rewrites the files without what was removed or replaced."""

  def size(self) -> int:
    """Bytes of the store's data."""

  def close(self) -> None:
    """Ends the use of it."""


class Keys:
  """Users' hashes: HMAC-like, BLAKE2b with a secret key of the store's folder.

  Who has the data without the key cannot find an id by trying all of them.

  Attributes:
    salt: The key of hashed ids, where the store's users came from a data set that
      has them: requests name users as the raw tables do.
  """

  salt: bytes | None = None

  def __init__(self, folder: pathlib.Path):
    """Reads the key file, or makes one that its owner alone can read.

    Raises:
      StoreError: Others can read it, or it is no key.
    """
    path = folder / KEY_FILE
    try:
      flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
      with os.fdopen(os.open(path, flags, 0o600), "wb") as f:
        f.write(secrets.token_bytes(KEY_BYTES))
        f.flush()
        os.fsync(f.fileno())
    except FileExistsError:
      pass
    if path.stat().st_mode & 0o077:
      raise StoreError(
        f"{path}: others than its owner can read this key: chmod 600 {path}"
      )
    self._key = path.read_bytes()
    if len(self._key) != KEY_BYTES:
      raise StoreError(
        f"{path} holds {len(self._key)} bytes, not {KEY_BYTES}: restore it from "
        "a backup; without it no user of the store can be found"
      )

  def follow(self, store: "Store") -> None:
    """Takes requests' ids as the store's users have them, see `salt`.

    Raises:
      IdError: Its ids are hashed, and the environment has no key, or another.
    """
    found = store.get_meta(_IDS)
    self.salt = None if found is None else ids.salt_of(found.decode())

  def user(self, user_id: str) -> bytes:
    """32 bytes that stand for an id of the raw tables."""
    if self.salt is not None:
      user_id = ids.hash_id(user_id, self.salt)
    return self.stored(user_id)

  def note(self, store: "Store", stats: Mapping[str, Any]) -> bool:
    """Notes in a store how a data set has users' ids, by its stats.json.

    Returns:
      Whether requests are to name users as the raw tables do; else as the data set
      does: by hashes, where the environment has no key.
    """
    if ids.hashed(stats) and not ids.has_salt():
      return False
    if ids.hashed(stats):
      store.set_meta(_IDS, stats["ids"]["fingerprint"].encode())
    self.follow(store)
    return True

  def stored(self, user_id: str) -> bytes:
    """The same for an id as a data set stores it."""
    # surrogates: an id is text as it stands, whatever the client sent.
    data = user_id.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(
      data, key=self._key, digest_size=KEY_BYTES, person=b"lumos user"
    ).digest()

  def request(self, idempotency_key: str) -> bytes:
    """16 bytes that stand for a request's key, which may hold an id."""
    data = idempotency_key.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(
      data, key=self._key, digest_size=16, person=b"lumos request"
    ).digest()

  @property
  def fingerprint(self) -> bytes:
    """Tells keys apart, and says nothing of them."""
    return hmac.digest(self._key, b"lumos fingerprint", "sha256")[:16]


def version_of(head: bytes | None) -> int:
  """The version that a user's `head` begins with; NEW where there is none."""
  return int.from_bytes(head[:VERSION_BYTES], "big") if head else NEW


def open_store(
  folder: pathlib.Path, url: str = "", map_gib: float = 64.0
) -> Store:
  """Opens the store of a folder, made where there is none.

  Args:
    folder: Of the key, and of LMDB's files.
    url: redis://HOST:PORT/DB, or "" for LMDB.
    map_gib: Most that LMDB may hold; the file grows as it fills.

  Raises:
    StoreError: It cannot be opened, another process has it, or it was written
      with another key.
  """
  folder.mkdir(parents=True, exist_ok=True, mode=0o700)
  if url:
    from lumos_jax.serving.redis_store import RedisStore

    store: Store = RedisStore(url)
  else:
    from lumos_jax.serving.lmdb_store import LmdbStore

    store = LmdbStore(folder, int(map_gib * 2**30))
  keys = Keys(folder)
  mine, theirs = keys.fingerprint, store.get_meta(b"key")
  if theirs is None:
    store.set_meta(b"key", mine)
  elif theirs != mine:
    store.close()
    raise StoreError(
      f"{store.about} was written with another key than {folder / KEY_FILE}: use "
      "the folder it was written with, or a copy of its key"
    )
  return store
