"""The systems and their keys; a default config of each."""

from typing import Any

import ml_collections

from lumos_jax.config import common, hybrid, intent, llm4es, lumos, panther
from lumos_jax.config.errors import ConfigError
from lumos_jax.names import near

# {recipe: module with SIZES, FREE, LIMITS and defaults(c)}. recipes/__init__.py
# has the same names.
SYSTEMS: dict[str, Any] = {
  "lumos": lumos,
  "panther": panther,
  "hybrid": hybrid,
  "llm4es": llm4es,
  "intent": intent,
}


def system(recipe: str) -> Any:
  """The module of a recipe's keys.

  Raises:
    ConfigError: There is no such recipe.
  """
  if recipe not in SYSTEMS:
    raise ConfigError(
      f"config.recipe = {recipe!r} is unknown{near(recipe, SYSTEMS)} There are "
      f"{list(SYSTEMS)}"
    )
  return SYSTEMS[recipe]


def default(recipe: str = "lumos") -> ml_collections.ConfigDict:
  """All keys of a recipe with their default values; not locked.

  Raises:
    ConfigError: There is no such recipe.
  """
  keys = system(recipe)
  c = ml_collections.ConfigDict()
  common.defaults(c)
  c.recipe = recipe
  keys.defaults(c)
  return c


def set_size(config: ml_collections.ConfigDict, size: str) -> None:
  """Sets the model to a named size, and all that follows from it.

  A size is set after a data set and a form: types, rematerialisation, mesh and
  batch of a large one stand above theirs.

  Raises:
    ConfigError: The recipe has no such size.
  """
  sizes = system(config.recipe).SIZES
  if size not in sizes:
    raise ConfigError(
      f"config argument size={size!r} is unknown{near(size, sizes)} Recipe "
      f"{config.recipe!r} has {list(sizes)}"
    )
  config.update(sizes[size])


def owners(key: str) -> list[str]:
  """The recipes whose default config has a key, "model.sprm" or its like."""
  return [name for name in SYSTEMS if key in keys(default(name))]


def keys(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
  """All keys, of branches and leaves, as "train" and "train.steps"."""
  out = []
  for name, value in config.items():
    out.append(prefix + name)
    if isinstance(value, ml_collections.ConfigDict):
      out += keys(value, f"{prefix}{name}.")
  return out


def stored(values: dict[str, Any]) -> ml_collections.ConfigDict:
  """The locked config of a run's config.json.

  Keys that came after the run was made have their default. Keys that another
  recipe has, which older runs hold, are left out: nothing read them.

  Raises:
    ConfigError: There is no such recipe.
  """
  recipe = values.get("recipe", "lumos")
  mine = default(recipe)
  others = {k for name in SYSTEMS for k in keys(default(name))}
  foreign = others - set(keys(mine))
  merged = _merged(mine.to_dict(), values, foreign, "")
  return ml_collections.ConfigDict(merged).lock()


def _merged(default: Any, values: Any, foreign: set[str], prefix: str) -> Any:
  if not (isinstance(default, dict) and isinstance(values, dict)):
    return tuple(values) if isinstance(default, tuple) else values
  new = [k for k in values if k not in default and prefix + k not in foreign]
  return {
    k: _merged(default.get(k), values[k], foreign, f"{prefix}{k}.")
    if k in values
    else default[k]
    for k in (*default, *new)
  }
