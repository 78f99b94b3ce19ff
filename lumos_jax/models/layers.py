"""Linear layers with logical axes, and the multi-layer perceptron."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": jax.nn.relu,
  "gelu": jax.nn.gelu,
  "silu": jax.nn.silu,
}


def linear(
  in_features: int,
  out_features: int,
  axes: tuple[str | None, str | None],
  *,
  dtype: jnp.dtype,
  rngs: nnx.Rngs,
  use_bias: bool = True,
) -> nnx.Linear:
  """A linear layer whose kernel says its logical axes (see partition.py)."""
  return nnx.Linear(
    in_features,
    out_features,
    use_bias=use_bias,
    dtype=dtype,
    rngs=rngs,
    kernel_metadata={"axes": axes},
    bias_metadata={"axes": axes[1:]},
  )


def embedding(
  size: int,
  features: int,
  axes: tuple[str | None, str | None],
  *,
  deviation: float | None = None,
  rngs,
) -> nnx.Param:
  """A table [size, features], normal with variance 1 / features or as given."""
  value = jax.random.normal(rngs.params(), (size, features))
  deviation = features**-0.5 if deviation is None else deviation
  return nnx.Param(value * deviation, axes=axes)


def zeros(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
  """A parameter that starts at zero."""
  return nnx.Param(jnp.zeros(shape), axes=axes)


def layer_norm(features: int, *, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """Layer norm; statistics are computed in float32 whatever the dtype."""
  return nnx.LayerNorm(
    features,
    dtype=dtype,
    rngs=rngs,
    scale_metadata={"axes": (None,)},
    bias_metadata={"axes": (None,)},
  )


def rms_norm(
  features: int, epsilon: float, *, dtype, rngs: nnx.Rngs
) -> nnx.RMSNorm:
  """RMS norm; the mean square is computed in float32 whatever the dtype."""
  return nnx.RMSNorm(
    features,
    epsilon=epsilon,
    dtype=dtype,
    rngs=rngs,
    scale_metadata={"axes": (None,)},
  )


def dropout(rate: float, rngs: nnx.Rngs | None, x: jax.Array) -> jax.Array:
  """Drops with the given stream; without a stream (prediction) the identity.

  A channel asks one byte of the stream, so `rate` is met to 1 / 256 and what is
  kept is scaled by what that gives.
  """
  if rngs is None or not rate:
    return x
  kept = min(255, round(256 * (1.0 - rate)))
  words = (*x.shape[:-1], -(-x.shape[-1] // 4))
  drawn = jax.random.bits(rngs.dropout(), words, jnp.uint32)
  drawn = jax.lax.bitcast_convert_type(drawn, jnp.uint8)
  drawn = drawn.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
  return jnp.where(drawn < kept, x * (256 / kept), jnp.zeros_like(x))


class MLP(nnx.Module):
  """Linear layers with an activation after each, the last one included."""

  def __init__(
    self,
    widths: Sequence[int],
    *,
    activation: str = "relu",
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """`widths` are input, hidden and output widths."""
    make = functools.partial(linear, dtype=dtype, rngs=rngs)
    self.layers = nnx.List(
      [make(a, b, (None, "embed")) for a, b in zip(widths, widths[1:])]
    )
    self.activation = activation

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., widths[0]] -> [..., widths[-1]]."""
    for layer in self.layers:
      x = ACTIVATIONS[self.activation](layer(x))
    return x
