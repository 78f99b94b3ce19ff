"""The sources: one module each, with `load(**options) -> Inputs`.

A module's docstring says what it reads; its `load` has the options as keyword
arguments with defaults.
"""

import dataclasses
import importlib
import inspect
from typing import Any

import polars as pl

from lumos_jax.names import near

from ..inputs import InputError, Inputs

_MODULES = (
  "clicks",
  "complete_journey",
  "complete_journey_baskets",
  "credit_default",
  "diginetica",
  "movielens",
  "msweb",
  "oulad",
  "oulad_clicks",
  "sequences",
  "tabformer",
  "tables",
  "wikispeedia",
)


def names() -> list[str]:
  """Names of all sources."""
  return list(_MODULES)


def _module(name: str):
  if name not in _MODULES:
    raise InputError(
      f"no source {name!r}{near(name, _MODULES)} There are {list(_MODULES)}"
    )
  return importlib.import_module(f"{__package__}.{name}")


def load(name: str, options: dict[str, Any]) -> Inputs:
  """Reads a source's raw tables.

  Raises:
    InputError: Unknown source or option, or the source's files are unusable.
  """
  module = _module(name)
  # Of every source.
  options = dict(options)
  until = options.pop("until", None)
  known = inspect.signature(module.load).parameters
  for option in options:
    if option not in known:
      raise InputError(
        f"source {name!r} has no option {option!r}{near(option, list(known))} "
        f"It has {[*known, 'until']}"
      )
  try:
    return dataclasses.replace(module.load(**options), until=until)
  except pl.exceptions.PolarsError as e:
    raise InputError(f"source {name!r}: a file cannot be read: {e}") from e


def describe() -> str:
  """All sources with their options, for --list."""
  lines = []
  for name in _MODULES:
    module = _module(name)
    lines.append(f"{name}: {inspect.getdoc(module).splitlines()[0]}")
    for p in inspect.signature(module.load).parameters.values():
      lines.append(f"    {p.name}={p.default!r}")
  return "\n".join(lines)
