"""Config files: where they are, and what they return."""

import pathlib
import runpy

import ml_collections

from lumos_jax.config.errors import ConfigError
from lumos_jax.names import near

_PACKAGE = pathlib.Path(__file__).parents[1]
# Of a wheel, and of a checkout.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def shipped() -> dict[str, pathlib.Path]:
  """The configs that come with lumos_jax: {"pretrain": its file}."""
  folder = next((f for f in _FOLDERS if f.is_dir()), _FOLDERS[0])
  return {p.stem: p for p in sorted(folder.glob("[!_]*.py"))}


def resolve(path: str) -> str:
  """Replaces the name of a shipped config by its file; keeps arguments.

  Args:
    path: "FILE.py", "FILE.py:ARGUMENTS", "NAME" or "NAME:ARGUMENTS".

  Raises:
    ConfigError: There is neither such a file nor such a name.
  """
  name, colon, arguments = path.partition(":")
  if pathlib.Path(name).is_file():
    return path
  known = shipped()
  if name in known:
    return f"{known[name]}{colon}{arguments}"
  folders = {pathlib.Path(name).parent, pathlib.Path("configs")}
  there = sorted(str(p) for f in folders for p in f.glob("[!_]*.py"))
  files = f" {pathlib.Path.cwd()} has {there};" if there else ""
  raise ConfigError(
    f"no config file {name!r}{near(name, [*there, *known])}{files} shipped "
    f"configs go by their names: {list(known)}"
  )


def load(path: str) -> ml_collections.ConfigDict:
  """The config of a file or of a shipped config's name; see `resolve`.

  Raises:
    ConfigError: There is no such file, or its arguments are not known.
  """
  name, *arguments = resolve(path).split(":", 1)
  found = runpy.run_path(name)
  if "get_config" not in found:
    raise ConfigError(f"{name} has no function get_config()")
  return found["get_config"](*arguments)
