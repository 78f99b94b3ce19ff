"""Preflight's arithmetic, and a real compilation where libtpu is installed."""

import jax
import jax.numpy as jnp
import pytest

from lumos_jax.preflight import chips, flops, hlo, plan, table


def test_operations_are_those_of_the_products():
  a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
  assert flops.count(lambda a, b: a @ b, a, b) == 2 * 3 * 5 * 7
  loss = lambda a, b: jnp.sum((a @ b) ** 2)
  assert flops.count(jax.grad(loss, (0, 1)), a, b) == 3 * 2 * 3 * 5 * 7

  def scanned(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=6)[0]

  assert flops.count(scanned, jnp.ones((4, 4))) == 6 * 2 * 64
  again = jax.checkpoint(lambda x: jnp.sin(x @ x) @ x)
  once = flops.count(again, jnp.ones((4, 4)))
  assert once == 2 * 2 * 64
  total = flops.count(jax.grad(lambda x: again(x).sum()), jnp.ones((4, 4)))
  # Backward takes two products each; one is made again.
  assert total == (2 + 4 + 1) * 2 * 64


def test_dearest_branch_counts():
  def fn(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

  assert flops.count(fn, jnp.ones((4, 4))) == 2 * 2 * 64


TEXT = """HloModule jit_step

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[]{:T(128)}, f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %g = f32[32,4]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %f = f32[8,4]{1,0:S(1)} fusion(%g), kind=kLoop, calls=%fused
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %f)
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %z = s32[] constant(0)
  %s = (s32[], f32[8,4]{1,0}) tuple(%z, %a)
  %w = (s32[], f32[8,4]{1,0}) while(%s), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"12"},"known_init_step":{}}
  %o = f32[8,4]{1,0} get-tuple-element(%w), index=1
  ROOT %r = bf16[8,4]{1,0} all-reduce(%o), \
replica_groups=mesh['a'=2,'b'=4] {'a'}, to_apply=%add
}
"""


def test_collectives_count_as_often_as_they_run():
  program = hlo.Program(TEXT)
  assert program.runs() == {"main": 1, "body": 12}
  gather, reduce = program.collectives(per_slice=4)
  assert gather == hlo.Collective("all-gather", 12, 12 * 4 * 128, 4, False)
  assert gather.sent() == 12 * 4 * 128 * 0.75
  assert reduce == hlo.Collective("all-reduce", 1, 128, 2, True)
  assert reduce.sent() == 128
  # In the loop: 128 read and 512 written by the gather, 512 read by the
  # fusion, whose result stays off HBM. Outside: 128 read and 64 written.
  assert program.traffic() == 12 * (128 + 512 + 512) + 128 + 64


@pytest.mark.parametrize(
  "text,expected",
  [
    ("replica_groups={{0,1},{2,3}}, x", [[0, 1], [2, 3]]),
    ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
    ("to_apply=%add", []),
  ],
)
def test_groups_are_read(text, expected):
  assert hlo._groups(text) == expected


@pytest.mark.parametrize(
  "name,words",
  [
    ("v5:16x16", "did you mean 'v5"),
    ("h100:8", "There are v4, v5e, v5p, v6e"),
    ("v5e:16x8", "nearest is v5e:8x16"),
    ("v5p:16x16x16", "nearest is v5p:8x8x16"),
    ("v4", "has no slice ''"),
    ("v4:0x1", "has no slice '0x1'"),
  ],
)
def test_unknown_topologies_name_the_nearest(name, words):
  with pytest.raises(chips.TopologyError, match=words):
    chips.parse(name)


def test_roofline_bounds_the_step():
  chip = chips.CHIPS["v5e"]
  figures = dict(
    run_flops=4 * chip.flops * 0.3,
    model_flops=4 * chip.flops * 0.2,
    hbm_traffic_bytes=0.1 * chip.hbm_rate,
    tokens_per_step=1000,
  )
  links = [hlo.Collective("all-gather", 1, int(chip.ici_rate / 2), 1_000_000)]
  out = plan.roofline(chip, 4, figures, links, tokens=3600e3)
  assert out["step_seconds"] == pytest.approx([1.0, 1.3], rel=1e-3)
  assert out["model_flops_use"] == pytest.approx([0.2 / 1.3, 0.2], rel=1e-3)
  assert out["chip_hours"] == pytest.approx([4.0, 5.2], rel=1e-3)


def test_figures_are_written_for_people():
  assert table.number(1_234_567) == "1.23 M"
  assert table.number(12) == "12"
  assert table.gib(3 * 2**29) == "1.50 GiB"
