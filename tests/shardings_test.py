r"""Where every parameter of every preset lies, on 8 and on 256 devices.

A change of tests/golden/shardings.txt is a change of memory and of traffic:
`python tests/shardings_test.py` writes the file anew, for review.
"""

import math
import pathlib

import fake
import fake_events
import jax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh

from lumos_jax import config as config_lib
from lumos_jax import partition, recipes, train
from lumos_jax import state as state_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.preflight import advice, hlo

GOLDEN = pathlib.Path(__file__).parent / "golden" / "shardings.txt"
# Preset: config file and argument.
PRESETS = {
  "LUMOS tiny": ("pretrain", "size=tiny"),
  "LUMOS base": ("pretrain", "size=base"),
  "LUMOS paper": ("paper", None),
  "LUMOS large": ("paper", "size=large"),
  "PANTHER small": ("panther", None),
  "PANTHER large": ("panther", "size=large"),
  "SASRec": ("sasrec", None),
  "BERT4Rec": ("bert4rec", None),
  "HSTU": ("hstu", None),
}
# data, fsdp, sequence, tensor. "v5e:16x16" of the large presets' own form.
MESHES = {
  "8": (2, 2, 1, 2),
  "v5e:16x16": (32, 8, 1, 1),
  "v5e:16x16, tensor": (16, 4, 1, 4),
}
_LARGE = 1 << 20


def parameters(preset):
  """{path: (logical axes, shape)} over a small schema, 60,000 items."""
  name, arg = PRESETS[preset]
  c = config_lib.load(f"{name}:{arg or ''}")
  with c.unlocked():
    c.model.views = {}
    if c.recipe == "panther":
      c.data.target = "item"
      records = advice.with_vocabulary(fake_events.Records(), c, 60_000)
    else:
      c.tasks = fake.config().tasks
      for task in c.tasks.values():
        task.horizon_days = 28
      records = fake.Records()
  recipe = recipes.build(c, records, tasks_lib.from_config(c.tasks))
  _, axes = state_lib.structure(recipe)
  shapes = jax.eval_shape(
    lambda: state_lib.split(recipe.init(nnx.Rngs(params=0)))[1]
  )
  return {k: (axes[k], shapes[k].shape) for k in sorted(axes)}


def mesh(name):
  return AbstractMesh(MESHES[name], partition.MESH_AXES)


def lines(preset):
  """One line a parameter: path, shape, its axes on every mesh."""
  out = []
  for path, (axes, shape) in parameters(preset).items():
    places = [partition.spec(axes, shape, mesh(m)) for m in MESHES]
    if not any(any(p) for p in places):
      continue  # Whole everywhere.
    written = " | ".join(" ".join(n or "-" for n in p) for p in places)
    out.append(f"{path} {'x'.join(map(str, shape))}: {written}")
  return out


def test_golden_shardings():
  found = GOLDEN.read_text().split("\n\n")
  assert found[0].splitlines()[0] == "meshes: " + " | ".join(MESHES)
  for part, preset in zip(found[1:], PRESETS, strict=True):
    head, *rest = part.strip().splitlines()
    assert head == preset
    assert rest == lines(preset), preset


@pytest.mark.parametrize("preset", ("LUMOS large", "PANTHER large"))
@pytest.mark.parametrize("name", ("v5e:16x16", "v5e:16x16, tensor"))
def test_no_large_parameter_is_whole(preset, name):
  for path, (axes, shape) in parameters(preset).items():
    if math.prod(shape) >= _LARGE:
      assert any(partition.spec(axes, shape, mesh(name))), path


def steps(kind):
  """A compiled train step whose rows outweigh its parameters, on fsdp = 4."""
  many = dict(mesh__data=2, mesh__fsdp=4, train__batch_size=256)
  # As the large presets have it.
  many |= dict(model__scan_layers=True, model__remat="full")
  if kind == "lumos":
    c = fake.config(**many, model__patch_days=1, model__n_encoder_layers=2)
    records, tasks = fake.Records(), tasks_lib.from_config(c.tasks)
    numbers = 256 // 8 * 57 * c.model.d_model
  else:
    many["data__sequence_length"] = 64
    c = fake_events.config(**many, model__n_encoder_layers=2)
    records, tasks = fake_events.Records(), ()
    numbers = 256 // 8 * 64 * c.model.d_model
  recipe = recipes.build(c, records, tasks)
  trainer = train.Trainer(c, recipe)
  iterator = recipe.inputs.train_iterator(records, c.data, tasks, 256, 0)
  batch = trainer.put(next(iterator))
  text = trainer.step.lower(trainer.abstract, batch).compile().as_text()
  return hlo.Program(text), 4 * numbers


@pytest.mark.parametrize("kind", ("lumos", "panther"))
def test_rows_stay_and_parameters_travel(kind):
  """No collective of a step is as large as a layer's states."""
  program, states = steps(kind)
  found = program.collectives()
  assert any(c.kind == "all-gather" for c in found)
  most = max(found, key=lambda c: c.bytes / c.count)
  assert most.bytes / most.count < states, most


if __name__ == "__main__":
  GOLDEN.parent.mkdir(exist_ok=True)
  text = ["meshes: " + " | ".join(MESHES)]
  text += ["\n".join([preset, *lines(preset)]) for preset in PRESETS]
  GOLDEN.write_text("\n\n".join(text) + "\n")
