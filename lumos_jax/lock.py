"""One training run a workdir: a second one is told so."""

import contextlib
import datetime
import errno
import json
import os
import socket
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

try:
  import fcntl
except ImportError:  # Not a POSIX system.
  fcntl = None

FILE = ".lock"
# A file system that knows no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class WorkdirBusy(RuntimeError):
  """Another run trains in the workdir."""


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
  """Holds a workdir for one run; process 0 holds it for all processes.

  The lock is the system's, on workdir/.lock: it ends with the process, however
  that ends, so none is ever stale. The file says whose it is. Object stores
  (gs://) and file systems without locks have none: there a warning is logged
  where a lock could not be had, and nothing guards the workdir.

  Raises:
    WorkdirBusy: Another run holds it; on every process.
  """
  held, message = None, ""
  if jax.process_index() == 0:
    try:
      held = _acquire(epath.Path(workdir))
    except WorkdirBusy as e:
      message = str(e)
  busy = bool(message)
  if jax.process_count() > 1:
    busy = bool(multihost_utils.broadcast_one_to_all(np.asarray(busy)))
  if busy:
    raise WorkdirBusy(message or f"{workdir}: another run trains here")
  try:
    yield
  finally:
    if held is not None:
      os.close(held)


def _acquire(workdir: epath.Path) -> int | None:
  """The locked file's descriptor; None where there is no lock to be had."""
  if fcntl is None or "://" in os.fspath(workdir):
    return None
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / FILE
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as e:
    os.close(descriptor)
    if e.errno in _NO_LOCKS:
      logging.warning("%s: no locks here (%s): start one run only", path, e)
      return None
    if e.errno not in (errno.EACCES, errno.EAGAIN):
      raise
    raise WorkdirBusy(
      f"{workdir}: another run trains here ({_owner(path)}): wait for it, stop "
      "it, or choose another --workdir"
    ) from e
  now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
  owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
  os.ftruncate(descriptor, 0)
  os.write(descriptor, json.dumps(owner).encode())
  return descriptor


def _owner(path: epath.Path) -> str:
  try:
    found = json.loads(path.read_text())
    return "process {pid} on {host}, since {since}".format(**found)
  except (OSError, ValueError, KeyError, TypeError):
    return "it has not said yet who it is"
