"""Eight virtual CPU devices, strict ranks, fast compilation: before jax starts."""

import os
import pathlib
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8"
  # Tests compile much and compute little.
  + " --xla_backend_optimization_level=0"
)

import jax  # noqa: E402

# Tests compile the same tiny steps again and again, in several processes.
_CACHE = pathlib.Path(tempfile.gettempdir()) / "lumos_jax_test_compilations"
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_numpy_rank_promotion", "raise")
