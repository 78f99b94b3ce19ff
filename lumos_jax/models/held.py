"""What a causal model keeps of a window's tokens, so that later ones are cheap.

Attention keeps keys and values, a filter over the whole window its inputs, a
convolution the few inputs that its taps reach back to. With these, the next tokens
of a window cost what they cost alone, and give the states that a pass over the
whole window gives.

B batch, C new tokens, T tokens of a window, L layers.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

# Of a convolution: [..., R, D], the inputs before the new tokens; R its reach.
TAIL = "tail"


class Held:
  """Of one layer: the past it reads, and what it adds to it.

  Attributes:
    new: {name: [B, C, ...]}, what the layer's new tokens add.
  """

  def __init__(self, past: Mapping[str, jax.Array], step: jax.Array):
    """Keeps what there is.

    Args:
      past: {name: [B, T, ...]}, read up to the new tokens' places; TAIL [B, R,
        ...], zeros before the window's first token.
      step: int32 [B, C], places of the new tokens in the window; T of padding.
    """
    self._past, self.step = past, step
    self.new: dict[str, jax.Array] = {}

  def join(self, name: str, x: jax.Array) -> jax.Array:
    """All tokens' [B, T, ...], of the new ones' [B, C, ...]."""
    self.new[name] = x
    row = jnp.arange(x.shape[0])[:, None]
    return self._past[name].at[row, self.step].set(x, mode="drop")

  def after_tail(self, x: jax.Array) -> jax.Array:
    """The last inputs before the new tokens' [B, C, D], and these: [B, R + C, D]."""
    self.new[TAIL] = x
    return jnp.concatenate([self._past[TAIL], x], 1)


def join(held: Held | None, name: str, x: jax.Array) -> jax.Array:
  """As `Held.join`; x itself where a pass sees whole windows."""
  return x if held is None else held.join(name, x)
