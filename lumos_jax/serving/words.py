"""Users in words: rows, profile, and the calendar entries that concern them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import words as words_lib
from lumos_jax.serving import encoder, history

_YEAR_DAYS = 366
Document = dict[str, Any]


class Words:
  """Says what encoded rows of a run mean."""

  def __init__(self, layout: history.Layout, clock: encoder.Clock):
    """Takes the run's layout of rows and its clock."""
    self._layout, self._schema, self._clock = layout, layout.schema, clock
    self._say = words_lib.Words(layout.schema)

  def profile(self, user: history.User) -> Document:
    """Values by column; None where they are missing."""
    schema, out = self._schema, {}
    for f, i in zip(
      schema.categorical("profile"), user.profile_categorical, strict=True
    ):
      values = {0: None, 1: "(unknown)"}
      first = schema_lib.FIRST_VALUE
      out[f.name] = values[int(i)] if i < first else f.values[i - first]
    for f in schema.dense("profile"):
      if schema_lib.width(f) == 1:
        x = float(
          user.profile_numeric[schema.numeric_column("profile", f.name)]
        )
        out[f.name] = x if math.isfinite(x) else None
    return out

  def rows(self, rows: np.ndarray) -> list[Document]:
    """Time and values of each row, in the order given."""
    return [self._row(row) for row in rows]

  def _row(self, row: np.void) -> Document:
    values = self._say.values(row["categorical"], row["numeric"])
    time = (
      self._clock.day_text(int(row["day"]))
      if self._layout.daily
      else self._clock.time_text(int(row["time"]))
    )
    return {"time": time, "values": values}

  def entries(
    self, calendar: calendar_lib.Calendar, user: history.User, day: int
  ) -> list[Document]:
    """Entries known on a day that run or begin within a year, earliest first."""
    fields = self._schema.categorical("calendar")
    groups = {0, *user.groups.tolist()}
    out: list[Document] = []
    for e in range(len(calendar.group)):
      if int(calendar.group[e]) not in groups:
        continue
      start, end = int(calendar.start[e]), int(calendar.end[e])
      known = calendar.announced[e] <= day
      if end <= day or start > day + _YEAR_DAYS or not known:
        continue
      match: Mapping[str, Any] = {
        f.name: f.values[i - schema_lib.FIRST_VALUE]
        for f, i in zip(fields, calendar.categorical[e].tolist(), strict=True)
        if i >= schema_lib.FIRST_VALUE
      }
      name = calendar.group_names[int(calendar.group[e])]
      out.append({
        "start": start - day,
        "end": end - day,
        "start_day": self._clock.day_text(start),
        # What an edit of this entry matches.
        "match": {**match, "start": start, "group": name},
      })  # fmt: skip
    out.sort(key=lambda x: (x["start"], x["end"]))
    return out
