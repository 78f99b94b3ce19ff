r"""Evaluates a stored checkpoint, on any number of devices.

  python -m lumos_jax.evaluate --workdir=runs/pretrain [--step=400|best] \
    [--only=forecast,what_if] [--data_dir=DIR]

Writes eval.json and predictions/ of the workdir, and its report anew if there
is one. Training evaluates by the same `Session`. The config is the run's own,
config.json of the workdir: --config.KEY=VALUE is for lumos_jax.main.
"""

import argparse
import functools
import importlib.util
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, logging
from absl.flags import argparse_flags
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lumos_jax import best, identity, progress, startup
from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import config as config_lib
from lumos_jax import evaluators as evaluators_lib
from lumos_jax import recipes as recipes_lib
from lumos_jax import state as state_lib
from lumos_jax import why as why_lib
from lumos_jax.data import pipeline, scoring
from lumos_jax.data import records as records_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import bootstrap, predict, what_if

EVAL_FILE = "eval.json"
STEPS = "steps"  # Beside the evaluators in eval.json: {evaluator: step}.
_ENDS = "low", "high"
_MOST_LINES = 40  # That are printed of an evaluator.
# What a user can mend: printed as one line, without a traceback.
ERRORS = (
  ValueError,
  OSError,
  checkpoint_lib.CheckpointError,
  records_lib.DataError,
  what_if.UnseenEntryError,
)


class Session:
  """The evaluators of a config; each compiles once for the whole run."""

  def __init__(
    self,
    config,
    workdir: epath.PathLike,
    records: Any,
    recipe: Any,
    tasks: Sequence[tasks_lib.Task],
    only: Sequence[str] = (),
    devices: Sequence[jax.Device] | None = None,
  ):
    """Builds the evaluators; ValueErrors name config keys.

    Args:
      config: The whole config.
      workdir: Of the run.
      records: An open data set.
      recipe: Of config.recipe.
      tasks: Declared tasks.
      only: Names of config.evals to run; default all.
      devices: Local devices to use; default all.
    """
    self.workdir, self.tasks = epath.Path(workdir), tuple(tasks)
    absent = sorted(set(only) - set(config.evals))
    if absent:
      raise ValueError(
        f"config.evals has no {absent}; it has {sorted(config.evals)}"
      )
    evals = {k: v for k, v in config.evals.items() if not only or k in only}
    graph, _ = state_lib.structure(recipe)

    def predict_fn(params, batch, **kw):
      return recipe.predict(state_lib.merge(graph, params), batch, **kw)

    self.predictor = predict.Predictor(
      predict_fn,
      config.eval_batch_size,
      devices,
      getattr(recipe, "held_dtype", None),
    )
    if getattr(recipe, "weights", None) is not None and len(recipe.weights) > 1:
      self.predictor.rows = self.predictor.of(
        lambda params, batch: recipe.rows(state_lib.merge(graph, params), batch)
      )
      self.predictor.row_weights = recipe.weights
    self.predictor.inputs = recipe.inputs
    if hasattr(recipe.inputs, "embed_batches"):
      self.predictor.embedder = self.predictor.of(
        lambda params, batch: recipe.embed(
          state_lib.merge(graph, params), batch
        )
      )
      self.predictor.embedder.sees_profile = recipe.sees_profile
    if getattr(recipe, "backbone", None) is not None:
      self.predictor.pretrained = self.predictor.of(
        lambda params, batch: recipe.pretrained(
          state_lib.merge(graph, params), batch
        )
      )
      self.predictor.frozen = recipe.cfg.tune == "frozen"
    if isinstance(recipe.inputs, scoring.Scoring):
      self.predictor.explain = functools.partial(why_lib.Why, recipe)
    if recipe.inputs is pipeline:
      self.predictor.states = self.predictor.of(
        lambda params, batch: recipe.summary(
          state_lib.merge(graph, params), batch
        )
      )
    # Baselines get the seed of the run and as many members as its model.
    ensemble = "members" in config.model
    members = config.model.members if ensemble else 1
    fits = dict(seed=config.seed, members=members)
    self.evaluators = evaluators_lib.build(
      evals, self.predictor, records, tasks, config.data, workdir, fits
    )
    splits = records.stats.get("splits", {})
    self._users = {k: v["users"] for k, v in splits.items()}
    self._evals, self._data_cfg = evals, config.data
    self._keep = bool(only)

  def evaluate(self, step: int, params: Any, last: bool) -> dict[str, float]:
    """Runs what is due; at the last step all, and writes eval.json.

    Args:
      step: Steps done.
      params: {path: array}, wherever they lie.
      last: All evaluators run and their values are kept.

    Returns:
      {"evaluator/metric": value} to log.
    """
    due = evaluators_lib.due(self._evals, step, last)
    # Those without parameters run on process 0 only: others must not wait.
    order = lambda e: (not e.needs_params, e.slow)
    due.sort(key=lambda n: order(self.evaluators[n]))
    if not due:
      return {}
    if any(self.evaluators[n].needs_params for n in due):
      params = self.predictor.place(params)
    # Values of an earlier evaluation stand until this one has its own.
    results = read(self.workdir) if last else {}
    steps = results.setdefault(STEPS, {})
    fresh = []
    for name in due:
      evaluator = self.evaluators[name]
      if not evaluator.needs_params and jax.process_index():
        continue
      logging.info("step %d: evaluator %s", step, name)
      results[name], steps[name] = {}, step
      fresh.append(name)
      users = self._users.get(evaluator.split)
      try:
        with progress.stage(f"evaluating {name}", users):
          for metric, value in evaluator.run(params):
            results[name][metric] = float(value)
          # A split that is not by time is told wherever its numbers are.
          results[name] |= scoring.marks(self._data_cfg)
      finally:
        # What is known is kept, also where this evaluator ends in an error.
        if last:
          write(self.workdir, results)
    if last and jax.process_index() == 0:
      for name, values in self._comparisons(fresh).items():
        results[name], steps[name] = values, step
        fresh.append(name)
      if not self._keep:
        for name in set(results) - {STEPS, *fresh}:
          del results[name]
          steps.pop(name, None)
      write(self.workdir, results)
    return {f"{n}/{m}": v for n in fresh for m, v in results[n].items()}

  def _comparisons(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Paired bootstrap of each model's results against each baseline's."""
    out = {}
    ran = [self.evaluators[n] for n in names]
    for a in ran:
      for b in ran:
        found = a.compare(b)
        if found:
          marks = scoring.marks(self._data_cfg)
          out[f"{a.name}_vs_{b.name}"] = bootstrap.flat(found) | marks
    return out


def read(workdir: epath.PathLike) -> dict[str, dict[str, float]]:
  """The content of eval.json; {} where there is none."""
  path = epath.Path(workdir) / EVAL_FILE
  return json.loads(path.read_text()) if path.exists() else {}


def write(
  workdir: epath.PathLike, results: Mapping[str, Mapping[str, float | None]]
) -> None:
  """Writes eval.json from process 0; what is not finite becomes null."""
  if jax.process_index():
    return
  clean = {
    name: {
      m: v if v is not None and math.isfinite(v) else None
      for m, v in values.items()
    }
    for name, values in results.items()
  }
  text = json.dumps(clean, indent=1, allow_nan=False)
  predict.write_atomic(epath.Path(workdir) / EVAL_FILE, text.encode())


def load_config(workdir: epath.PathLike) -> ml_collections.ConfigDict:
  """The config of a run.

  Raises:
    FileNotFoundError: The workdir holds no run.
  """
  path = epath.Path(workdir) / "config.json"
  if not path.exists():
    raise FileNotFoundError(f"{workdir} holds no run: there is no config.json")
  return config_lib.stored(json.loads(path.read_text()))


def restore(
  workdir: epath.PathLike, config, records: Any, recipe: Any, step: int | None
) -> tuple[int, dict[str, jax.Array]]:
  """Parameters of a checkpoint, replicated over whatever devices there are.

  Returns:
    The step and {path: array}.

  Raises:
    CheckpointError: There is none, or the data set is not the checkpoint's.
  """
  return restored(_checked(workdir, config, records, step), recipe, step)


def _checked(workdir, config, records, step) -> checkpoint_lib.Checkpoints:
  """The checkpoints, once the data set is known to be the checkpoint's."""
  store = checkpoint_lib.Checkpoints(workdir, read_only=True)
  columns = records.calendar.columns
  meta = _meta(store, step)
  identity.check_meta(meta, config, records.schema, columns, False)
  return store


def _meta(store: checkpoint_lib.Checkpoints, step: int | None) -> dict:
  """What a step says of itself, by default the newest that can be read."""
  return store.newest(store.meta)[1] if step is None else store.meta(step)


def restored(
  store: checkpoint_lib.Checkpoints, recipe: Any, step: int | None
) -> tuple[int, dict[str, jax.Array]]:
  """The step and the parameters of a checkpoint, replicated."""
  whole = NamedSharding(Mesh(np.asarray(jax.devices()), ("all",)), P())
  shapes = jax.eval_shape(
    lambda: state_lib.split(recipe.init(nnx.Rngs(params=0)))[1]
  )
  abstract = {
    k: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=whole)
    for k, s in shapes.items()
  }
  # Not as a step is read: other steps' files are no more those that were there.
  identity.check_inputs(_meta(store, step), recipe, resume=False)
  read = lambda n: store.restore_params(abstract, n)
  return store.newest(read) if step is None else (step, read(step))


def open_data(
  config, data_dir: epath.PathLike | None = None
) -> records_lib.Records:
  """Opens the data set at `data_dir`, by default where the config says."""
  if data_dir is None:
    options = config.data.options.to_dict()
    name = records_lib.directory_name(config.data.source, options)
    data_dir = epath.Path(config.data.root) / name
  return records_lib.Records.open(data_dir)


def run(
  workdir: epath.PathLike,
  step: int | str | None = None,
  only: Sequence[str] = (),
  data_dir: epath.PathLike | None = None,
) -> dict[str, float]:
  """Evaluates a checkpoint of a workdir; see the module's text.

  Args:
    workdir: Of the run.
    step: Which checkpoint, or "best": by train.best.metric; default the
      newest that can be read.
    only: Names in config.evals; the other entries of eval.json stay.
    data_dir: The data set, if not where the config says.

  Returns:
    {"evaluator/metric": value}.
  """
  workdir = epath.Path(workdir)
  config = load_config(workdir)
  if step == "best":
    step = best.read(workdir)["step"]
  records = open_data(config, data_dir)
  # Before a recipe or a task can miss a field that another data set lacks.
  store = _checked(workdir, config, records, step)
  tasks = tasks_lib.from_config(config.tasks)
  recipe = recipes_lib.build(config, records, tasks)
  session = Session(config, workdir, records, recipe, tasks, only)
  step, params = restored(store, recipe, step)
  values = session.evaluate(step, params, last=True)
  has_report = importlib.util.find_spec("lumos_jax.report") is not None
  if has_report and (workdir / "report.html").exists():
    from lumos_jax import report

    if jax.process_index() == 0:
      report.build(workdir, data_dir)
  return values


def text(values: Mapping[str, float]) -> str:
  """The values as text: a line for all metrics of one thing, by evaluator.

  Differences stand with their intervals. Of an evaluator that yields more than
  _MOST_LINES, the others are counted: they stand in eval.json.

  Args:
    values: {"evaluator/.../metric": value}, as `run` gives.
  """
  lines: dict[str, dict[str, list[str]]] = {}
  for name, value in values.items():
    evaluator, _, rest = name.partition("/")
    of, _, metric = rest.rpartition("/")
    if metric in _ENDS and f"{evaluator}/{of}/difference" in values:
      continue
    told = f"{metric} {value:.6g}"
    if metric == "difference":
      ends = [values.get(f"{evaluator}/{of}/{e}", math.nan) for e in _ENDS]
      of, _, metric = of.rpartition("/")
      told = f"{metric} {value:+.4f} [{ends[0]:+.4f}, {ends[1]:+.4f}]"
    lines.setdefault(evaluator, {}).setdefault(of, []).append(told)
  out = []
  for evaluator, found in lines.items():
    out.append(evaluator)
    width = max(map(len, found))
    for of, told in list(found.items())[:_MOST_LINES]:
      out.append(f"  {of:{width}s}  {'  '.join(told)}".rstrip())
    more = len(found) - _MOST_LINES
    if more > 0:
      out.append(f"  and {more:,} lines more in {EVAL_FILE}")
  return "\n".join(out)


def _step(text: str) -> int | str:
  return text if text == "best" else int(text)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse_flags.ArgumentParser(
    prog="python -m lumos_jax.evaluate",
    description="Evaluates a stored checkpoint on any number of devices. The "
    "config is the run's own, config.json of the workdir: --config.KEY=VALUE "
    "is for lumos_jax.main.",
    # Beside lumos_jax.main in one process, whose flags share names.
    conflict_handler="resolve",
  )
  add = parser.add_argument
  add("--workdir", required=True, help="of the run's outputs")
  add("--step", type=_step, help="checkpoint, or best; default the newest")
  add("--only", default="", help="names in config.evals; default all")
  add("--data_dir", help="the data set, if not where the config says")
  startup.add_process_flags(add)
  return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
  """Entry point."""
  startup.connect_as_asked(args)
  startup.keep_compilations()
  progress.quiet_libraries()
  only = [name for name in args.only.split(",") if name]
  try:
    values = run(args.workdir, args.step, only, args.data_dir)
  except ERRORS as e:
    logging.debug("", exc_info=True)
    print(f"error: {e}", file=sys.stderr)
    sys.exit(1)
  if jax.process_index():  # The first one tells.
    return
  print(text(values))


if __name__ == "__main__":
  app.run(main, flags_parser=_arguments)
