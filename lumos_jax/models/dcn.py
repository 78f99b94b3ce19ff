"""What a score is made of: DCN-v2 over features, TextCNN over events.

B batch, T events, D width of a state, W width of the features.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.models import layers


class Cross(nnx.Module):
  """Cross layers x_{l+1} = x_0 * (W_l x_l + b_l) + x_l.

  DCN-v2, Wang et al. 2021 (2008.13535), eq. 1; with a rank, W_l = U_l V_l^T
  (eq. 2).
  """

  def __init__(self, width: int, depth: int, rank: int, *, rngs: nnx.Rngs):
    """`rank` 0 for full matrices."""
    kw = dict(dtype=jnp.float32, rngs=rngs)
    self.low_rank = 0 < rank < width
    if self.low_rank:
      self.down = nnx.List(
        [
          layers.linear(width, rank, ("embed", None), use_bias=False, **kw)
          for _ in range(depth)
        ]
      )
    inputs = rank if self.low_rank else width
    self.up = nnx.List(
      [
        layers.linear(inputs, width, (None, "embed"), **kw)
        for _ in range(depth)
      ]
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, W] -> [B, W]."""
    first = x
    for i, up in enumerate(self.up):
      x = first * up(self.down[i](x) if self.low_rank else x) + x
    return x


class DCN(nnx.Module):
  """Cross layers and a deep network side by side: [B, W] -> [B, outputs]."""

  def __init__(
    self,
    width: int,
    outputs: int,
    *,
    cross_layers: int,
    cross_rank: int,
    deep: Sequence[int],
    dropout: float,
    rngs: nnx.Rngs,
  ):
    """The parallel form of the paper (figure 1b)."""
    kw = dict(dtype=jnp.float32, rngs=rngs)
    self.cross = Cross(width, cross_layers, cross_rank, rngs=rngs)
    widths = (width, *deep)
    self.deep = nnx.List(
      [
        layers.linear(a, b, ("embed", "mlp"), **kw)
        for a, b in zip(widths, widths[1:])
      ]
    )
    self.out = layers.linear(width + widths[-1], outputs, ("embed", None), **kw)
    self.rate = dropout

  def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    """`rngs` has the stream "dropout" in training; None to predict."""
    x = layers.dropout(self.rate, rngs, x)
    deep = x
    for layer in self.deep:
      deep = layers.dropout(self.rate, rngs, jax.nn.relu(layer(deep)))
    return self.out(jnp.concatenate([self.cross(x), deep], -1))


class TextCNN(nnx.Module):
  """Convolutions over events, each one's maximum over time (Kim 2014, 1408.5882).

  [B, T, D] -> [B, channels x widths].
  """

  def __init__(
    self, inputs: int, widths: Sequence[int], channels: int, *, rngs: nnx.Rngs
  ):
    """`widths` are events that a filter sees."""
    self.widths = tuple(widths)
    kw = dict(dtype=jnp.float32, rngs=rngs)
    self.filters = nnx.List(
      [
        layers.linear(w * inputs, channels, ("embed", "mlp"), **kw)
        for w in self.widths
      ]
    )
    self.outputs = channels * len(self.widths)

  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    """Places [B, T] that `mask` leaves out do not count, whatever is there."""
    x = jnp.where(mask[..., None], x, 0.0)
    out = []
    for width, layer in zip(self.widths, self.filters, strict=True):
      pad = jnp.pad(x, ((0, 0), (width - 1, 0), (0, 0)))
      t = x.shape[1]
      seen = jnp.concatenate([pad[:, i : i + t] for i in range(width)], -1)
      # Windows end at an event of the user.
      found = jnp.where(mask[..., None], jax.nn.relu(layer(seen)), 0.0)
      out.append(found.max(1))
    return jnp.concatenate(out, -1)


def mean(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Of the places of x [B, T, D] that count, [B, D]; 0 where none does."""
  count = jnp.maximum(mask.sum(1, keepdims=True), 1)
  return jnp.where(mask[..., None], x, 0.0).sum(1) / count


def extreme(x: jax.Array, mask: jax.Array, reduce, least: float) -> jax.Array:
  """Highest or lowest of the places that count, [B, D]; 0 where none does."""
  found = reduce(jnp.where(mask[..., None], x, least), 1)
  return jnp.where(mask.any(1)[:, None], found, 0.0)
