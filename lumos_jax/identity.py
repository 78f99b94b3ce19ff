"""What makes a run the same run: what a resume may change, and what not."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from lumos_jax import checkpoint
from lumos_jax import config as config_lib
from lumos_jax.data import schema as schema_lib

# What a resume may change; anything else changes the order of the data or an
# update, and makes it another run.
_MAY_CHANGE = (
  "evals",
  "report",
  "eval_batch_size",
  "name",
  "init_from",
  "init_step",
  "mesh",
  "train.steps",
  "train.log_every",
  "train.checkpoint_every",
  "train.keep",
  "train.keep_every",
  "train.best",
  "train.patience",
  "train.evaluate_best",
  # Where the data lie. What they are, the checkpoint compares by content.
  "data.root",
  "data.options.path",
  "data.read_threads",
  "data.cache",
)


def plain(config) -> dict[str, Any]:
  """A config as JSON has it."""
  return json.loads(config.to_json_best_effort())


def differences(mine: Mapping, theirs: Mapping) -> list[str]:
  """Keys that a resume must not change, and that differ.

  Args:
    mine: `plain` config of this run.
    theirs: Of the run that is to go on.

  Returns:
    "key: mine against theirs" of each. A key that came to the program after a
    config was stored has its default there.
  """
  mine, theirs = (_flat(plain(config_lib.stored(x))) for x in (mine, theirs))
  out = []
  for key in sorted(mine.keys() | theirs.keys()):
    if any(key == k or key.startswith(f"{k}.") for k in _MAY_CHANGE):
      continue
    x, y = mine.get(key), theirs.get(key)
    if x != y:
      out.append(f"{key}: {x!r} against {y!r}")
  return out


def _flat(doc: Mapping, prefix: str = "") -> dict[str, Any]:
  out = {}
  for key, value in doc.items():
    if isinstance(value, Mapping):
      out |= _flat(value, f"{prefix}{key}.")
    else:
      out[prefix + key] = value
  return out


def content(stats: Mapping[str, Any]) -> str:
  """Says which records a data set holds, in which order; "" where it cannot.

  Args:
    stats: Of the data set, with the checksums of its shards.
  """
  shards = stats.get("shards")
  if not shards:
    return ""
  splits = {
    name: [shards[s]["sha256"] for s in split["shards"]]
    for name, split in stats["splits"].items()
  }
  text = json.dumps(splits, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_meta(
  config,
  schema: schema_lib.Schema,
  calendar_columns: Sequence[str],
  content: str = "",
) -> dict[str, Any]:
  """What a checkpoint says of itself beside the numbers.

  Args:
    config: The whole config.
    schema: Of the data set.
    calendar_columns: Of the data set.
    content: Of the data set, see the function `content`.
  """
  return {
    "schema": schema.to_json(),
    "schema_hash": schema.hash,
    "calendar_columns": list(calendar_columns),
    "content": content,
    "config": plain(config),
    "workers": config.data.workers,
    "processes": jax.process_count(),
  }


def inputs_of(recipe: Any, training: bool) -> dict[str, str]:
  """{what a recipe reads beside the data set: a digest of it}; {} for nothing.

  Args:
    recipe: Of a run.
    training: Also what only training reads: in use it need not be there.
  """
  content = getattr(recipe.inputs, "content", None)
  return content(training) if callable(content) else {}


def check_inputs(meta: Mapping[str, Any], recipe: Any, resume: bool) -> None:
  """Raises CheckpointError where files beside the data have changed.

  Args:
    meta: Of the checkpoint.
    recipe: Of this run.
    resume: Also compare what only training reads.
  """
  theirs, mine = meta.get("inputs", {}), inputs_of(recipe, resume)
  for name in sorted(theirs.keys() & mine.keys()):
    if theirs[name] != mine[name]:
      raise checkpoint.CheckpointError(
        f"{name} holds something else than when the checkpoint was trained: put "
        "back what was there, or train again in a new --workdir"
      )


def check_meta(
  meta: Mapping[str, Any],
  config,
  schema: schema_lib.Schema,
  calendar_columns: Sequence[str],
  resume: bool,
  content: str = "",
) -> None:
  """Raises CheckpointError where data or input are not the checkpoint's.

  Args:
    meta: Of the checkpoint.
    config: Of this run.
    schema: Of the data set to read.
    calendar_columns: Of its calendar.
    resume: Also require all that a resume must not change.
    content: `content` of the data set; "" if not known.
  """
  theirs = schema_lib.Schema.from_json(meta["schema"])
  if theirs.model_hash != schema.model_hash:
    raise checkpoint.CheckpointError(
      f"data set {schema.name!r} was not fitted as the checkpoint's, "
      f"{theirs.name!r}: {schema.difference(theirs)} (data against checkpoint). "
      "Prepare the data with python -m data_prep --fitted=WORKDIR, or train again "
      "in a new --workdir"
    )
  if list(meta["calendar_columns"]) != list(calendar_columns):
    raise checkpoint.CheckpointError(
      "the calendar's columns are not the checkpoint's: "
      f"{sorted(set(calendar_columns) ^ set(meta['calendar_columns']))}"
    )
  if not resume:
    return
  for key, now, way in (
    ("workers", config.data.workers, "--config.data.workers={}"),
    ("processes", jax.process_count(), "as many hosts as before: {}"),
  ):
    if meta[key] != now:
      raise checkpoint.CheckpointError(
        f"the input position was saved with {key} = {meta[key]}, this run has "
        f"{now}; resuming would silently read other data. Use "
        + way.format(meta[key])
      )
  differ = differences(plain(config), meta["config"])
  if differ:
    raise checkpoint.CheckpointError(
      "the checkpoint is another run's; these keys differ (this against that): "
      f"{'; '.join(differ)}. Set them as they were, choose another --workdir, or "
      "start from its parameters with --init_from"
    )
  theirs = meta.get("content", "")
  if content and theirs and content != theirs:
    raise checkpoint.CheckpointError(
      "the data set's records are not those that the checkpoint was trained on, "
      "though their schema is the same: the input position would point at other "
      "users. Use the same data set, or start from the checkpoint's parameters "
      "in a new --workdir with --init_from"
    )
