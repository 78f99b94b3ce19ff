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
  first = plan.Plan(config, records, topology, devices)
  report = first.report(tokens)
  if report["fits"]:
    return report
  report["suggestion"], report["tried"] = None, []
  best, settings = report, {}
  for attempt in range(_TRIES):
    change = {} if attempt else _structure(config, report, topology)
    change = change or _smaller(config, best, settings, topology)
    change = change or _cut_rows(config, best, first.recipe.sequence_length)
    if not change:
      break
    other = _with(config, settings | change)
    found = plan.Plan(other, records, topology, devices).report(tokens)
    entry = {"settings": settings | change, "peak_bytes": _peak(found)}
    report["tried"].append(entry)
    if found["fits"]:
      report["suggestion"] = entry
      break
    if _peak(found) < _peak(best):
      best, settings = found, settings | change
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


def _state(report) -> int:
  return report["parameter_bytes"] + report["optimizer_bytes"]


def _structure(config, report, topology) -> dict[str, Any]:
  """What costs no accuracy: the mesh, rematerialisation, smaller evaluation."""
  room = (1.0 - plan.SPARE) * topology.chip.hbm_bytes
  mesh, state, out = report["mesh"], _state(report), {}
  if (report["eval_peak_bytes"] or 0) > room:
    out["eval_batch_size"] = max(1, config.eval_batch_size // 4)
  fsdp = mesh["fsdp"]
  while state > room / 4 and fsdp * 2 <= mesh["data"] * mesh["fsdp"]:
    fsdp, state = fsdp * 2, state // 2
  if fsdp != mesh["fsdp"]:
    out |= {"mesh.fsdp": fsdp, "mesh.data": -1}
  if report["peak_bytes"] > room and config.model.remat != "full":
    out |= {"model.remat": "full", "model.scan_layers": True}
  return out


def _smaller(config, report, settings, topology) -> dict[str, Any]:
  """The largest batch by proportion: what is no state grows with it."""
  room = (1.0 - plan.SPARE) * topology.chip.hbm_bytes
  state, mesh = _state(report), report["mesh"]
  batch = settings.get("train.batch_size", config.train.batch_size)
  ways = mesh["data"] * mesh["fsdp"] * config.train.accumulate
  rest = max(report["peak_bytes"] - state, 1)
  # A little less: buffers come in steps.
  fit = int(0.9 * batch * max(room - state, 0) / rest) // ways * ways
  return {"train.batch_size": fit} if 0 < fit < batch else {}


def _cut_rows(config, report, length: int | None) -> dict[str, Any]:
  """Rows over twice as many chips, where one a chip is too much."""
  mesh = report["mesh"]
  ways, parts = mesh["data"] * mesh["fsdp"], 2 * mesh["sequence"]
  if not length or length % parts or mesh["data"] % 2:
    return {}
  return {
    "mesh.sequence": parts,
    "mesh.data": -1,
    "train.batch_size": ways // 2 * config.train.accumulate,
  }
