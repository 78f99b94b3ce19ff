"""What a preparation gives to the builder."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import pages as pages_lib
from lumos_jax.data import schema as schema_lib

from . import encode
from . import rejects as rejects_lib
from . import spill as spill_lib


@dataclasses.dataclass
class Prepared:
  """What the builder writes.

  Attributes:
    schema: Fitted.
    calendar: Of the data set.
    users: Encoded users; their rows and labels are in `pieces`, where there are
      many.
    splits: {split: positions in users.keys}.
    rejects: Rows that could not be used.
    stats: Counts, for stats.json.
    bytes: Of all encoded arrays.
    pages: Of clicks (lumos_jax.data.pages), or None.
    sessions: Of clicks (`Inputs.sessions`), or None.
    many: A `beam.Pieces` that writes on many machines; None for this one.
  """

  schema: schema_lib.Schema
  calendar: calendar_lib.Calendar
  users: encode.Users
  splits: dict[str, np.ndarray]
  rejects: rejects_lib.Rejects
  stats: dict
  bytes: int
  _stored: spill_lib.Encoded | None = None
  pages: pages_lib.Pages | None = None
  sessions: pl.DataFrame | None = None
  many: Any = None

  def files(self) -> list:
    """Of the encoded pieces, in the order of records."""
    return self._stored.files() if self._stored else []

  def pieces(self) -> Iterator[encode.Users]:
    """All users with their rows, in pieces in the order of records; once."""
    if self._stored is None:
      yield self.users
      return
    for members, rows, labels in self._stored:
      yield self.users.part(members, rows, labels)
