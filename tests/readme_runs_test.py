"""Runs that README and docs/python.md use are those that commands write."""

import pathlib
import re

from lumos_jax import config as config_lib

ROOT = pathlib.Path(__file__).parent.parent
COMMANDS = ("pretrain", "pretrain:smoke", "panther")


def test_workdirs_are_those_of_shipped_configs():
  names = {config_lib.load(c).name for c in COMMANDS} | {"tuesday"}
  readme = (ROOT / "README.md").read_text()
  for command in COMMANDS:
    assert re.search(
      rf"config=(configs/)?{command.replace(':', '(.py)?:')}", readme
    )
  for text in (readme, (ROOT / "docs/python.md").read_text()):
    used = set(re.findall(r"runs/(\w+)", text))
    assert used and used <= names
  # What follows the smoke command works after it.
  load = re.search(r'load\("runs/(\w+)"\)\s+#', readme)
  assert load[1] == config_lib.load("pretrain:smoke").name
