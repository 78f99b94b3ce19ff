"""Decoder-only language models of the Llama family, as Hugging Face has them.

Llama 3, Qwen 2.5 (biases of queries, keys and values), Qwen 3 (norms of queries
and keys) and SmolLM2 (tied table) are settings of one module.

B batch, T tokens, V vocabulary, D model width, F feed-forward width, L layers, N
query heads, K heads of keys and values, H head width.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax import tables
from lumos_jax.models import attention, layers, stack

# Projections of a block that low-rank updates can stand beside.
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class Architecture:
  """Sizes and forms of a model.

  Attributes:
    vocabulary: V.
    d_model: D.
    d_ff: F.
    n_layers: L.
    n_heads: N.
    n_kv_heads: K, a divisor of N: each serves N / K query heads.
    head_width: H; N H need not be D.
    theta: Base of the rotary wavelengths.
    factors: float [H / 2] that divide the rotary frequencies; () for none.
    epsilon: Of the norms.
    tied: The output table is the input's.
    qkv_bias: Queries, keys and values have biases.
    qk_norm: Queries and keys are normed, head by head.
  """

  vocabulary: int
  d_model: int
  d_ff: int
  n_layers: int
  n_heads: int
  n_kv_heads: int
  head_width: int
  theta: float = 10000.0
  factors: tuple[float, ...] = ()
  epsilon: float = 1e-5
  tied: bool = True
  qkv_bias: bool = False
  qk_norm: bool = False

  def __post_init__(self):
    if min(dataclasses.astuple(self)[:7]) < 1:
      raise ValueError(f"sizes of a language model must be above 0: {self}")
    if self.n_heads % self.n_kv_heads:
      raise ValueError(
        f"{self.n_heads} heads do not divide by {self.n_kv_heads} heads of keys "
        "and values"
      )
    if self.head_width % 2:
      raise ValueError(f"head width {self.head_width} must be even")

  def frequencies(self) -> np.ndarray:
    """Rotary angles a position, float32 [H / 2]."""
    half = self.head_width // 2
    found = self.theta ** -(np.arange(half, dtype=np.float64) / half)
    if self.factors:
      found = found / np.asarray(self.factors, np.float64)
    return found.astype(np.float32)


def llama3_factors(
  head_width: int,
  theta: float,
  factor: float,
  low: float,
  high: float,
  original: int,
) -> tuple[float, ...]:
  """Llama 3.1's scaling: long wavelengths slow down, short ones stay.

  Args:
    head_width: H.
    theta: Base of the wavelengths.
    factor: By which long ones are slowed down.
    low, high: Turns within the original context below which a wavelength is
      long, above which it is short.
    original: Tokens of the context before.

  Returns:
    float [H / 2], divisors of the frequencies.
  """
  half = head_width // 2
  turns = original * theta ** -(np.arange(half) / half) / (2 * np.pi)
  smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
  return tuple((1.0 / ((1.0 - smooth) / factor + smooth)).tolist())


class Projection(nnx.Module):
  """A linear layer, with a low-rank update beside it where asked (LoRA)."""

  def __init__(
    self,
    width: int,
    out: int,
    axes: tuple[str | None, str | None],
    *,
    bias: bool = False,
    rank: int = 0,
    alpha: float = 0.0,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    """The update starts at zero; its scale is alpha / rank."""
    value = 0.02 * jax.random.normal(rngs.params(), (width, out))
    self.kernel = nnx.Param(value, axes=axes)
    self.bias = layers.zeros((out,), axes[1:]) if bias else None
    self.rank, self.scale = rank, alpha / rank if rank else 0.0
    self.dtype = dtype
    if rank:
      value = jax.random.normal(rngs.params(), (width, rank)) * width**-0.5
      self.lora_a = nnx.Param(value, axes=(axes[0], None))
      self.lora_b = layers.zeros((rank, out), (None, axes[1]))

  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, T, width] -> [B, T, out]."""
    own = lambda p: p[...].astype(self.dtype)
    y = x @ own(self.kernel)
    if self.rank:
      y = y + (x @ own(self.lora_a)) @ own(self.lora_b) * self.scale
    return y if self.bias is None else y + own(self.bias)[None, None]


class Block(nnx.Module):
  """Attention and a gated feed-forward layer, each behind a norm."""

  def __init__(self, a: Architecture, cfg, *, rngs: nnx.Rngs):
    """`cfg` is config.model: dtype, attention_kernel, LoRA's keys."""
    dtype = jnp.dtype(cfg.dtype)

    def make(name, width, out, axes, bias=False):
      rank = cfg.lora_rank if name in cfg.lora_on else 0
      return Projection(
        width, out, axes, bias=bias, rank=rank, alpha=cfg.lora_alpha,
        dtype=dtype, rngs=rngs,
      )  # fmt: skip

    d, inner, kv = (
      a.d_model,
      a.n_heads * a.head_width,
      a.n_kv_heads * a.head_width,
    )
    norm = lambda n: layers.rms_norm(n, a.epsilon, dtype=dtype, rngs=rngs)
    self.attention_norm, self.mlp_norm = norm(d), norm(d)
    self.q = make("q", d, inner, ("embed", "heads"), a.qkv_bias)
    self.k = make("k", d, kv, ("embed", "heads"), a.qkv_bias)
    self.v = make("v", d, kv, ("embed", "heads"), a.qkv_bias)
    self.o = make("o", inner, d, ("heads", "embed"))
    self.gate = make("gate", d, a.d_ff, ("embed", "mlp"))
    self.up = make("up", d, a.d_ff, ("embed", "mlp"))
    self.down = make("down", a.d_ff, d, ("mlp", "embed"))
    self.q_norm = norm(a.head_width) if a.qk_norm else None
    self.k_norm = norm(a.head_width) if a.qk_norm else None
    self.architecture, self.kernel = a, cfg.attention_kernel

  def __call__(
    self, x: jax.Array, look: attention.Look, angle: jax.Array
  ) -> jax.Array:
    """x [B, T, D], angle float32 [B, T, 1, H / 2] -> x's."""
    h = self.attention_norm(x)
    split = lambda y: y.reshape(*y.shape[:2], -1, self.architecture.head_width)
    q, k, v = split(self.q(h)), split(self.k(h)), split(self.v(h))
    if self.q_norm is not None:
      q, k = self.q_norm(q), self.k_norm(k)
    q, k = attention.rotate(q, angle), attention.rotate(k, angle)
    y = attention.attend(q, k, v, look, None, self.kernel)
    x = x + self.o(y.reshape(*y.shape[:2], -1))
    h = self.mlp_norm(x)
    return x + self.down(jax.nn.silu(self.gate(h)) * self.up(h))


class Llama(nnx.Module):
  """Tokens -> states; the table of the output is `output`."""

  def __init__(self, a: Architecture, cfg, *, rngs: nnx.Rngs):
    """Builds it.

    Args:
      a: Sizes and forms.
      cfg: config.model: dtype, attention_kernel, remat, scan_layers, lora_rank,
        lora_alpha, lora_on.
      rngs: Stream "params".
    """
    stack.check_config(cfg)
    self.architecture, self.dtype = a, jnp.dtype(cfg.dtype)
    table = lambda: layers.embedding(
      a.vocabulary, a.d_model, ("vocab", "embed"), deviation=0.02, rngs=rngs
    )
    self.table = table()
    self.output_table = None if a.tied else table()
    self.stack = stack.Stack(
      lambda r: Block(a, cfg, rngs=r), a.n_layers, cfg, rngs
    )
    self.norm = layers.rms_norm(
      a.d_model, a.epsilon, dtype=self.dtype, rngs=rngs
    )

  def output(self) -> jax.Array:
    """[V, D], whose products with states are logits; in the model's dtype."""
    table = self.table if self.output_table is None else self.output_table
    return table[...].astype(self.dtype)

  def __call__(
    self,
    ids: jax.Array,
    segment: jax.Array,
    position: jax.Array,
    shares: jax.Array | None = None,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """States of the last layer, behind the final norm.

    Args:
      ids: int32 [B, T].
      segment: int32 [B, T]: tokens look back within theirs; 0 is padding.
      position: int32 [B, T], from 0 in each segment.
      shares: float32 [L + 1] of hidden states, as transformers counts them: the
        first is the embedding, the last stands behind the final norm.

    Returns:
      [B, T, D]; with `shares` also the weighted sum of hidden states, float32.
    """
    x = tables.lookup(self.table[...], ids).astype(self.dtype)
    look = attention.Look(segment, segment, causal=True)
    frequency = jnp.asarray(self.architecture.frequencies())
    angle = position[..., None, None].astype(jnp.float32)
    angle = angle * frequency[None, None, None]
    step = lambda block, x, _: block(x, look, angle)
    if shares is None:
      return self.norm(self.stack(step, x, None))
    # What leaves the last block is no hidden state before it is normed.
    inner = jnp.where(jnp.arange(1, len(shares)) < len(shares) - 1, 1.0, 0.0)
    first = shares[0] * x.astype(jnp.float32)
    x, total = self.stack(step, x, None, shares[1:] * inner)
    x = self.norm(x)
    return x, first + total + shares[-1] * x.astype(jnp.float32)

  def logits(
    self, ids: jax.Array, segment: jax.Array, position: jax.Array
  ) -> jax.Array:
    """All logits, float32 [B, T, V]: of short texts."""
    states = self(ids, segment, position)
    return jnp.dot(states, self.output().T, preferred_element_type=jnp.float32)


def merged(
  params: Mapping[str, jax.Array], scale: float
) -> dict[str, jax.Array]:
  """Parameters of the model without adapters that says the same.

  Args:
    params: {path: array} of a model with adapters.
    scale: Theirs: model.lora_alpha / model.lora_rank.
  """
  out = {}
  for path, x in params.items():
    stem, _, leaf = path.rpartition("/")
    if leaf in ("lora_a", "lora_b"):
      continue
    a = params.get(f"{stem}/lora_a") if leaf == "kernel" else None
    out[path] = x if a is None else x + a @ params[f"{stem}/lora_b"] * scale
  return out
