"""Runs a model on the next rows of users' windows, in batches of fixed shapes.

B users of a compiled batch, C rows of each, T tokens of a window, D model width,
V values, L layers.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lumos_jax import predictor as predictor_lib
from lumos_jax.data import instants, running
from lumos_jax.models import held as held_lib
from lumos_jax.objectives import deviation as deviation_lib
from lumos_jax.recipes import expected
from lumos_jax.serving import appends, user_state

_SMALL = 1 << 20  # Numbers of a parameter.
# Rows of a user that a program reads at a time; 2 for an append with embedding.
_CHUNKS = (1, 2, 8, 64)

# (module, scored table [V, D], batch, states [B, D], what is copied) -> outputs.
Ask = Callable[..., dict[str, jax.Array]]


class Reader:
  """Reads rows, and asks what is said of the next one.

  Attributes:
    batch_size: B; one user alone takes a batch of its own.
    counts: Of habits.
    values: V.
    vectors: [V, ...], `event_vectors` of the recipe.
    kept: {name: shape and dtype [L, 1, ..., T, H]}, what is kept of each row.
    tail: Of what convolutions reach back to [L, 1, R, D]; or None.
    chunks: Numbers of rows that there are programs for, ascending.
  """

  def __init__(self, predictor: predictor_lib.Predictor, batch_size: int):
    """Takes the predictor's model to the first device; compiles nothing yet."""
    self._predictor, self.batch_size = predictor, batch_size
    self._recipe, self._schema = predictor.recipe, predictor.schema
    data = predictor.config.data
    self._length = data.sequence_length
    device = jax.local_devices()[0]
    params = {k: np.asarray(v) for k, v in predictor.parameters.items()}
    # Small ones are constants of a program: it need not slice layers out of them
    # at each call.
    small = {k: v for k, v in params.items() if v.size < _SMALL}
    large = {k: v for k, v in params.items() if v.size >= _SMALL}
    self._small, self._large = jax.device_put((small, large), device)
    made = jax.jit(self._made)(self._large)
    self._table, self.vectors = made["table"], np.asarray(made["vectors"])
    self.values = len(self.vectors)
    nothing = jax.eval_shape(
      lambda p: predictor.module(self._small | p).model.nothing(1), self._large
    )
    if "pointer" in nothing:  # As of one layer, so that axes are alike.
      x = nothing["pointer"]
      nothing["pointer"] = jax.ShapeDtypeStruct((1, *x.shape), x.dtype)
    self.kept = {n: x for n, x in nothing.items() if n != held_lib.TAIL}
    self.tail = nothing.get(held_lib.TAIL)
    self.counts = running.Running(self._schema)
    # A full window is begun anew with half of its rows at once.
    half = max(self._length // 2, 1)
    self.chunks = [c for c in _CHUNKS if c < half] + [half]
    self._columns = len(self._schema.categorical("activity"))
    self._numbers = self._schema.numeric_width("activity")
    self._programs: dict[Any, Any] = {}
    self._staged: dict[int, tuple[dict[str, np.ndarray], list[int]]] = {}

  def _made(self, params):
    """Tables that all calls share."""
    module = self._predictor.module(self._small | params)
    model = module.model
    return {
      "table": model.scored_values(model.values()),
      "vectors": self._recipe.event_vectors(module),
    }

  def extend(
    self, rows: Sequence[appends.Rows]
  ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads rows of at most B users.

    Returns:
      States float32 [B, C, D], and what is to be kept {name: [L, B, ..., C, H]}.
    """
    most = max(len(r.next_time) for r in rows)
    chunk = next(c for c in self.chunks if c >= most)
    batch, past, size = self._batch(rows, chunk)
    found, new = self._run(("extend", size, chunk), None, batch, past)
    return np.asarray(found), {n: np.asarray(x) for n, x in new.items()}

  def ask(
    self,
    name: Any,
    run: Ask,
    rows: Sequence[appends.Rows],
    more: Mapping[str, np.ndarray],
  ) -> dict[str, np.ndarray]:
    """What is said of the event after one row of each of at most B users.

    Args:
      name: Of the program.
      run: Makes outputs {name: [B, ...]}.
      rows: One of each user.
      more: {name: [users, ...]}, joins the batch.
    """
    batch, past, size = self._batch(rows, 1)
    for key, x in more.items():
      batch[key] = np.zeros((size, *x.shape[1:]), x.dtype)
      batch[key][: len(x)] = x
    found = self._run((name, size), run, batch, past)
    return {n: np.asarray(x)[: len(rows)] for n, x in found.items()}

  def _run(self, name, run, batch, past):
    if name not in self._programs:
      self._programs[name] = jax.jit(functools.partial(self._program, run))
    return self._programs[name](self._large, self._table, batch, past)

  def _program(self, run, params, table, batch, past):
    module = self._predictor.module(self._small | params)
    model = module.model
    if "pointer" in past:
      past = past | {"pointer": past["pointer"][0]}
    states, new = model.extend(batch, past)
    if run is None:
      if "pointer" in new:
        new = new | {"pointer": new["pointer"][None]}
      return states.astype(jnp.float32), new
    copied = None
    if self._recipe.cfg.copy:
      copied = model.copied(states, batch, past["pointer"])
      copied = copied.at(jnp.zeros(states.shape[0], jnp.int32))
    return run(module, table, batch, states[:, 0], copied)

  def _batch(self, rows: Sequence[appends.Rows], chunk: int):
    """What `Panther.extend` reads, of one user or of B, and how many these are."""
    size = 1 if len(rows) == 1 else self.batch_size
    length = self._length
    ids = np.zeros((size, chunk, self._columns), np.int32)
    numeric = np.zeros((size, chunk, self._numbers), np.float32)
    # Of the rows, of those after them, and of the window: split together.
    micros = np.zeros((size, 2 * chunk + length), np.int64)
    window_ids = np.zeros((size, length), np.int32)
    segment = np.zeros((size, chunk), np.int32)
    at = np.zeros((size, 1), np.int32)
    start = np.zeros((size, chunk), bool)
    before = np.zeros((size, 1, self.counts.width), np.float32)
    profile = [
      np.zeros((size, 1, len(x)), x.dtype) for x in rows[0].state.profile
    ]
    for b, r in enumerate(rows):
      raw, c = r.window.raw, len(r.next_time)
      held = r.at + c
      ids[b, :c] = raw["categorical"][r.at : held]
      numeric[b, :c] = raw["numeric"][r.at : held]
      micros[b, :c] = raw["time"][r.at : held]
      micros[b, chunk : chunk + c] = r.next_time
      micros[b, 2 * chunk : 2 * chunk + held] = raw["time"][:held]
      window_ids[b, :held] = raw["categorical"][:held, self._recipe.column]
      segment[b, :c], at[b, 0] = 1, r.at
      start[b, 0] = r.state.start_token and not r.begin and not r.at
      before[b, 0] = r.totals
      for x, value in zip(profile, r.state.profile, strict=True):
        x[b, 0] = value
    time = instants.split(micros)
    window_time = time[:, 2 * chunk :]
    batch = {
      "ids": ids,
      "numeric": numeric,
      "start": start,
      "time": time[:, :chunk],
      "next_time": time[:, chunk : 2 * chunk],
      "position": at + np.arange(chunk, dtype=np.int32)[None],
      "segment": segment,
      "begin": window_time[:, 0],
      "window_time": window_time,
      "window_ids": window_ids,
      "profile_categorical": profile[0],
      "profile_numeric": profile[1],
      "profile_before": before,
      "profile_user": np.zeros((size, 1), np.int32),
    }
    return batch, self._past(rows, size), size

  def _past(self, rows: Sequence[appends.Rows], size: int):
    """What is kept of B users' windows: {name: L of [B, ..., T, H]}."""
    out = {}
    if self.tail is not None:
      shape = self.tail.shape[0], size, *self.tail.shape[2:]
      out[held_lib.TAIL] = np.zeros(shape, self.tail.dtype)
      for b, r in enumerate(rows):
        out[held_lib.TAIL][:, b] = r.tail
    full = len(rows[0].window.raw["time"]) == self._length
    if size == 1 and full:  # Read where it lies.
      past = rows[0].window.past
      return out | {n: tuple(x[None] for x in past[n]) for n in self.kept}
    staged, used = self._staging(size)
    for b, r in enumerate(rows):
      for name, x in staged.items():
        x[:, b, ..., : r.at, :] = r.window.past[name][..., : r.at, :]
        # Weights of 0 let no other user's number through, unless it is none.
        x[:, b, ..., r.at : used[b], :] = 0
      used[b] = r.at
    return out | {n: tuple(x) for n, x in staged.items()}

  def _staging(self, size: int) -> tuple[dict[str, np.ndarray], list[int]]:
    """Arrays for B users, used again and again, and rows in use of each."""
    if size not in self._staged:
      made = {
        n: user_state.aligned((x.shape[0], size, *x.shape[2:]), x.dtype)
        for n, x in self.kept.items()
      }
      self._staged[size] = made, [0] * size
    return self._staged[size]


def next_events(recipe, k: int, module, table, batch, states, copied):
  """An Ask of the k most likely values; those in "seen" [B, S] do not compete."""
  seen = batch["seen"] if copied is None else batch["window_ids"]
  scored = module.model.scored_states(states)
  return recipe.listed(scored, table, copied, seen, k)


def deviation(recipe, module, table, batch, states, copied):
  """An Ask of the deviation of events, ids "event" int32 [B, C]."""
  pointed = None
  if copied is not None:
    pointed = deviation_lib.Pointed(
      copied.keep[:, 0], copied.give[:, 0], copied.weights[:, 0], copied.ids
    )
  gap = instants.elapsed(batch["next_time"], batch["time"])[:, 0]
  found = expected.features(
    recipe, module, states, batch["event"], gap, pointed, table
  )
  out = {"state": states.astype(jnp.float32), "features": found}
  if recipe.objective.gap_weight:
    out["log_gap"] = module.gap_head(out["state"])[:, 0]
  return out
