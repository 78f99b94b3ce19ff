"""The whole softmax's loss by tokamax's fused kernel, which runs on TPU.

Logits live in a core's own memory, for a block of tokens and values, and never
in the chip's. They are made a second time for the gradients.

V vocabulary, D model width; [...] tokens of all rows.
"""

import contextlib
import functools
import importlib.metadata
import re

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from lumos_jax import partition, tables
from lumos_jax.data.schema import FIRST_VALUE

KERNELS = ("chunked", "tokamax")
# Before, a vocabulary that blocks do not divide counts values that are not there.
_VERSION = (0, 0, 17)
# Tokens and widths that fill the kernel's blocks: else it would write beyond the
# arrays' ends, into what their layout leaves free.
_TOKENS, _WIDTH = 1024, 128
_INSTEAD = "or set objective.kernel = 'chunked'"


def check_config(config) -> None:
  """Raises ValueError where `objective.kernel` cannot serve config and host."""
  model, objective = config.model, config.objective
  kernel = objective.kernel
  if kernel not in KERNELS:
    raise ValueError(
      f"objective.kernel = {kernel!r}; use one of {', '.join(KERNELS)}"
    )
  if kernel == "chunked":
    return
  if objective.loss != "softmax" or model.copy:
    raise ValueError(
      "objective.kernel = 'tokamax' fuses the whole softmax and no mixture: set "
      "objective.loss = 'softmax' and model.copy = False (now "
      f"{objective.loss!r} and {model.copy}), {_INSTEAD}"
    )
  _check_mesh(config.mesh)
  check_installed()


def _check_mesh(shape) -> None:
  """Raises ValueError where a mesh, {axis: size}, cuts the table."""
  if shape["fsdp"] > 1 or shape["tensor"] > 1:
    raise ValueError(
      "objective.kernel = 'tokamax' needs the whole table on each chip: set "
      f"mesh.fsdp = 1 and mesh.tensor = 1 (now {shape['fsdp']} and "
      f"{shape['tensor']}), {_INSTEAD}"
    )


def check_installed() -> None:
  """Raises ValueError where tokamax is absent or too old."""
  found = _installed()
  if tuple(int(n) for n in re.findall(r"\d+", found)[:3]) < _VERSION:
    raise ValueError(
      "objective.kernel = 'tokamax' needs tokamax "
      f"{'.'.join(map(str, _VERSION))} or newer and with it Python 3.12 (found "
      f"{found or 'none'}): pip install 'lumos-jax[tokamax]', {_INSTEAD}"
    )


def _installed() -> str:
  """Tokamax's version; "" where it is absent."""
  try:
    return importlib.metadata.version("tokamax")
  except importlib.metadata.PackageNotFoundError:
    return ""


def runs(objective) -> bool:
  """Whether the kernel is asked for and what is traced will run on TPU."""
  return objective.kernel == "tokamax" and partition.device().platform == "tpu"


def softmax_sum(
  states: jax.Array,
  table: jax.Array,
  target: jax.Array,
  weight: jax.Array,
  implementation: str = "mosaic_tpu",
) -> jax.Array:
  """Sum of weighted cross-entropies over the whole vocabulary.

  Args:
    states: [..., D]; on a mesh [B, T, D].
    table: [V, D], the vectors of all values, whole on each device.
    target: int32 [...], ids; reserved ones have weight 0.
    weight: float32 [...], 0 where there is no target.
    implementation: Tokamax's; "xla", for tests, holds all logits.

  Returns:
    float32 scalar; differentiable in states and table only.

  Raises:
    ValueError: The mesh cuts the table, or the chip is too old.
  """
  mesh = partition.current()
  if mesh:  # An axis of -1 is known only now.
    _check_mesh(mesh.shape)
  return _total(implementation, states, table, target, weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total(implementation, states, table, target, weight):
  return _on_mesh(implementation, False)(states, table, target, weight)


def _on_mesh(implementation, gradients):
  tokens = partition.TOKENS
  run = functools.partial(_local, implementation, gradients)
  outputs = (P(), tokens, P()) if gradients else P()
  return partition.on_devices(run, (tokens, P(), tokens, tokens), outputs)


def _total_fwd(implementation, *args):
  # The backward kernel too: what it needs to know of the device is known here.
  value, *saved = _on_mesh(implementation, True)(*args)
  return value, saved


def _total_bwd(implementation, saved, g):
  del implementation
  return *((x * g).astype(x.dtype) for x in saved), None, None


_total.defvjp(_total_fwd, _total_bwd)


def _local(implementation, gradients, states, table, target, weight):
  """The sum and, if asked, its gradients, from one device's tokens."""
  import tokamax

  group = tables.Candidates(tables.Layout(), partition.current() is None)
  x, w = states.reshape(-1, states.shape[-1]), table[FIRST_VALUE:].T
  n, d = x.shape
  more, wider = -n % _TOKENS, -d % _WIDTH
  label = jnp.maximum(target.reshape(-1) - FIRST_VALUE, 0)
  label = jnp.pad(label, (0, more))
  weight = jnp.pad(weight.reshape(-1), (0, more))
  x, w = jnp.pad(x, ((0, more), (0, wider))), jnp.pad(w, ((0, wider), (0, 0)))
  # Not its own sum: that knows no weights.
  run = lambda x, w: tokamax.linear_softmax_cross_entropy_loss(
    x, label, w, reduction="none", implementation=implementation
  )
  device = partition.device()
  try:
    with _as_on(device):
      if not gradients:
        return group.total(jnp.sum(run(x, w) * weight))
      each, pull = jax.vjp(run, x, w)
      d_x, d_w = pull(weight)
  except NotImplementedError as e:
    raise ValueError(
      f"objective.kernel = 'tokamax' does not run on {device.device_kind}: use "
      "a newer chip, or set objective.kernel = 'chunked'"
    ) from e
  d_table = jnp.pad(d_w[:d].T, ((FIRST_VALUE, 0), (0, 0)))
  return (
    group.total(jnp.sum(each * weight)),
    d_x[:n, :d].reshape(states.shape).astype(states.dtype),
    group.lay(d_table, table.shape).astype(table.dtype),
  )


# Kinds whose two cores work as one device.
_PAIRS = ("TPU v4", "TPU v5", "TPU v5p")


@contextlib.contextmanager
def _as_on(device):
  """Traces as if the host had the TPU that is compiled for.

  Tokamax asks the default device what it can do. A host that only compiles for
  a TPU (preflight) has none, and its description lacks the number of cores.
  """
  if device.platform != "tpu" or jax.default_backend() == "tpu":
    yield
    return
  kind = device.device_kind
  cores = 2 if kind in _PAIRS else 1
  told = jax.sharding.AbstractDevice(
    device_kind=kind, num_cores=cores, platform="tpu"
  )
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((1,), ("one",), auto, abstract_device=told)
  else:
    mesh = mesh.update(abstract_device=told)
  with jax.default_device(device), jax.sharding.use_abstract_mesh(mesh):
    yield
