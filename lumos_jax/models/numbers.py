"""Numbers as vectors, for networks on tables (Gorishniy et al. 2022, 2203.05556).

"piecewise": bins of equal frequency; a number fills the bins below it and a part
of its own. "periodic": sines and cosines of learned frequencies. Each is followed
by a linear layer of the feature's own and ReLU. Unlike in the paper, numbers
beyond the outermost edges fill no more than the outermost bins.

B batch, N numbers, T bins, K frequencies, W width of a feature's vector.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.models import layers

KINDS = ("piecewise", "periodic")
_SMALL = 1e-6


class Numbers(nnx.Module):
  """[B, N] numbers, NaN where missing -> [B, N W]."""

  def __init__(
    self,
    count: int,
    kind: str,
    bins: int,
    width: int,
    deviation: float,
    *,
    rngs: nnx.Rngs,
  ):
    """Before `fit`, numbers are taken to lie evenly between -1 and 1.

    Args:
      count: N.
      kind: Of KINDS.
      bins: T of "piecewise", K of "periodic".
      width: W.
      deviation: Of the first frequencies of "periodic".
      rngs: Stream "params".
    """
    self.kind = kind
    edges = np.linspace(-1.0, 1.0, bins + 1, dtype=np.float32)
    # Fitted, not trained (`Hybrid.frozen`).
    self.edges = nnx.Param(
      jnp.tile(jnp.asarray(edges)[None], (count, 1)), axes=(None, None)
    )
    inputs = bins + 1
    if kind == "periodic":
      drawn = jax.random.normal(rngs.params(), (count, bins)) * deviation
      self.frequencies = nnx.Param(drawn, axes=(None, None))
      inputs = 2 * bins + 1
    value = jax.random.normal(rngs.params(), (count, inputs, width))
    self.kernel = nnx.Param(value * inputs**-0.5, axes=(None, None, "embed"))
    self.bias = layers.zeros((count, width), (None, "embed"))

  def fit(self, x: jax.Array) -> None:
    """Takes the edges from numbers [B, N] of training points."""
    at = jnp.linspace(0.0, 1.0, self.edges[...].shape[1])
    found = jnp.nanquantile(x.astype(jnp.float32), at, axis=0).T
    # A number that nobody has says nothing but that it is missing.
    self.edges[...] = jnp.where(jnp.isnan(found), 0.0, found)

  def __call__(self, x: jax.Array) -> jax.Array:
    """As of the class."""
    edges, missing = self.edges[...], jnp.isnan(x)
    known = jnp.where(missing, 0.0, x)
    if self.kind == "piecewise":
      low, high = edges[None, :, :-1], edges[None, :, 1:]
      wide = high - low
      part = (known[..., None] - low) / jnp.where(wide > 0, wide, 1.0)
      # Where many numbers are equal, edges coincide: all or nothing.
      step = (known[..., None] >= low).astype(jnp.float32)
      found = jnp.where(wide > 0, jnp.clip(part, 0.0, 1.0), step)
    else:
      count = edges.shape[1]
      low, middle, high = (
        edges[:, int(q * (count - 1))] for q in (0.1, 0.5, 0.9)
      )
      scale = jnp.maximum(high - low, _SMALL)
      y = jnp.clip((known - middle[None]) / scale[None], -10.0, 10.0)
      angle = 2 * jnp.pi * y[..., None] * self.frequencies[...][None]
      found = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)
    found = jnp.where(missing[..., None], 0.0, found)
    flag = missing[..., None].astype(jnp.float32)
    found = jnp.concatenate([found, flag], -1)
    out = jnp.einsum("bnt,ntw->bnw", found, self.kernel[...])
    out = jax.nn.relu(out + self.bias[...][None])
    return out.reshape(len(x), -1)
