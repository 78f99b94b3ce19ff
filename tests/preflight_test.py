"""Preflight's arithmetic, and a real compilation where libtpu is installed."""

import dataclasses
import types

import fake_events
import jax
import jax.numpy as jnp
import pytest

from lumos_jax import partition
from lumos_jax.preflight import advice, chips, flops, hlo, plan, table


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


# As TPU programs have it: the condition tells.
COUNTED = """%cond (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %p = (s32[]{:T(128)}, f32[8]) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%n, %limit), direction=LT
}
"""


@pytest.mark.parametrize("start,runs", [(0, 12), (2, 10)])
def test_loops_are_counted_by_their_condition(start, runs):
  text = TEXT.replace("s32[] constant(0)", f"s32[] constant({start})")
  text = text.replace('"known_trip_count":{"n":"12"},', "")
  program = hlo.Program(text)
  assert program.runs()["body"] == 1 and program.unknown_loops() == 1
  program = hlo.Program(text.replace("ENTRY", COUNTED + "\nENTRY"))
  assert program.runs()["body"] == runs and program.unknown_loops() == 0


OVERLAPPED = """%begin (a: f32[8,4]) -> f32[32,4] {
  %a = f32[8,4] parameter(0)
  %g = f32[32,4] all-gather(%a), channel_id=7, replica_groups=[2,4]<=[8]
  ROOT %c = f32[32,4] custom-call(%a, %g), custom_call_target="Begin"
}

%end (b: f32[8,4]) -> f32[32,4] {
  %b = f32[8,4] parameter(0)
  %h = f32[32,4] all-gather(%b), channel_id=7, replica_groups=[2,4]<=[8]
  ROOT %d = f32[32,4] custom-call(%b, %h), custom_call_target="End"
}

%scatter (e: f32[8,4]) -> f32[2,4] {
  %e = f32[8,4] parameter(0)
  %r = f32[8,4] all-reduce(%e), channel_id=8, replica_groups=[2,4]<=[8]
  ROOT %k = f32[2,4] dynamic-slice(%r), dynamic_slice_sizes={2,4}
}

ENTRY %main (x: f32[8,4]) -> f32[32,4] {
  %x = f32[8,4] parameter(0)
  %n = f32[8,4] custom-call(%x), frontend_attributes={kernel_metadata={
    "name": "splash"
}}, metadata={op_name="x"}
  %f = f32[32,4] fusion(%x), kind=kCustom, calls=%begin
  %s = f32[2,4] fusion(%x), kind=kCustom, calls=%scatter
  ROOT %o = f32[32,4] fusion(%x), kind=kCustom, calls=%end
}
"""


def test_collectives_inside_fusions_count_once():
  gather, scatter = hlo.Program(OVERLAPPED).collectives()
  assert gather == hlo.Collective("all-gather", 1, 4 * 128, 4)
  assert scatter == hlo.Collective("reduce-scatter", 1, 128, 4)


SLICED = """%fused (a: f32[12,64], b: s32[], c: f32[12,64]) -> f32[12,64] {
  %a = f32[12,64] parameter(0)
  %b = s32[] parameter(1)
  %c = f32[12,64] parameter(2)
  %s = f32[1,64] dynamic-slice(%a, %b, %b), dynamic_slice_sizes={1,64}
  ROOT %u = f32[12,64] dynamic-update-slice(%c, %s, %b, %b)
}

ENTRY %main (x: f32[12,64], i: s32[], y: f32[12,64]) -> f32[12,64] {
  %x = f32[12,64] parameter(0)
  %i = s32[] parameter(1)
  %y = f32[12,64] parameter(2)
  ROOT %f = f32[12,64] fusion(%x, %i, %y), kind=kLoop, calls=%fused
}
"""


def test_a_slice_of_a_stack_counts_as_what_it_takes():
  # A row read and written, and the index.
  assert hlo.Program(SLICED).traffic() == 256 + 256 + 4


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
    ("v4", "'v4' lacks a shape.*example v4:8x8x16. There are 2x2x1"),
    ("v5e:", "'v5e:' lacks a shape.*example v5e:16x16. There are 1x1"),
    ("16x16", "unknown chip '16x16'.*write for example v5e:16x16"),
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
  assert table.size(3 * 2**29) == "1.50 GiB"
  assert table.size(248_832) == "243.00 KiB"
  assert table.size(5 * 2**20) == "5.00 MiB" and table.size(12) == "12 B"
  assert table.percent(0.99796) == "99.8%"
  assert table.percent(0.000134) == "0.0134%"


@pytest.fixture(scope="module")
def slice_of_four():
  pytest.importorskip("libtpu")
  topology = chips.parse("v5e:2x2")
  return topology, topology.devices()


def build(**overrides):
  settings = dict(
    data__sequence_length=512,
    model__positions="rotary",
    model__n_heads=2,
    train__batch_size=8,
    mesh__data=2,
    mesh__fsdp=2,
  )
  return fake_events.config(**(settings | overrides))


def test_long_rows_use_the_kernel_on_a_slice(slice_of_four):
  """Splash attention, forward and backward, a device half of a row's queries."""
  topology, devices = slice_of_four
  config = build(
    model__scan_layers=True,
    model__n_encoder_layers=2,
    mesh__data=1,
    mesh__sequence=2,
  )
  found = plan.Plan(config, fake_events.Records(), topology, devices)
  step = found.train_step()
  assert not step.error and 0 < step.peak_bytes < 2**30
  kernels = [
    i
    for i, _, _ in step.program._all()
    if i.opcode == "custom-call" and "tpu_custom_call" in i.rest
  ]
  assert len(kernels) >= 2
  # The model's layers and the blocks of the softmax.
  assert step.program.unknown_loops() == 0
  assert {2, 512 * 2 // 16} <= set(step.program.runs().values())
  # Nothing as large as a row's scores travels.
  scores = 4 * 512 * 512
  assert all(c.bytes / c.count < scores for c in step.program.collectives())
  # Parameters of both layers are gathered and their gradients summed up.
  kinds = {c.kind for c in step.program.collectives()}
  assert "all-gather" in kinds and kinds & {"all-reduce", "reduce-scatter"}


@pytest.mark.parametrize("name", ("v4:2x2x1", "v5p:2x2x1", "v6e:2x2"))
def test_a_device_is_a_chip_on_every_kind(name):
  pytest.importorskip("libtpu")
  topology = chips.parse(name)
  devices = topology.devices()
  assert len(devices) == topology.chips == 4
  assert partition.make_mesh(dict(data=2, fsdp=2), devices).size == 4


@pytest.mark.parametrize(
  "name,mesh",
  [
    ("v6e:16x16", dict(data=-1, fsdp=8)),
    ("v6e:8x8", dict(data=-1, fsdp=4, tensor=2)),
    ("v4:4x4x8", dict(data=-1, fsdp=2)),
    ("v5p:4x4x8", dict(data=-1, fsdp=8, sequence=2, tensor=4)),
  ],
)
@pytest.mark.parametrize("slices", [1, 2])
def test_a_mesh_may_split_an_axis_of_the_torus(name, mesh, slices):
  pytest.importorskip("libtpu")
  devices = chips.parse(name, slices).devices()
  found = partition.make_mesh(mesh, devices)
  assert found.size == len(devices) == len(set(found.devices.flat))
  assert all(found.shape[k] == n for k, n in mesh.items() if n > 0)


def test_traffic_between_slices_is_seen(slice_of_four):
  """There a collective is a send to the hosts, not one of the chips' own."""
  del slice_of_four
  devices = chips.parse("v5e:2x2", slices=2).devices()
  mesh = partition.make_mesh(dict(data=8), devices)
  lay = lambda *axes: jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(*axes)
  )
  x = jax.ShapeDtypeStruct((8, 1024), jnp.float32, sharding=lay("data"))
  total = jax.jit(lambda x: x.sum(0), out_shardings=lay())
  found = plan.compile_for(total, x).program.collectives(per_slice=4)
  between = [c for c in found if c.crosses]
  assert [(c.kind, c.group) for c in between] == [("all-reduce", 2)]
  # Each of a slice's four chips sends its quarter of the sum.
  assert 1024 <= between[0].bytes < 4 * 1024 * 4
  assert any(c.group == 4 and not c.crosses for c in found)


def test_programs_that_cannot_be_read_back_are_read_from_the_dump(
  slice_of_four, monkeypatch
):
  _, devices = slice_of_four
  mesh = partition.make_mesh(dict(data=4), devices)
  lay = lambda *axes: jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(*axes)
  )
  x = jax.ShapeDtypeStruct((8, 1024), jnp.float32, sharding=lay("data"))
  total = jax.jit(lambda x: x.sum(0), out_shardings=lay())
  wanted = plan.compile_for(total, x).program.collectives()

  def refuse(self):
    raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

  monkeypatch.setattr(jax.stages.Compiled, "as_text", refuse)
  assert plan.compile_for(total, x).program.collectives() == wanted != []


def test_figures_of_a_config(slice_of_four):
  topology, devices = slice_of_four
  config = build(data__sequence_length=32, train__steps=10)
  found = advice.examine(config, fake_events.Records(), topology, devices)
  assert found["fits"] and not found["errors"] and "suggestion" not in found
  assert found["chips"] == 4 and found["tokens_per_step"] == 8 * 32
  assert found["tokens"] == 10 * 8 * 32
  assert found["run_flops"] >= found["model_flops"] > 0
  low, high = found["step_seconds"]
  assert 0 < low <= high
  text = table.text(found)
  assert text.endswith("fits") and "v5e:2x2" in text


@pytest.mark.slow  # Four compilations for a TPU.
def test_what_does_not_fit_is_told_with_what_does(slice_of_four, monkeypatch):
  """A chip as small as this step: the compiler is not asked to fail."""
  topology, devices = slice_of_four
  config = build(data__sequence_length=64, train__batch_size=16384)
  records = fake_events.Records()
  first = plan.Plan(config, records, topology, devices).report()
  small = dataclasses.replace(
    topology.chip, hbm_bytes=int(first["peak_bytes"] * 0.9)
  )
  monkeypatch.setitem(chips.CHIPS, "v5e", small)
  found = advice.examine(config, records, topology, devices)
  assert not found["fits"] and found["suggestion"]
  assert found["suggestion"]["peak_bytes"] <= 0.9 * small.hbm_bytes
  assert "this does (" in table.text(found)


@pytest.mark.slow  # Two compilations for a TPU, one of them long.
def test_rows_that_are_too_long_for_a_chip_are_cut(slice_of_four, monkeypatch):
  topology, devices = slice_of_four
  config = build(
    data__sequence_length=4096,
    train__batch_size=4,
    mesh__data=4,
    mesh__fsdp=1,
    model__remat="full",
    model__scan_layers=True,
    eval_batch_size=1,
  )
  records = fake_events.Records()
  first = plan.Plan(config, records, topology, devices).report()
  small = dataclasses.replace(topology.chip, hbm_bytes=int(first["peak_bytes"]))
  monkeypatch.setitem(chips.CHIPS, "v5e", small)
  found = advice.examine(config, records, topology, devices)
  assert not found["fits"]
  settings = found["suggestion"]["settings"]
  assert settings["mesh.sequence"] == 2 and settings["train.batch_size"] == 2


def test_vocabulary_is_taken_as_given():
  config = build()
  found = advice.with_vocabulary(fake_events.Records(), config, 1000)
  assert found.schema.categorical("activity")[0].size == 1002
  with pytest.raises(ValueError, match="--vocabulary=0"):
    advice.with_vocabulary(fake_events.Records(), config, 0)


def test_mesh_over_slices_keeps_data_outside():
  device = lambda i, s: types.SimpleNamespace(
    id=i, slice_index=s, process_index=s, platform="x", device_kind="x"
  )
  devices = [device(i, i // 4) for i in range(8)]
  with pytest.raises(ValueError, match="data must be a multiple of the 2 sl"):
    partition.make_mesh(dict(data=1, fsdp=8, tensor=1), devices)
