"""What to change where a config does not fit."""

import copy
import dataclasses
from typing import Any

from lumos_jax.data import schema as schema_lib
from lumos_jax.preflight import chips, plan

_TRIES = 3


def with_vocabulary(records, config, size: int):
  """The data set as if data.target had `size` values.

  Raises:
    ValueError: The config has no target, or its field has no vocabulary.
  """
  name = config.data.target
  fields = {f.name: f for f in records.schema.activity}
  field = fields.get(name)
  if not schema_lib.has_ids(field) or size < 1:
    raise ValueError(
      f"--vocabulary={size} needs at least one value, and a config whose "
      f"data.target is a field with a vocabulary; it is {name!r}"
    )
  values = tuple(map(str, range(size)))
  other = schema_lib.Categorical(name, size, values=values)
  out = copy.copy(records)
  out.schema = dataclasses.replace(
    records.schema,
    activity=tuple(
      other if f.name == name else f for f in records.schema.activity
    ),
  )
  return out


def examine(
  config, records, topology: chips.Topology, devices, tokens: float = 0.0
) -> dict[str, Any]:
  """The figures of `plan.Plan.report`, and "suggestion" where it does not fit.

  A suggestion was compiled and fits: {"settings": {key: value}, "peak_bytes"},
  or None where none of those tried does.
  """
  report = plan.Plan(config, records, topology, devices).report(tokens)
  if report["fits"]:
    return report
  report["suggestion"], report["tried"] = None, []
  settings: dict[str, Any] = {}
  for change in _changes(config, report, topology):
    settings |= change
    other = _with(config, settings)
    found = plan.Plan(other, records, topology, devices).report(tokens)
    entry = {"settings": dict(settings), "peak_bytes": _peak(found)}
    report["tried"].append(entry)
    if found["fits"]:
      report["suggestion"] = entry
      break
  return report


def _peak(report) -> int:
  return max(report["peak_bytes"], report["eval_peak_bytes"] or 0)


def _with(config, settings):
  out = copy.deepcopy(config)
  with out.unlocked():
    for key, value in settings.items():
      node = out
      *path, last = key.split(".")
      for name in path:
        node = node[name]
      node[last] = value
  return out


def _changes(config, report, topology):
  """At most a few changes, each on top of those before it, mildest first."""
  room = (1.0 - plan.SPARE) * topology.chip.hbm_bytes
  state = report["parameter_bytes"] + report["optimizer_bytes"]
  chips_of_batch = report["mesh"]["data"] * report["mesh"]["fsdp"]
  fsdp = report["mesh"]["fsdp"]
  settings: dict[str, Any] = {}
  if (report["eval_peak_bytes"] or 0) > room:
    settings["eval_batch_size"] = max(1, config.eval_batch_size // 4)
  while state > room / 4 and fsdp * 2 <= chips_of_batch:
    fsdp, state = fsdp * 2, state // 2
  if fsdp != report["mesh"]["fsdp"]:
    settings["mesh.fsdp"] = fsdp
  if config.model.remat != "full":
    settings |= {"model.remat": "full", "model.scan_layers": True}
  if settings:
    yield settings
  # What depends on the batch is about proportional to it.
  rest = max(report["peak_bytes"] - state, 1)
  batch = config.train.batch_size
  for share in (1.0, 0.5):
    ways = chips_of_batch * config.train.accumulate
    fit = int(batch * share * max(room - state, 0) / rest) // ways * ways
    if 0 < fit < batch:
      yield {"train.batch_size": fit}
