"""Attention through one function, and the ways time enters it.

B batch, Q queries, T keys, N heads, H width of a head.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lumos_jax import partition
from lumos_jax.models import held as held_lib
from lumos_jax.models import layers

KERNELS = ("auto", "xla", "splash", "cudnn")
# Where splash attention begins to pay: below, all scores fit beside the rest.
_LONG = 512
_LANES = 128
_BLOCK = 512


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Look:
  """Which keys a query may look at: those of its segment, and none ahead.

  Attributes:
    query: int32 [B, Q], segments.
    key: int32 [B, T]. A query's segment must have a key it may look at.
    limit: int32 [B, Q] or None: keys from this position on are hidden.
    causal: Keys behind the query's position are hidden; needs Q = T.
  """

  query: jax.Array
  key: jax.Array
  limit: jax.Array | None = None
  causal: bool = dataclasses.field(default=False, metadata=dict(static=True))

  def dense(self) -> jax.Array:
    """bool [B, Q, T]."""
    mask = self.query[:, :, None] == self.key[:, None]
    step = jnp.arange(mask.shape[2])
    if self.limit is not None:
      mask = mask & (step[None, None] < self.limit[..., None])
    if self.causal:
      mask = mask & (step[:, None] >= step[None])[None]
    return mask


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  look: Look,
  bias: jax.Array | None = None,
  kernel: str = "auto",
  interpret: bool = False,
) -> jax.Array:
  """Softmax attention.

  Args:
    q: [B, Q, N, H].
    k, v: [B, T, N, H], or fewer heads that divide N: each then serves as many
      neighbouring query heads.
    look: Who may look where.
    bias: [B or 1, N, Q, T], added to the scores; no fused kernel takes one.
    kernel: "xla" anywhere; "splash" (TPU) holds no [Q, T] array; "cudnn" (GPU,
      bfloat16); "auto" takes splash on TPU for long self-attention, else xla.
    interpret: Emulates splash, for tests.

  Returns:
    [B, Q, N, H].
  """
  plain = functools.partial(_xla, look=look, bias=bias)
  fits = bias is None and look.limit is None and q.shape[1] == k.shape[1]
  mesh = partition.current()
  ways = mesh.shape["tensor"] if mesh else 1
  even = q.shape[2] % ways == 0
  if kernel == "splash" and not fits:
    raise ValueError(
      "model.attention_kernel = 'splash' takes no time bias and no limits: set "
      "model.time_bias = False, or attention_kernel = 'auto'"
    )
  if kernel == "splash" and not even:
    raise ValueError(
      f"model.n_heads = {q.shape[2]} does not divide by mesh.tensor = {ways}, "
      "which splash attention needs; or set model.attention_kernel = 'auto'"
    )
  splash = functools.partial(_splash, look=look, interpret=interpret)
  if kernel == "splash":
    return splash(q, k, v)
  if kernel == "cudnn":
    return _xla(q, k, v, look, bias, "cudnn")
  if kernel == "auto" and fits and even and q.shape[1] >= _LONG:
    return jax.lax.platform_dependent(q, k, v, tpu=splash, default=plain)
  return plain(q, k, v)


def whole_sequence(x: jax.Array) -> jax.Array:
  """Gathers keys or values [B, T, ...] along the mesh's sequence axis.

  XLA might gather the queries instead, and with them all scores.
  """
  mesh = partition.current()
  if mesh is None or mesh.shape["sequence"] == 1:
    return x
  free = (P.UNCONSTRAINED,) * (x.ndim - 2)
  return partition.lay(x, P(partition.BATCH, None, *free))


def _xla(q, k, v, look, bias, implementation="xla"):
  if bias is not None:
    bias = bias.astype(q.dtype)
  k, v = whole_sequence(k), whole_sequence(v)
  return jax.nn.dot_product_attention(
    q,
    k,
    v,
    bias=bias,
    mask=look.dense()[:, None],
    implementation=implementation,
  )


def _attend_next(q, k, v, held: held_lib.Held, bias) -> jax.Array:
  """Softmax attention of new tokens [B, C, N, H], as dot_product_attention."""
  first = lambda x: jnp.swapaxes(x, 1, 2)
  q = first(q) * np.asarray(q.shape[-1] ** -0.5, q.dtype)
  scores, open_to = held.scores(q, first(k), bias)
  scores = jnp.where(open_to, scores, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, -1).astype(q.dtype)
  return first(held.mixed(weights, first(v)))


def _splash(q, k, v, look, interpret):
  """Splash attention, each device on its rows, heads and queries."""
  from jax.experimental.pallas.ops.tpu import splash_attention

  length, n, width = q.shape[1:]
  if k.shape[2] != n:
    k, v = (jnp.repeat(x, n // x.shape[2], 2) for x in (k, v))
  mesh = partition.current()
  parts, heads = (mesh.shape[a] if mesh else 1 for a in ("sequence", "tensor"))
  block = min(_BLOCK, -(-length // parts // _LANES) * _LANES)
  rest = -length % (block * parts)
  # The kernel asks whole blocks; what is padded looks at itself only.
  pad = lambda x: jnp.pad(x, ((0, 0), (0, rest)) + ((0, 0),) * (x.ndim - 2))
  own = lambda x: jnp.pad(x, ((0, 0), (0, rest)), constant_values=-1)
  padded = length + rest
  kind = (
    splash_attention.CausalMask if look.causal else splash_attention.FullMask
  )
  kernel = splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask([kind((padded, padded))] * n),
    block_sizes=splash_attention.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      use_fused_bwd_kernel=True,
    ),
    head_shards=heads,
    q_seq_shards=parts,
    interpret=interpret,
  )
  rows = P(partition.BATCH, "sequence", "tensor")
  # Keys and values are gathered along the sequence: queries and scores, which
  # are larger, stay.
  keys = P(partition.BATCH, None, "tensor")
  lies = None
  if mesh:
    place = NamedSharding(mesh, P("tensor", "sequence"))
    lies = kernel.manual_sharding_spec(place)
  run = partition.on_devices(
    _splash_local,
    (lies, rows, keys, keys, partition.TOKENS, P(partition.BATCH)),
    rows,
  )
  scale = np.asarray(width**-0.5, q.dtype)
  out = run(
    kernel, pad(q * scale), pad(k), pad(v), own(look.query), own(look.key)
  )
  return out[:, :length].astype(q.dtype)


def _splash_local(kernel, q, k, v, query, key):
  from jax.experimental.pallas.ops.tpu import splash_attention

  first = lambda x: jnp.swapaxes(x, 1, 2)
  ids = splash_attention.SegmentIds(query, key)
  out = jax.vmap(kernel)(first(q), first(k), first(v), segment_ids=ids)
  return first(out)


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
  return rotate(x, time[..., None, None] * frequency[None, None, None])


def rotate(x: jax.Array, angle: jax.Array) -> jax.Array:
  """Rotates pairs of a head's channels, the i-th of both halves.

  Args:
    x: [B, T, heads, head width].
    angle: float32 [B, T, 1, head width / 2].

  Returns:
    Like x.
  """
  half = x.shape[-1] // 2
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
  """Multi-head attention from queries to a context."""

  def __init__(
    self,
    width: int,
    n_heads: int,
    *,
    use_rotary: bool,
    kernel: str = "auto",
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
    self.n_heads, self.use_rotary, self.kernel = n_heads, use_rotary, kernel

  def __call__(
    self,
    x: jax.Array,
    context: jax.Array,
    look: Look,
    time_x: jax.Array,
    time_context: jax.Array,
    bias: jax.Array | None = None,
    held: held_lib.Held | None = None,
  ) -> jax.Array:
    """Attends.

    Args:
      x: Queries' states [B, Q, D].
      context: Keys' and values' states [B, T, D].
      look: Where a query may look.
      time_x, time_context: float32 [B, Q] and [B, T] in days.
      bias: [B or 1, heads, Q, T], added to the scores.
      held: Keys and values of earlier tokens, where x and context, the same,
        go on with them.

    Returns:
      [B, Q, D].
    """
    split = lambda a: a.reshape(*a.shape[:2], self.n_heads, -1)
    q, k = split(self.query(x)), split(self.key(context))
    v = split(self.value(context))
    if self.use_rotary:
      q, k = rotary(q, time_x), rotary(k, time_context)
    if held is None:
      y = attend(q, k, v, look, bias, self.kernel)
    else:
      y = _attend_next(q, k, v, held, bias)
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
    self,
    x: jax.Array,
    look: Look,
    bias: jax.Array,
    held: held_lib.Held | None = None,
  ) -> jax.Array:
    """x [B, T, D], bias [B or 1, heads, T, T] -> x's.

    With `held`, x [B, C, D] go on with earlier tokens; bias [B, heads, C, T].
    """
    gate, q, k, v = jnp.split(jax.nn.silu(self.inner(x)), 4, -1)
    split = lambda a: a.reshape(*a.shape[:2], self.n_heads, -1)
    weigh = lambda scores: jax.nn.silu(scores) / self.length
    bias = bias.astype(x.dtype)
    if held is None:
      k, v = whole_sequence(k), whole_sequence(v)
      scores = jnp.einsum("bqnk,btnk->bnqt", split(q), split(k))
      scores = jnp.where(look.dense()[:, None], weigh(scores + bias), 0)
      y = jnp.einsum("bnqt,btnk->bqnk", scores, split(v))
    else:
      q, k, v = (jnp.swapaxes(split(a), 1, 2) for a in (q, k, v))
      scores, open_to = held.scores(q, k, bias)
      scores = jnp.where(open_to, weigh(scores.astype(x.dtype)), 0)
      y = jnp.swapaxes(held.mixed(scores, v), 1, 2)
    return self.out(self.norm(y.reshape(x.shape)) * gate)
