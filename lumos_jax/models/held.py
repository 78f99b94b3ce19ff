"""What a causal model keeps of a window's tokens, so that later ones are cheap.

Attention keeps keys and values, a filter over the whole window its inputs, a
convolution the few inputs that its taps reach back to. With these, the next tokens
of a window cost what they cost alone, and give the states that a pass over the
whole window gives. What is kept is read where it lies, never copied.

B batch, C new tokens, T tokens of a window, L layers, N heads, H width of a head,
D model width. Tokens are always the axis before the last.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

# Of a convolution: [..., R, D], the inputs before the new tokens; R its reach.
TAIL = "tail"


class Held:
  """Of one layer: the past it reads, and what it adds to it.

  Attributes:
    past: {name: [B, ..., T, H]}, of the tokens before the new ones; what stands at
      later places is not read. TAIL [B, R, D], zeros before the first token.
    step: int32 [B, C], places of the new tokens in the window; T of padding.
    new: {name: [B, ..., C, H]}, what the new tokens add.
  """

  def __init__(self, past: Mapping[str, jax.Array], step: jax.Array):
    self.past, self.step = past, step
    self.new: dict[str, jax.Array] = {}

  def before(self, length: int) -> jax.Array:
    """bool [B, T]: places before the new tokens."""
    return jnp.arange(length)[None] < self.step[:, :1]

  def own(self, x: jax.Array) -> jax.Array:
    """Of [..., C, T] by places, what is at the new tokens' places: [..., C, C]."""
    at = jnp.minimum(self.step, x.shape[-1] - 1)
    lead = (1,) * (x.ndim - 2)
    at = at.reshape(at.shape[0], *lead, at.shape[1])
    at = jnp.broadcast_to(at, (*x.shape[:-1], at.shape[-1]))
    return jnp.take_along_axis(x, at, -1)

  def after_tail(self, x: jax.Array) -> jax.Array:
    """The last inputs before the new tokens' [B, C, D], and these: [B, R + C, D]."""
    self.new[TAIL] = x
    return jnp.concatenate([self.past[TAIL], x], 1)

  def scores(
    self, q: jax.Array, k: jax.Array, bias: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    """Products of new queries with all keys, those of the new tokens last.

    Args:
      q, k: [B, N, C, H], of the new tokens; the keys are kept as "key".
      bias: [B, N, C, T], added.

    Returns:
      float32 [B, N, C, T + C], and bool [B, 1, C, T + C], which keys are open.
    """
    self.new["key"], past = k, self.past["key"]
    product = lambda keys: jnp.einsum(
      "bnch,bnth->bnct", q, keys, preferred_element_type=jnp.float32
    )
    parts = [product(past), product(k)]
    if bias is not None:
      parts = [
        x + b for x, b in zip(parts, (bias, self.own(bias)), strict=True)
      ]
    count, length = q.shape[2], past.shape[2]
    steps = jnp.arange(count)
    before = jnp.broadcast_to(
      self.before(length)[:, None], (q.shape[0], count, length)
    )
    own = jnp.broadcast_to(
      (steps[:, None] >= steps[None])[None], (q.shape[0], count, count)
    )
    return jnp.concatenate(parts, -1), jnp.concatenate([before, own], -1)[
      :, None
    ]

  def mixed(self, weights: jax.Array, v: jax.Array) -> jax.Array:
    """Sums of values [B, N, C, H] by weights [B, N, C, T + C] as of `scores`."""
    self.new["value"], past = v, self.past["value"]
    length = past.shape[2]
    add = lambda w, x: jnp.einsum("bnct,bnth->bnch", w, x)
    return add(weights[..., :length], past) + add(weights[..., length:], v)

  def filtered(self, weights: jax.Array, x: jax.Array) -> jax.Array:
    """Sums of inputs [B, C, D], kept as "input", by weights [B, C, T] of places.

    Weights are 0 where a token may not look.
    """
    self.new["input"], past = x, self.past["input"]
    length = past.shape[1]
    add = lambda w, x: jnp.einsum("bct,btd->bcd", w, x)
    real = (self.step < length)[:, None]
    own = jnp.where(real, self.own(weights), 0)
    return add(jnp.where(self.before(length)[:, None], weights, 0), past) + add(
      own, x
    )
