"""Checkpoints with Orbax: state, input position, schema and config together."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from lumos_jax.data import schema as schema_lib
from lumos_jax.state import State


class CheckpointError(RuntimeError):
  """A checkpoint is absent, is another run's, or could not be written."""


def _restore_args(abstract, **kw) -> ocp.args.PyTreeRestore:
  args = ocp.checkpoint_utils.construct_restore_args(abstract)
  return ocp.args.PyTreeRestore(item=abstract, restore_args=args, **kw)


class Checkpoints:
  """The checkpoints of one workdir.

  Writing happens in the background; a checkpoint is complete or absent.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    keep: int = 3,
    keep_every: int = 0,
    read_only: bool = False,
  ):
    """Opens workdir/checkpoints.

    Args:
      workdir: Of the run.
      keep: Newest checkpoints to retain.
      keep_every: Also retain each step that divides by this; 0 for none.
      read_only: For evaluation: nothing is created or removed.
    """
    self.path = epath.Path(workdir) / "checkpoints"
    if read_only and not self.path.exists():
      raise CheckpointError(f"{self.path}: no such directory; train first")
    self._manager = ocp.CheckpointManager(
      self.path.absolute() if "://" not in str(self.path) else self.path,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else keep,
        keep_period=keep_every or None,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
      ),
      item_handlers={
        "state": ocp.PyTreeCheckpointHandler(),
        "position": ocp.JsonCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
      },
    )

  @property
  def latest(self) -> int | None:
    """Newest complete step."""
    return self._manager.latest_step()

  @property
  def steps(self) -> list[int]:
    """Complete steps, ascending."""
    return sorted(self._manager.all_steps())

  def save(
    self, step: int, state: State, position: Any, meta: Mapping[str, Any]
  ) -> None:
    """Starts to write a checkpoint; a step that is there already stays.

    Args:
      step: Number of steps done.
      state: Train state.
      position: State of the input iterator, JSON-like.
      meta: Of `make_meta`.

    Raises:
      CheckpointError: The last or this write failed (a full disk, say).
    """
    if step in self._manager.all_steps():
      return
    if isinstance(position, bytes):
      position = position.decode()
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(state),
          position=ocp.args.JsonSave({"position": position}),
          meta=ocp.args.JsonSave(dict(meta)),
        ),
      )
    except Exception as e:
      raise self._write_error(e) from e

  def _write_error(self, error: BaseException) -> CheckpointError:
    kept = self.steps[-1:] or ["none"]
    return CheckpointError(
      f"{self.path}: a checkpoint could not be written: {error}. Make room or "
      f"choose another --workdir; the newest complete step is {kept[0]}, and "
      "the same command resumes from there"
    )

  def restore(
    self, abstract: State, step: int | None = None
  ) -> tuple[State, Any]:
    """Reads state and input position.

    Args:
      abstract: ShapeDtypeStructs with shardings: any mesh or device count.
      step: Which; default the newest.

    Returns:
      The state and the input position.
    """
    step = self._pick(step)
    try:
      out = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=_restore_args(abstract),
          position=ocp.args.JsonRestore(),
        ),
      )
    except (ValueError, KeyError) as e:
      raise CheckpointError(
        f"{self.path}/{step} does not fit this config's model: {e}"
      ) from e
    return out["state"], out["position"]["position"]

  def restore_params(
    self, abstract: Mapping[str, jax.ShapeDtypeStruct], step: int | None = None
  ) -> dict[str, jax.Array]:
    """Parameters to evaluate: the moving average where one was kept.

    Args:
      abstract: {path: ShapeDtypeStruct with sharding}.
      step: Which; default the newest.

    Raises:
      CheckpointError: There is none, or it is of another model.
    """
    step = self._pick(step)
    averaged = self.meta(step)["config"]["train"]["ema_decay"] > 0
    name = "ema" if averaged else "params"
    state = _restore_args({name: dict(abstract)}, partial_restore=True)
    out = self._manager.restore(step, args=ocp.args.Composite(state=state))
    params = out["state"][name]
    # What a partial restore does not find stays abstract.
    found = {k for k, x in params.items() if isinstance(x, jax.Array)}
    absent = sorted(set(abstract) - found)
    if absent:
      raise CheckpointError(
        f"{self.path}/{step} does not fit this config's model: it lacks "
        f"{len(absent)} of {len(abstract)} parameters, for example "
        f"{absent[0]!r}; was it written by another version of lumos_jax?"
      )
    return params

  def meta(self, step: int | None = None) -> dict[str, Any]:
    """What `make_meta` gave when the step was written."""
    step = self._pick(step)
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    return self._manager.restore(step, args=args)["meta"]

  def _pick(self, step: int | None) -> int:
    if step is None:
      step = self.latest
    if step is None:
      raise CheckpointError(f"{self.path} holds no complete checkpoint")
    if step not in self._manager.all_steps():
      raise CheckpointError(
        f"{self.path} has no step {step}; it has {self.steps}"
      )
    return step

  def wait(self) -> None:
    """Waits until what was started is written."""
    try:
      self._manager.wait_until_finished()
    except Exception as e:
      raise self._write_error(e) from e

  def reached_preemption(self, step: int) -> bool:
    """Whether the platform announced that this machine will be taken."""
    return self._manager.reached_preemption(step)

  def close(self) -> None:
    """Waits and closes."""
    self.wait()
    self._manager.close()


def make_meta(config, schema: schema_lib.Schema, calendar_columns) -> dict:
  """What a checkpoint says of itself beside the numbers."""
  return {
    "schema": schema.to_json(),
    "schema_hash": schema.hash,
    "calendar_columns": list(calendar_columns),
    "config": json.loads(config.to_json_best_effort()),
    "workers": config.data.workers,
    "processes": jax.process_count(),
  }


def check_meta(
  meta: Mapping[str, Any],
  config,
  schema: schema_lib.Schema,
  calendar_columns,
  resume: bool,
) -> None:
  """Raises CheckpointError where data or input are not the checkpoint's.

  Args:
    meta: Of the checkpoint.
    config: Of this run.
    schema: Of the data to be read.
    calendar_columns: Of the data to be read.
    resume: Also require what the input position depends on.
  """
  theirs = schema_lib.Schema.from_json(meta["schema"])
  if theirs.model_hash != schema.model_hash:
    raise CheckpointError(
      f"data set {schema.name!r} was not fitted as the checkpoint's, "
      f"{theirs.name!r}: {schema.difference(theirs)} (data against checkpoint). "
      "Prepare the data with python -m data_prep --fitted=WORKDIR, or train again "
      "in a new --workdir"
    )
  if list(meta["calendar_columns"]) != list(calendar_columns):
    raise CheckpointError(
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
      raise CheckpointError(
        f"the input position was saved with {key} = {meta[key]}, this run has "
        f"{now}; resuming would silently read other data. Use "
        + way.format(meta[key])
      )
