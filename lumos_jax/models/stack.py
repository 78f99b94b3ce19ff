"""Equal blocks one after another, their parameters in one array each.

A deep model then compiles as one block that is scanned, and a block's inner
values may be made again in the backward pass instead of kept.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax import partition

# What of a block the forward pass keeps for the backward pass.
REMAT = {
  "none": None,
  # Products of matrices, which are dear to make again; not their activations.
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


def check_config(cfg) -> None:
  """Raises ValueError for a model.remat that does not exist."""
  if cfg.remat not in REMAT:
    raise ValueError(f"model.remat = {cfg.remat!r}; use one of {list(REMAT)}")


class Stack(nnx.Module):
  """L blocks; parameters [L, ...]."""

  def __init__(
    self, make: Callable[[nnx.Rngs], nnx.Module], count: int, cfg, rngs
  ):
    """Builds the blocks.

    Args:
      make: Makes one, with stream "params".
      count: L; with 0, states pass through.
      cfg: config.model: remat, scan_layers.
      rngs: Stream "params".
    """
    self.count, self.remat, self.scan = count, cfg.remat, cfg.scan_layers
    if count:
      keys = jax.random.split(rngs.params(), count)
      self.blocks = nnx.vmap(lambda key: make(nnx.Rngs(params=key)))(keys)

  def __call__(
    self,
    step: Callable[[nnx.Module, Any, nnx.Rngs | None], Any],
    x: jax.Array,
    rngs: nnx.Rngs | None,
    shares: jax.Array | None = None,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Runs x through all blocks.

    Args:
      step: (block, x, rngs) -> x.
      x: The first block's input.
      rngs: Stream "dropout" in training; None to predict.
      shares: float32 [L], weights of the blocks' outputs.

    Returns:
      The last block's output; with `shares` also the weighted sum of all
      blocks', float32.
    """
    total = None if shares is None else jnp.zeros(x.shape, jnp.float32)
    if not self.count:
      return x if shares is None else (x, total)
    graph, params = nnx.split(self.blocks)
    keys = (
      None if rngs is None else jax.random.split(rngs.dropout(), self.count)
    )

    def body(carry, item):
      (x, total), (values, key, share) = carry, item
      # Parameters come to the rows; XLA might send the rows, which are larger.
      x = partition.lay(x, partition.TOKENS)
      stream = None if key is None else nnx.Rngs(dropout=key)
      x = step(nnx.merge(graph, values), x, stream)
      if share is not None:
        total = total + share * x.astype(jnp.float32)
      return (x, total), None

    if self.remat != "none":
      body = jax.checkpoint(body, policy=REMAT[self.remat])
    (x, total), _ = jax.lax.scan(
      body,
      (x, total),
      (params, keys, shares),
      unroll=1 if self.scan else self.count,
    )
    return x if shares is None else (x, total)

  def each(self) -> Iterator[nnx.Module]:
    """The blocks, one after another, to predict with."""
    if self.count:
      graph, params = nnx.split(self.blocks)
      for i in range(self.count):
        yield nnx.merge(graph, jax.tree.map(lambda v, i=i: v[i], params))
