"""A new run begins at another run's parameters.

What belongs to a value, a field or a column goes to where that stands now: rows
of embedding tables and of output heads by the value, rows of a stream's first
layer by the field, or the calendar's column. What is new among it:

  - a value's row is the mean of the known ones; a composite token's, of those
    that share its parts;
  - a field's rows of the first layer are zero, so that the model begins at what
    the other one said.

Heads of other tasks begin anew, with the starts that the new data give. Every
other parameter is loaded as it is, or is an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lumos_jax import best, identity, progress
from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax import config as config_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.models import matching

# Parts that objectives add: they may come and go.
_BACKBONE = "backbone/"  # Of a hybrid's parameters, recipes/hybrid.py.
_AUXILIARY = ("attribute_heads/", "gap_head/", "bag/")
# Task heads, and what their weights were fitted beside.
_HEADS = ("model/head/", "model/habits/", "amounts/", "balance")
_TASK_KEYS = ("kind", "field", "label", "reduce", "equals", "horizon_days")


def start(config, state: dict[str, Any], records) -> dict[str, Any]:
  """A fresh state with the parameters of config.init_from's run.

  Args:
    config: Of the new run.
    state: Fresh, on the mesh; its optimizer's state stays.
    records: The new run's data set.

  Returns:
    The state; the average, where one is kept, begins at the parameters too.

  Raises:
    CheckpointError: There is no such run or step, or a parameter is neither
      found there nor explained by other data, tasks or config.init_new.
  """
  store = checkpoint_lib.Checkpoints(config.init_from, read_only=True)
  step, (old, meta) = _read(store, config)
  fresh = {k: _host(x) for k, x in state["params"].items()}
  params, report = merge(config, fresh, records, old, meta)
  head = f"parameters of {config.init_from}, step {step}"
  for line in (head, *report):
    progress.say(f"init_from: {line}")
  return replace(state, params)


def replace(
  state: dict[str, Any], params: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """A fresh state with some parameters from the host, and its average too."""
  out = dict(state)
  for name in {"params", "ema"} & set(state):
    out[name] = state[name] | _placed(params, state[name])
  return out


def _read(store, config):
  step = config.init_step
  if not step:
    return store.newest(store.raw_params)
  if step == "best":
    step = best.read(config.init_from)["step"]
  try:
    return int(step), store.raw_params(int(step))
  except ValueError as e:
    raise checkpoint_lib.CheckpointError(
      f"init_step = {step!r}: use 'best', a step, or '' for the newest"
    ) from e


def _host(x: jax.Array) -> np.ndarray:
  if not x.is_fully_addressable:
    whole = NamedSharding(x.sharding.mesh, P())
    x = jax.jit(lambda a: a, out_shardings=whole)(x).addressable_data(0)
  return np.asarray(x)


def _placed(params, like):
  def place(value, x):
    value = value.astype(x.dtype)
    return jax.make_array_from_callback(
      x.shape, x.sharding, lambda index: value[index]
    )

  return {k: place(x, like[k]) for k, x in params.items()}


def merge(
  config, fresh: Mapping[str, np.ndarray], records, old, meta
) -> tuple[dict[str, np.ndarray], list[str]]:
  """The new run's parameters from another's.

  Args:
    config: Of the new run.
    fresh: Its parameters as initialised.
    records: Its data set.
    old: The other run's parameters.
    meta: Of the other run's checkpoint.

  Returns:
    Parameters, and lines that say what was loaded, is new, was dropped.

  Raises:
    CheckpointError: See `start`.
  """
  theirs = meta["config"]
  if config.recipe == "hybrid" and theirs["recipe"] != "hybrid":
    return _under_a_head(config, fresh, records, old, meta)
  if theirs["recipe"] != config.recipe:
    raise checkpoint_lib.CheckpointError(
      f"{config.init_from} is a run of recipe {theirs['recipe']!r}, this is "
      f"one of {config.recipe!r}"
    )
  before = schema_lib.Schema.from_json(meta["schema"])
  rules = matching.rules(
    before,
    records.schema,
    meta["calendar_columns"],
    records.calendar.columns,
    theirs["data"]["target"] if config.recipe == "panther" else "",
    config.data.target if config.recipe == "panther" else "",
  )
  anew = _other_heads(config, theirs, before, records, meta)
  out, loaded, changed, new, wrong = {}, 0, [], [], []
  for path, value in fresh.items():
    out[path] = value
    reason = _declared(config, path) or (path.startswith(_HEADS) and anew)
    if reason:
      new.append((path, reason))
      continue
    rule = rules.get(path)
    if rule is not None and rule.source in old:
      out[path], text = rule.apply(old, value)
      loaded += 1
      if text:
        changed.append(f"{path}: {text}")
    elif rule is not None and rule.new:
      new.append((path, rule.new))
    elif path in old and old[path].shape == value.shape:
      out[path] = old[path]
      loaded += 1
    elif path not in old and path.startswith(_AUXILIARY):
      new.append((path, "objective"))
    else:
      there = f"{old[path].shape} there" if path in old else "absent there"
      wrong.append(f"{path} {value.shape} ({there})")
  if wrong:
    raise checkpoint_lib.CheckpointError(
      f"init_from = {config.init_from!r}: {len(wrong)} parameters are not found "
      "there in their shape, and neither data nor tasks explain it: "
      f"{'; '.join(wrong[:5])}. Set config.model as there, or declare what begins "
      f'anew: --config.init_new="({wrong[0].split()[0]!r},)"'
    )
  used = {rules[p].source if p in rules else p for p in fresh}
  used -= {p for p, _ in new}
  dropped = sorted(set(old) - used)
  lines = [f"loaded {loaded} of {len(fresh)} parameters"]
  lines += [f"  {x}" for x in changed]
  lines += [f"new: {x}" for x in _grouped(new)]
  lines += [f"dropped: {', '.join(dropped)}"] if dropped else []
  return out, lines


def _under_a_head(config, fresh, records, old, meta):
  """As `merge`, for a hybrid over a pretrained run: its backbone is loaded.

  Head and adapters are new; each parameter of the backbone is loaded, or is an
  error.
  """
  if not config.model.backbone:
    raise checkpoint_lib.CheckpointError(
      f"init_from = {config.init_from!r} is a run of recipe "
      f"{meta['config']['recipe']!r}, and model.backbone is empty: make the config "
      "with backbone=DIR, or leave init_from out"
    )
  inner = config_lib.stored(config.model.backbone.to_dict())
  inner = inner.copy_and_resolve_references()
  with inner.unlocked():
    inner.init_from, inner.init_new = config.init_from, config.init_new
  mine = {
    k.removeprefix(_BACKBONE): v
    for k, v in fresh.items()
    if k.startswith(_BACKBONE)
  }
  found, lines = merge(inner, mine, records, old, meta)
  out = dict(fresh) | {_BACKBONE + k: v for k, v in found.items()}
  adapters = sum(k.startswith("adapters/a/") for k in fresh)
  head = len(fresh) - len(mine) - 2 * adapters
  lines.append(f"new: the head, {head} parameters")
  if config.model.tune == "lora":
    lines.append(f"new: adapters of {adapters} weight matrices (model.tune)")
  return out, lines


def _declared(config, path: str) -> str:
  found = any(part and part in path for part in config.init_new)
  return "config.init_new" if found else ""


def _grouped(new: Sequence[tuple[str, str]]) -> list[str]:
  reasons: dict[str, list[str]] = {}
  for path, reason in new:
    reasons.setdefault(reason, []).append(path)
  return [f"{', '.join(paths)} ({why})" for why, paths in reasons.items()]


def _other_heads(config, theirs, before, records, meta) -> str:
  """Why the heads of tasks begin anew; "" where they are the same."""
  now = identity.plain(config)

  def tasks(doc):
    # In their order, which is the heads': JSON has sorted them.
    return {
      name: {k: task.get(k) for k in _TASK_KEYS}
      for name, task in doc["tasks"].items()
    }

  if tasks(now) != tasks(theirs):
    return "other tasks"
  names = lambda s: [(f.name, schema_lib.width(f)) for f in s.dense("activity")]
  if now["model"].get("habit_days") and (
    list(meta["calendar_columns"]) != list(records.calendar.columns)
    or names(before) != names(records.schema)
  ):
    return "habits of other columns"
  return ""
