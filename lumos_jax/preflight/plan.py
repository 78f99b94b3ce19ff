"""Compiles a config's steps for a slice and says what they cost."""

import contextlib
import dataclasses
import math
import pathlib
import re
import tempfile
import time
from concurrent import futures
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from lumos_jax import evaluate, partition, recipes, train
from lumos_jax import state as state_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import predict
from lumos_jax.preflight import chips, flops, hlo

# Of a chip's memory, what should stay free: the runtime and fragments need it.
SPARE = 0.1
# Those that run the recipe's predict function over a split, and no more.
_EVALUATORS = ("forecast", "next_event", "perplexity")


@dataclasses.dataclass(frozen=True)
class Compiled:
  """One program on one slice; bytes are of one chip.

  Attributes:
    peak_bytes: Most that lives at a time, arguments included.
    error: The compiler's, where it refused; "" else.
    program: Its text, read; None where it refused.
  """

  peak_bytes: int
  error: str
  program: hlo.Program | None


@contextlib.contextmanager
def _no_cache():
  """Programs for devices that are not there cannot be read from a cache."""

  def turn(on):
    jax.config.update("jax_enable_compilation_cache", on)
    compilation_cache.reset_cache()

  before = jax.config.jax_enable_compilation_cache
  turn(False)
  try:
    yield
  finally:
    turn(before)


def compile_for(fn, *args) -> Compiled:
  """Compiles a jitted function whose abstract arguments say where they lie.

  Raises:
    What the compiler says, unless it is about memory.
  """
  with tempfile.TemporaryDirectory() as dump:
    options = {"xla_dump_to": dump, "xla_dump_hlo_as_text": True}
    return _compile(fn.lower(*args), options, pathlib.Path(dump))


def _compile(lowered, options, dump: pathlib.Path) -> Compiled:
  try:
    with _no_cache():
      done = lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as e:
    # "Used 17.5G of 15.75G hbm", "temporaries (26.68G) exceeds available HBM".
    used = re.search(r"(?:Used |\()([\d.]+)([KMGT])(?: of|\) exceeds)", str(e))
    if not used:
      raise
    size = float(used[1]) * 2 ** (10 * (1 + "KMGT".index(used[2])))
    line = next(s for s in str(e).splitlines() if used[0] in s)
    return Compiled(int(size), line.strip(), None)
  memory = done.memory_analysis()
  peak = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes
    - memory.alias_size_in_bytes
  )
  return Compiled(peak, "", hlo.Program(_text(done, dump)))


def _text(done, dump: pathlib.Path) -> str:
  """The optimized program's text.

  Raises:
    ValueError: There is none.
  """
  try:
    return done.as_text()
  except jax.errors.JaxRuntimeError as e:
    # Some of v6e's programs cannot be read back; the compiler wrote them down.
    found = sorted(dump.glob("*.after_optimizations.txt"))
    if not found:
      raise ValueError(f"the compiled program cannot be read: {e}") from e
    return found[-1].read_text()


def chip_bytes(tree) -> int:
  """Bytes of abstract, placed arrays on one chip."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


class Plan:
  """A config on a topology."""

  def __init__(self, config, records, topology: chips.Topology, devices):
    """Builds abstract state and batch; ValueErrors name config keys.

    Args:
      config: The whole config.
      records: The open data set, for its schema and a batch's form.
      topology: To compile for.
      devices: Of the topology.
    """
    self.config, self.topology, self.devices = config, topology, devices
    tasks = tasks_lib.from_config(config.tasks)
    self.recipe = recipes.build(config, records, tasks)
    self.trainer = train.Trainer(config, self.recipe, devices)
    self.batch = _train_batch(config, records, self.recipe, tasks)
    self._eval = _eval_step(config, records, self.recipe, tasks)

  def train_step(self) -> Compiled:
    """The train step, compiled."""
    place = NamedSharding(self.trainer.mesh, P(partition.BATCH))
    batch = {
      k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
      for k, x in self.batch.items()
    }
    return compile_for(self.trainer.step, self.trainer.abstract, batch)

  def eval_step(self) -> Compiled | None:
    """The evaluators' step: a chip has all parameters and its own users."""
    if self._eval is None:
      return None
    predictor, batch = self._eval
    place = SingleDeviceSharding(self.devices[0])
    lay = lambda x, dtype: jax.ShapeDtypeStruct(x.shape, dtype, sharding=place)
    params = {
      path: lay(x, predictor.held(path, x.dtype))
      for path, x in self.trainer.abstract["params"].items()
    }
    batch = {k: lay(x, x.dtype) for k, x in batch.items()}
    return compile_for(jax.jit(predictor.predict_fn), params, batch)

  def operations(self) -> tuple[float, float]:
    """Matrix operations of a step over all chips.

    Returns:
      Of the model (three times the forward pass), and as run: with what is
      made again.
    """
    state = self.trainer.abstract
    graph = self.trainer.graph

    def forward(params, batch):
      module = state_lib.merge(graph, params)
      totals = self.recipe.totals(batch)
      rngs = nnx.Rngs(dropout=0)  # Some draw candidates.
      return self.recipe.loss(module, batch, rngs, totals)[0]

    bare = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    params, batch = (
      jax.tree.map(bare, t) for t in (state["params"], self.batch)
    )
    step = train.make_step(self.config, self.recipe, graph, self.trainer.tx)
    model = 3.0 * flops.count(forward, params, batch)
    # With the chip's kernels, but as if there were one: parts of a mesh would
    # count their own operations alone.
    with partition.tracing_for(partition.make_mesh({}, self.devices[:1])):
      return model, flops.count(step, jax.tree.map(bare, state), batch)

  def report(self, tokens: float = 0.0) -> dict[str, Any]:
    """All figures, as they are written to JSON.

    Args:
      tokens: To estimate the cost of; 0 for those of the config's steps.
    """
    state, chip = self.trainer.abstract, self.topology.chip
    n, mesh = self.topology.chips, self.trainer.mesh
    model, run = self.operations()
    start = time.monotonic()
    # The compiler takes one core and holds no lock. Around both: the first to
    # end must not turn the cache on for the other.
    with _no_cache(), futures.ThreadPoolExecutor() as pool:
      steps = [pool.submit(f) for f in (self.train_step, self.eval_step)]
      done, evaluated = (s.result() for s in steps)
    seconds = time.monotonic() - start
    both = [c for c in (done, evaluated) if c]
    peak = max(c.peak_bytes for c in both)
    errors = [c.error for c in both if c.error]
    out = {
      "config": self.config.name,
      "topology": self.topology.name,
      "chips": n,
      "mesh": dict(mesh.shape),
      "parameters": state_lib.count(state["params"]),
      "batch_size": self.config.train.batch_size,
      "tokens_per_step": self.recipe.tokens(self.batch),
      "parameter_bytes": chip_bytes(state["params"]),
      "optimizer_bytes": chip_bytes(
        {k: v for k, v in state.items() if k != "params"}
      ),
      "peak_bytes": done.peak_bytes,
      "eval_peak_bytes": evaluated and evaluated.peak_bytes,
      "hbm_bytes": chip.hbm_bytes,
      "spare": 1.0 - peak / chip.hbm_bytes,
      "fits": not errors and peak <= (1.0 - SPARE) * chip.hbm_bytes,
      "errors": errors,
      "model_flops": model,
      "run_flops": run,
      "compile_seconds": round(seconds, 1),
    }
    if done.program:
      per_slice = n // self.topology.slices if self.topology.slices > 1 else 0
      found = done.program.collectives(per_slice)
      out["collectives"] = [dataclasses.asdict(c) for c in found]
      out["hbm_traffic_bytes"] = done.program.traffic()
      out["unknown_loops"] = done.program.unknown_loops()
      out |= roofline(chip, n, out, found, tokens or self._all_tokens())
    return out

  def _all_tokens(self) -> float:
    return float(self.recipe.tokens(self.batch)) * self.config.train.steps


def roofline(chip, n, figures, collectives, tokens) -> dict[str, Any]:
  """Estimates of time from datasheet rates.

  Two bounds: all chips' units busy at the same time, and collectives waiting
  for the rest.
  """
  compute = figures["run_flops"] / n / chip.flops
  memory = figures["hbm_traffic_bytes"] / chip.hbm_rate
  axis = chip.ici_rate / chip.axes
  links = sum(
    c.sent() / (chips.DCN_RATE if c.crosses else axis) for c in collectives
  )
  best = max(compute, memory, links)
  worst = max(compute, memory) + links
  steps = tokens / figures["tokens_per_step"]
  use = lambda s: figures["model_flops"] / n / chip.flops / s
  return {
    "compute_seconds": compute,
    "memory_seconds": memory,
    "collective_seconds": links,
    "step_seconds": [best, worst],
    "model_flops_use": [use(worst), use(best)],
    "tokens_per_second": [
      figures["tokens_per_step"] / worst,
      figures["tokens_per_step"] / best,
    ],
    "tokens": tokens,
    "chip_hours": [n * steps * s / 3600 for s in (best, worst)],
  }


def _train_batch(config, records, recipe, tasks):
  """Shapes of a global batch, from a small real one."""
  few = config.train.accumulate
  iterator = recipe.inputs.train_iterator(
    records, config.data, tasks, few, config.seed
  )
  batch = next(iterator)
  size = config.train.batch_size
  return {
    k: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
    for k, x in batch.items()
  }


def _eval_step(config, records, recipe, tasks):
  """What runs the model for the first evaluator that does, and its batch.

  Returns:
    (predictor, shapes of a chip's users), or None without evaluator.
  """
  names = [k for k, v in config.evals.items() if v["type"] in _EVALUATORS]
  if not names:
    return None
  # One local device: a batch is what a chip gets.
  session = evaluate.Session(
    config, "", records, recipe, tasks, names[:1], jax.local_devices()[:1]
  )
  predictor = session.predictor
  batch = next(iter(session.evaluators[names[0]].batches(predictor)))
  return predictor, {
    k: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype)
    for k, x in batch.items()
    if k not in predict.HOST
  }
