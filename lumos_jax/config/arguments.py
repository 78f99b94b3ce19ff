"""Arguments of a config file: what stands behind the colon."""

from typing import Any

import ml_collections

from lumos_jax.config.errors import ConfigError
from lumos_jax.names import near


def parse_arg(arg: str | None, **defaults: Any) -> ml_collections.ConfigDict:
  """Reads "size=base,steps=1000,smoke": `file.py:` arguments of a config.

  Args:
    arg: What stands behind the colon.
    **defaults: Every known name with its default, which also gives its type.

  Raises:
    ConfigError: Unknown name or a value of another type.
  """
  out = ml_collections.ConfigDict(defaults)
  for part in filter(None, (arg or "").split(",")):
    name, given, text = part.partition("=")
    if name not in defaults:
      raise ConfigError(
        f"config argument {name!r} is unknown{near(name, defaults)} There are "
        f"{sorted(defaults)}"
      )
    kind = type(defaults[name])
    if kind is not bool and not given:
      raise ConfigError(f"config argument {name!r} needs a value, {name}=...")
    try:
      if kind is bool:
        value = {"": True, "true": True, "false": False}[text.lower()]
      else:
        value = kind(text)
    except (ValueError, KeyError) as e:
      raise ConfigError(
        f"config argument {part!r}: not of type {kind.__name__}"
      ) from e
    out[name] = value
  return out
