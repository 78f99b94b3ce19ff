"""Habit statistics of a user's events, for PANTHER's profile embedding e_u.

How many events there were, over how long, and which share of them had each value
of each small field (an hour of the day, a channel, a bin of amounts): as of every
token, over the whole history up to it, the events before the window included.

B batch, T tokens, W values of the counted fields.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.data import instants, running
from lumos_jax.data import schema as schema_lib
from lumos_jax.models import layers

_SCALE = 0.2  # Of logarithms, which reach 10.


class Habits(nnx.Module):
  """Statistics -> a vector of width D a token."""

  def __init__(
    self,
    schema: schema_lib.Schema,
    width: int,
    names: Sequence[str],
    activation: str,
    *,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
  ):
    """Of the small fields among `names`, times left out; () for all that is.

    What is left out is 0, so that the layout is the schema's alone.
    """
    fields = schema.categorical("activity")
    self.columns = tuple(running.counted(schema))
    self.sizes = tuple(fields[i].size for i in self.columns)
    self.seen = tuple(
      not names or fields[i].name in names for i in self.columns
    )
    self.use_time = not names
    inputs = running.FIRST_COUNT + sum(self.sizes)
    self.mlp = layers.MLP(
      (inputs, width, width), activation=activation, dtype=dtype, rngs=rngs
    )
    self.dtype = dtype

  def __call__(self, batch) -> jax.Array:
    """[B, T, D] of a batch of data.sequences."""
    return self.mlp(self.statistics(batch).astype(self.dtype))

  def statistics(self, batch) -> jax.Array:
    """float32 [B, T, 2 + W].

    Logarithm of 1 + events, of 1 + days since the first one (both times .2), and
    the share of each value. A token counts itself; start tokens count nothing.
    """
    own = (batch["segment"] > 0) & ~batch["start"]
    first = jnp.arange(own.shape[1])[None] - batch["position"]
    # Rows that go on with a window: what came before them is in `before`.
    first = jnp.maximum(first, 0)
    owner = jnp.maximum(batch["segment"] - 1, 0)
    before = jnp.take_along_axis(batch["profile_before"], owner[..., None], 1)
    counts = [own[..., None].astype(jnp.float32)]
    for column, size in zip(self.columns, self.sizes, strict=True):
      found = jax.nn.one_hot(batch["ids"][..., column], size)
      counts.append(jnp.where(own[..., None], found, 0.0))
    counts = jnp.concatenate(counts, -1)
    # Sums from a window's first row on; whole numbers, so differences are exact.
    total = jnp.pad(jnp.cumsum(counts, 1), ((0, 0), (1, 0), (0, 0)))
    total = total[:, 1:] - jnp.take_along_axis(total, first[..., None], 1)
    events = total[..., :1] + before[..., :1]
    values = total[..., 1:] + before[..., running.FIRST_COUNT :]
    values = values / jnp.maximum(events, 1.0)
    gap = instants.elapsed(batch["time"], instants.begin(batch))
    gap = gap / instants.DAY_SECONDS
    days = before[..., 1:2] + gap[..., None]
    logs = jnp.concatenate([events, jnp.maximum(days, 0.0)], -1)
    out = jnp.concatenate([_SCALE * jnp.log1p(logs), values], -1)
    seen = np.repeat((True, self.use_time, *self.seen), (1, 1, *self.sizes))
    return jnp.where(seen[None, None], out, 0.0)
