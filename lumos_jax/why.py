"""Why this score: which events and features moved it.

`without` scores a point again without each of its events: exact, also of
what follows from an event (counts, gaps, expectations). `gradients` integrates
the gradient of the score's logit along the straight line from a baseline to the
point's input vectors (integrated gradients, Sundararajan et al. 2017, 1703.01365):
events, profile, and each context feature have a part, and the parts add up to the
difference of the two logits. The baseline is the point with as many events of whom
nothing is known: all values missing, all at one time. (Zero vectors would be none:
where a norm divides by their size, all happens in the line's first millionth.)
Inputs beside the events' ids (amounts, times as they are embedded, profile, counts)
move along the line too; padding has exactly 0. Distances in time that steer attention
stay as they are along the line.

T tokens of a row, F context features, N events.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lumos_jax import state as state_lib
from lumos_jax.data import scoring

METHODS = ("without", "gradients")
_ROWS = ("day", "time", "categorical", "numeric")
_STEPS = 64
NOT_GRADUAL = (
  "gradients are of events, and this run's backbone reads days: use "
  "method='without'"
)


class Parts(NamedTuple):
  """What moved a score's logit.

  Attributes:
    score, baseline: Logits of the point, and of what it is compared with.
    events: int [N], positions in the record, of the history that was read.
    of_events: float64 [N].
    of_context: {feature: float64}.
    of_profile: float64, the profile as of the last event; in `gradients`.
    residual: float64, of numerical integration: what is missing from the sum.
  """

  score: float
  baseline: float
  events: np.ndarray
  of_events: np.ndarray
  of_context: Mapping[str, float]
  of_profile: float
  residual: float


class Why:
  """Explains scores of a hybrid run; compiles once for each method."""

  def __init__(self, recipe: Any, params: Mapping[str, jax.Array]):
    """Takes a recipe of scoring inputs and a run's parameters.

    Raises:
      ValueError: The recipe scores no points.
    """
    if not isinstance(recipe.inputs, scoring.Scoring):
      raise ValueError(
        "only runs of recipe 'hybrid' say why a score is as it is"
      )
    self._recipe, self._params = recipe, params
    graph, _ = state_lib.structure(recipe)
    self._tasks = [t.name for t in recipe.tasks]

    def logit(params, batch, m):
      module = state_lib.merge(graph, params)
      return _of_members(recipe.logits(module, batch))[:, m]

    nodes, weights = np.polynomial.legendre.leggauss(_STEPS)
    shares = jnp.asarray((nodes + 1) / 2, jnp.float32)
    weights = jnp.asarray(weights / 2, jnp.float32)

    def path(params, batch, blank, m):
      module = state_lib.merge(graph, params)
      point, zero = (recipe.vectors(module, b) for b in (batch, blank))
      if "tokens" in point:  # Padding does not move.
        own = (batch["segment"] > 0)[..., None]
        zero["tokens"] = jnp.where(own, zero["tokens"], point["tokens"])
      way = jax.tree.map(jnp.subtract, point, zero)

      def at(x):
        return _of_members(recipe.logits(module, batch, None, x))[0, m]

      def step(total, item):
        share, weight = item
        x = jax.tree.map(lambda z, w: z + share * w, zero, way)
        found = jax.grad(at)(x)
        return jax.tree.map(lambda t, g: t + weight * g, total, found), None

      nothing = jax.tree.map(jnp.zeros_like, way)
      total, _ = jax.lax.scan(step, nothing, (shares, weights))
      each = jax.tree.map(jnp.multiply, total, way)
      return each, at(point), at(zero)

    self._logit = jax.jit(logit)
    self._path = jax.jit(path)

  @property
  def users(self) -> bool:
    """Whether users are scored as of a day, and not events."""
    return self._recipe.inputs.users

  @property
  def gradual(self) -> bool:
    """Whether there are gradients: not where the backbone reads days."""
    backbone = self._recipe.backbone
    return backbone is None or hasattr(backbone, "next_events")

  def _task(self, task: str) -> int:
    if not task and len(self._tasks) == 1:
      return 0
    if task not in self._tasks:
      raise ValueError(f"no task {task!r}; this run scores {self._tasks}")
    return self._tasks.index(task)

  def _scores(self, points: Sequence[tuple[Mapping, int, int | None]], m: int):
    """Logits float64 of (record, place, begin), in batches of one shape."""
    inputs, out, size = self._recipe.inputs, [], 16
    for i in range(0, len(points), size):
      some = [
        inputs.example(r, n, begin=begin)
        for r, n, begin in points[i : i + size]
      ]
      count = len(some)
      some += some[-1:] * (size - count)
      batch = {k: np.stack([s[k] for s in some]) for k in some[0]}
      out.append(np.asarray(self._logit(self._params, batch, m))[:count])
    return np.concatenate(out).astype(np.float64)

  def score(
    self,
    record: Mapping[str, Any],
    place: int,
    begin: int | None = None,
    task: str = "",
  ) -> float:
    """The logit of a point: a day of a user, or an event's position.

    With `begin`, of `removed`, the backbone's window begins with that event.
    """
    return float(self._scores([(record, place, begin)], self._task(task))[0])

  def removed(
    self, record: Mapping[str, Any], place: int, events: Sequence[int]
  ) -> tuple[dict[str, Any], int, int | None]:
    """The record without some earlier events; the point's place in it; and the
    event that the backbone's window begins with, which stays where it is, or None.
    """
    out = {
      k: np.delete(v, events, 0) if k in _ROWS else v for k, v in record.items()
    }
    inputs, begin = self._recipe.inputs, None
    if inputs.sequences is not None:
      begin = inputs.begin(record, place)
      begin -= sum(i < begin for i in set(events))
    return out, place if inputs.users else place - len(set(events)), begin

  def without(
    self,
    record: Mapping[str, Any],
    place: int,
    task: str = "",
    most: int = 100,
  ) -> Parts:
    """How much lower the logit is without each of the last `most` events.

    Args:
      record: Of the user.
      place: Day, or position of the scored event.
      task: Of the run; may be left out where there is one.
      most: Events that are left out, one by one.
    """
    m, inputs = self._task(task), self._recipe.inputs
    cut = inputs.events_before(record, place)
    events = np.arange(max(0, cut - most), cut)
    points = [(record, place, None)]
    points += [self.removed(record, place, [i]) for i in events]
    found = self._scores(points, m)
    return Parts(
      float(found[0]), np.nan, events, found[0] - found[1:], {}, 0.0, 0.0
    )

  def gradients(
    self, record: Mapping[str, Any], place: int, task: str = ""
  ) -> Parts:
    """Parts of the difference to the baseline, of whom nothing is known.

    Args:
      record: Of the user.
      place: Day, or position of the scored event.
      task: Of the run; may be left out where there is one.

    Raises:
      ValueError: The backbone is LUMOS: its rows of days are not taken apart.
    """
    recipe, m = self._recipe, self._task(task)
    if not self.gradual:
      raise ValueError(NOT_GRADUAL)
    example = recipe.inputs.example(record, place)
    batch = {k: np.asarray(v)[None] for k, v in example.items()}
    each, score, baseline = jax.device_get(
      self._path(self._params, batch, self._blank(batch), m)
    )
    each = {k: v[0].astype(np.float64) for k, v in each.items()}
    total = sum(v.sum() for v in each.values())
    events, of_events, start = np.zeros(0, int), np.zeros(0), 0.0
    if "tokens" in each:
      cut = recipe.inputs.events_before(record, place)
      last = int(batch["last"][0])
      own = (batch["segment"][0] > 0) & ~batch["start"][0]
      tokens = each["tokens"].sum(-1)
      rows = np.flatnonzero(own)
      events, of_events = cut - 1 - (last - rows), tokens[rows]
      # The start token stands for the user before its first event.
      start = float(tokens.sum() - of_events.sum())
    return Parts(
      float(score),
      float(baseline),
      events,
      of_events,
      self._context(each),
      start + float(each["profile"].sum() if "profile" in each else 0.0),
      float(score - baseline - total),
    )

  def _blank(self, batch) -> dict[str, np.ndarray]:
    """The same rows with all values missing, and all at one time."""
    out = dict(batch)
    for name in ("ids", "profile_categorical", "profile_before"):
      if name in out:
        out[name] = np.zeros_like(out[name])
    for name in ("numeric", "profile_numeric", "context"):
      if name in out:
        out[name] = np.full_like(out[name], np.nan)
    for name in ("time", "next_time"):
      if name in out:
        out[name] = np.broadcast_to(batch["time"][:, :1], batch[name].shape)
    return out

  def _context(self, each) -> dict[str, float]:
    recipe = self._recipe
    if "numbers" not in each:
      return {}
    names = recipe.inputs.context.names
    numbers = each["numbers"].reshape(len(recipe.dense), -1).sum(1)
    out = dict(
      zip((names[i] for i in recipe.dense), numbers.tolist(), strict=True)
    )
    at = 0
    for i in recipe.ids:
      width = recipe.id_width(i)
      out[names[i]] = float(each["ids"][at : at + width].sum())
      at += width
    return out


def _of_members(z: jax.Array) -> jax.Array:
  """The logit [B, M] of the mean of members' probabilities, of logits [S, B, M]."""
  total = lambda x: jax.nn.logsumexp(jax.nn.log_sigmoid(x), 0)
  return total(z) - total(-z)
