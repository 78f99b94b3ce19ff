"""Configs: every key there is, with its default and its meaning.

common.py has the keys of every run; lumos.py and panther.py have those of one
system each (`model`, `objective` and its part of `data`) and its sizes. An
experiment (configs/*.py) starts from `default(recipe)`, changes values, and is
locked. A misspelt key, or a key of another system, is an error that names what
is meant. docs/config.md tells how to write a config and how to add a system.
"""

from lumos_jax.config.arguments import parse_arg
from lumos_jax.config.checks import check, check_key
from lumos_jax.config.errors import ConfigError
from lumos_jax.config.files import load, resolve, shipped
from lumos_jax.config.systems import SYSTEMS, default, set_size, stored

__all__ = (
  "SYSTEMS",
  "ConfigError",
  "check",
  "check_key",
  "default",
  "load",
  "parse_arg",
  "resolve",
  "set_size",
  "shipped",
  "stored",
)
