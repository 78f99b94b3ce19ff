"""Tables that lie over the mesh: equal to whole ones, and never gathered."""

import functools
import re

import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumos_jax import partition, recipes, tables, train
from lumos_jax.data import sequences
from lumos_jax.objectives import next_event
from lumos_jax.preflight import advice, hlo

B, T, K = 8, 6, 5


def mesh(**sizes):
  whole = {a: 1 for a in partition.MESH_AXES} | sizes
  return partition.make_mesh(whole)


MESHES = (
  dict(data=2, fsdp=2, tensor=2),
  dict(fsdp=4, sequence=2),
  dict(data=2, sequence=2, tensor=2),
  dict(data=8),
)


def inputs(v, d):
  keys = jax.random.split(jax.random.key(0), 5)
  return dict(
    states=jax.random.normal(keys[0], (B, T, d)),
    table=jax.random.normal(keys[1], (v, d)),
    target=jax.random.randint(keys[2], (B, T), 0, v),
    weight=jax.random.bernoulli(keys[3], 0.8, (B, T)).astype(jnp.float32),
    ids=jax.random.randint(keys[4], (K,), 2, v),
  )


def whole_loss(states, table, target, weight, ids):
  """Softmax over all values but the reserved, the plain way; then K rows."""
  logits = jnp.einsum("btd,vd->btv", states, table)
  free = (jnp.arange(table.shape[0]) >= 2)[None, None]
  # A reserved target competes with all others.
  mine = jnp.take_along_axis(logits, target[..., None], -1)
  hit = jax.nn.one_hot(target, table.shape[0], dtype=bool)
  logits = jnp.where(free | hit, logits, -jnp.inf)
  value = jax.nn.logsumexp(logits, -1) - mine[..., 0]
  return (
    jnp.sum(value * weight)
    + jnp.sum(table[target] ** 3 * states)
    + (jnp.sum(jnp.sin(table[ids])))
  )


def our_loss(states, table, target, weight, ids):
  value = next_event.softmax_sum(states, table, target, weight, 16)
  more = jnp.sum(tables.lookup(table, target) ** 3 * states)
  return value + more + jnp.sum(jnp.sin(tables.lookup(table, ids, alike=True)))


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize("shape", ((24, 8), (23, 8), (22, 7), (24, 9)))
def test_parts_equal_the_whole(sizes, shape):
  """Where the mesh cuts the table both ways, one way, or neither."""
  given = inputs(*shape)
  expected, grads = jax.value_and_grad(
    lambda s, t: whole_loss(**(given | dict(states=s, table=t))), (0, 1)
  )(given["states"], given["table"])
  on = mesh(**sizes)

  @jax.jit
  def run(states, table):
    with partition.tracing_for(on):
      loss = lambda s, t: our_loss(**(given | dict(states=s, table=t)))
      return jax.value_and_grad(loss, (0, 1))(states, table)

  found, ours = run(given["states"], given["table"])
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  for a, b in zip(ours, grads):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@functools.cache
def text_of_a_step(loss, size, **sizes):
  """A compiled step over a large vocabulary, and the table's shape."""
  config = fake_events.config(
    model__use_attributes=False,
    objective__loss=loss,
    train__batch_size=8,
    **{f"mesh__{k}": v for k, v in sizes.items()},
  )
  records = advice.with_vocabulary(fake_events.Records(), config, size)
  recipe = recipes.build(config, records, ())
  trainer = train.Trainer(config, recipe)
  iterator = sequences.train_iterator(records, config.data, (), 8, 0)
  batch = trainer.put(next(iterator))
  compiled = trainer.step.lower(trainer.abstract, batch).compile()
  table = trainer.abstract["params"]["model/values/table"]
  return compiled.as_text(), table


@pytest.mark.parametrize("loss", ("softmax", "sampled"))
def test_table_is_not_gathered(loss):
  """Nor any array of its size made: tokens travel, values stay."""
  text, table = text_of_a_step(loss, 4094, data=2, fsdp=2, tensor=2)
  v, d = table.shape
  assert table.sharding.shard_shape((v, d)) == (v // 2, d // 2)
  shapes = {
    tuple(int(n) for n in dims.split(","))
    for dims in re.findall(r"f32\[(\d+(?:,\d+)+)\]", text)
  }
  assert (v // 2, d // 2) in shapes
  assert (v, d) not in shapes
  found = hlo.Program(text).collectives()
  gathered = [c.bytes / c.count for c in found if c.kind == "all-gather"]
  assert gathered and max(gathered) < 4 * v * d / 8


def test_no_array_holds_the_logits_of_all_tokens():
  text, table = text_of_a_step("softmax", 4094, data=2, fsdp=2, tensor=2)
  most = max(
    np.prod([int(n) for n in dims.split(",")])
    for dims in re.findall(r"f32\[(\d+(?:,\d+)*)\]", text)
  )
  # Blocks of 16 tokens of two devices against half of the values, or the table.
  assert most <= max(16 * 2 * table.shape[0] // 2, np.prod(table.shape) // 2)
