"""Filters over time that stand where SPRM stands, beside attention or alone.

"bsarec": a low-pass filter of the states and, weighted by channel, what it leaves
out (BSARec, arXiv 2312.10325). "tvrec": one filter for all channels whose taps
differ from place to place (TV-Rec, arXiv 2510.25259).

Both papers predict once, from the last place of a row, and may filter the whole
row. Here every place predicts, so that each sees only what came before it: the
low-pass filter is its impulse response, one-sided, which at the last place of a
row gives what the authors' Fourier transform gives there. TV-Rec's shifts are
one-sided in the paper; its places count from the end of a row there and from the
beginning of a window here, as learned positions do.

B batch, T tokens, D model width, M basis filters.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.models import attention
from lumos_jax.models import held as held_lib

KINDS = ("bsarec", "tvrec")
_SMALL = 1e-3  # Of the authors' start: a block begins as the identity.


def low_pass(length: int, frequencies: int) -> np.ndarray:
  """Impulse response [T] of keeping the lowest frequencies of T places.

  Args:
    length: T.
    frequencies: How many are kept, the constant included: from 1 to T // 2 + 1.
  """
  kept = np.arange(length // 2 + 1) < frequencies
  return np.fft.irfft(kept.astype(float), length).astype(np.float32)


def _mix(weights: jax.Array, x: jax.Array, look: attention.Look, held=None):
  """Sums of states by weights [B or 1, T, T] where a place may look."""
  weights = jnp.where(look.dense(), weights, 0.0).astype(x.dtype)
  if held is not None:
    return held.filtered(weights, x)
  return jnp.einsum("bts,bsd->btd", weights, attention.whole_sequence(x))


def _steps_back(length: int, held: held_lib.Held | None = None):
  """How far each key is behind each query, int [1, T, T]; 0 for those ahead.

  With `held`, of its new tokens: [B, C, T].
  """
  if held is None:
    step = np.arange(length)
    return np.maximum(step[:, None] - step[None], 0)[None]
  keys = jnp.arange(held.past["input"].shape[1])[None, None]
  return jnp.maximum(held.step[..., None] - keys, 0)


class LowPass(nnx.Module):
  """BSARec's frequency rescaler: low + beta^2 (x - low), beta [D]."""

  def __init__(self, width: int, length: int, frequencies: int, *, rngs):
    """Raises ValueError where T places have not so many frequencies."""
    if not 1 <= frequencies <= length // 2 + 1:
      raise ValueError(
        f"model.filter_frequencies = {frequencies} must be from 1 to "
        f"{length // 2 + 1}, half of data.sequence_length = {length} and 1"
      )
    self.response = tuple(low_pass(length, frequencies).tolist())
    self.beta = nnx.Param(
      jax.random.normal(rngs.params(), (width,)), axes=("embed",)
    )

  def __call__(self, x, look: attention.Look, position, held=None) -> jax.Array:
    """x [B, T, D] -> [B, T, D]; positions are not needed.

    With `held`, x go on with earlier tokens of the window.
    """
    del position
    back = _steps_back(x.shape[1], held)
    response = np.asarray(self.response, np.float32)
    response = response if held is None else jnp.asarray(response)
    low = _mix(response[back], x, look, held)
    high = jnp.square(self.beta[...]).astype(x.dtype)
    return low + high[None, None] * (x - low)


class TimeVariant(nnx.Module):
  """TV-Rec's filter: at place t, taps that are a mixture [t] of M filters."""

  def __init__(self, length: int, rank: int, *, rngs):
    """`length` is T, the number of taps; `rank` is M."""
    make = lambda shape: nnx.Param(
      _SMALL * jax.random.normal(rngs.params(), shape), axes=(None, None)
    )
    self.basis, self.mixture = make((rank, length)), make((length, rank))

  def __call__(self, x, look: attention.Look, position, held=None) -> jax.Array:
    """x [B, T, D], position int32 [B, T] in a window -> [B, T, D].

    With `held`, x go on with earlier tokens of the window.
    """
    back = _steps_back(x.shape[1], held)
    basis = self.basis[...]
    size = jnp.sum(jnp.square(basis), -1, keepdims=True)
    basis = basis * jax.lax.rsqrt(size + 1e-12)
    mixture = self.mixture[...][position]
    if held is None:
      weights = jnp.einsum("btm,mts->bts", mixture, basis[:, back[0]])
    else:  # Each row has places of its own: no taps [M, B, C, T].
      taps = jnp.einsum("bcm,ms->bcs", mixture, basis)
      weights = jnp.take_along_axis(taps, back, 2)
    return _mix(weights, x, look, held)


def make(cfg, length: int, *, rngs: nnx.Rngs) -> LowPass | TimeVariant:
  """The filter that config.model.sprm names, of rows of `length` tokens."""
  if cfg.sprm == "bsarec":
    return LowPass(cfg.d_model, length, cfg.filter_frequencies, rngs=rngs)
  return TimeVariant(length, cfg.filter_rank, rngs=rngs)
