"""Expected against observed behaviour, as features of an event.

The model says after each token what it expects next; the next event then deviates
from that by so much (objectives/deviation.py). A recipe that scores events calls
`of_batch` on whole histories, the service `features` on the states that it keeps:
the same function of the same numbers.

N events, B batch, T tokens of a row, C categorical columns, F features.
"""

import jax
import jax.numpy as jnp

from lumos_jax.data import instants
from lumos_jax.objectives import deviation


def check(recipe) -> None:
  """Raises ValueError where a recipe expects no next event."""
  if not hasattr(recipe, "next_events"):
    raise ValueError(
      "deviation features compare an event with what was expected of it: recipe "
      "'lumos' expects days and tasks, not events; use recipe 'panther'"
    )
  if recipe.cfg.masked:
    raise ValueError(
      "deviation features need a model that expects the next event: set "
      "model.masked = False"
    )


def names(recipe) -> tuple[str, ...]:
  """Names of the F features, in their order.

  "log_probability", "log_rank" and "entropy" of the target field's value;
  "surprise/PART" of each part of a composite token; "expected/FIELD", the same of each
  other field with ids where objective.attribute_weight trained its prediction;
  "gap", how much longer the logarithm of the time since the event before was
  than expected, where objective.gap_weight did. Natural logarithms.
  """
  schema, target = recipe.schema, recipe.data_cfg.target
  out = ["log_probability", "log_rank", "entropy"]
  out += [f"surprise/{n}" for n in deviation.part_fields(schema, target)]
  if recipe.objective.attribute_weight:
    fields = schema.categorical("activity")
    out += [
      f"expected/{f.name}" for i, f in enumerate(fields) if i != recipe.column
    ]
  if recipe.objective.gap_weight:
    out.append("gap")
  return tuple(out)


def features(
  recipe, module, states, ids, gap, pointed=None, table=None
) -> jax.Array:
  """Deviation of events from what the states before them expected.

  Args:
    recipe: PANTHER's.
    module: Of its `init`.
    states: [N, D] of the tokens before the events.
    ids: int32 [N, C] of the events.
    gap: float32 [N], seconds since the event before.
    pointed: Of the same tokens; with model.copy.
    table: [V, D], the model's scored value vectors, where they are available.

  Returns:
    float32 [N, F], see `names`.
  """
  model, target = module.model, recipe.data_cfg.target
  columns = deviation.part_columns(recipe.schema, target)
  if table is None:
    table = model.scored_values(model.values())
  found = deviation.of_values(
    model.scored_states(states),
    table,
    ids[:, recipe.column],
    deviation.part_ids(recipe.schema, target),
    ids[:, jnp.asarray(columns, jnp.int32)],
    pointed,
  )
  out = [
    found.log_probability[:, None],
    jnp.log(found.rank)[:, None],
    found.entropy[:, None],
    found.surprise,
  ]
  states = states.astype(jnp.float32)
  if recipe.objective.attribute_weight:
    for i, head in zip(module.others, module.attribute_heads, strict=True):
      log_p = jax.nn.log_softmax(head(states), -1)
      out.append(-jnp.take_along_axis(log_p, ids[:, i, None], 1))
  if recipe.objective.gap_weight:
    out.append(jnp.log1p(jnp.maximum(gap, 0.0))[:, None])
    out[-1] -= module.gap_head(states)
  return jnp.concatenate(out, -1)


def pointed_at(
  module, batch, states: jax.Array, last: jax.Array
) -> deviation.Pointed:
  """A pointer's part of what is expected after the tokens at `last` [B].

  Args:
    module: PANTHER's.
    batch: Of `data.sequences`.
    states: [B, T, D], `module.model(batch)`.
    last: int32 [B].
  """
  return pointed_in(module.model.copied(states, batch).at(last))


def pointed_in(copied) -> deviation.Pointed:
  """A pointer's part of what is expected after each of B C tokens.

  Args:
    copied: Of `Panther.copied`, of tokens [B, C].
  """
  ids = jnp.broadcast_to(copied.ids[:, None], copied.weights.shape)
  parts = copied.keep, copied.give, copied.weights, ids
  return deviation.Pointed(*map(_flat, parts))


def _flat(x: jax.Array) -> jax.Array:
  return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def of_rows(
  recipe, module, states, ids, gap, copied=None, table=None
) -> jax.Array:
  """As `features`, of the events after tokens [B, C]: float32 [B, C, F].

  Args:
    recipe: PANTHER's.
    module: Of its `init`.
    states: [B, C, D] of the tokens.
    ids: int32 [B, C, columns] of the events after them.
    gap: float32 [B, C], seconds from the tokens to these.
    copied: Of the tokens; with model.copy.
    table: As of `features`.
  """
  pointed = None if copied is None else pointed_in(copied)
  parts = map(_flat, (states, ids, gap))
  found = features(recipe, module, *parts, pointed, table)
  return found.reshape(*states.shape[:2], -1)


def of_batch(
  recipe, module, batch, states: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Deviation of each event of a batch from what the token before it expected.

  Args:
    recipe: PANTHER's.
    module: Of its `init`.
    batch: Of `data.sequences`.
    states: [B, T, D], `module.model(batch)`.

  Returns:
    float32 [B, T, F], of each row's own event, and bool [B, T], where there is
    one with a token before it; elsewhere 0.
  """
  gap = instants.elapsed(batch["time"][:, 1:], batch["time"][:, :-1])
  copied = None
  if recipe.cfg.copy:
    copied = module.model.copied(states, batch)
    first = {k: getattr(copied, k)[:, :-1] for k in ("weights", "keep", "give")}
    copied = copied._replace(**first)
  found = of_rows(
    recipe, module, states[:, :-1], batch["ids"][:, 1:], gap, copied
  )
  segment = batch["segment"]
  known = (segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] > 0)
  known = jnp.pad(known, ((0, 0), (1, 0)))
  found = jnp.pad(found, ((0, 0), (1, 0), (0, 0)))
  return jnp.where(known[..., None], found, 0.0), known
