"""Stages of a chain: each is done once for its inputs, and found again.

stages.json holds, for each stage, a digest of what it was made from and the
checksums of what it made. A stage whose inputs are the same and whose files are
whole is not run again; its files are written aside and moved, so that a kill leaves
a stage done or not done.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from lumos_jax.data import records as records_lib

FILE = "stages.json"
_LINE_SECONDS = 5.0


class Say:
  """Lines on stderr: what begins at once, how far it is now and then."""

  def __init__(self):
    self._at = time.monotonic()

  def __call__(self, text: str) -> None:
    """Says a line."""
    print(text, file=sys.stderr, flush=True)
    self._at = time.monotonic()

  def now_and_then(self, text: str) -> None:
    """Says it where nothing was said for a while."""
    if time.monotonic() - self._at >= _LINE_SECONDS:
      self(f"  {text}")


class Stages:
  """What was done below a folder."""

  def __init__(self, folder: epath.PathLike, say: Say):
    self.folder, self.say = epath.Path(folder), say
    self.folder.mkdir(parents=True, exist_ok=True)
    path = self.folder / FILE
    try:
      self._done = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:  # All stages look for their files again.
      self._done = {}

  def run(
    self,
    name: str,
    inputs: Mapping[str, Any],
    files: Callable[[], list[str]] | list[str],
    make: Callable[[], None],
  ) -> str:
    """Runs a stage unless it is done.

    Args:
      name: Of the stage.
      inputs: What its result depends on, as JSON's values.
      files: What it writes below the folder; a function where that shows later.
      make: Writes them.

    Returns:
      A digest of what it made, for the inputs of later stages.
    """
    asked = digest(inputs)
    done = self._done.get(name, {})
    named = files if callable(files) else lambda: files
    if done.get("inputs") == asked and done.get("files") == self._sums(named()):
      self.say(f"{name}: done before")
    else:
      self.say(f"{name} ...")
      begin = time.monotonic()
      make()
      self._done[name] = {"inputs": asked, "files": self._sums(named())}
      write(self.folder / FILE, json.dumps(self._done, indent=1))
      self.say(f"{name}: {time.monotonic() - begin:.1f} s")
    return digest(self._done[name])

  def _sums(self, files: list[str]) -> dict[str, str]:
    found = {n: self.folder / n for n in files}
    return {
      n: records_lib.checksum(p) if p.exists() else "" for n, p in found.items()
    }


def digest(value: Any) -> str:
  """A short name of a JSON value."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def write(path: epath.PathLike, content: str | bytes) -> None:
  """Writes a file whole or not at all."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = path.parent / f".{path.name}.new"
  if isinstance(content, str):
    content = content.encode("utf-8", "replace")
  aside.write_bytes(content)
  aside.replace(path)
