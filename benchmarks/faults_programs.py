"""Programs that a fault happens to: started, broken from within, ended, read.

A program is forked from a server that has imported all it needs, so that a try
costs its own work and not a second of imports. What happens inside it is a
`Fault`: at its n-th change of a file below a folder it is killed, or the system
reports an error, or is slow; its clock jumps; a signal comes as it takes a batch.
"""

import dataclasses
import errno
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[1]
PATHS = [str(ROOT), str(ROOT / "tests")]
LIMIT_SECONDS = 600.0  # Of a program that hangs; compiling takes its time.
# Events of Python's audit hook that change a file system; "open" where it writes.
_CHANGES = (
  "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"
)  # fmt: skip
PRELOAD = (
  "benchmarks.faults_programs",
  "lumos_jax.main",
  "lumos_jax.evaluate",
  "lumos_jax.export",
  "lumos_jax.data_prep.__main__",
  "lumos_jax.presets.lumos",
  "fake",
)


@dataclasses.dataclass(frozen=True)
class Fault:
  """What happens in a program.

  Attributes:
    changes: "kill", "fail" or "slow": what the system does at a change of a file;
      "" for nothing.
    at: Which change (from 1) is killed or fails; all are slow.
    under: Folder whose files count; their names, where `names` is not "".
    names: Part of the names.
    count_to: File that gets the number of changes at the end.
    reads: "fail" or "slow" of reading records, at the `at`-th time or each time.
    clock: Seed of a clock that jumps; None for a good one.
    batch: Before which batch (from 1) `signal` comes.
    signal: Number of a signal.
    part: Users in a part of an export; 0 for as many as ever.
  """

  changes: str = ""
  at: int = 0
  under: str = ""
  names: str = ""
  count_to: str = ""
  reads: str = ""
  clock: int | None = None
  batch: int = 0
  signal: int = signal.SIGTERM
  part: int = 0


class _Changes:
  """An audit hook; see `Fault`."""

  def __init__(self, fault: Fault):
    self._fault, self._count = fault, 0

  def __call__(self, event: str, args: tuple) -> None:
    if event == "open":
      path, mode, flags = args
      writes = mode is not None and set(mode) & set("wxa+")
      if not writes and not (flags or 0) & (os.O_WRONLY | os.O_RDWR):
        return
    elif event in _CHANGES:
      path = args[0]
    else:
      return
    if not isinstance(path, str | bytes | os.PathLike):
      return  # A descriptor.
    path = os.fsdecode(path)
    fault = self._fault
    if not path.startswith(fault.under) or fault.names not in path:
      return
    self._count += 1
    if fault.count_to:
      os.environ["FAULTS_CHANGES"] = str(self._count)
    if fault.changes == "slow":
      time.sleep(0.02)
    elif self._count == fault.at and fault.changes == "kill":
      os.kill(os.getpid(), signal.SIGKILL)
    elif self._count == fault.at and fault.changes == "fail":
      raise OSError(errno.EIO, os.strerror(errno.EIO), path)


class _Reader:
  """An ArrayRecord reader on a bad disk."""

  def __init__(self, reader, fault: Fault, count: list[int]):
    self._reader, self._fault, self._reads = reader, fault, count

  def __getattr__(self, name):
    return getattr(self._reader, name)

  def read(self, *args):
    """Reads, late or not at all."""
    self._reads[0] += 1
    if self._fault.reads == "slow":
      time.sleep(0.02)
    elif self._reads[0] >= self._fault.at:
      raise RuntimeError(os.strerror(errno.EIO))
    return self._reader.read(*args)


def inject(fault: Fault) -> None:
  """Makes it happen to this process."""
  if fault.changes or fault.count_to:
    sys.addaudithook(_Changes(fault))
  if fault.reads:
    from array_record.python import array_record_module

    real, count = array_record_module.ArrayRecordReader, [0]
    array_record_module.ArrayRecordReader = lambda *args, **kw: _Reader(
      real(*args, **kw), fault, count
    )
  if fault.clock is not None:
    rng, now, offset = random.Random(fault.clock), time.time, [0.0]

    def jumping() -> float:
      if rng.random() < 0.2:  # By hours to years, back as well as ahead.
        offset[0] += rng.choice((-1, 1)) * 10 ** rng.uniform(3.5, 8)
      return now() + offset[0]

    time.time = jumping
  if fault.batch:
    from lumos_jax.data import pipeline

    take, taken = pipeline.DevicePrefetch.__next__, [0]

    def signalled(self):
      taken[0] += 1
      if taken[0] == fault.batch:
        os.kill(os.getpid(), fault.signal)
      return take(self)

    pipeline.DevicePrefetch.__next__ = signalled
  if fault.part:
    from lumos_jax import parts

    parts.USERS_A_PART = fault.part


def _child(program: str, argv: list[str], log: str, fault: Fault) -> None:
  """Runs a program in this process as its command would."""
  there = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  for descriptor in (1, 2):
    os.dup2(there, descriptor)
  os.setsid()  # Ends with all its workers, see `Program.kill`.
  inject(fault)
  status = 0
  try:
    sys.argv = [program, *argv]
    if program == "data_prep":
      from lumos_jax.data_prep import __main__ as data_prep

      status = data_prep.main(argv)
    else:
      import importlib

      from absl import app

      module = importlib.import_module(f"lumos_jax.{program}")
      parse = getattr(module, "parse_flags", None) or module._arguments
      app.run(module.main, argv=sys.argv, flags_parser=parse)
  except SystemExit as e:
    status = e.code or 0
  if fault.count_to:
    count = os.environ.get("FAULTS_CHANGES", "0")
    pathlib.Path(fault.count_to).write_text(count)
  sys.exit(status)


def server() -> multiprocessing.context.BaseContext:
  """The server that programs are forked from; the first call starts it."""
  before = os.environ.get("PYTHONPATH", "")
  os.environ["PYTHONPATH"] = os.pathsep.join(
    [*PATHS, *(p for p in before.split(os.pathsep) if p and p not in PATHS)]
  )
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  # Programs compute little: they need not be compiled well.
  os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
  os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(list(PRELOAD))
  return context


class Program:
  """One that was started; its output is appended to `log`."""

  def __init__(
    self,
    program: str,
    argv: Sequence[str],
    log: pathlib.Path,
    fault: Fault | None = None,
  ):
    """`program` is main, evaluate, export or data_prep."""
    self.log, self._from = log, log.stat().st_size if log.exists() else 0
    args = (program, list(argv), str(log), fault or Fault())
    self._process = server().Process(target=_child, args=args)
    self._begin = time.monotonic()
    self._process.start()
    self.pid = self._process.pid

  @property
  def runs(self) -> bool:
    """Whether it does still."""
    return self._process.is_alive()

  @property
  def said(self) -> str:
    """What it printed."""
    if not self.log.exists():
      return ""
    with self.log.open("rb") as f:
      f.seek(self._from)
      return f.read().decode(errors="replace")

  def wait(self, seconds: float = LIMIT_SECONDS) -> int | None:
    """Its exit status, minus the signal that ended it; None if it still runs."""
    self._process.join(seconds)
    return self._process.exitcode

  def send(self, number: int) -> None:
    """Sends a signal, if it still runs."""
    if self.runs:
      os.kill(self.pid, number)

  def kill(self) -> None:
    """Ends it, and the processes it started, at once."""
    try:
      os.killpg(self.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
      self._process.kill()
    self._process.join()

  def end(self) -> tuple[int | None, str, float]:
    """Waits: status (None for a program that hung), output, seconds."""
    status = self.wait()
    seconds = time.monotonic() - self._begin
    if status is None:
      self.kill()
    return status, self.said, seconds


def run(
  program: str,
  argv: Sequence[str],
  log: pathlib.Path,
  fault: Fault | None = None,
) -> tuple[int | None, str, float]:
  """Starts a program and waits; see `Program.end`."""
  return Program(program, argv, log, fault).end()


class Broken(AssertionError):
  """A promise was not kept; says how."""


def expect(true: bool, *words) -> None:
  """Raises Broken where it is not so."""
  if not true:
    raise Broken(" ".join(str(w) for w in words)[-2000:])
