"""Users' embeddings, next events and deviations from their whole histories.

What appended states must equal: the batch path of training and evaluation, on the
windows that `held_from` says.
"""

import jax
import numpy as np

from lumos_jax.data import instants, sequences
from lumos_jax.data.windows import held_from
from lumos_jax.evaluators import probe
from lumos_jax.objectives import deviation
from lumos_jax.recipes import expected

ROWS = 64  # Of a batch.


def first_events(record, count):
  """The record as it was after so many events."""
  names = ("day", "time", "categorical", "numeric")
  return {k: v[:count] if k in names else v for k, v in record.items()}


class Recomputed:
  """Answers of a model about histories."""

  def __init__(self, predictor):
    self.recipe, self.data = predictor.recipe, predictor.config.data
    self.cut = sequences.Sequences(predictor.schema, self.data)
    self.params = predictor.parameters
    self.module = predictor.module
    self.values = self.recipe.schema.categorical("activity")[
      self.recipe.column
    ].size
    self._run = jax.jit(self._program)

  def _program(self, params, batch, event):
    recipe, module = self.recipe, self.module(params)
    model, last = module.model, batch["last"]
    take = lambda x: jax.numpy.take_along_axis(
      x, last.reshape(-1, *[1] * (x.ndim - 1)), 1
    )[:, 0]
    states, pointed = model(batch), None
    if recipe.cfg.copy:
      copied = model.copied(states, batch).at(last)
      pointed = deviation.Pointed(
        copied.keep[:, 0], copied.give[:, 0], copied.weights[:, 0], copied.ids
      )
    gap = instants.elapsed(take(batch["next_time"]), take(batch["time"]))
    return {
      "embed": recipe.embed(module, batch, batch["counted"]),
      "next": recipe.next_events(module, batch, self.values),
      "deviation": expected.features(
        recipe, module, take(states), event, gap, pointed
      ),
      "state": take(states),
    }

  def _called(self, rows, events):
    out = []
    for i in range(0, len(rows), ROWS):
      some, more = rows[i : i + ROWS], events[i : i + ROWS]
      rest = ROWS - len(some)
      batch = {
        k: np.stack([r[k] for r in some] + [some[0][k]] * rest) for k in some[0]
      }
      event = np.stack([*more] + [more[0]] * rest)
      found = jax.device_get(self._run(self.params, batch, event))
      count = len(some)
      out.append(jax.tree.map(lambda x, n=count: x[:n], found))
    return jax.tree.map(lambda *x: np.concatenate(x), *out)

  def windows(self, record):
    """Rows of all windows in order, the last one last."""
    n, length = len(record["time"]), self.data.sequence_length
    first, start, counted = -int(self.data.start_token), 0, 0
    out = []
    while True:
      row = self.cut._row(record, start + first, min(start + first + length, n))
      place = start + np.arange(length)
      held = int(row["segment"].sum())
      out.append(
        row | {"counted": place >= counted, "last": np.int32(max(held - 1, 0))}
      )
      counted = start + length
      if counted >= n - first:
        assert start == held_from(n - first, length)
        return out
      start = held_from(counted + 1, length)

  def embedding(self, records):
    """[n, E]."""
    rows = [self.windows(r) for r in records]
    flat = [
      w | {"seen": np.zeros(8, np.int32)} for windows in rows for w in windows
    ]
    none = [np.zeros(len(r["ids"][0]), np.int32) for r in flat]
    found = self._called(flat, none)["embed"]
    ends = np.cumsum([len(w) for w in rows])[:-1]
    add = lambda x: np.stack(
      [part.sum(0, dtype=np.float64) for part in np.split(x, ends)]
    )
    return probe.pooled(add(found["sums"]), add(found["tokens"]))

  def asked(self, records, at, events):
    """{"probability": [n, V], "deviation": [n, F], "state": [n, D]}.

    An event that is the first comes with its start token (`expected.of_batch`).
    """
    rows, come = [], []
    for record, when in zip(records, at, strict=True):
      row = self.windows(record)[-1]
      row["next_time"][row["last"]] = instants.split(np.int64(when))
      seen = np.unique(record["categorical"][:, self.recipe.column])
      width = max(64, self.data.sequence_length)
      row["seen"] = np.pad(seen, (0, width - len(seen))).astype(np.int32)
      rows.append(row)
      beside = row["next_time"] if not len(record["time"]) else row["time"]
      come.append(row | {"time": beside})
    found = self._called(rows, events)
    found["deviation"] = self._called(come, events)["deviation"]
    p = np.zeros((len(rows), self.values))
    listed = found["next"]
    at = np.arange(len(rows))[:, None]
    np.add.at(p, (at, listed["value"]), listed["probability"])
    p[:, 0] = 0
    return {**found, "probability": p}
