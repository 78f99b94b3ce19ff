"""A layer of PANTHER: attention and a filter over time side by side."""

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.models import attention, filters, layers, sprm
from lumos_jax.models import held as held_lib


class Layer(nnx.Module):
  """Attention and SPRM, or a filter, side by side; then feed-forward."""

  def __init__(self, cfg, length: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    """`cfg` is config.model; `length` is T."""
    kw = dict(dtype=dtype, rngs=rngs)
    width = cfg.d_model
    self.kind, self.pre = cfg.attention, cfg.norm == "pre"
    # Of attention, and of what stands beside it.
    self.merge = (0.5, 0.5) if cfg.sprm == "release" else (1.0, 1.0)
    if self.kind == "softmax":
      self.attention = attention.Attention(
        width,
        cfg.n_heads,
        use_rotary=cfg.positions == "rotary",
        kernel=cfg.attention_kernel,
        **kw,
      )
    elif self.kind == "pointwise":
      self.attention = attention.PointwiseAttention(
        width, cfg.n_heads, length, **kw
      )
    if cfg.sprm in filters.KINDS:
      self.filter = filters.make(cfg, length, rngs=rngs)
      self.merge = (1.0 - cfg.filter_share, cfg.filter_share)
    elif cfg.sprm != "none":
      self.sprm = sprm.SPRM(
        width, cfg.sprm, cfg.sprm_scales, cfg.sprm_prototypes, **kw
      )
    self.norm = layers.layer_norm(width, **kw)
    # HSTU's gate and the release's prototypes stand for the feed-forward.
    self.has_ff = bool(cfg.d_ff)
    if self.has_ff:
      self.norm_ff = layers.layer_norm(width, **kw)
      self.ff_in = layers.linear(width, cfg.d_ff, ("embed", "mlp"), **kw)
      self.ff_out = layers.linear(cfg.d_ff, width, ("mlp", "embed"), **kw)
    self.rate, self.activation = cfg.dropout, cfg.activation

  def _mix(self, h, look, time, bias, position, held):
    if hasattr(self, "filter"):
      found = self.filter(h, look, position, held)
    elif hasattr(self, "sprm"):
      found = self.sprm(h, look.query, held)
    else:
      found = None
    if self.kind == "none":
      return found
    if self.kind == "softmax":
      out = self.attention(h, h, look, time, time, bias, held)
    else:
      out = self.attention(h, look, bias, held)
    if found is None:
      return out
    return self.merge[0] * out + self.merge[1] * found

  def _ff(self, h, rngs):
    h = layers.ACTIVATIONS[self.activation](self.ff_in(h))
    return self.ff_out(layers.dropout(self.rate, rngs, h))

  def __call__(
    self,
    x: jax.Array,
    look: attention.Look,
    time: jax.Array,
    bias: jax.Array | None,
    position: jax.Array,
    rngs: nnx.Rngs | None,
    held: held_lib.Held | None = None,
  ) -> jax.Array:
    """One layer.

    Args:
      x: [B, T, D].
      look: Where a token may look.
      time: float32 [B, T], days.
      bias: Of attention.
      position: int32 [B, T], in the window.
      rngs: Stream "dropout" in training; None to predict.
      held: What is kept of earlier tokens, where x [B, C, D] go on with them.

    Returns:
      x's shape.
    """
    drop = lambda y: layers.dropout(self.rate, rngs, y)
    mix = lambda h: drop(self._mix(h, look, time, bias, position, held))
    if self.pre:
      x = x + mix(self.norm(x))
      return x + drop(self._ff(self.norm_ff(x), rngs)) if self.has_ff else x
    x = self.norm(x + mix(x))
    return self.norm_ff(x + drop(self._ff(x, rngs))) if self.has_ff else x
