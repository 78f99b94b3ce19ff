"""Eight virtual CPU devices, strict ranks, fast compilation: before jax starts."""

import mmap
import os
import pathlib
import tempfile

import jaxlib

# Tests compile much and compute little: a train step without XLA's fusion
# emitters compiles in a third of the time.
FLAGS = [
  "--xla_force_host_platform_device_count=8",
  "--xla_backend_optimization_level=0",
  "--xla_cpu_use_fusion_emitters=false",
]


def known(flag):
  """Whether this XLA has it: a process with a flag that it lacks ends."""
  name = flag.strip("-").split("=")[0].encode()
  for path in pathlib.Path(jaxlib.__file__).parent.glob("libjax_common*"):
    with path.open("rb") as f:
      with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as text:
        if text.find(name) >= 0:
          return True
  return False


os.environ["JAX_PLATFORMS"] = "cpu"
# Threads of small products and small trees wait for each other, busily: the
# probe's regressions take eight times the processor time on two cores.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
  os.environ[name] = "1"
# Programs that a test starts inherit all but the number of devices.
COMPILER_FLAGS = " ".join(f for f in FLAGS[1:] if known(f))
os.environ["XLA_FLAGS"] = " ".join(
  [os.environ.get("XLA_FLAGS", ""), FLAGS[0], COMPILER_FLAGS]
)

import jax  # noqa: E402

# Tests compile the same tiny steps again and again, in several processes.
CACHE = pathlib.Path(tempfile.gettempdir()) / "lumos_jax_test_compilations"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_numpy_rank_promotion", "raise")

# XLA reads its flags once. libtpu, which some tests load later, ends the process
# at a flag of the CPU's compiler.
jax.block_until_ready(jax.jit(lambda x: x + 1)(0))
os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace(FLAGS[2], "")

# Files of few and long tests: begun last, they would keep one worker busy alone.
LONG_FILES = ("multihost", "colab", "preflight", "workers", "tuesday", "model")


def pytest_collection_modifyitems(items):
  place = {f"{name}_test": i for i, name in enumerate(LONG_FILES)}
  items.sort(key=lambda item: place.get(item.path.stem, len(place)))
