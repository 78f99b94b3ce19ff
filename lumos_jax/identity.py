"""What makes a run the same run: what a resume may change, and what not."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lumos_jax import config as config_lib

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
