"""Memory and disk of a preparation: how much there is, and whose a folder is."""

import contextlib
import errno
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

import polars as pl
from etils import epath

from . import spill as spill_lib
from .inputs import InputError, Inputs

SPILL = ".spill"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CGROUP = pathlib.Path("/sys/fs/cgroup/memory.max")
# A byte of compressed tables is seldom more than so many in memory.
_EXPANDS = 40
_PIECES_GIB = 4.0  # Of a Beam worker, where nothing else is said.


@contextlib.contextmanager
def room(
  raw: Inputs,
  path: epath.Path,
  memory_gib: float | None,
  say: Callable[[str], None] = lambda _: None,
  beam: Sequence[str] | None = None,
) -> Iterator[spill_lib.Spill | None]:
  """A folder for pieces where the activity does not fit into memory.

  Args:
    raw: Of a source.
    path: Of the data set; pieces lie beside it, or in the temporary directory
      where it is not on this machine.
    memory_gib: See `run.prepare`.
    say: Receives lines of progress.
    beam: Options of Apache Beam, which then does the work; None for this process.

  Yields:
    The folder, or None where the table fits.
  """
  memory = memory_gib
  if memory is None:
    memory = _machine_bytes() / 2 / spill_lib.GIB
    small = sum(raw.pieces.values()) * _EXPANDS < memory * spill_lib.GIB
    memory = 0 if small and raw.pieces else memory
  if beam is None and (not memory or _fits(raw, memory)):
    yield None
    return
  if "://" in os.fspath(path):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="data_prep"))
  else:
    folder = pathlib.Path(path.parent) / f"{path.name}{SPILL}"
  claim(epath.Path(folder), say)
  if beam is not None:
    spill = _on_beam(folder, memory or _PIECES_GIB, beam)
  else:
    spill = spill_lib.Spill(folder, memory)
  where = "in pieces on disk" if beam is None else "on Beam, in pieces"
  say(f"{where}, to stay within {memory or _PIECES_GIB:.1f} GiB")
  try:
    yield spill
  except OSError as e:
    if e.errno not in FULL or str(folder) not in str(e):
      raise
    raise OSError(
      e.errno,
      f"the disk is full while the activity lies in pieces on it: {e}. They take "
      "about as much as the table; make room, choose another --out, or allow "
      "more memory (--memory_gib)",
    ) from e
  finally:
    spill.close()


def _on_beam(folder, memory: float, options: Sequence[str]):
  try:
    from . import beam  # Apache Beam is an extra.
  except ImportError as e:
    raise InputError(
      f'--beam needs Apache Beam ({e}): pip install "lumos-jax[beam]"'
    ) from e
  return beam.Runner(folder, memory, options)


def _fits(raw: Inputs, memory_gib: float) -> bool:
  count = raw.activity.select(pl.len()).collect(engine="streaming").item()
  fields = len(raw.schema.activity)
  most = memory_gib * spill_lib.GIB - spill_lib.BASE_BYTES
  return count * spill_lib.row_bytes(fields) < most


def _machine_bytes() -> int:
  """Memory of the machine, or what a container may use of it."""
  most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  with contextlib.suppress(OSError, ValueError):
    most = min(most, int(_CGROUP.read_text()))
  return most


def claim(aside: epath.Path, say: Callable[[str], None]) -> None:
  """Takes the place beside the data set; cleans what an interrupted run left.

  Raises:
    FileExistsError: A living process of this machine is writing there.
  """
  owner = aside / "owner"
  host = os.uname().nodename
  if aside.exists():
    text = owner.read_text().split() if owner.exists() else []
    if len(text) == 2 and text[0] == host and _alive(int(text[1])):
      raise FileExistsError(
        f"{aside} is being written by process {text[1]}: wait for it, or "
        "choose another --out"
      )
    say(f"removing {aside}, left by an interrupted preparation")
    aside.rmtree()
  aside.mkdir(parents=True)
  owner.write_text(f"{host} {os.getpid()}")


def _alive(pid: int) -> bool:
  if pid == os.getpid():
    return False
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  return True
