"""PANTHER's sequence pattern recognition module (arXiv 2510.10102, sec. 3.2).

Causal convolutions find local patterns; what they find asks learned prototypes
by softmax attention. It stands beside self-attention and is linear in length.

B batch, T tokens, D model width, m prototypes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.models import held as held_lib
from lumos_jax.models import layers

KINDS = ("none", "paper", "release")


def shifted(x: jax.Array, segment: jax.Array, steps: int) -> jax.Array:
  """x [B, T, D] `steps` rows later; zeros where that is another segment's."""
  if not steps:
    return x
  if steps >= x.shape[1]:
    return jnp.zeros_like(x)
  before = jnp.pad(x[:, :-steps], ((0, 0), (steps, 0), (0, 0)))
  same = segment == jnp.pad(segment[:, :-steps], ((0, 0), (steps, 0)))
  return jnp.where(same[..., None], before, 0)


class CausalConv(nnx.Module):
  """A causal convolution over time that stays within its segment."""

  def __init__(
    self,
    width: int,
    kernel: int,
    dilation: int,
    *,
    depthwise: bool,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    """Taps at 0, dilation, ... (kernel - 1) * dilation events back."""
    if kernel < 1 or dilation < 1:
      raise ValueError(
        f"model.sprm_scales has (kernel, dilation) = {(kernel, dilation)}; both "
        "must be 1 or more"
      )
    shape = (kernel, width) if depthwise else (kernel, width, width)
    fan_in = kernel if depthwise else kernel * width
    value = jax.random.normal(rngs.params(), shape) / fan_in**0.5
    axes = (None, "embed") if depthwise else (None, None, "embed")
    self.taps = nnx.Param(value, axes=axes)
    self.bias = layers.zeros((width,), ("embed",))
    self.dilation, self.dtype = dilation, dtype

  def __call__(self, x: jax.Array, segment: jax.Array) -> jax.Array:
    """x [B, T, D], segment int [B, T] -> [B, T, D]."""
    taps = self.taps[...].astype(self.dtype)
    out = self.bias[...].astype(self.dtype)[None, None]
    for k in range(taps.shape[0]):
      past = shifted(x, segment, k * self.dilation)
      if taps.ndim == 2:
        out = out + past * taps[k][None, None]
      else:
        out = out + past @ taps[k]
    return out


def reach(kind: str, scales: Sequence[tuple[int, int]]) -> int:
  """How many tokens back the convolutions reach."""
  scales = ((3, 1),) if kind == "release" else scales
  return max(
    ((kernel - 1) * dilation for kernel, dilation in scales), default=0
  )


class SPRM(nnx.Module):
  """Patterns -> prototypes -> a vector a token.

  "paper": depthwise dilated convolutions of several scales, concatenated and
  projected to queries. "release": one full convolution of kernel 3 and a leaky
  ReLU, as in the authors' code.
  """

  def __init__(
    self,
    width: int,
    kind: str,
    scales: Sequence[tuple[int, int]],
    n_prototypes: int,
    *,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    """`scales` are (kernel, dilation) of the paper's form."""
    kw = dict(dtype=dtype, rngs=rngs)
    self.release = kind == "release"
    if self.release:
      self.convs = nnx.List([CausalConv(width, 3, 1, depthwise=False, **kw)])
    else:
      self.convs = nnx.List(
        [CausalConv(width, k, d, depthwise=True, **kw) for k, d in scales]
      )
      self.query = layers.linear(
        width * len(self.convs), width, (None, "embed"), **kw
      )
    self.prototypes = layers.embedding(
      n_prototypes, width, (None, "embed"), rngs=rngs
    )
    self.key, self.value = (
      layers.linear(width, width, ("embed", None), **kw) for _ in range(2)
    )
    self.out = layers.linear(width, width, (None, "embed"), **kw)

  def __call__(
    self,
    x: jax.Array,
    segment: jax.Array,
    held: held_lib.Held | None = None,
  ) -> jax.Array:
    """x [B, T, D], segment int [B, T] -> [B, T, D].

    With `held`, x go on with earlier tokens of one segment.
    """
    inputs = x
    if held is not None:
      inputs = held.after_tail(x)
      segment = jnp.ones(inputs.shape[:2], jnp.int32)
    earlier = inputs.shape[1] - x.shape[1]
    found = [conv(inputs, segment)[:, earlier:] for conv in self.convs]
    if self.release:
      query = jax.nn.leaky_relu(found[0])
    else:
      query = self.query(jnp.concatenate(found, -1))
    prototypes = self.prototypes[...].astype(query.dtype)
    key, value = self.key(prototypes), self.value(prototypes)
    scores = jnp.einsum("btd,md->btm", query, key) / x.shape[-1] ** 0.5
    weights = jax.nn.softmax(scores.astype(jnp.float32), -1)
    return self.out(jnp.einsum("btm,md->btd", weights.astype(x.dtype), value))
