"""Train state: plain dicts of arrays, keyed by parameter path.

{"params": {path: array}, "opt": Optax's, "step": int32, "ema": {path: array}}.
The random key of a step follows from seed and step, so it needs no state.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

State = dict[str, Any]


def split(module: nnx.Module) -> tuple[Any, dict[str, jax.Array]]:
  """A module's structure and its parameters {path: array}."""
  graph, state = nnx.split(module)
  return graph, {
    "/".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(state)
  }


def merge(graph: Any, params: dict[str, jax.Array]) -> nnx.Module:
  """The module again."""
  nested: dict = {}
  for path, value in params.items():
    *parents, last = (int(p) if p.isdigit() else p for p in path.split("/"))
    node = nested
    for p in parents:
      node = node.setdefault(p, {})
    node[last] = value
  return nnx.merge(graph, nested)


def frozen(recipe, path: str) -> bool:
  """Whether a recipe leaves a parameter as it is; most freeze none."""
  return hasattr(recipe, "frozen") and recipe.frozen(path)


def structure(recipe) -> tuple[Any, dict[str, tuple[str | None, ...]]]:
  """Graph and logical axes of the recipe's module, without making arrays."""
  module = nnx.eval_shape(lambda: recipe.init(nnx.Rngs(params=0)))
  graph, state = nnx.split(module)
  axes = {}
  for path, v in nnx.to_flat_state(state):
    names = tuple(v.get_metadata().get("axes") or ())
    # Equal blocks are stacked: theirs is an axis in front.
    names = (None,) * (len(v.shape) - len(names)) + names
    axes["/".join(map(str, path))] = names
  return graph, axes


def init(recipe, tx, seed: int, ema: bool, batch: Any = None) -> State:
  """A fresh state (call it under jit with the state's shardings).

  Args:
    recipe: Makes the module.
    tx: The optimizer.
    seed: Of the parameters.
    ema: Keep a moving average.
    batch: The first one, from which a recipe may take scales.
  """
  rngs = nnx.Rngs(params=jax.random.key(seed))
  _, params = split(recipe.init(rngs, batch))
  state = {
    "params": params,
    "opt": tx.init(params),
    "step": jnp.zeros((), jnp.int32),
  }
  if ema:
    state["ema"] = jax.tree.map(jnp.copy, params)
  return state


def eval_params(state: State) -> dict[str, jax.Array]:
  """Parameters to evaluate: the moving average where there is one."""
  return state.get("ema", state["params"])


def count(params: dict[str, jax.Array]) -> int:
  """Number of parameters."""
  return sum(v.size for v in params.values())
