"""The error of all that is wrong with a config."""


class ConfigError(ValueError):
  """A config's file, argument or key is not known; says which there are."""
