"""The Python interface of a trained run; see `lumos_jax.load`."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from etils import epath

from lumos_jax import blocks as blocks_lib
from lumos_jax import population, predictor
from lumos_jax import why as why_lib
from lumos_jax.data import schema as schema_lib

Day = int | str | datetime.date | None
_USERS_A_BLOCK = 4096
_NAMED = 10  # Ids that an error names.
_FEW_USERS = 64  # Up to here small batches are quicker than whole ones.


class Run:
  """A trained run. Its methods return Polars frames, a column `key` first.

  Each predicts as of a day (a date, or a day number where the data have no
  dates): earlier events are known, and of the calendar what was announced by
  then. Default is the day after the data's last. Users are ids as in the raw
  tables, and rows follow their order; default all. Data are the run's own,
  another prepared data set (`data=DIR`), or frames in memory
  (`tables={"activity": frame, ...}`, see data_prep/memory.py).

  Attributes:
    predictor: The model, opened.
  """

  def __init__(self, workdir: epath.PathLike, step: int | str | None = None):
    self.predictor = predictor.Predictor(workdir, step)
    self._opened: dict[str, Any] = {}
    self._population: tuple[Any, population.Population] | None = None

  def __repr__(self) -> str:
    p = self.predictor
    return (
      f"Run({str(p.workdir)!r}, recipe={p.config.recipe!r}, step={p.step}, "
      f"gives={list(p.kinds())})"
    )

  def forecast(
    self,
    as_of: Day = None,
    users: Iterable[str] | None = None,
    *,
    data: epath.PathLike | None = None,
    tables: Mapping[str, pl.DataFrame] | None = None,
  ) -> pl.DataFrame:
    """Forecasts of all declared tasks.

    Returns:
      key, as_of, and a column per task: probability, or an amount's mean, with
      "TASK_median", "TASK_low" and "TASK_high" (80 % interval) beside it.
    """
    found, day, schema = self._predict(
      predictor.FORECASTS, as_of, users, data, tables
    )
    return frame(predictor.FORECASTS, found, day, schema)

  def embed(
    self,
    as_of: Day = None,
    users: Iterable[str] | None = None,
    *,
    per_event: bool = False,
    data: epath.PathLike | None = None,
    tables: Mapping[str, pl.DataFrame] | None = None,
  ) -> pl.DataFrame:
    """Embeddings of users, or of each event (LUMOS: of each token of days).

    Returns:
      key, as_of and columns of vectors: LUMOS "mean", "max", "last" and "ewm" of
      the encoder's states, PANTHER "embedding"; per event key, as_of, day, time
      (PANTHER) and "embedding".
    """
    found, day, schema = self._predict(
      predictor.EMBEDDINGS, as_of, users, data, tables, per_event=per_event
    )
    return frame(predictor.EMBEDDINGS, found, day, schema)

  def next_events(
    self,
    k: int = 10,
    as_of: Day = None,
    users: Iterable[str] | None = None,
    *,
    data: epath.PathLike | None = None,
    tables: Mapping[str, pl.DataFrame] | None = None,
  ) -> pl.DataFrame:
    """The k most likely values of each user's next event.

    Returns:
      key, as_of, rank from 1, a text column for each part of the value, and
      probability. Users with fewer candidates than k have fewer rows.
    """
    if k < 1:
      raise predictor.PredictError(f"k = {k} must be 1 or more")
    found, day, schema = self._predict(
      predictor.NEXT_EVENTS, as_of, users, data, tables, k=k
    )
    target = self.predictor.config.data.target
    return frame(predictor.NEXT_EVENTS, found, day, schema, target)

  def what_if(
    self,
    edits: Sequence[Mapping[str, Any]],
    as_of: Day = None,
    users: Iterable[str] | None = None,
    *,
    data: epath.PathLike | None = None,
    tables: Mapping[str, pl.DataFrame] | None = None,
  ) -> pl.DataFrame:
    """Forecasts under the calendar as it is and as edited from `as_of` on.

    What such an answer means is in docs/what_if.md.

    Args:
      edits: Each the arguments of a `lumos_jax.data.calendar.Edit`, for example
        {"op": "move", "match": {"type": "Type A"}, "days": 7}.
      as_of, users, data, tables: As of other methods.

    Returns:
      key, as_of, task, forecast, edited, effect (edited - forecast); of amounts
      the mean.
    """
    kind = predictor.FORECASTS
    self.predictor.check_kind(kind)
    if not self.predictor.schema.calendar:
      raise predictor.PredictError(
        "this run's data have no calendar, so there is no entry to edit: "
        "what_if needs data prepared with a calendar table (docs/data.md)"
      )
    records = self._records(data, tables)
    schema, users = records.schema, users if users is None else list(users)
    day = self.predictor.day(as_of, schema)
    calendar = predictor.edited(records.calendar, edits, day)
    found = self._of(records, kind, day, users)
    changed = self._of(records, kind, day, users, calendar=calendar)
    before = frame(kind, found, day, schema)
    after = frame(kind, changed, day, schema)
    parts = []
    for task in self.predictor.tasks:
      name = task.name
      parts.append(
        before.select(
          "key",
          "as_of",
          task=pl.lit(name),
          forecast=pl.col(name),
          edited=after[name],
          effect=after[name] - before[name],
        )
      )
    return pl.concat(parts)

  def why(
    self,
    user: str,
    as_of: Day = None,
    *,
    event: int | None = None,
    task: str = "",
    method: str = "without",
    data: epath.PathLike | None = None,
    tables: Mapping[str, pl.DataFrame] | None = None,
  ) -> pl.DataFrame:
    """Which events and features moved a score; of recipe "hybrid".

    Args:
      user: Whose.
      as_of: Day of the score, of runs that score users.
      event: Position of the scored event among the user's, from 0, of runs that
        score events; -1 for the last.
      task: May be left out where the run has one.
      method: "without" each event, or integrated "gradients"; see why.py.
      data, tables: As of other methods.

    Returns:
      key, part ("event", "context", "profile", "residual"), name, event (its
      position), day, and moved: by how much the score's logit is higher for it,
      the largest first.

    Raises:
      PredictError: The run does not score such points, or there is no such user.
    """
    if method not in why_lib.METHODS:
      raise predictor.PredictError(
        f"method = {method!r}; use one of {why_lib.METHODS}"
      )
    try:
      explain = self.predictor.why
    except ValueError as e:
      raise predictor.PredictError(str(e)) from e
    records = self._records(data, tables)
    people = self._people(records)
    positions, unknown = people.find([user])
    if unknown:
      raise predictor.PredictError(_not_there(unknown, 1, people))
    record = people.read(positions)[0]
    users = self.predictor.recipe.inputs.users
    if users != (event is None):
      raise predictor.PredictError(
        "this run scores users as of a day: leave out event="
        if users
        else "this run scores events: say which one, event=-1 for the last"
      )
    count = len(record["day"])
    if users:
      place = self.predictor.day(as_of, records.schema)
    elif not -count <= event < count:
      raise predictor.PredictError(f"event = {event}, and there are {count}")
    else:
      place = event % count
    found = getattr(explain, method)(record, place, task)
    rows = [
      ("event", "", int(i), int(record["day"][i]), float(x))
      for i, x in zip(found.events, found.of_events, strict=True)
    ]
    rows += [("context", n, None, None, x) for n, x in found.of_context.items()]
    if method == "gradients":
      rows.append(("profile", "", None, None, found.of_profile))
      rows.append(("residual", "", None, None, found.residual))
    schema = {
      "part": pl.String,
      "name": pl.String,
      "event": pl.Int64,
      "day": pl.Int64,
      "moved": pl.Float64,
    }
    out = pl.DataFrame(rows, schema, orient="row")
    if records.schema.epoch:
      start = datetime.date.fromisoformat(records.schema.epoch)
      out = out.with_columns(
        day=pl.lit(start) + pl.duration(days=pl.col("day"))
      )
    out = out.sort(pl.col("moved").abs(), descending=True)
    return out.select(pl.lit(user).alias("key"), *out.columns)

  def _records(self, data, tables):
    if tables is not None:
      if data is not None:
        raise predictor.PredictError("give data= or tables=, not both")
      return self._from_tables(tables)
    name = "" if data is None else str(data)
    if name not in self._opened:
      self._opened[name] = self.predictor.open_data(data)
    return self._opened[name]

  def _people(self, records) -> population.Population:
    """The users; of a data set that stays open, opened once."""
    if self._population is None or self._population[0] is not records:
      self._population = records, population.Population(records)
    return self._population[1]

  def _from_tables(self, tables):
    """Raw rows encoded as the run's data were."""
    from lumos_jax.data_prep import (  # Not needed to predict from shards.
      fitted,
      memory,
    )

    known = self._opened.get("fitted")
    if known is None:
      try:
        known = fitted.load(self._records(None, None).path)
      except FileNotFoundError:
        raise
      except ValueError:  # The run's data are not here: its checkpoint is.
        known = fitted.load(self.predictor.workdir, self.predictor.step)
      self._opened["fitted"] = known
    records = memory.records(tables, known)
    self.predictor.check_records(records)
    return records

  def _predict(self, kind, as_of, users, data, tables, **kw):
    self.predictor.check_kind(kind)
    records = self._records(data, tables)
    day = self.predictor.day(as_of, records.schema)
    return self._of(records, kind, day, users, **kw), day, records.schema

  def _of(self, records, kind, day, users, **kw) -> list[blocks_lib.Block]:
    p, people = self.predictor, self._people(records)
    if users is None:
      positions = np.arange(len(people))
    else:
      users = list(users)
      if not users:
        raise predictor.PredictError(
          "users is empty: give ids, or None for all"
        )
      positions, unknown = people.find(users)
      if unknown:
        raise predictor.PredictError(_not_there(unknown, len(users), people))
    blocks = enumerate(
      positions[i : i + _USERS_A_BLOCK]
      for i in range(0, len(positions), _USERS_A_BLOCK)
    )
    few = len(positions) <= _FEW_USERS
    found = p.predict(kind, records, people, blocks, day, few=few, **kw)
    return list(found)


def _not_there(unknown: Sequence[str], asked: int, people) -> str:
  """Names ids to the one who asked for them; they go into no log."""
  named = ", ".join(map(repr, unknown[:_NAMED]))
  if len(unknown) > _NAMED:
    named += f" and {len(unknown) - _NAMED:,} more"
  return (
    f"not in the data: {named} ({len(unknown):,} of {asked:,} asked for). There "
    f"are {len(people):,} users, in the splits {list(people.splits)}; ids are "
    "text, as in the raw tables"
  )


def as_of_value(day: int, schema: schema_lib.Schema) -> datetime.date | int:
  """A day as a date, or as it is where the data have no dates."""
  if not schema.epoch:
    return day
  start = datetime.date.fromisoformat(schema.epoch)
  return start + datetime.timedelta(days=day)


def frame(
  kind: str,
  blocks: Iterable[blocks_lib.Block],
  day: int,
  schema: schema_lib.Schema,
  target: str = "",
) -> pl.DataFrame:
  """Blocks of predictions as a table with named columns.

  Args:
    kind: One of predictor.KINDS.
    blocks: Of `Predictor.predict`.
    day: Of the prediction.
    schema: Of the data.
    target: Field whose values are predicted, for next events.
  """
  frames = [_of_block(kind, b, day, schema, target) for b in blocks]
  full = [f for f in frames if len(f)]
  return pl.concat(full) if full else frames[0]


def _of_block(kind, block, day, schema, target) -> pl.DataFrame:
  columns: dict[str, Any] = {}
  for name, x in block.columns.items():
    if kind == predictor.NEXT_EVENTS and name == "value":
      columns |= _readable(schema, target, x)
    elif name in ("day", "time") and schema.epoch:
      columns[name] = _dates(name, x, schema)
    elif x.ndim == 2:
      columns[name] = pl.Series(x, dtype=pl.Array(pl.Float32, x.shape[1]))
    else:
      columns[name.replace("/", "_")] = x
  keys = pl.Series("key", block.keys, dtype=pl.String)
  out = pl.DataFrame({"key": keys, **columns})
  return out.select(
    "key", pl.lit(as_of_value(day, schema)).alias("as_of"), *out.columns[1:]
  )


def _dates(name: str, x: np.ndarray, schema: schema_lib.Schema) -> pl.Series:
  start = pl.lit(datetime.date.fromisoformat(schema.epoch))
  if name == "day":
    added = start + pl.duration(days=pl.Series(x.astype(np.int64)))
  else:
    added = start.cast(pl.Datetime("us")) + pl.duration(
      microseconds=pl.Series(x)
    )
  return pl.select(added.alias(name)).to_series()


def _readable(schema, target: str, ids: np.ndarray) -> dict[str, pl.Series]:
  """A text column for each part of the values."""
  different, at = np.unique(ids, return_inverse=True)
  said = [schema.token(target, int(i)) for i in different]
  # The same columns where there is no row.
  names = list(schema.token(target, schema_lib.MISSING))
  return {
    n: pl.Series([s[n] for s in said], dtype=pl.String).gather(at)
    for n in names
  }
