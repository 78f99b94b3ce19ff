"""What a worker found, as a file: JSON and arrays, no pickle.

An object of the classes that merge (fit, sketches, phases) is stored by its
attributes, and read into a fresh one, which keeps what is not data: fields.
"""

import json
import pathlib
from typing import Any

import numpy as np

from . import fit, phases, sketches

_KNOWN = (
  fit.Counts,
  fit.Moments,
  fit.Scales,
  phases.First,
  phases.Piece,
  phases.Tokens,
  sketches.Products,
  sketches.Quantiles,
)
_PLAIN = (str, int, float, bool, type(None))


def save(path: pathlib.Path, found: Any) -> None:
  """Writes an object; a file is whole or absent."""
  arrays: dict[str, np.ndarray] = {}
  text = json.dumps(_tree(found, arrays)).encode()
  aside = path.with_suffix(".part.npz")
  np.savez(aside, tree=np.frombuffer(text, np.uint8), **arrays)
  aside.replace(path)


def load(path: pathlib.Path, fresh: Any) -> Any:
  """Reads an object into a fresh one of its class, which is returned."""
  with np.load(path, allow_pickle=False) as arrays:
    return _filled(json.loads(arrays["tree"].tobytes()), fresh, arrays)


def _tree(x: Any, arrays: dict[str, np.ndarray]) -> Any:
  if isinstance(x, np.generic):
    x = x.item()
  if isinstance(x, _PLAIN):
    return x
  if isinstance(x, np.ndarray):
    arrays[f"a{len(arrays)}"] = x
    return {"array": f"a{len(arrays) - 1}"}
  if isinstance(x, dict):
    return {"dict": {k: _tree(v, arrays) for k, v in x.items()}}
  if isinstance(x, (list, tuple)):
    return {"list": [_tree(v, arrays) for v in x]}
  if isinstance(x, _KNOWN):
    if isinstance(x, sketches.Quantiles):
      x.compact()  # Counts, not all numbers.
    return {"object": {k: _tree(v, arrays) for k, v in vars(x).items()}}
  return {"fresh": None}


def _filled(tree: Any, fresh: Any, arrays) -> Any:
  if not isinstance(tree, dict):
    return tree
  ((kind, value),) = tree.items()
  if kind == "array":
    return arrays[value]
  if kind == "list":
    if any(isinstance(v, dict) and "fresh" in v for v in value):
      return fresh
    return [_filled(v, None, arrays) for v in value]
  if kind == "dict":
    mine = fresh or {}
    return {k: _filled(v, mine.get(k), arrays) for k, v in value.items()}
  if kind == "object":
    for k, v in value.items():
      setattr(fresh, k, _filled(v, getattr(fresh, k, None), arrays))
  return fresh
