"""Whether a dataclass that was read from JSON holds what it declares."""

import functools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from lumos_jax.data import fields as fields_lib


def check(value: Any) -> Any:
  """The same dataclass, where each attribute has its declared type.

  Raises:
    TypeError: One has not; names it.
  """
  for name, kind in _types(type(value)).items():
    found = getattr(value, name)
    if not _is(found, kind):
      raise TypeError(
        f"{type(value).__name__}.{name} is {str(found)[:80]!r}, no {kind}"
      )
  return value


@functools.cache
def _types(cls: type) -> dict[str, Any]:
  return typing.get_type_hints(cls)


def _is(value: Any, kind: Any) -> bool:
  """Whether a value read from JSON is of a type of this module's classes."""
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin in (types.UnionType, typing.Union):
    return any(_is(value, a) for a in args)
  if origin is tuple:
    if not isinstance(value, tuple):
      return False
    if args[1:] == (...,):
      return all(_is(v, args[0]) for v in value)
    return len(value) == len(args) and all(map(_is, value, args))
  if origin is not None:  # A mapping, which is kept as pairs.
    return isinstance(value, origin)
  if isinstance(value, bool) or kind is bool:
    return isinstance(value, bool) and kind is bool
  if kind is float:
    return isinstance(value, int | float) and math.isfinite(value)
  return isinstance(value, kind)


def check_tokens(tables: Mapping[str, Sequence[Any]]) -> None:
  """Raises ValueError where a token is made of ids that its parts do not have.

  Args:
    tables: {table: fields}.
  """
  for fields in tables.values():
    sizes = {f.name: f.size for f in fields if fields_lib.has_ids(f)}
    for f in fields:
      if not isinstance(f, fields_lib.Composite):
        continue
      ends = [sizes[n] for n in f.of]
      for token in f.values or ():
        if len(token) != len(ends) or not all(
          fields_lib.ANY <= i < end for i, end in zip(token, ends, strict=True)
        ):
          raise ValueError(f"{f.name!r} has a token {token} of no such ids")


def build(cls: type, doc: dict[str, Any]) -> Any:
  """The dataclass of a JSON object, checked; raises TypeError."""
  return check(cls(**{k: _tuples(v) for k, v in doc.items()}))


def _tuples(value: Any) -> Any:
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
