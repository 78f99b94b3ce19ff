"""What a program does before its first array: other processes, compilations."""

import hashlib
import os
import pathlib
import platform

import jax


def connect(
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
) -> None:
  """Makes this process one of several; TPU slices tell all three themselves.

  Args:
    coordinator: HOST:PORT of process 0.
    processes: How many there are.
    process: Which one this is.
  """
  jax.distributed.initialize(
    coordinator, processes, process, heartbeat_timeout_seconds=60
  )


def keep_compilations() -> None:
  """Compiled programs are kept on disk, so that a second start is quick.

  In ~/.cache/lumos_jax (or $XDG_CACHE_HOME), a folder a kind of processor:
  homes are shared, and code for one processor may not run on another. Where
  JAX_COMPILATION_CACHE_DIR is set, jax uses that; JAX_ENABLE_COMPILATION_CACHE=
  false turns it off.
  """
  if jax.config.jax_compilation_cache_dir:
    return
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  kind = hashlib.sha256(_processor().encode()).hexdigest()[:8]
  folder = pathlib.Path(home) / "lumos_jax" / f"{platform.machine()}-{kind}"
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:  # A home that cannot be written: nothing is kept.
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))


def _processor() -> str:
  """What tells kinds of processors apart: what each one can do."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor()
  return next((s for s in lines if s.startswith(("flags", "Features"))), "")
