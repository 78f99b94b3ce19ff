"""TPU chips: datasheet figures, and topologies by name."""

import dataclasses
import math
import os
import re

from lumos_jax.names import near

GIB = 2**30


class TopologyError(ValueError):
  """A topology that is not known or cannot be described; says which can."""


@dataclasses.dataclass(frozen=True)
class Chip:
  """One chip, by Google Cloud's "TPU versions" pages.

  Attributes:
    flops: Peak, bfloat16, per second.
    hbm_bytes: High-bandwidth memory.
    hbm_rate: Bytes per second.
    ici_rate: Bytes per second to neighbours, both directions of all links.
    axes: Dimensions of the torus that the links span.
    host: Google Cloud's type of a machine of four.
    shapes: Slices that there are.
  """

  flops: float
  hbm_bytes: int
  hbm_rate: float
  ici_rate: float
  axes: int
  host: str
  shapes: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
  "2x2x1",
  "2x2x2",
  "2x2x4",
  "2x4x4",
  "4x4x4",
  "4x4x8",
  "4x8x8",
  "8x8x8",
  "8x8x16",
)
CHIPS = {
  "v4": Chip(275e12, 32 * GIB, 1228e9, 300e9, 3, "v4-8", _CUBES),
  "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, 2, "v5litepod-4", _FLAT),
  "v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, 3, "v5p-8", _CUBES),
  "v6e": Chip(918e12, 32 * GIB, 1640e9, 448e9, 2, "v6e-4", _FLAT),
}
# Between slices: bytes per second and chip of the data centre's network, for
# hosts of 4 chips with 200 Gbit/s.
DCN_RATE = 200e9 / 8 / 4


@dataclasses.dataclass(frozen=True)
class Topology:
  """Slices of a kind of chip.

  Attributes:
    kind: Key of CHIPS.
    shape: Chips along each axis of a slice, "16x16".
    slices: How many.
  """

  kind: str
  shape: str
  slices: int = 1

  @property
  def name(self) -> str:
    """ "v5e:16x16", or "2 x v5e:16x16"."""
    one = f"{self.kind}:{self.shape}"
    return one if self.slices == 1 else f"{self.slices} x {one}"

  @property
  def chip(self) -> Chip:
    """Of its kind."""
    return CHIPS[self.kind]

  @property
  def chips(self) -> int:
    """In all slices."""
    return self.slices * _chips(self.shape)

  def devices(self) -> list:
    """Devices to compile for.

    Raises:
      TopologyError: libtpu is absent or refuses; says what to do.
    """
    # Else libtpu asks the cloud's metadata server who its neighbours are.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Without the machine's type, which matters to no compilation, libtpu prints
    # a warning.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", self.chip.host)
    # Nothing runs on a TPU here: others may use libtpu at the same time.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
      import libtpu  # noqa: F401
    except ImportError as e:
      raise TopologyError(
        "preflight compiles with libtpu, which is absent: pip install "
        "'lumos-jax[preflight]' (Linux, x86-64)"
      ) from e
    from jax.experimental import topologies

    more = {"num_slices": self.slices} if self.slices > 1 else {}
    if self.kind == "v4":  # Else each of a chip's two cores is a device.
      more["chip_config_name"] = "megacore"
    try:
      found = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{self.kind}:{self.shape}", **more
      )
    except Exception as e:
      raise TopologyError(
        f"libtpu cannot describe {self.name}: {str(e).splitlines()[0]}"
      ) from e
    return list(found.devices)


def _chips(shape: str) -> int:
  return math.prod(int(n) for n in shape.split("x"))


def parse(name: str, slices: int = 1) -> Topology:
  """A topology by name, "v5e:16x16".

  Raises:
    TopologyError: Names the nearest that there is.
  """
  kind, _, shape = name.partition(":")
  if kind not in CHIPS:
    raise TopologyError(
      f"topology {name!r}: unknown chip {kind!r}{near(kind, CHIPS)} There are "
      f"{', '.join(CHIPS)}; write for example v5e:16x16"
    )
  if slices < 1:
    raise TopologyError(f"slices = {slices}: at least 1 is needed")
  shapes = CHIPS[kind].shapes
  if not shape:
    raise TopologyError(
      f"topology {name!r} lacks a shape, the chips along each axis: write for "
      f"example {kind}:{shapes[-1]}. There are {', '.join(shapes)}"
    )
  if shape not in shapes:
    nearest = shapes[-1]
    if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
      nearest = min(
        shapes, key=lambda s: abs(math.log(_chips(s) / _chips(shape)))
      )
    raise TopologyError(
      f"topology {name!r}: {kind} has no slice {shape!r}; the nearest is "
      f"{kind}:{nearest}. There are {', '.join(shapes)}"
    )
  return Topology(kind, shape, slices)
