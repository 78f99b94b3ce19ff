"""The service's stores: LMDB, and Redis where its server is."""

import os
import shutil
import socket
import subprocess
import time

import numpy as np
import pytest

pytest.importorskip("lmdb", reason='needs pip install -e ".[serve]"')

from lumos_jax.serving import store  # noqa: E402

HEAD = store.HEAD


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
  program = shutil.which("redis-server")
  if program is None:
    pytest.skip("no redis-server here: apt-get install redis-server")
  folder = tmp_path_factory.mktemp("redis")
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  flags = f"--port {port} --appendonly yes --appendfsync always --save 3600 1"
  flags += f" --dir {folder} --bind 127.0.0.1"
  running = subprocess.Popen(
    [program, *flags.split()], stdout=subprocess.DEVNULL
  )
  for _ in range(200):
    with socket.socket() as s:
      if s.connect_ex(("127.0.0.1", port)) == 0:
        break
    time.sleep(0.05)
  yield f"redis://127.0.0.1:{port}/0", folder
  running.terminate()
  running.wait()


@pytest.fixture(params=["lmdb", "redis"])
def opened(request, tmp_path):
  """A store and the folder that holds its files."""
  url, files = "", tmp_path
  if request.param == "redis":
    url, files = request.getfixturevalue("redis_url")
    import redis

    redis.Redis.from_url(url).flushall()
  kept = store.open_store(tmp_path, url, 0.05)
  yield kept, files
  kept.close()


def head(version, text=b""):
  return version.to_bytes(8, "big") + text


def change(user, old, new, **fields):
  more = {k.encode(): v for k, v in fields.items()}
  return store.Change(user, old, {HEAD: head(new), **more})


def test_a_commit_needs_the_version_that_was_read(opened):
  kept, _ = opened
  a, b = bytes([1] * 32), bytes([2] * 32)
  assert (
    kept.commit([change(a, 0, 5, rows=b"x"), change(b, 0, 7)]) == [True] * 2
  )
  # Another writer was quicker: nothing of this is written.
  assert kept.commit([change(a, 0, 6, rows=b"y"), change(b, 7, 8)]) == [
    False,
    True,
  ]
  found = kept.read([a, b, bytes(32)])
  assert found == [{HEAD: head(5), b"rows": b"x"}, {HEAD: head(8)}, {}]
  assert kept.read([a], [HEAD]) == [{HEAD: head(5)}]
  assert kept.commit([change(a, 5, 6, rows=None)]) == [True]
  assert kept.read([a]) == [{HEAD: head(6)}]
  assert sorted(kept.users()) == [a, b]
  assert kept.delete([a, bytes(32)]) == [True, False]
  assert kept.read([a]) == [{}] and list(kept.users()) == [b]
  assert kept.get_meta(b"what") is None
  kept.set_meta(b"what", b"this")
  assert kept.get_meta(b"what") == b"this"
  assert kept.size() > 0


def bytes_of(folder):
  files = [p for p in folder.rglob("*") if p.is_file()]
  return b"".join(p.read_bytes() for p in files)


def test_no_byte_of_a_deleted_user_is_left_after_a_compaction(opened):
  kept, files = opened
  rng = np.random.default_rng(0)  # What is random no server compresses.
  secret, a, b = rng.bytes(60_000), rng.bytes(32), rng.bytes(32)
  kept.commit([change(a, 0, 5, rows=secret), change(b, 0, 7, rows=b"stays")])
  assert secret[1000:1100] in bytes_of(files)
  kept.delete([a])
  # What is removed is still in the files: this is what the test is of.
  assert secret[1000:1100] in bytes_of(files)
  kept.compact()
  left = bytes_of(files)
  for i in range(0, len(secret), 500):
    assert secret[i : i + 100] not in left
  assert a not in left and b in left
  assert kept.read([b])[0][b"rows"] == b"stays"
  assert kept.commit([change(b, 7, 8)]) == [True]


def test_ids_stand_nowhere_and_keys_are_the_owners_alone(tmp_path):
  kept, keys = store.open_store(tmp_path), store.Keys(tmp_path)
  name = "someone@example.org"
  user = keys.user(name)
  assert len(user) == 32 and user == store.Keys(tmp_path).user(name)
  # Text as it stands: also half of a pair, which no UTF-8 holds.
  assert len({keys.user(x) for x in ("007", "7", "7 ", "", "\ud800")}) == 5
  kept.commit([change(user, 0, 1)])
  assert name.encode() not in bytes_of(tmp_path)
  kept.close()
  key = tmp_path / store.KEY_FILE
  assert key.stat().st_mode & 0o777 == 0o600
  other = store.Keys(tmp_path / "..")
  assert other.user(name) != user
  os.unlink(tmp_path / ".." / store.KEY_FILE)
  key.chmod(0o644)
  with pytest.raises(store.StoreError, match="chmod 600"):
    store.open_store(tmp_path)


def test_another_key_or_another_process_is_refused(tmp_path):
  kept = store.open_store(tmp_path)
  with pytest.raises(store.StoreError, match="another process uses"):
    store.open_store(tmp_path)
  kept.close()
  (tmp_path / store.KEY_FILE).unlink()
  with pytest.raises(store.StoreError, match="another key"):
    store.open_store(tmp_path)
  (tmp_path / store.KEY_FILE).write_bytes(b"short")
  with pytest.raises(store.StoreError, match="5 bytes, not 32"):
    store.open_store(tmp_path)


def test_a_full_map_loses_only_what_was_not_acknowledged(tmp_path):
  kept = store.open_store(tmp_path, map_gib=2**-10)  # A mebibyte.
  known = {}
  with pytest.raises(store.StoreFull, match="no room for more"):
    for i in range(1000):
      user = i.to_bytes(32, "big")
      kept.commit([change(user, 0, 1, rows=bytes([i % 256]) * 5000)])
      known[user] = bytes([i % 256]) * 5000
  assert 50 < len(known) < 1000
  kept.close()
  kept = store.open_store(tmp_path, map_gib=2**-9)
  assert set(kept.users()) == set(known)
  assert all(kept.read([u])[0][b"rows"] == x for u, x in known.items())
  # There is room again.
  assert kept.commit([change(bytes([9] * 32), 0, 1, rows=b"x" * 5000)]) == [
    True
  ]
  kept.close()


def test_reads_go_on_while_the_store_is_compacted(tmp_path):
  import threading

  kept = store.open_store(tmp_path)
  user = bytes([3] * 32)
  kept.commit([change(user, 0, 1, rows=b"x" * 100)])
  wrong, end = [], threading.Event()

  def read():
    while not end.is_set():
      found = kept.read([user])[0]
      if found.get(b"rows") != b"x" * 100:
        wrong.append(found)

  threads = [threading.Thread(target=read) for _ in range(3)]
  for t in threads:
    t.start()
  for _ in range(10):
    kept.compact()
  end.set()
  for t in threads:
    t.join()
  assert not wrong
  kept.close()
