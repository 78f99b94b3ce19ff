"""The shared store: Redis, for several services over one set of users.

A user is a hash. Versions are compared and fields written by one script, which
Redis runs alone. What is acknowledged is durable as far as Redis is told to be:
`appendonly yes` and `appendfsync always`.
"""

import time
from collections.abc import Iterator, Sequence

import redis
from absl import logging

from lumos_jax.serving.store import (
  HEAD,
  PENDING,
  VERSION_BYTES,
  Change,
  StoreError,
  StoreFull,
)

_USER, _META = b"lumos:u:", b"lumos:meta"
# KEYS: the user; ARGV: the expected head's first bytes ("" for none), how many
# fields are set, their names and values, names of fields to remove.
_COMMIT = """
local head = redis.call('HGET', KEYS[1], 'head')
local there = ''
if head then there = string.sub(head, 1, tonumber(ARGV[1])) end
if there ~= ARGV[2] then return 0 end
local n = tonumber(ARGV[3])
for i = 4, 3 + 2 * n, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
for i = 4 + 2 * n, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
return 1
"""


class RedisStore:
  """See `store.Store`."""

  shared = True

  def __init__(self, url: str, timeout_seconds: float = 5.0):
    """Connects.

    Args:
      url: redis://[:PASSWORD@]HOST:PORT/DB; rediss:// for TLS.
      timeout_seconds: Of each command.

    Raises:
      StoreError: There is no server, or it refuses.
    """
    self._redis = redis.Redis.from_url(
      url,
      socket_timeout=timeout_seconds,
      socket_connect_timeout=timeout_seconds,
    )
    where = self._redis.connection_pool.connection_kwargs
    self.about = f"redis at {where.get('host', 'a socket')}"
    try:
      self._redis.ping()
      self._commit = self._redis.register_script(_COMMIT)
      self._check_durable()
    except redis.RedisError as e:
      raise StoreError(f"{self.about}: {e}: is the server up?") from e

  def _check_durable(self) -> None:
    try:
      found = self._redis.config_get("append*")
    except redis.RedisError:  # Hosted servers hide their settings.
      logging.warning(
        "%s does not say whether its writes are durable", self.about
      )
      return
    append, sync = found.get("appendonly"), found.get("appendfsync")
    if (append, sync) != ("yes", "always"):
      logging.warning(
        "%s has appendonly %s and appendfsync %s: events that were acknowledged "
        "can be lost where it ends; set 'yes' and 'always'",
        *(self.about, append, sync),
      )

  def read(
    self, users: Sequence[bytes], fields: Sequence[bytes] | None = None
  ) -> list[dict[bytes, bytes]]:
    """See `Store`."""
    with self._told(), self._redis.pipeline(transaction=False) as pipe:
      for user in users:
        if fields is None:
          pipe.hgetall(_USER + user)
        else:
          pipe.hmget(_USER + user, list(fields))
      found = pipe.execute()
    if fields is None:
      return found
    return [
      {f: v for f, v in zip(fields, values, strict=True) if v is not None}
      for values in found
    ]

  def commit(self, changes: Sequence[Change]) -> list[bool]:
    """See `Store`."""
    with self._told(), self._redis.pipeline(transaction=False) as pipe:
      for change in changes:
        there = b""
        if change.version:
          there = change.version.to_bytes(VERSION_BYTES, "big")
        put = [(k, v) for k, v in change.fields.items() if v is not None]
        gone = [k for k, v in change.fields.items() if v is None]
        if HEAD not in dict(put):
          raise ValueError("a change lacks the user's head")
        flat = [x for pair in put for x in pair]
        args = [VERSION_BYTES, there, len(put), *flat, *gone]
        self._commit(keys=[_USER + change.user], args=args, client=pipe)
      return [bool(n) for n in pipe.execute()]

  def delete(self, users: Sequence[bytes]) -> list[bool]:
    """See `Store`."""
    with self._told(), self._redis.pipeline(transaction=False) as pipe:
      pipe.hset(_META, PENDING, b"1")
      for user in users:
        pipe.delete(_USER + user)
      return [bool(n) for n in pipe.execute()[1:]]

  def users(self) -> Iterator[bytes]:
    """See `Store`; in no order."""
    with self._told():
      for key in self._redis.scan_iter(match=_USER + b"*", count=1000):
        yield key[len(_USER) :]

  def get_meta(self, name: bytes) -> bytes | None:
    """See `Store`."""
    with self._told():
      return self._redis.hget(_META, name)

  def set_meta(self, name: bytes, value: bytes) -> None:
    """See `Store`."""
    with self._told():
      self._redis.hset(_META, name, value)

  def compact(self) -> None:
    """Has Redis write its append-only file and its snapshot anew, and waits.

    Snapshots and replicas elsewhere are the operator's.
    """
    with self._told():
      if self._redis.config_get("appendonly").get("appendonly") == "yes":
        self._redis.bgrewriteaof()
        self._wait("aof_rewrite_in_progress", "aof_rewrite_scheduled")
      if self._redis.config_get("save").get("save"):
        self._redis.bgsave(schedule=True)
        self._wait("rdb_bgsave_in_progress")
      self._redis.hdel(_META, PENDING)

  def _wait(self, *flags: str) -> None:
    while True:
      found = self._redis.info("persistence")
      if not any(int(found.get(f, 0)) for f in flags):
        return
      time.sleep(0.05)

  def size(self) -> int:
    """See `Store`: bytes in the server's memory."""
    with self._told():
      return int(self._redis.info("memory")["used_memory"])

  def close(self) -> None:
    """See `Store`."""
    self._redis.close()

  def _told(self) -> "_Told":
    return _Told(self.about)


class _Told:
  """Errors of Redis as the store's, without the values that they may hold."""

  def __init__(self, about: str):
    self._about = about

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    if isinstance(error, redis.exceptions.OutOfMemoryError):
      raise StoreFull(
        f"{self._about}: out of memory (maxmemory): nothing was written"
      ) from error
    if isinstance(error, redis.RedisError):
      name = type(error).__name__
      raise StoreError(f"{self._about}: a command failed ({name})") from error
