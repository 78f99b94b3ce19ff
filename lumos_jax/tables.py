"""Tables of value vectors over the mesh: used where they lie, never gathered.

A table [V, D] lies with V over `tensor` and D over `fsdp`, where these divide
it. Tokens travel to the table's parts, being smaller than it.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from lumos_jax import partition

_TOKEN_AXES = ("data", "fsdp", "sequence")


@dataclasses.dataclass(frozen=True)
class Layout:
  """Axes of the mesh that cut a table; None where it is whole.

  Attributes:
    vocab: Cuts V.
    embed: Cuts D; tokens are cut by it too.
  """

  vocab: str | None = None
  embed: str | None = None

  @classmethod
  def of(cls, table: jax.Array) -> "Layout":
    """As partition.RULES have it, on the mesh that is traced for."""
    mesh = partition.current()
    if mesh is None:
      return cls()
    return cls(*partition.spec(("vocab", "embed"), table.shape, mesh))

  @property
  def spec(self) -> P:
    """Of the table."""
    return P(self.vocab, self.embed)

  def sum_tokens(self, x: jax.Array) -> jax.Array:
    """Sums a table's parts over the devices that have other tokens."""
    return lax.psum(x, tuple(a for a in _TOKEN_AXES if a != self.embed))


def lookup(table: jax.Array, ids: jax.Array, alike: bool = False) -> jax.Array:
  """Rows of a table.

  Args:
    table: [V, D].
    ids: int [B, T], cut as tokens are; with `alike` [K], on all devices.
    alike: See `ids`.

  Returns:
    [B, T, D] or [K, D]; the table's gradient stays where the table lies.
  """
  layout = Layout.of(table)
  if layout == Layout():
    return table[ids]
  return _lookup(layout, alike, table.shape, table, ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _lookup(layout, alike, shape, table, ids):
  del shape
  spec = P() if alike else partition.TOKENS
  run = functools.partial(_take, layout, alike)
  return partition.on_devices(run, (layout.spec, spec), spec)(table, ids)


def _lookup_fwd(layout, alike, shape, table, ids):
  return _lookup(layout, alike, shape, table, ids), ids


def _lookup_bwd(layout, alike, shape, ids, g):
  spec = P() if alike else partition.TOKENS
  mesh = partition.current()
  axes = layout.vocab, layout.embed
  part = [n // mesh.shape[a] if a else n for n, a in zip(shape, axes)]
  run = functools.partial(_add, layout, alike, part)
  return partition.on_devices(run, (spec, spec), layout.spec)(ids, g), None


_lookup.defvjp(_lookup_fwd, _lookup_bwd)


def _places(layout, alike, rows, ids):
  """Places in a device's rows; `rows` where it has not got them."""
  if layout.embed and not alike:
    ids = lax.all_gather(ids, layout.embed, tiled=True)
  if not layout.vocab:
    return ids
  at = ids - lax.axis_index(layout.vocab) * rows
  return jnp.where((at >= 0) & (at < rows), at, rows)


def _take(layout, alike, part, ids):
  """`lookup` on one device."""
  at = _places(layout, alike, part.shape[0], ids)
  found = part.at[at].get(mode="fill", fill_value=0)
  if layout.vocab:
    found = lax.psum(found, layout.vocab)
  if not layout.embed:
    return found
  last = found.ndim - 1
  if alike:
    return lax.all_gather(found, layout.embed, axis=last, tiled=True)
  return lax.all_to_all(found, layout.embed, 0, last, tiled=True)


def _add(layout, alike, shape, ids, g):
  """`lookup`'s gradient on one device."""
  last = g.ndim - 1
  if layout.embed and alike:
    start = lax.axis_index(layout.embed) * shape[1]
    g = lax.dynamic_slice_in_dim(g, start, shape[1], last)
  elif layout.embed:
    g = lax.all_to_all(g, layout.embed, last, 0, tiled=True)
  at = _places(layout, alike, shape[0], ids)
  out = jnp.zeros(shape, g.dtype).at[at].add(g, mode="drop")
  return out if alike else layout.sum_tokens(out)


@dataclasses.dataclass(frozen=True)
class Candidates:
  """One device's part of a table whose products with all tokens are wanted.

  Each device has some rows in full width; devices of a group (`embed`) meet
  with each other's tokens.

  Attributes:
    layout: Of the table.
    alone: No other device: nothing is exchanged.
  """

  layout: Layout
  alone: bool

  def rows(self, x: jax.Array, fill: float) -> jax.Array:
    """[V] that all devices have -> those of this device's rows."""
    if self.alone:
      return x
    if self.layout.vocab:
      x = _own(x, "tensor")
    if self.layout.embed:
      x = _own(x, "fsdp", fill)
    return x if self.layout.vocab else _own(x, "tensor", fill)

  def part(self, table: jax.Array) -> jax.Array:
    """A device's part as it lies -> its rows in full width."""
    if self.alone:
      return table
    if self.layout.embed:
      table = lax.all_to_all(_padded(table, "fsdp"), "fsdp", 0, 1, tiled=True)
    return table if self.layout.vocab else _own(table, "tensor")

  def lay(self, part: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The reverse of `part`, summed over all tokens; `shape` as it lies."""
    if self.alone:
      return part
    # Before it grows again.
    part = self.layout.sum_tokens(part)
    if not self.layout.vocab:
      part = lax.all_gather(part, "tensor", tiled=True)
    if self.layout.embed:
      part = part[: -(-shape[0] // lax.axis_size("fsdp"))]
      part = lax.all_to_all(part, "fsdp", 1, 0, tiled=True)
    return part[: shape[0]]

  def meet(self, x: jax.Array) -> jax.Array:
    """Tokens' [n, ...] -> those of all the group [N, ...]."""
    if self.alone or not self.layout.embed:
      return x
    return lax.all_gather(x, "fsdp", tiled=True)

  def own_tokens(self, x: jax.Array) -> jax.Array:
    """Of what `meet` gave and all devices agree on, this device's tokens'."""
    if self.alone or not self.layout.embed:
      return x
    return _own(x, "fsdp")

  def add_up(self, x: jax.Array) -> jax.Array:
    """Shares of the group's tokens [N, D] -> sums of this device's [n, D]."""
    if self.alone:
      return x
    x = lax.psum(x, "tensor")
    if not self.layout.embed:
      return x
    return lax.psum_scatter(x, "fsdp", tiled=True)

  def logsumexp(self, x: jax.Array) -> jax.Array:
    """Of each device's, over all candidates."""
    if self.alone:
      return x
    axes = ("tensor", *((self.layout.embed,) if self.layout.embed else ()))
    most = lax.pmax(x, axes)
    return most + jnp.log(lax.psum(jnp.exp(x - most), axes))

  def total(self, x: jax.Array) -> jax.Array:
    """Sum over all devices' tokens."""
    return x if self.alone else lax.psum(x, _TOKEN_AXES)


def _own(x, axis, fill=0):
  """This device's rows of what all along an axis have."""
  x = _padded(x, axis, fill)
  size = x.shape[0] // lax.axis_size(axis)
  return lax.dynamic_slice_in_dim(x, lax.axis_index(axis) * size, size)


def _padded(x, axis, fill=0):
  """Rows made a multiple of an axis' size."""
  rest = -x.shape[0] % lax.axis_size(axis)
  pad = ((0, rest),) + ((0, 0),) * (x.ndim - 1)
  return jnp.pad(x, pad, constant_values=fill)
