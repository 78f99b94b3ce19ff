"""The training loop: the only one; what differs between systems is a recipe."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from etils import epath
from flax import nnx

from lumos_jax import best as best_lib
from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import evaluators as evaluators_lib
from lumos_jax import (
  identity,
  init_from,
  metric_writer,
  optimizer,
  partition,
  progress,
  startup,
)
from lumos_jax import state as state_lib
from lumos_jax import stop as stop_lib
from lumos_jax.data import pipeline

Evaluate = Callable[[int, dict[str, jax.Array], bool], dict[str, float]]
Stopped = stop_lib.Stopped
_AGAIN = "the same command resumes from there"


class NotFinite(RuntimeError):
  """The loss or its gradient became NaN or infinite."""


def make_step(config, recipe, graph, tx: optax.GradientTransformation):
  """The train step (state, batch) -> (state, metrics), to be jitted.

  A batch is cut into `train.accumulate` parts whose gradients add up to the
  whole batch's.
  """
  parts, decay = config.train.accumulate, config.train.ema_decay
  rate = optimizer.schedule(config.optimizer, config.train.steps)

  def loss(params, batch, key, totals):
    # What is frozen gets no gradient, and none is computed.
    params = {
      k: jax.lax.stop_gradient(x) if state_lib.frozen(recipe, k) else x
      for k, x in params.items()
    }
    module = state_lib.merge(graph, params)
    rngs = nnx.Rngs(dropout=key)
    return recipe.loss(module, batch, rngs, totals, 1.0 / parts)

  gradient = jax.value_and_grad(loss, has_aux=True)

  def all_gradients(params, batch, key):
    totals = recipe.totals(batch)
    if parts == 1:
      return gradient(params, batch, key, totals)
    # Every parts-th row, so that no row leaves its device.
    cut = lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

    def body(total, item):
      i, part = item
      new = gradient(params, part, jax.random.fold_in(key, i), totals)
      return jax.tree.map(jnp.add, total, new), None

    pieces = (jnp.arange(parts), jax.tree.map(cut, batch))
    first = jax.tree.map(lambda x: x[0], pieces[1])
    shapes = jax.eval_shape(gradient, params, first, key, totals)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(body, zeros, pieces)[0]

  def step(state, batch):
    key = jax.random.fold_in(jax.random.key(config.seed + 1), state["step"])
    (value, logs), grads = all_gradients(state["params"], batch, key)
    updates, opt = tx.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    new = {"params": params, "opt": opt, "step": state["step"] + 1}
    if decay:
      # Early steps average over few values only.
      count = new["step"].astype(jnp.float32)
      d = jnp.minimum(decay, count / (count + 10.0))
      # In this form what is not trained stays as it is, to the bit.
      new["ema"] = jax.tree.map(
        lambda a, p: a + (1.0 - d) * (p - a), state["ema"], params
      )
    metrics = {
      "loss": value,
      "gradient_norm": optax.tree.norm(grads),
      "learning_rate": jnp.asarray(rate(state["step"])),
      **logs,
    }
    return new, metrics

  return step


class Trainer:
  """Mesh, compiled step and abstract state of a config; no data yet."""

  def __init__(self, config, recipe, devices=None):
    """Builds what can be built without data; ValueErrors name config keys."""
    self.config, self.recipe = config, recipe
    self.mesh = partition.make_mesh(config.mesh, devices)
    if config.eval_batch_size < 1:
      raise ValueError(
        f"eval_batch_size = {config.eval_batch_size} must be at least 1"
      )
    partition.check_batch_size(
      config.train.batch_size, config.train.accumulate, self.mesh
    )
    partition.check_sequence(recipe.sequence_length, self.mesh)
    partition.check_hosts(self.mesh)
    self.graph, self.axes = state_lib.structure(recipe)
    self.tx = optimizer.make(
      config.optimizer,
      config.train.steps,
      self.axes,
      {k for k in self.axes if state_lib.frozen(recipe, k)},
    )

    def init(batch=None):
      ema = bool(config.train.ema_decay)
      return state_lib.init(recipe, self.tx, config.seed, ema, batch)

    shapes = jax.eval_shape(init)
    self.shardings = partition.state_shardings(shapes, self.axes, self.mesh)
    self.abstract = jax.tree.map(
      lambda s, x: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=x),
      shapes,
      self.shardings,
    )
    self._init = jax.jit(init, out_shardings=self.shardings)
    step = make_step(config, recipe, self.graph, self.tx)

    def on_mesh(state, batch):
      with partition.tracing_for(self.mesh):
        return step(state, batch)

    self.step = jax.jit(
      on_mesh,
      donate_argnums=0,
      out_shardings=(self.shardings, None),
      compiler_options=startup.compiler_options(
        self.mesh.devices.flat[0].platform
      ),
    )

  def init(self, batches: Sequence[pipeline.Batch]) -> state_lib.State:
    """A fresh state on the mesh; `batches` are the first, on the host."""
    joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    return self._init(self.put(joined))

  def put(self, batch: pipeline.Batch) -> pipeline.Batch:
    """A host batch onto the mesh."""
    return partition.put_batch(batch, self.mesh)


def check_finite(step: int, metrics: dict[str, float], saved: int | None):
  """Raises NotFinite, saying which numbers and where to resume from."""
  bad = [k for k, v in metrics.items() if not math.isfinite(v)]
  if bad:
    raise NotFinite(
      f"step {step}: {', '.join(bad)} not finite. Lower "
      "--config.optimizer.learning_rate or set optimizer.clip_norm; the newest "
      f"checkpoint is step {saved}, written before this"
    )


def train(
  config,
  workdir: epath.PathLike,
  records,
  recipe,
  tasks,
  evaluate: Evaluate | None = None,
  devices=None,
) -> state_lib.State:
  """Trains to config.train.steps, from the newest checkpoint if there is one.

  Args:
    config: The whole config.
    workdir: Checkpoints, metrics.jsonl and TensorBoard files go here.
    records: The open data set.
    recipe: Of config.recipe.
    tasks: Declared tasks.
    evaluate: (step, parameters, is last) -> metrics to log; called with the old
      state before a step is taken.
    devices: Default: all.

  Returns:
    The final state.

  Raises:
    NotFinite, Stopped, CheckpointError: See there.
  """
  cfg, trainer = config.train, Trainer(config, recipe, devices)
  best_lib.check_config(config)
  checkpoints = checkpoint_lib.Checkpoints(workdir, cfg.keep, cfg.keep_every)
  meta = identity.make_meta(
    config,
    records.schema,
    records.calendar.columns,
    identity.content(records.stats),
  )
  meta["inputs"] = identity.inputs_of(recipe, training=True)
  iterator = recipe.inputs.train_iterator(
    records, config.data, tasks, cfg.batch_size, config.seed
  )
  with contextlib.closing(
    pipeline.DevicePrefetch(iterator, trainer.put)
  ) as batches:
    if checkpoints.latest is None:
      start, state = 0, _begin(config, trainer, iterator, records)
    else:
      start, state, position = _resume(config, trainer, checkpoints, records)
      batches.set_state(position)
    logging.info(
      "%s parameters, mesh %s",
      f"{state_lib.count(trainer.abstract['params']):,}",
      dict(trainer.mesh.shape),
    )
    return _loop(
      config,
      workdir,
      trainer,
      checkpoints,
      batches,
      meta,
      start,
      state,
      evaluate,
    )


def _begin(config, trainer, iterator, records) -> state_lib.State:
  """A fresh state, or one of another run's parameters; no batch is used up."""
  progress.say("initialising the model ...")
  # The first batches also give the scales; the position is put back.
  position = iterator.get_state()
  first = [next(iterator) for _ in range(config.train.init_batches)]
  state = trainer.init(first)
  iterator.set_state(position)
  if config.init_from:
    return init_from.start(config, state, records)
  if hasattr(trainer.recipe, "starting_weights"):
    logging.info("%s", trainer.recipe.about())
    return init_from.replace(state, trainer.recipe.starting_weights())
  return state


def _resume(config, trainer, checkpoints, records):
  """The newest step that can be read, its state and its input position.

  Raises:
    CheckpointError: The checkpoints are another run's, or none can be read.
    ValueError: train.steps lies before the checkpoint.
  """
  newest = checkpoints.latest
  whole, meta = checkpoints.newest(checkpoints.meta)
  identity.check_meta(
    meta,
    config,
    records.schema,
    records.calendar.columns,
    True,
    identity.content(records.stats),
  )
  identity.check_inputs(meta, trainer.recipe, True)
  steps, before = config.train.steps, meta["config"]["train"]["steps"]
  if steps < newest:
    raise ValueError(
      f"train.steps = {steps}, and {checkpoints.path} is at step {newest}: a run "
      "does not go back. Set more steps, or choose another --workdir"
    )
  progress.say(f"resuming from {checkpoints.path} ...")
  start, (state, position) = checkpoints.newest(
    lambda n: checkpoints.restore(trainer.abstract, n), whole
  )
  checkpoints.set_aside(newer_than=start)
  logging.info("resumed from step %d", start)
  if steps != before:
    rate = lambda n: float(optimizer.schedule(config.optimizer, n)(start))
    logging.warning(
      "train.steps was %d and is %d: the %s schedule is now that of %d steps; at "
      "step %d the learning rate goes from %.3g to %.3g",
      before,
      steps,
      config.optimizer.schedule,
      steps,
      start,
      rate(before),
      rate(steps),
    )
  return start, state, position


def _loop(
  config, workdir, trainer, checkpoints, batches, meta, start, state, evaluate
) -> state_lib.State:
  """Steps, checkpoints and evaluations from `start` to the end."""
  cfg = config.train
  best = best_lib.Best(config, workdir, start)
  checkpoints.hold(best.step)
  # Series of one point are none to look at; intervals stand in eval.json.
  series = {k for k, v in config.evals.items() if v.get("every_steps", 0)}
  shown = lambda name: (
    name.partition("/")[0] in series
    and name.count("/") <= 2
    and not name.endswith(("/low", "/high"))
  )
  late = None  # The last step's metrics, still on the device.
  with (
    # What was begun is written, come what may.
    checkpoints,
    metric_writer.MetricWriter(workdir, start) as writer,
    progress.Progress(cfg.steps, start) as bar,
    stop_lib.StopSignal() as stop,
  ):
    read = functools.partial(
      _read,
      checkpoints=checkpoints,
      writer=writer,
      bar=bar,
      every=cfg.log_every,
    )

    def save(n):
      with progress.stage("saving"):
        checkpoints.save(n, state, batches.state(), meta)

    def evaluated(n, last, params=None):
      if not evaluate:
        return {}
      params = params or state_lib.eval_params(state)
      values = stop.at_once(lambda: evaluate(n, params, last)) or {}
      writer.write(n, values, shown)
      return values

    for n in range(start, cfg.steps + 1):
      last = n == cfg.steps
      due = evaluators_lib.due(config.evals, n, last)
      saves = last or (n % cfg.checkpoint_every == 0 and n > start)
      if saves or due:
        # A state that is not finite is never saved; and the step's time ends
        # before what follows begins.
        late = read(late)
      with bar.aside():
        if saves:
          save(n)
        if not last:
          if best.note(n, evaluated(n, False)):
            checkpoints.hold(n)
            save(n)
          if best.exhausted:
            logging.warning("stopped early at step %d: %s", n, best.why)
            save(n)
            last = True
        if last:  # All is saved: a signal need not wait for the evaluators.
          checkpoints.wait()
          if stop.name:
            raise stop_lib.Stopped(
              f"{stop.name}: all steps are saved; {_AGAIN}"
            )
          stop.release()
          if cfg.evaluate_best and n == cfg.steps:
            best.note(n, evaluated(n, False))
          if cfg.evaluate_best and best.step not in (None, n):
            progress.say(
              f"the last evaluation is of step {best.step}: {best.why}"
            )
            params = checkpoints.restore_params(
              trainer.abstract["params"], best.step
            )
            evaluated(best.step, True, params)
          else:
            best.note(n, evaluated(n, True))
      if last:
        break
      if stop.name or checkpoints.reached_preemption(n):
        read(late)
        save(n)
        name = stop.name or "a signal to one process"
        raise stop_lib.Stopped(
          f"{name}: saved step {n} of {cfg.steps}; {_AGAIN}"
        )
      begin = time.perf_counter()
      batch = next(batches)
      wait = time.perf_counter() - begin
      state, metrics = trainer.step(state, batch)
      # Read one step late: the device never waits for the host.
      read(late)
      late = (n + 1, metrics, wait, trainer.recipe.tokens(batch))
  return state


def _read(
  late: tuple[int, Any, float, int] | None, *, checkpoints, writer, bar, every
) -> None:
  """Checks, shows and logs a step's metrics, once."""
  if late is None:
    return
  step, metrics, wait, tokens = late
  values = {k: float(v) for k, v in jax.device_get(metrics).items()}
  check_finite(step, values, checkpoints.latest)
  speed = bar.update(step, values["loss"], tokens, wait)
  if step % every == 0:
    writer.write(step, values | speed)
