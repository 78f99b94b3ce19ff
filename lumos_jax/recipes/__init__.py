"""Recipes: model + loss + predict functions of each system."""

from lumos_jax.recipes import lumos, panther

_RECIPES = {"lumos": lumos.Lumos, "panther": panther.Panther}


def build(config, records, tasks):
  """The recipe that config.recipe names.

  Raises:
    ValueError: Unknown name, or settings that exclude each other.
  """
  if config.recipe not in _RECIPES:
    raise ValueError(f"recipe = {config.recipe!r}; there are {list(_RECIPES)}")
  return _RECIPES[config.recipe](config, records, tasks)
