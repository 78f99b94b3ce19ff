"""Tokamax's fused softmax: equal to the chunked one, and compiled for a slice."""

import contextlib
import re

import fake_events
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumos_jax import partition, recipes
from lumos_jax.objectives import fused, next_event
from lumos_jax.preflight import advice, chips, plan


def needs_tokamax():
  try:
    fused.check_installed()
  except ValueError as e:
    pytest.skip(str(e))


def parts(b, t, d, v, seed=0):
  """States, table, targets and weights; reserved targets weigh nothing."""
  keys = jax.random.split(jax.random.key(seed), 4)
  target = jax.random.randint(keys[2], (b, t), 0, v)
  some = jax.random.bernoulli(keys[3], 0.7, (b, t)) & (target >= 2)
  return (
    jax.random.normal(keys[0], (b, t, d)),
    jax.random.normal(keys[1], (v, d)),
    target,
    some.astype(jnp.float32),
  )


def both(loss, states, table, target, weight):
  """A loss, and its gradients times three."""
  run = lambda s, e: 3 * loss(s, e, target, weight)
  return jax.value_and_grad(run, (0, 1))(states, table)


def assert_equal(found, expected):
  (a, grads), (b, wanted) = found, expected
  np.testing.assert_allclose(a, b, rtol=1e-5)
  for x, y in zip(grads, wanted):
    np.testing.assert_allclose(x, y, atol=1e-4)


@pytest.mark.parametrize(
  "sizes", (None, dict(data=8), dict(data=4, sequence=2))
)
def test_fused_softmax_equals_the_chunked_one(sizes):
  needs_tokamax()
  given = parts(8, 6, 16, 37)
  expected = both(next_event.softmax_sum, *given)
  ones = {a: 1 for a in partition.MESH_AXES}
  where = contextlib.nullcontext()
  if sizes:
    where = partition.tracing_for(partition.make_mesh(ones | sizes))
  ours = lambda *a: fused.softmax_sum(*a, implementation="xla")
  with where:
    found = jax.jit(lambda *a: both(ours, *a))(*given)
    alone = jax.jit(lambda *a: 3 * ours(*a))(*given)
  assert_equal(found, expected)
  np.testing.assert_allclose(alone, expected[0], rtol=1e-5)


def test_tokens_without_weight_add_nothing():
  needs_tokamax()
  states, table, target, weight = parts(2, 12, 8, 20)
  ours = lambda *a: fused.softmax_sum(*a, implementation="xla")
  value, (d_states, _) = both(ours, states, table, target, weight)
  assert not np.any(np.asarray(d_states)[np.asarray(weight) == 0])
  other = jnp.where(weight[..., None] > 0, states, 7.0)
  again = both(ours, other, table, jnp.where(weight > 0, target, 0), weight)
  assert value == again[0]
  np.testing.assert_array_equal(again[1][0], d_states)


@pytest.fixture(scope="module")
def chip():
  needs_tokamax()
  pytest.importorskip("libtpu")
  return chips.parse("v5e:1x1").devices()


def test_emulated_kernel_equals_the_chunked_one(chip):
  """Its blocks are not full: what it reads beyond the table must not count."""
  from jax.experimental.pallas import tpu as pltpu

  given = parts(2, 300, 24, 302)
  beyond = pltpu.InterpretParams(
    out_of_bounds_reads="uninitialized", uninitialized_memory="nan"
  )
  expected = both(next_event.softmax_sum, *given)

  def run(*args):
    # What the kernel emulates runs here, whatever it is told.
    with partition.tracing_for(partition.make_mesh({}, chip)):
      return both(fused.softmax_sum, *args)

  with pltpu.force_tpu_interpret_mode(beyond):
    assert_equal(jax.jit(run)(*given), expected)


def config(**overrides):
  settings = dict(objective__kernel="tokamax", model__positions="rotary")
  return fake_events.config(**(settings | overrides))


def test_a_slice_runs_the_kernel(chip):
  """Forward and backward, and no array holds logits of a block of tokens."""
  del chip
  topology, size = chips.parse("v5e:2x2"), 1001
  c = config(
    model__use_attributes=False, train__batch_size=8, data__sequence_length=128
  )
  records = advice.with_vocabulary(fake_events.Records(), c, size)
  found = plan.Plan(c, records, topology, topology.devices())
  step = found.train_step()
  assert not step.error
  text = "\n".join(i.rest for i, _, _ in step.program._all())
  assert {"lce_fwd", "lce_bwd"} <= set(re.findall("lce_[a-z]+", text))
  rows = [
    int(n)
    for i, _, _ in step.program._all()
    for n in re.findall(rf"f32\[(\d+),{size + 2}\]", i.shape)
  ]
  assert max(rows, default=0) <= c.model.d_model
  # Four products of padded width, where the model has three.
  model, run = found.operations()
  products = 2 * 8 * 128 * size
  more = 4 * 128 * products - 3 * c.model.d_model * products
  assert run - model == pytest.approx(more, rel=0.05)


@pytest.mark.parametrize(
  "overrides,words",
  (
    (dict(objective__kernel="fast"), "use one of chunked, tokamax"),
    (dict(objective__loss="sampled"), "set objective.loss = 'softmax'"),
    (dict(objective__loss="gbce"), "set objective.loss = 'softmax'"),
    (dict(model__copy=True, data__filter_seen=False), "model.copy = False"),
    (dict(mesh__fsdp=2), "mesh.fsdp = 1 and mesh.tensor = 1"),
    (dict(mesh__tensor=2), "mesh.fsdp = 1 and mesh.tensor = 1"),
  ),
)
def test_what_the_kernel_cannot_do_is_told(overrides, words):
  with pytest.raises(ValueError, match=words):
    recipes.build(config(**overrides), fake_events.Records(), ())


@pytest.mark.parametrize("found", ("", "0.0.12", "0.0.9"))
def test_a_missing_or_old_package_is_told(monkeypatch, found):
  monkeypatch.setattr(fused, "_installed", lambda: found)
  with pytest.raises(ValueError, match=r"pip install 'lumos-jax\[tokamax\]'"):
    recipes.build(config(), fake_events.Records(), ())


@pytest.mark.parametrize("sizes", (dict(fsdp=8), dict(data=4, tensor=2)))
def test_a_cut_table_is_told(sizes):
  mesh = partition.make_mesh({a: 1 for a in partition.MESH_AXES} | sizes)
  with (
    partition.tracing_for(mesh),
    pytest.raises(ValueError, match="mesh.fsdp"),
  ):
    fused.softmax_sum(*parts(8, 4, 8, 10))


def test_elsewhere_the_chunked_form_runs(monkeypatch):
  monkeypatch.setattr(fused, "_installed", lambda: "0.0.17")
  c = config()
  assert not fused.runs(c.objective)
  recipe = recipes.build(c, fake_events.Records(), ())
  assert recipe.objective.kernel == "tokamax"
