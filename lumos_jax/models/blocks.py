"""A transformer block: attention to a context, then a feed-forward layer."""

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.models import attention, layers


class Block(nnx.Module):
  """Self-attention (encoder) or cross-attention (decoder) block.

  `norm="post"` is the paper's; "pre" trains deeper models more easily.
  """

  def __init__(
    self,
    cfg,
    *,
    use_rotary: bool,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    """`cfg` is config.model."""
    if cfg.norm not in ("pre", "post"):
      raise ValueError(f"model.norm = {cfg.norm!r}; use 'pre' or 'post'")
    self.attention = attention.Attention(
      cfg.d_model,
      cfg.n_heads,
      use_rotary=use_rotary,
      kernel=cfg.attention_kernel,
      dtype=dtype,
      rngs=rngs,
    )
    self.norm_attention, self.norm_ff = (
      layers.layer_norm(cfg.d_model, dtype=dtype, rngs=rngs) for _ in range(2)
    )
    self.ff_in = layers.linear(
      cfg.d_model, cfg.d_ff, ("embed", "mlp"), dtype=dtype, rngs=rngs
    )
    self.ff_out = layers.linear(
      cfg.d_ff, cfg.d_model, ("mlp", "embed"), dtype=dtype, rngs=rngs
    )
    self.pre = cfg.norm == "pre"
    self.rate, self.activation = cfg.dropout, cfg.activation

  def _ff(self, x: jax.Array) -> jax.Array:
    return self.ff_out(layers.ACTIVATIONS[self.activation](self.ff_in(x)))

  def __call__(
    self,
    x: jax.Array,
    context: jax.Array | None,
    look: attention.Look,
    time_x: jax.Array,
    time_context: jax.Array,
    rngs: nnx.Rngs | None,
  ) -> jax.Array:
    """x [B, Q, D], context [B, T, D] or None for x itself -> [B, Q, D]."""
    drop = lambda y: layers.dropout(self.rate, rngs, y)
    attend = lambda h: self.attention(
      h, h if context is None else context, look, time_x, time_context
    )
    if self.pre:
      x = x + drop(attend(self.norm_attention(x)))
      return x + drop(self._ff(self.norm_ff(x)))
    x = self.norm_attention(x + drop(attend(x)))
    return self.norm_ff(x + drop(self._ff(x)))
