"""How far an event was from what was expected of it (PANTHER, "Downstream").

The expectation is made of the history alone; the event then says which of the
expected values it was. The distance is a feature of fraud and risk models: the
logarithm of the value's probability, its rank, the entropy of what was expected,
and the surprise of each part of a composite token, from marginal probabilities.

N tokens, D model width, V vocabulary, K values pointed at, P parts of a token.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lumos_jax.data import schema as schema_lib

# Probabilities [tokens, V] that exist at a time, 64 MiB of them.
_AT_A_TIME = 1 << 24
_NEVER = -1e9


class Pointed(NamedTuple):
  """A pointer's part of a mixture, see models/pointer.py.

  Attributes:
    keep: float32 [N], logarithm of what the softmax's probability counts.
    give: float32 [N], of what the pointer counts.
    weights: float32 [N, K], the pointer's, which add up to 1 or to 0.
    ids: int32 [N, K], at which values.
  """

  keep: jax.Array
  give: jax.Array
  weights: jax.Array
  ids: jax.Array


class Deviation(NamedTuple):
  """Of each token; natural logarithms.

  Attributes:
    log_probability: float32 [N], of the observed value among all values. One
      that is no candidate, missing or never seen in training, counts as the
      least likely candidate.
    rank: float32 [N] from 1, ties against the observed value; V + 1 where it is
      no candidate.
    entropy: float32 [N], of the distribution, whatever was observed.
    surprise: float32 [N, P], minus the logarithm of the probability of each
      part's observed value among tokens that say that part. A part's value
      that no token has counts as the least likely token.
  """

  log_probability: jax.Array
  rank: jax.Array
  entropy: jax.Array
  surprise: jax.Array


def part_fields(schema: schema_lib.Schema, name: str) -> tuple[str, ...]:
  """Fields whose product an activity field is; () for one that is no product."""
  field = {f.name: f for f in schema.categorical("activity")}[name]
  return field.of if isinstance(field, schema_lib.Composite) else ()


def part_columns(schema: schema_lib.Schema, name: str) -> tuple[int, ...]:
  """Columns of `categorical` that hold the parts of a composite field."""
  names = [f.name for f in schema.categorical("activity")]
  return tuple(map(names.index, part_fields(schema, name)))


def part_ids(schema: schema_lib.Schema, name: str) -> np.ndarray:
  """What each value says of each part: int32 [V, P], schema.ANY for nothing."""
  field = {f.name: f for f in schema.categorical("activity")}[name]
  out = np.full(
    (field.size, len(part_fields(schema, name))), schema_lib.ANY, np.int32
  )
  if out.shape[1] and field.values:
    out[schema_lib.FIRST_VALUE :] = field.values
  return out


def of_values(
  states: jax.Array,
  table: jax.Array,
  target: jax.Array,
  parts: np.ndarray | jax.Array | None = None,
  observed: jax.Array | None = None,
  pointed: Pointed | None = None,
) -> Deviation:
  """Deviation of observed values from what states expected.

  No more than 2^24 probabilities are held at a time, however many tokens there
  are.

  Args:
    states: [N, D], whose products with the table are the logits.
    table: [V, D], vectors of all values; reserved ids are no candidates.
    target: int32 [N], the observed values.
    parts: int32 [V, P] of `part_ids`; None: there are no parts.
    observed: int32 [N, P], ids of the parts of the observed events: of their own
      fields, as a smaller token does not say all of them.
    pointed: What a pointer adds.

  Returns:
    Of each token.
  """
  n, v = states.shape[0], table.shape[0]
  if parts is None:
    parts = np.zeros((v, 0), np.int32)
    observed = jnp.zeros((n, 0), jnp.int32)
  parts = jnp.asarray(parts)
  free = jnp.arange(v) >= schema_lib.FIRST_VALUE

  def chunk(item):
    logits = jnp.dot(
      item["states"], table.T, preferred_element_type=jnp.float32
    )
    log_p = jax.nn.log_softmax(jnp.where(free[None], logits, _NEVER), -1)
    if pointed is not None:
      log_p = _mixed(log_p, item["pointed"])
    p = jnp.where(free[None], jnp.exp(log_p), 0.0)
    least = jnp.min(jnp.where(free[None], log_p, jnp.inf), -1)
    goal, known = item["target"], item["target"] >= schema_lib.FIRST_VALUE
    own = jnp.take_along_axis(log_p, goal[:, None], 1)
    other = free[None] & (jnp.arange(v)[None] != goal[:, None])
    rank = 1.0 + jnp.sum(other & ~(log_p < own), -1).astype(jnp.float32)
    surprise = []
    for i in range(parts.shape[1]):
      said = parts[None, :, i]
      same = said == item["observed"][:, i, None]
      mass = jnp.sum(jnp.where(same, p, 0.0), -1)
      whole = jnp.sum(jnp.where(said != schema_lib.ANY, p, 0.0), -1)
      log = jnp.log(jnp.maximum(mass, jnp.exp(least))) - jnp.log(whole)
      surprise.append(jnp.maximum(-log, 0.0))
    return Deviation(
      jnp.where(known, own[:, 0], least),
      jnp.where(known, rank, v + 1.0),
      -jnp.sum(p * jnp.where(p > 0, log_p, 0.0), -1),
      jnp.stack(surprise, -1) if surprise else jnp.zeros((len(goal), 0)),
    )

  items = {"states": states, "target": target, "observed": observed}
  if pointed is not None:
    items["pointed"] = pointed
  size = max(1, min(n, _AT_A_TIME // v))
  pieces = -(-n // size)

  def cut(x):
    pad = ((0, pieces * size - n),) + ((0, 0),) * (x.ndim - 1)
    return jnp.pad(x, pad).reshape(pieces, size, *x.shape[1:])

  found = jax.lax.map(chunk, jax.tree.map(cut, items))
  whole = lambda x: x.reshape(pieces * size, *x.shape[2:])[:n]
  return jax.tree.map(whole, found)


def _mixed(log_p: jax.Array, pointed: Pointed) -> jax.Array:
  """Logarithms [n, V] of the mixture's probabilities."""
  row = jnp.arange(log_p.shape[0])[:, None]
  share = jnp.zeros(log_p.shape).at[row, pointed.ids].add(pointed.weights)
  some = share > 0.0
  log = jnp.where(some, jnp.log(jnp.where(some, share, 1.0)), _NEVER)
  return jnp.logaddexp(
    pointed.keep[:, None] + log_p, pointed.give[:, None] + log
  )
