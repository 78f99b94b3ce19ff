"""A pointer at the history: what comes next may be what came before.

Purchases and payments repeat themselves. Beside the logits over all values, a
pointer (Vinyals et al. 2015) spreads probability over the values of the user's
own events, and a gate says how much of it counts (See et al. 2017, eq. 9; for
repeated consumption Ren et al. 2019):

  p(v) = (1 - g) softmax(logits)_v + g sum_{j <= t, value_j = v} a_tj

B batch, T tokens, D model width, K values asked for.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.data import schema as schema_lib
from lumos_jax.models import attention, layers, relative
from lumos_jax.models import held as held_lib

_FAR = -1e9


class Copied(NamedTuple):
  """Where the pointer points, and how much that counts.

  Attributes:
    weights: float32 [B, T, T], a_tj; rows sum to 1, or to 0 without history.
    ids: int32 [B, T], values that are pointed at.
    keep: float32 [B, T], log (1 - g).
    give: float32 [B, T], log g.
  """

  weights: jax.Array
  ids: jax.Array
  keep: jax.Array
  give: jax.Array

  def of(self, target: jax.Array) -> jax.Array:
    """Log of g times what each token's own target [B, T] gets: [B, T]."""
    same = self.ids[:, None, :] == target[:, :, None]
    return self._log(jnp.sum(jnp.where(same, self.weights, 0.0), -1))

  def at(self, place: jax.Array) -> "Copied":
    """The same of one token a row, `place` int32 [B]: T is 1 but for ids."""
    take = lambda x: jnp.take_along_axis(
      x, place.reshape(-1, *[1] * (x.ndim - 1)), 1
    )
    return Copied(
      take(self.weights), self.ids, take(self.keep), take(self.give)
    )

  def shares(self, size: int) -> jax.Array:
    """After `at`: what each of V values gets, before the gate: [B, V]."""
    b = self.ids.shape[0]
    user = jnp.arange(b)[:, None]
    # Comparing ids with values would take [B, K, T].
    return jnp.zeros((b, size)).at[user, self.ids].add(self.weights[:, 0])

  def among(self, values: jax.Array, size: int) -> jax.Array:
    """After `at`: log of g times what each value [B, K] gets: [B, K]."""
    return self._log(jnp.take_along_axis(self.shares(size), values, 1))

  def _log(self, share: jax.Array) -> jax.Array:
    some = share > 0.0
    log = jnp.log(jnp.where(some, share, 1.0)) + self.give
    return jnp.where(some, log, _FAR)


class Pointer(nnx.Module):
  """Scaled dot products of states, with biases of distance and time."""

  def __init__(
    self, width: int, length: int, *, use_time: bool, dtype, rngs: nnx.Rngs
  ):
    """`width` is D, `length` T; with `use_time`, time stamps enter."""
    kw = dict(dtype=dtype, rngs=rngs)
    self.query = layers.linear(width, width, ("embed", None), **kw)
    self.key = layers.linear(width, width, ("embed", None), **kw)
    self.gate = layers.linear(width, 1, ("embed", None), **kw)
    self.bias = relative.RelativeBias(length, 1, use_time=use_time)

  def __call__(
    self,
    states: jax.Array,
    ids: jax.Array,
    look: attention.Look,
    query_time: jax.Array,
    time: jax.Array,
    held: held_lib.Held | None = None,
  ) -> Copied:
    """Points from states [B, T, D] at ids [B, T] where they may look.

    Args:
      states: Of the model.
      ids: Values of the target field; reserved ones are not pointed at.
      look: Where a token may look, itself included.
      query_time, time: int32 [B, T, 3] (data/instants.py).
      held: Of earlier tokens, where states [B, C, D] go on with them; ids and
        time are then of all.
    """
    q, k = self.query(states), self.key(states)
    product = lambda keys: jnp.einsum(
      "btd,bsd->bts", q, keys, preferred_element_type=jnp.float32
    )
    logits = product(k)
    if held is not None:  # New tokens' own keys stand at their places.
      place = jnp.arange(ids.shape[1])[None, None] == held.step[..., None]
      own = jnp.einsum("bcj,bjt->bct", logits, place.astype(jnp.float32))
      mine = place.any(1)[:, None]
      logits = jnp.where(mine, own, product(held.past["pointer"]))
    step = None if held is None else held.step
    bias = self.bias(query_time, time, step)[:, 0]
    logits = logits * q.shape[-1] ** -0.5 + bias
    open_to = look.dense() & (ids >= schema_lib.FIRST_VALUE)[:, None]
    weights = jax.nn.softmax(jnp.where(open_to, logits, _FAR), -1)
    weights = jnp.where(open_to, weights, 0.0)
    gate = self.gate(states)[..., 0].astype(jnp.float32)
    some = open_to.any(-1)
    keep = jnp.where(some, jax.nn.log_sigmoid(-gate), 0.0)
    return Copied(weights, ids, keep, jax.nn.log_sigmoid(gate))
