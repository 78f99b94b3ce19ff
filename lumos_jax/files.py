"""Files that say where they are when they cannot be written."""

import contextlib
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def naming(path: epath.PathLike) -> Iterator[None]:
  """Errors of the system name the path: a full disk alone says only "28".

  Args:
    path: What is written in this context.
  """
  try:
    yield
  except OSError as e:
    if e.filename is not None or e.errno is None:
      raise
    raise type(e)(e.errno, e.strerror, str(path)) from e
