"""A run's model for a service: programs of fixed shapes, compiled beforehand.

The `Predictor` is the one that exports and evaluates. What a program returns is
waited for here: an answer is there when a call returns.

B batch, T tokens of a row, D model width, C categorical columns, F features.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from lumos_jax import predictor as predictor_lib
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import instants, pipeline, sequences
from lumos_jax.data import records as records_lib
from lumos_jax.evaluators import predict, probe
from lumos_jax.objectives import deviation, next_event, top
from lumos_jax.recipes import expected
from lumos_jax.serving import history

SIZES = (1, 8, 32)  # Users of a compiled batch.
MOST_NEXT = 50
_WIDTHS = (64, 4096)  # Lists of seen values that are compiled.
Arrays = dict[str, np.ndarray]


class Model:
  """A checkpoint, opened to answer.

  Attributes:
    predictor: The run's.
    recipe, schema, tasks: Of the run.
    layout: Of users' rows.
    model_hash, step: Of the checkpoint.
    hash_bytes: Tells states of this model.
    scores: What a score is: "deviation", "forecast" or "risk".
    events: Whether it expects events (PANTHER and its relatives).
    timed: Whether an expectation depends on when the next event comes.
    calendar: Of the run's data; without entries where they are not there.
    last_day: Day after the data's last.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    step: int | str | None = None,
    data_dir: epath.PathLike | None = None,
    sizes: Sequence[int] = SIZES,
  ):
    """Restores a checkpoint; `warm` compiles.

    Args:
      workdir: Of the run.
      step: Checkpoint; default the newest.
      data_dir: A prepared data set, for its calendar; default the run's own.
      sizes: Of batches, ascending.
    """
    self.predictor = predictor_lib.Predictor(workdir, step)
    p = self.predictor
    self.recipe, self.schema, self.tasks = p.recipe, p.schema, p.tasks
    self.step, self.model_hash = p.step, p.model_hash
    self.hash_bytes = bytes.fromhex(p.model_hash)
    self.layout, self.sizes = history.Layout(p.schema), tuple(sizes)
    self.events = predictor_lib.NEXT_EVENTS in p.kinds()
    self.scores = "deviation" if self.events else "forecast"
    cfg = p.config.model
    self.timed = bool(cfg.get("target_time") or cfg.get("tell_later"))
    self.last_day, self.calendar = self._data(data_dir)
    if self.events:
      self._cut = sequences.Sequences(p.schema, p.config.data)
      self._filters = bool(p.config.data.filter_seen)
      self._look = p.alone(self._look_fn)
      self._deviation = p.alone(self._deviation_fn)
      self._next = p.alone(self._next_fn)
      self._embed = p.alone(p.recipe.embed)
      self.features = expected.names(p.recipe)
    else:
      self._example = self._examples(self.calendar)
      self._forecast = p.alone(p.recipe.predict)
      self._embed = p.alone(p.recipe.embed)

  def _data(self, data_dir) -> tuple[int, calendar_lib.Calendar]:
    p = self.predictor
    try:
      records = p.open_data(data_dir)
    except records_lib.DataError:
      if data_dir is not None:
        raise
      if p.calendar_columns and p.schema.calendar:
        logging.warning(
          "the run's data set is not here: the service knows no calendar entry; "
          "give one with --data_dir"
        )
      return p.schema.last_day, p.empty_calendar()
    return records.schema.last_day, records.calendar

  def warm(self) -> float:
    """Compiles and runs every program at every size; seconds it took."""
    begin = time.perf_counter()
    day = self.last_day
    for size in self.sizes:
      users = [self._nobody()] * size
      if self.events:
        looks = self.look([self.row(u, day) for u in users])
        ids = np.zeros((size, *self.layout.row["categorical"].shape), np.int32)
        self.deviations(looks, ids, np.zeros(size, np.float32))
        for width in _WIDTHS if self._filters else _WIDTHS[:1]:
          seen = [np.zeros(width, np.int32)] * size
          self.next_events(looks, seen)
      else:
        self.forecasts(users, [day] * size)
      self.embeddings(users, [day] * size)
    return time.perf_counter() - begin

  def _nobody(self) -> dict[str, Any]:
    """A record with one row of missing values."""
    schema = self.schema
    rows = {
      k: np.zeros([1 if n is None else n for n in shape], dtype)
      for k, (dtype, shape) in records_lib.layout(schema).items()
    }
    rows["groups"] = rows["groups"][:0]
    return {"key": "", **rows}

  def _padded(self, parts: Sequence[Arrays]) -> Iterator[tuple[Arrays, int]]:
    """Batches of compiled sizes, and how many users each has."""
    most = self.sizes[-1]
    for start in range(0, len(parts), most):
      some = list(parts[start : start + most])
      size = next(n for n in self.sizes if n >= len(some))
      count = len(some)
      some += some[-1:] * (size - count)
      yield {k: np.stack([p[k] for p in some]) for k in some[0]}, count

  # Events: PANTHER and its relatives.

  def row(
    self, record: Mapping[str, Any], day: int, at: int | None = None
  ) -> Arrays | None:
    """The row that expects a user's next event; None without history.

    Args:
      record: Of `history.User.record`.
      day: Events before it are known.
      at: Instant of the next event, where models are told; default as `day`
        begins.
    """
    found = self._cut.upcoming(record, day)
    if found is None:
      return None
    if at is not None:
      found["next_time"][found["last"]] = instants.split(np.asarray(at))
    drop = ("next", "history", "often", "seen")
    return {k: v for k, v in found.items() if k not in drop}

  def seen(self, record: Mapping[str, Any], day: int) -> np.ndarray:
    """Values that do not compete, where data.filter_seen says so; or copied."""
    found = self._cut.upcoming(record, day)
    return found["seen"] if found else np.zeros(0, np.int32)

  def _look_fn(self, module, batch):
    states, last = module.model(batch), batch["last"]
    out = {"state": jnp.take_along_axis(states, last[:, None, None], 1)[:, 0]}
    if self.recipe.cfg.copy:
      copied = module.model.copied(states, batch).at(last)
      out |= {
        "keep": copied.keep[:, 0],
        "give": copied.give[:, 0],
        "weights": copied.weights[:, 0],
        "ids": copied.ids,
      }
    return out

  def look(self, rows: Sequence[Arrays]) -> list[Arrays]:
    """What each row's model has to say of the next event: its state.

    It is made of the history alone, before any event is seen.
    """
    out = []
    for batch, count in self._padded(rows):
      found = jax.device_get(self._look(batch))
      out += [{k: v[i] for k, v in found.items()} for i in range(count)]
    return out

  def _deviation_fn(self, module, look, ids, gap):
    pointed = None
    if self.recipe.cfg.copy:
      parts = (look[n] for n in ("keep", "give", "weights", "ids"))
      pointed = deviation.Pointed(*parts)
    return expected.features(
      self.recipe, module, look["state"], ids, gap, pointed
    )

  def deviations(
    self, looks: Sequence[Arrays], ids: np.ndarray, gap: np.ndarray
  ) -> np.ndarray:
    """How far events are from what was expected: float32 [N, F].

    Args:
      looks: Of `look`.
      ids: int32 [N, C] of the events.
      gap: float32 [N], seconds since the event before.
    """
    out = []
    parts = [
      {"ids": i, "gap": np.float32(g), **x} for x, i, g in zip(looks, ids, gap)
    ]
    for batch, count in self._padded(parts):
      ids, gap = batch.pop("ids"), batch.pop("gap")
      out.append(np.asarray(self._deviation(batch, ids, gap))[:count])
    return np.concatenate(out)

  def _next_fn(self, module, look, seen):
    model, mixed = module.model, None
    states, table = model.scored(look["state"], model.values())
    if self.recipe.cfg.copy:
      row = jnp.arange(len(seen))[:, None]
      share = jnp.zeros((len(seen), table.shape[0]))
      share = share.at[row, look["ids"]].add(look["weights"])
      share = jnp.take_along_axis(share, seen, 1)
      some = share > 0.0
      log = jnp.log(jnp.where(some, share, 1.0)) + look["give"][:, None]
      given = jnp.where(some, log, -1e9)
      mixed = next_event.Mixed(look["keep"], given, given[:, 0])
    k = min(MOST_NEXT, table.shape[0])
    return top.most_likely(states, table, seen, k, mixed=mixed)

  def next_events(
    self, looks: Sequence[Arrays], seen: Sequence[np.ndarray]
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """The likeliest next values of each: ids and probabilities, at most 50."""
    if not self._filters and not self.recipe.cfg.copy:
      seen = [np.zeros(0, np.int32)] * len(looks)
    out = []
    most = max(map(len, seen))
    width = next((w for w in _WIDTHS if w >= most), most)
    parts = []
    for look, ids in zip(looks, seen, strict=True):
      wide = np.zeros(width, np.int32)
      wide[: len(ids)] = ids
      parts.append({"seen": wide, **look})
    for batch, count in self._padded(parts):
      ids = batch.pop("seen")
      value, p = jax.device_get(self._next(batch, ids))
      for v, q in zip(value[:count], p[:count], strict=True):
        some = v > 0  # 0 fills up where there are fewer.
        out.append((v[some], q[some]))
    return out

  # Days: LUMOS.

  def _examples(self, calendar) -> pipeline.Example:
    cfg = self.predictor.config.data
    return pipeline.Example(
      self.schema,
      calendar,
      self.tasks,
      cfg.eval_history_days,
      cfg.daily_labels,
      labels=False,
    )

  def edited(self, edits: Sequence[Mapping[str, Any]], day: int):
    """The calendar as edited from a day on.

    Raises:
      PredictError, SchemaError: An edit is none, or finds no entry.
    """
    return predictor_lib.edited(self.calendar, edits, day)

  def _batches(self, records, days, calendar=None):
    made = self._example if calendar is None else self._examples(calendar)
    parts = [
      made(r, np.asarray([d])) for r, d in zip(records, days, strict=True)
    ]
    parts = [
      {k: v for k, v in p.items() if k not in predict.HOST} for p in parts
    ]
    yield from self._padded(parts)

  def forecasts(
    self,
    records: Sequence[Mapping[str, Any]],
    days: Sequence[int],
    calendar: Any = None,
  ) -> list[dict[str, float]]:
    """Forecasts of all tasks of each record as of its day."""
    out = []
    for batch, count in self._batches(records, days, calendar):
      found = jax.device_get(self._forecast(batch))
      found = {k.replace("/", "_"): v.reshape(-1) for k, v in found.items()}
      out += [{k: float(v[i]) for k, v in found.items()} for i in range(count)]
    return out

  def embeddings(
    self, records: Sequence[Mapping[str, Any]], days: Sequence[int]
  ) -> list[dict[str, np.ndarray]]:
    """Embeddings of each record as of its day: {name: [D]}."""
    if not self.events:
      out = []
      for batch, count in self._batches(records, days):
        found = jax.device_get(self._embed(batch))
        out += [{k: v[i] for k, v in found.items()} for i in range(count)]
      return out
    rows, owner = [], []
    for i, (record, day) in enumerate(zip(records, days, strict=True)):
      whole = self._cut.whole(self._cut.before(record, day))
      rows += whole
      owner += [i] * len(whole)
    sums: list[np.ndarray] = []
    for batch, count in self._padded(rows):
      found = jax.device_get(self._embed(batch))
      both = np.concatenate([found["sums"], found["tokens"]], 1)
      sums += list(both[:count].astype(np.float64))
    total = np.zeros((len(records), len(sums[0])))
    np.add.at(total, np.asarray(owner), np.stack(sums))
    vectors = probe.pooled(total[:, :-1], total[:, -1:]).astype(np.float32)
    return [{"embedding": v} for v in vectors]
