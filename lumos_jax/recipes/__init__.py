"""Recipes: model + loss + predict functions of each system."""

from lumos_jax.recipes import hybrid, intent, llm4es, lumos, panther

# The keys of each stand in lumos_jax/config, under the same name.
RECIPES = {
  "lumos": lumos.Lumos,
  "panther": panther.Panther,
  "hybrid": hybrid.Hybrid,
  "llm4es": llm4es.LLM4ES,
  "intent": intent.Intent,
}


def build(config, records, tasks):
  """The recipe that config.recipe names.

  Raises:
    ValueError: Unknown name, or settings that exclude each other.
  """
  if config.recipe not in RECIPES:
    raise ValueError(f"recipe = {config.recipe!r}; there are {list(RECIPES)}")
  return RECIPES[config.recipe](config, records, tasks)
