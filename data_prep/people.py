"""Who the users of a data set are: keys, positions, splits."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from lumos_jax import ids

from . import columns as columns_lib
from . import encode
from .inputs import InputError, Inputs


class People:
  """All users that activity, profile or span speak of, sorted by key.

  Attributes:
    keys: list of str [U], as they are stored.
    split: str [U].
    train: bool [U], in a training split.
    outside: Users that the split table leaves out; they are not in `keys`.
  """

  def __init__(
    self,
    raw: Inputs,
    activity: Sequence[str],
    profile: pl.DataFrame | None,
    salt: bytes | None = None,
  ):
    """Collects the users.

    Args:
      raw: Of a source.
      activity: Users with usable rows.
      profile: The table, checked.
      salt: Stores keyed hashes in place of keys.
    """
    self._raw = raw
    tables = {"profile": profile, "span": raw.span}
    found = [
      columns_lib.text_keys(t.select("key"), raw.where(name))["key"]
      .unique()
      .cast(pl.String)
      for name, t in tables.items()
      if t is not None
    ]
    found.append(pl.Series(activity, dtype=pl.String))
    keys = pl.concat(found).drop_nulls().unique().sort()
    self.outside = 0
    if raw.split is None:
      split = np.full(len(keys), "train")
    else:
      table = columns_lib.text_keys(raw.split, raw.where("split"))
      columns_lib.no_duplicates(table, raw.where("split"))
      table = table.select(
        pl.col("key").cast(pl.String), pl.col("split").cast(pl.String)
      ).drop_nulls()
      joined = pl.DataFrame({"key": keys}).join(
        table, on="key", how="left", maintain_order="left"
      )
      self.outside = joined["split"].null_count()
      joined = joined.drop_nulls()
      keys, split = joined["key"], joined["split"].to_numpy().astype(str)
    self.keys = keys.to_list()
    self.split = split
    self.train = np.isin(split, list(raw.train_splits))
    self._at = {k: i for i, k in enumerate(self.keys)}
    if salt is not None:
      self.keys = [ids.hash_id(k, salt) for k in self.keys]

  def positions(self, table: str, keys: pl.Series) -> np.ndarray:
    """int32 position of each key; -1 for null and for other users."""
    return self.lookup(columns_lib.coded(keys, self._raw.where(table)))

  def lookup(self, found: encode.Coded) -> np.ndarray:
    """The same, for keys that are coded already."""
    lookup = [self._at.get(v, -1) for v in found.values]
    return np.asarray([*lookup, -1], np.int32)[found.codes]

  def splits(self) -> dict[str, np.ndarray]:
    """{split: positions of its users}."""
    return {
      str(s): np.flatnonzero(self.split == s) for s in np.unique(self.split)
    }

  def check_some_train(self) -> None:
    """Raises InputError where no user is in a training split."""
    if not self.train.any():
      raise InputError(
        f"no user is in a training split {list(self._raw.train_splits)}; the "
        f"splits are {sorted(set(self.split.tolist()))}"
      )
