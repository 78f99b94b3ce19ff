"""Low-rank adapters (Hu et al. 2021, 2106.09685) of a pretrained module.

A weight matrix W becomes W + alpha / r A B: A is drawn, B begins at zero. The sum
is made before the product with the inputs, so that merged weights are the
adapted model to the bit. Equal blocks whose parameters are stacked (models/stack.py)
have stacked adapters; they are why no library that wraps modules fits here.

L blocks, r rank.
"""

import re

import jax
import jax.numpy as jnp
from flax import nnx

_STACKED = "blocks"


class Adapters(nnx.Module):
  """Adapters of a module's weight matrices; tables and biases have none."""

  def __init__(
    self,
    module: nnx.Module,
    pattern: str,
    rank: int,
    alpha: float,
    *,
    rngs: nnx.Rngs,
  ):
    """Draws the adapters.

    Args:
      module: Whose kernels [in, out], or [L, in, out] of stacked blocks, get them.
      pattern: Of the paths, "model/layers/blocks/ff_in/kernel" or its like, that
        do; a part of a path is enough.
      rank: r.
      alpha: As above.
      rngs: Stream "params".

    Raises:
      ValueError: The pattern meets no weight matrix.
    """
    kernels = []
    for path, value in nnx.to_flat_state(nnx.state(module, nnx.Param)):
      if path[-1] == "kernel" and len(value.shape) == 2 + (_STACKED in path):
        kernels.append((path, value.shape))
    met = [(p, s) for p, s in kernels if re.search(pattern, _text(p))]
    if not met:
      raise ValueError(
        f"model.lora_modules = {pattern!r} meets none of {len(kernels)} weight "
        f"matrices, {[_text(p) for p, _ in kernels[:5]]} among them; '' meets all"
      )
    self.paths, self.count = tuple(p for p, _ in met), len(kernels)
    self.scale = alpha / rank
    self.a, self.b = nnx.List(), nnx.List()
    for _, (*front, inputs, outputs) in met:
      drawn = jax.random.normal(rngs.params(), (*front, inputs, rank))
      axes = (None,) * (len(front) + 2)
      self.a.append(nnx.Param(drawn * inputs**-0.5, axes=axes))
      zeros = jnp.zeros((*front, rank, outputs))
      self.b.append(nnx.Param(zeros, axes=axes))

  def __call__(self, module: nnx.Module) -> nnx.Module:
    """The adapted module; its own parameters get no gradient."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    flat = {
      path: value.replace(jax.lax.stop_gradient(value[...]))
      for path, value in nnx.to_flat_state(params)
    }
    for path, a, b in zip(self.paths, self.a, self.b, strict=True):
      more = self.scale * (a[...] @ b[...])
      flat[path] = flat[path].replace(flat[path][...] + more)
    return nnx.merge(graph, nnx.from_flat_state(flat), rest)


def _text(path) -> str:
  return "/".join(map(str, path))
