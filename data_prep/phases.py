"""What one look at a piece of the activity finds; finds of all pieces merge."""

import numpy as np

from lumos_jax.data import schema as schema_lib

from . import fit, sketches


class First:
  """Values and numbers of events, before anything is fitted.

  Attributes:
    counts: Of categorical values.
    numbers: {field: quantiles of its training numbers}, of Binned fields.
    some: Whether there is a training event.
    beyond: {field: numbers beyond the fitted range}, where nothing is fitted.
  """

  def __init__(self, fields, least_users: int):
    self._bins = [f for f in fields if isinstance(f, schema_lib.Binned)]
    self.counts = fit.Counts(fields, least_users=least_users)
    self.numbers = {f.name: sketches.Quantiles() for f in self._bins}
    self.some, self.beyond = False, {}

  def add(self, rows, chosen: np.ndarray | None, some: bool) -> None:
    """Adds a piece; `chosen` are positions to fit on, None for none."""
    self.counts.add(rows.columns, chosen, rows.user)
    self.some |= some
    for f in self._bins:
      x = rows.columns[f.name]
      if chosen is not None:
        x = x.take(chosen)
        self.numbers[f.name].add(x[np.isfinite(x)])
      elif count := fit.beyond(f, x):
        self.beyond[f.name] = self.beyond.get(f.name, 0) + count

  def merge(self, other: "First") -> None:
    """Adds what another piece holds."""
    self.counts.merge(other.counts)
    self.some |= other.some
    for name, quantiles in self.numbers.items():
      quantiles.merge(other.numbers[name])
    for name, count in other.beyond.items():
      self.beyond[name] = self.beyond.get(name, 0) + count


class Tokens:
  """Products of composite fields.

  Attributes:
    products: {field: counts}.
  """

  def __init__(self, composites, least_users: int):
    self.products = {
      f.name: sketches.Products(least_users=least_users) for f in composites
    }

  def merge(self, other: "Tokens") -> None:
    """Adds what another piece holds."""
    for name, found in self.products.items():
      found.merge(other.products[name])


class Piece:
  """What is known of a piece that was encoded and kept.

  Attributes:
    scales: Of its numbers.
    counts: {composite: counts of its rows}.
    events, rows, labels, bytes: How many, the last of the encoded rows.
  """

  def __init__(self, fields):
    self.scales, self.counts = fit.Scales(fields), {}
    self.events = self.rows = self.labels = self.bytes = 0

  def add(self, rows, out: dict, counts: dict, chosen) -> None:
    """Notes the encoded rows `out` of the events `rows`."""
    self.scales.add(out["numeric"], chosen)
    self.counts = counts
    self.events, self.rows = len(rows.user), len(out["user"])
    self.labels = len(rows.outcomes["id"])
    self.bytes = sum(a.nbytes for a in out.values())
