"""Checks of a config: keys that its recipe has not, impossible numbers."""

import operator

import ml_collections
from ml_collections.config_flags import config_path

from lumos_jax.config import common, systems
from lumos_jax.config.errors import ConfigError
from lumos_jax.names import near


def check_key(config: ml_collections.ConfigDict, key: str) -> None:
  """Raises ConfigError where a config lacks "train.steps" or its like."""
  try:
    parts = config_path.split(key)
  except ValueError:
    parts = (key,)
  where, node = "config", config
  for part in parts:
    if isinstance(node, list) and part in range(len(node)):
      where, node = f"{where}[{part}]", node[part]
      continue
    if not isinstance(node, (ml_collections.ConfigDict, dict)):
      raise ConfigError(f"config.{key}: {where} has no keys, it is {node!r}")
    if part not in node:
      found = _foreign(config, key)
      if found:
        raise ConfigError(found)
      raise ConfigError(
        f"config.{key}: there is no such key{near(key, systems.keys(config))} "
        f"{where} has {sorted(node)}"
      )
    where, node = f"{where}.{part}", node[part]


def _foreign(config: ml_collections.ConfigDict, key: str) -> str:
  """Says which other recipes have a key; "" where none has."""
  names = systems.owners(key)
  if not names:
    return ""
  branch = key.rpartition(".")[0]
  node = operator.attrgetter(branch)(config) if branch in config else {}
  own = f"config.{branch} has {sorted(node)}" if node else "leave it out"
  return (
    f"config.{key} is a key of recipe {' and '.join(map(repr, names))}; this "
    f"config's recipe is {config.recipe!r}, where nothing reads it: {own}"
  )


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError for keys that nothing reads and impossible numbers."""
  system = systems.system(config.recipe)
  free = (*common.FREE, *system.FREE)
  known = systems.keys(systems.default(config.recipe))
  own = systems.keys(config)
  for key in own:
    if key not in known and not key.startswith(free):
      raise ConfigError(
        _foreign(config, key)
        or f"config.{key}: nothing reads this key{near(key, known)}"
      )
  absent = [k for k in known if k not in own]
  if absent:
    raise ConfigError(
      f"config lacks {absent}, which recipe {config.recipe!r} reads: begin with "
      f"lumos_jax.config.default({config.recipe!r})"
    )
  for key, (holds, words) in (common.LIMITS | system.LIMITS).items():
    value = operator.attrgetter(key)(config)
    if not holds(value):
      raise ConfigError(f"config.{key} = {value} must be {words}")
