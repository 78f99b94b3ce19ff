"""Texts that `llm.enrich` wrote, for training: one of a user's texts an epoch."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import polars as pl
from absl import logging
from etils import epath

from lumos_jax.data import records as records_lib
from lumos_jax.llm import offline

MANIFEST = "manifest.json"
COLUMNS = ("key", "form", "text", "source")


def manifest(out: epath.PathLike) -> dict[str, Any]:
  """What `enrich` says of a folder.

  Raises:
    DataError: There is none; says what to do.
  """
  file = epath.Path(out) / MANIFEST
  try:
    found = json.loads(file.read_text())
    if not isinstance(found, dict) or "files" not in found:
      raise ValueError("it is no manifest of texts")
  except (OSError, ValueError) as e:
    raise records_lib.DataError(
      f"{file} is absent or damaged ({type(e).__name__}): write texts there with "
      f"python -m lumos_jax.llm.enrich --out={out}"
    ) from e
  return found


def digest(out: epath.PathLike) -> str:
  """16 hex digits of which texts a folder holds.

  Raises:
    DataError: See `manifest`.
  """
  files = json.dumps(manifest(out)["files"], sort_keys=True)
  return hashlib.sha256(files.encode()).hexdigest()[:16]


def read(out: epath.PathLike, split: str) -> pl.DataFrame:
  """Texts of a split: key, form, text, source.

  Raises:
    DataError: There is no whole set of them; says what to do.
  """
  out, said = epath.Path(out), manifest(out)
  if said.get("split") != split:
    raise records_lib.DataError(
      f"{out} holds texts of split {said.get('split')!r}, not {split!r}"
    )
  frames = []
  for name, checksum in said["files"].items():
    try:
      data = (out / name).read_bytes()
      if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError("its bytes are not those that were written")
      frames.append(pl.read_parquet(data, columns=list(COLUMNS)))
    except (OSError, ValueError, pl.exceptions.PolarsError) as e:
      raise records_lib.DataError(
        f"{out / name} is absent or damaged ({type(e).__name__}): write the texts "
        "again"
      ) from e
  return pl.concat(frames)


class Texts:
  """Draws a user's text of an epoch among those that were written.

  Attributes:
    manifest: Of the folder.
  """

  def __init__(
    self,
    out: epath.PathLike,
    split: str,
    schema_hash: str,
    until: int,
    seed: int = 0,
    options: Any = None,
  ):
    """Reads all of it.

    Args:
      out: Folder of `enrich`.
      split: Whose users.
      schema_hash: Of the data that is trained on.
      until: Day before which training knows events: texts of later ones would
        tell what is to be predicted.
      seed: Of what is drawn.
      options: `text.Options` that training tells by; None for any.

    Raises:
      DataError: The texts are of other data, of events until another day, or told
        otherwise.
    """
    self.manifest, self._seed = manifest(out), seed
    for key, want in (("schema_hash", schema_hash), ("until_day", until)):
      if self.manifest.get(key) != want:
        raise records_lib.DataError(
          f"{out}: its {key} is {self.manifest.get(key)}, training has {want}: "
          "write the texts again of this data, with --until"
        )
    mine = json.loads(
      json.dumps(dataclasses.asdict(options) if options else {})
    )
    differ = _differences(mine, self.manifest.get("text", {}))
    if differ:
      raise records_lib.DataError(
        f"{out} was told with other settings than data.text has ({differ}): write "
        "the texts again, with --config of this run"
      )
    if not self.manifest.get("complete", True):
      logging.warning(
        "%s is not complete: the endpoint stopped, and some users have fewer texts",
        out,
      )
    frame = read(out, split).group_by("key", maintain_order=True)
    self._texts = dict(frame.agg("text").iter_rows())

  def __len__(self) -> int:
    return len(self._texts)

  def text(self, key: str, epoch: int) -> str | None:
    """A user's text of an epoch; None where none was written."""
    found = self._texts.get(key)
    if found is None:
      return None
    return offline.drawn(self._seed, "prepared", epoch, key).choice(found)


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
  """What two sets of options have otherwise, in words."""
  return ", ".join(
    f"{k}: {theirs.get(k)!r}, not {v!r}"
    for k, v in sorted(mine.items())
    if theirs.get(k) != v
  )
