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
from lumos_jax.recipes import expected, hybrid
from lumos_jax.serving import appends, refusals, user_state

_SMALL = 1 << 20  # Numbers of a parameter.
# Rows of a user that a program reads at a time; 2 for an append with embedding.
_CHUNKS = (1, 2, 8, 64)
_SIZES = (1, 2, 4, 8)  # Users that a program asks about, beside the most, B.

# (module, scored table [V, D], batch, states [B, D], what is copied) -> outputs.
Ask = Callable[..., dict[str, jax.Array]]


STATES, DEVIATIONS, _LOOK = "states", "deviations", "look"


class Reader:
  """Reads rows, and asks what is said of the next one.

  Attributes:
    recipe: PANTHER's: the run's, or a hybrid's backbone.
    data: Its config.data: sequence_length is T.
    batch_size: B; one user alone takes a batch of its own.
    sizes: Users that there are programs for that ask, ascending.
    counts: Of habits.
    values: V.
    vectors: [V, ...], `event_vectors` of the recipe.
    kept: {name: shape and dtype [L, 1, ..., T, H]}, what is kept of each row and
      read of later ones.
    said: The same of what is kept for a hybrid's head: a row's state, and the
      deviation of the event after it; {} without a head.
    tail: Of what convolutions reach back to [L, 1, R, D]; or None.
    chunks: Numbers of rows that there are programs for, ascending.
  """

  def __init__(self, predictor: predictor_lib.Predictor, batch_size: int):
    """Takes the predictor's model to the first device; compiles nothing yet.

    Raises:
      CannotAppend: It is not one of events that looks back only.
    """
    run = predictor.recipe
    head = run if isinstance(run, hybrid.Hybrid) else None
    self.recipe = run if head is None else head.backbone
    refusals.check_model(self.recipe)
    self._predictor, self._schema = predictor, predictor.schema
    self.data = predictor.config.data
    if head is not None:
      self.data = head.inputs.sequences.cfg
    self._backbone = (lambda m: m) if head is None else head.backbone_of
    self._length, self.batch_size = self.data.sequence_length, batch_size
    self.sizes = sorted({min(n, batch_size) for n in (*_SIZES, batch_size)})
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
      lambda p: self._module(p)[1].nothing(1, self._length), self._large
    )
    if "pointer" in nothing:  # As of one layer, so that axes are alike.
      x = nothing["pointer"]
      nothing["pointer"] = jax.ShapeDtypeStruct((1, *x.shape), x.dtype)
    self.kept = {n: x for n, x in nothing.items() if n != held_lib.TAIL}
    self.tail = nothing.get(held_lib.TAIL)
    self.said: dict[str, jax.ShapeDtypeStruct] = {}
    if head is not None:
      for name, width in (
        (STATES, self.recipe.cfg.d_model),
        (DEVIATIONS, len(expected.names(self.recipe))),
      ):
        shape = 1, 1, self._length, width
        self.said[name] = jax.ShapeDtypeStruct(shape, jnp.float32)
    self.counts = running.Running(self._schema)
    # A full window is begun anew with half of its rows at once.
    half = max(self._length // 2, 1)
    self.chunks = [c for c in _CHUNKS if c < half] + [half]
    self._columns = len(self._schema.categorical("activity"))
    self._numbers = self._schema.numeric_width("activity")
    self._programs: dict[Any, Any] = {}
    self._staged: dict[int, tuple[dict[str, np.ndarray], list[int]]] = {}

  def _module(self, params):
    """The run's module, and its model of events."""
    module = self._predictor.module(self._small | params)
    return module, self._backbone(module).model

  def _made(self, params):
    """Tables that all calls share."""
    module, model = self._module(params)
    return {
      "table": model.scored_values(model.values()),
      "vectors": self.recipe.event_vectors(self._backbone(module)),
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
    size = 1 if len(rows) == 1 else self.batch_size
    batch, past = self._batch(rows, chunk, size), self._past(rows, size)
    found, new = self._run(("extend", size, chunk), None, batch, past)
    return np.asarray(found), {n: np.asarray(x) for n, x in new.items()}

  def ask(
    self,
    name: Any,
    run: Ask,
    rows: Sequence[appends.Rows],
    more: Mapping[str, np.ndarray],
    looks: np.ndarray | None = None,
  ) -> dict[str, np.ndarray]:
    """What is said of the event after one row of each of at most B users.

    Args:
      name: Of the program.
      run: Makes outputs {name: [B, ...]}.
      rows: One of each user.
      more: {name: [users, ...]}, joins the batch.
      looks: float32 [users, D], states of the rows, where they were found before:
        what is kept of the window is not read then, and nothing is copied.
    """
    size = next(n for n in self.sizes if n >= len(rows))
    batch, past = self._batch(rows, 1, size), None
    if looks is None:
      past = self._past(rows, size)
    else:
      more = {**more, _LOOK: looks}
    for key, x in more.items():
      batch[key] = np.zeros((size, *x.shape[1:]), x.dtype)
      batch[key][: len(x)] = x
    found = self._run((name, size, past is None), run, batch, past)
    return {n: np.asarray(x)[: len(rows)] for n, x in found.items()}

  def _run(self, name, run, batch, past):
    if name not in self._programs:
      self._programs[name] = jax.jit(functools.partial(self._program, run))
    return self._programs[name](self._large, self._table, batch, past)

  def _program(self, run, params, table, batch, past):
    module, model = self._module(params)
    if past is None:
      return run(module, table, batch, batch[_LOOK], None)
    if "pointer" in past:
      past = past | {"pointer": past["pointer"][0]}
    states, new = model.extend(batch, past)
    copied = None
    if self.recipe.cfg.copy and (run is not None or self.said):
      copied = model.copied(states, batch, past["pointer"])
    if run is not None:
      return run(module, table, batch, states[:, 0], copied)
    if "pointer" in new:
      new = new | {"pointer": new["pointer"][None]}
    states = states.astype(jnp.float32)
    if self.said:
      found = expected.of_rows(
        self.recipe,
        self._backbone(module),
        states,
        batch["next_ids"],
        instants.elapsed(batch["next_time"], batch["time"]),
        copied,
        table,
      )
      new = new | {STATES: states[None], DEVIATIONS: found[None]}
    return states, new

  def _batch(self, rows: Sequence[appends.Rows], chunk: int, size: int):
    """What `Panther.extend` reads of so many users, but for what is kept."""
    length = self._length
    ids = np.zeros((size, chunk, self._columns), np.int32)
    numeric = np.zeros((size, chunk, self._numbers), np.float32)
    # Of the rows, of those after them, and of the window: split together.
    micros = np.zeros((size, 2 * chunk + length), np.int64)
    window_ids = np.zeros((size, length), np.int32)
    next_ids = np.zeros_like(ids)
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
      window_ids[b, :held] = raw["categorical"][:held, self.recipe.column]
      after = raw["categorical"][r.at + 1 : held + 1]
      next_ids[b, : len(after)] = after
      segment[b, :c], at[b, 0] = 1, r.at
      start[b, 0] = r.state.start_token and not r.begin and not r.at
      before[b, 0] = r.totals
      for x, value in zip(profile, r.state.profile, strict=True):
        x[b, 0] = value
    time = instants.split(micros)
    window_time = time[:, 2 * chunk :]
    return {
      "ids": ids,
      "numeric": numeric,
      **({"next_ids": next_ids} if self.said else {}),
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
  if copied is not None:
    copied = copied.at(jnp.zeros(len(states), jnp.int32))
  seen = batch["seen"] if copied is None else batch["window_ids"]
  scored = module.model.scored_states(states)
  return recipe.listed(scored, table, copied, seen, k)


def deviation(recipe, module, table, batch, states, copied):
  """An Ask of the deviation of events, ids "event" int32 [B, C]."""
  pointed = None if copied is None else expected.pointed_in(copied)
  gap = instants.elapsed(batch["next_time"], batch["time"])[:, 0]
  found = expected.features(
    recipe, module, states, batch["event"], gap, pointed, table
  )
  out = {"state": states.astype(jnp.float32), "features": found}
  if recipe.objective.gap_weight:
    out["log_gap"] = module.gap_head(out["state"])[:, 0]
  return out


def risk(recipe, module, table, batch, states, copied):
  """An Ask of a hybrid's raw scores of points, see `Hybrid.predict_kept`."""
  pointed = None if copied is None else expected.pointed_in(copied)
  found = recipe.predict_kept(module, batch, states, pointed, table)
  return {name: p[:, 0] for name, p in found.items()}
