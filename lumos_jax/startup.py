"""What precedes a program's work: other processes, how and where it compiles."""

import argparse
import functools
import hashlib
import os
import pathlib
import platform
import signal
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# In trials on two cores most steps took a few percent longer where XLA's library
# for CPUs (YNN) fuses products than with XLA's own kernels.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}


def connect(
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
) -> None:
  """Makes this process one of several; on TPU slices all three are detected.

  Args:
    coordinator: HOST:PORT of process 0.
    processes: How many there are.
    process: Which one this is.
  """
  jax.distributed.initialize(
    coordinator, processes, process, heartbeat_timeout_seconds=60
  )


def add_process_flags(add: Callable[..., Any]) -> None:
  """Adds the flags of one process of several to a parser's `add_argument`."""
  add("--multihost", action="store_true", help="one process of several")
  add("--coordinator", help="HOST:PORT of process 0, as in lumos_jax.main")
  add("--processes", type=int, help="with --coordinator")
  add("--process", type=int, help="with --coordinator: from 0")


def connect_as_asked(args: argparse.Namespace) -> None:
  """Connects a program that does not train, by `add_process_flags`."""
  if args.multihost or args.coordinator:
    connect(args.coordinator, args.processes, args.process)
    # jax notes it, for a train loop to save first; here nothing would look.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
  """What distinguishes kinds of processors: what each one can do."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor()
  return next((s for s in lines if s.startswith(("flags", "Features"))), "")


@functools.cache
def compiler_options(platform: str) -> dict[str, str] | None:
  """What a train step is compiled with on a platform; None for nothing.

  Options come and go with versions of XLA: one that this version does not know
  is left out.
  """
  if platform != "cpu":
    return None
  try:
    probe = jax.jit(lambda x: x, compiler_options=_CPU)
    probe.lower(jax.ShapeDtypeStruct((), jnp.float32)).compile()
  except jax.errors.JaxRuntimeError:
    return None
  return _CPU
