"""Attention through one function, and the ways time enters it."""

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.models import layers


def rotary(x: jax.Array, time: jax.Array, longest: float = 4096.0) -> jax.Array:
  """Rotates pairs of a head's channels by phases of real time stamps.

  Args:
    x: [B, T, heads, head width], head width even.
    time: float32 [B, T] in days, against any common zero.
    longest: Longest wavelength / 2 pi, in days.

  Returns:
    Like x. Products of rotated queries and keys depend on time differences.
  """
  half = x.shape[-1] // 2
  frequency = longest ** -(jnp.arange(half, dtype=jnp.float32) / half)
  angle = time[..., None, None] * frequency[None, None, None]
  cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
  a, b = x[..., :half], x[..., half:]
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def sinusoidal(position: jax.Array, width: int) -> jax.Array:
  """Sines and cosines of positions [B, T] -> float32 [B, T, width]."""
  half = width // 2
  frequency = 10000.0 ** -(jnp.arange(half, dtype=jnp.float32) / half)
  angle = position.astype(jnp.float32)[..., None] * frequency[None, None]
  out = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)
  return jnp.pad(out, ((0, 0), (0, 0), (0, width - 2 * half)))


class Attention(nnx.Module):
  """Multi-head attention from queries to a context, with a boolean mask."""

  def __init__(
    self,
    width: int,
    n_heads: int,
    *,
    use_rotary: bool,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    """Raises ValueError where the heads do not divide the width evenly."""
    if width % n_heads or (use_rotary and width // n_heads % 2):
      raise ValueError(
        f"model.d_model = {width} must be a multiple of model.n_heads = "
        f"{n_heads} with an even quotient"
      )
    make = lambda axes: layers.linear(
      width, width, axes, dtype=dtype, rngs=rngs
    )
    self.query, self.key, self.value = (
      make(("embed", "heads")) for _ in range(3)
    )
    self.out = make(("heads", "embed"))
    self.n_heads, self.use_rotary = n_heads, use_rotary

  def __call__(
    self,
    x: jax.Array,
    context: jax.Array,
    mask: jax.Array,
    time_x: jax.Array,
    time_context: jax.Array,
    bias: jax.Array | None = None,
  ) -> jax.Array:
    """Attends.

    Args:
      x: Queries' states [B, Q, D].
      context: Keys' and values' states [B, T, D].
      mask: bool [B, Q, T], True where a query may look.
      time_x, time_context: float32 [B, Q] and [B, T] in days.
      bias: [B or 1, heads, Q, T], added to the scores.

    Returns:
      [B, Q, D].
    """
    split = lambda a: a.reshape(*a.shape[:2], self.n_heads, -1)
    q, k = split(self.query(x)), split(self.key(context))
    v = split(self.value(context))
    if self.use_rotary:
      q, k = rotary(q, time_x), rotary(k, time_context)
    if bias is not None:
      bias = bias.astype(q.dtype)
    y = jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask[:, None])
    return self.out(y.reshape(x.shape))


class PointwiseAttention(nnx.Module):
  """HSTU's self-attention (arXiv 2402.17152, eq. 1-3): SiLU, no softmax.

  A row's scores are not normalised, so that intensity counts; the result is
  gated, which takes the place of a feed-forward layer.
  """

  def __init__(
    self,
    width: int,
    n_heads: int,
    length: int,
    *,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    """`length` is T, by which the sum over keys is divided."""
    if width % n_heads:
      raise ValueError(
        f"model.d_model = {width} is not a multiple of model.n_heads = {n_heads}"
      )
    kw = dict(dtype=dtype, rngs=rngs)
    self.inner = layers.linear(width, 4 * width, ("embed", "heads"), **kw)
    self.norm = layers.layer_norm(width, **kw)
    self.out = layers.linear(width, width, ("heads", "embed"), **kw)
    self.n_heads, self.length = n_heads, length

  def __call__(
    self, x: jax.Array, mask: jax.Array, bias: jax.Array
  ) -> jax.Array:
    """x [B, T, D], mask bool [B, T, T], bias [B or 1, heads, T, T] -> x's."""
    gate, q, k, v = jnp.split(jax.nn.silu(self.inner(x)), 4, -1)
    split = lambda a: a.reshape(*a.shape[:2], self.n_heads, -1)
    scores = jnp.einsum("bqnk,btnk->bnqt", split(q), split(k))
    scores = jax.nn.silu(scores + bias.astype(x.dtype)) / self.length
    scores = jnp.where(mask[:, None], scores, 0)
    y = jnp.einsum("bnqt,btnk->bqnk", scores, split(v)).reshape(x.shape)
    return self.out(self.norm(y) * gate)
