"""The mesh, and the one table from logical axes to mesh axes."""

import contextlib
import contextvars
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

MESH_AXES = ("data", "fsdp", "sequence", "tensor")
BATCH = ("data", "fsdp")
# Arrays [B, T, ...] of a model that reads long sequences.
TOKENS = P(BATCH, "sequence")

# Logical axis of a parameter -> mesh axis. An axis that does not divide stays
# whole: a small table is cheaper replicated than padded.
RULES: dict[str, str] = {
  "embed": "fsdp",
  "mlp": "tensor",
  "heads": "tensor",
  "vocab": "tensor",
}


def make_mesh(cfg: Mapping[str, int], devices=None) -> Mesh:
  """The mesh of config.mesh; one axis may be -1, "all that are left".

  Raises:
    ValueError: The sizes do not divide the devices; says what would.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [int(cfg.get(a, 1)) for a in MESH_AXES]
  fixed = math.prod(s for s in sizes if s != -1)
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise ValueError(f"mesh {dict(cfg)}: at most one axis may be -1")
  left = len(devices) // fixed if len(devices) % fixed == 0 else 0
  if left < 1 or (-1 not in sizes and fixed != len(devices)):
    raise ValueError(
      f"mesh {dict(zip(MESH_AXES, sizes))} does not divide {len(devices)} "
      "devices (a large size sets config.mesh.fsdp). Set config.mesh.*: data = "
      f"-1 and 1 for the others gives data = {len(devices)}; lumos preflight "
      "tells what a size needs"
    )
  sizes = [left if s == -1 else s for s in sizes]
  kinds = (AxisType.Auto,) * len(MESH_AXES)
  slices = len({getattr(d, "slice_index", None) for d in devices})
  if slices == 1:
    # An axis may be a part of a torus' axis: 8 of v6e's 16 x 16.
    grid = mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
    return Mesh(grid, MESH_AXES, axis_types=kinds)
  # Between slices the network is slow: only the gradients' sum crosses it.
  if sizes[0] % slices:
    raise ValueError(
      f"mesh {dict(zip(MESH_AXES, sizes))}: data must be a multiple of the "
      f"{slices} slices; fsdp={sizes[1]}, sequence={sizes[2]} and "
      f"tensor={sizes[3]} must fit into one"
    )
  inner = [sizes[0] // slices, *sizes[1:]]
  found = mesh_utils.create_hybrid_device_mesh(
    inner, [slices, 1, 1, 1], devices, allow_split_physical_axes=True
  )
  return Mesh(found, MESH_AXES, axis_types=kinds)


def spec(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh) -> P:
  """PartitionSpec of a parameter from its logical axes."""
  names = []
  for axis, size in zip(axes, shape, strict=True):
    name = RULES.get(axis) if axis else None
    fits = name and mesh.shape[name] > 1 and size % mesh.shape[name] == 0
    names.append(name if fits and name not in names else None)
  return P(*names)


def state_shardings(
  state: Mapping[str, Any],
  axes: Mapping[str, tuple[str | None, ...]],
  mesh: Mesh,
) -> Any:
  """Shardings of a train state.

  Args:
    state: Abstract state: {"params": {path: array}, "opt": ..., ...}.
    axes: {path: logical axes} of the parameters.
    mesh: The mesh.

  Returns:
    NamedShardings in the state's form: an optimizer's or average's array that
    belongs to a parameter (same path, same shape) lies as the parameter does;
    everything else is replicated.
  """

  def place(path, leaf):
    for key in reversed(path):
      name = getattr(key, "key", None)
      if name in axes and len(axes[name]) == len(leaf.shape):
        return NamedSharding(mesh, spec(axes[name], leaf.shape, mesh))
    return NamedSharding(mesh, P())

  return jax.tree_util.tree_map_with_path(place, state)


_MESH: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar(
  "mesh", default=None
)


@contextlib.contextmanager
def tracing_for(mesh: Mesh):
  """What is traced inside will run on this mesh; see `current`."""
  token = _MESH.set(mesh)
  try:
    yield
  finally:
    _MESH.reset(token)


def current() -> Mesh | None:
  """The mesh that is traced for; None outside one and on one device."""
  mesh = _MESH.get()
  return None if mesh is None or mesh.size == 1 else mesh


def device() -> jax.Device:
  """One of the devices that is traced for; the default one outside a mesh."""
  mesh = _MESH.get()
  return jax.devices()[0] if mesh is None else mesh.devices.flat[0]


def on_devices(fn: Callable[..., Any], in_specs: Any, out_specs: Any):
  """A function that each device runs on its part, and exchanges by itself.

  Where XLA cannot split what it does, or would not do so well. Outside a mesh,
  or on one device, the function itself.
  """
  mesh = current()
  if mesh is None:
    return fn
  return jax.shard_map(
    fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
  )


def lay(x: jax.Array, spec: P) -> jax.Array:
  """Says where an array lies; the same array outside a mesh."""
  mesh = current()
  if mesh is None:
    return x
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def put_batch(
  batch: Mapping[str, np.ndarray], mesh: Mesh
) -> dict[str, jax.Array]:
  """Host arrays -> global arrays, split over data and fsdp along axis 0."""
  sharding = NamedSharding(mesh, P(BATCH))
  return {
    k: jax.make_array_from_process_local_data(sharding, np.asarray(v))
    for k, v in batch.items()
  }


def check_batch_size(batch_size: int, parts: int, mesh: Mesh) -> None:
  """Raises ValueError where the batch does not divide by mesh and parts."""
  if parts < 1:
    raise ValueError(f"train.accumulate = {parts} must be at least 1")
  ways = mesh.shape["data"] * mesh.shape["fsdp"] * parts
  if batch_size < 1 or batch_size % ways:
    up = max(1, -(-batch_size // ways)) * ways
    raise ValueError(
      f"train.batch_size = {batch_size} is no multiple of data x fsdp x "
      f"train.accumulate = {ways}; the nearest is {up}"
    )


def check_hosts(mesh: Mesh) -> None:
  """Raises ValueError where processes would share a row of the batch.

  Each process reads its own users: two that held parts of one row would fill it
  with different ones.
  """
  inner = mesh.shape["sequence"] * mesh.shape["tensor"]
  for group in mesh.devices.reshape(-1, inner):
    hosts = {d.process_index for d in group}
    if len(hosts) > 1:
      raise ValueError(
        f"mesh.sequence = {mesh.shape['sequence']} times mesh.tensor = "
        f"{mesh.shape['tensor']} crosses {len(hosts)} processes; make their "
        "product divide the devices of one process"
      )


def check_sequence(length: int | None, mesh: Mesh) -> None:
  """Raises ValueError where rows of tokens cannot be cut as the mesh asks.

  Args:
    length: Tokens of a row; None for a model whose rows are not cut.
    mesh: The mesh.
  """
  ways = mesh.shape["sequence"]
  if ways > 1 and length is None:
    raise ValueError(
      f"mesh.sequence = {ways}: this recipe's rows are not cut over devices; "
      "set mesh.sequence = 1"
    )
  if length and length % ways:
    raise ValueError(
      f"data.sequence_length = {length} does not divide by mesh.sequence = "
      f"{ways}; the nearest that does is {-(-length // ways) * ways}"
    )
