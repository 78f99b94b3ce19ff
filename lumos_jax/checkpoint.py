"""Checkpoints with Orbax: state, input position, schema and config together."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from lumos_jax import progress, retention
from lumos_jax.state import State

T = TypeVar("T")
DAMAGED = "damaged_checkpoints"  # Of a workdir: steps that could not be read.
_FOR_EVER = 100 * 365 * 24 * 3600  # Seconds.
# What the transport between processes and the coordination service write.
_PEER_GONE = ("by peer", "Gloo", "coordination service", "task died")


class CheckpointError(RuntimeError):
  """A checkpoint is absent, is another run's, or could not be written."""


def _lost_a_process(error: BaseException | None) -> bool:
  """Whether a write failed since another process of the run is gone."""
  if jax.process_count() == 1:
    return False
  while error is not None:
    if isinstance(error, jax.errors.JaxRuntimeError):
      return True
    # Orbax collects the errors of its threads in one that holds only their text.
    if any(sign in str(error) for sign in _PEER_GONE):
      return True
    error = error.__cause__ or error.__context__
  return False


def _patience(path: epath.Path) -> ocp.AsyncOptions | None:
  """How long a write may take by the wall clock, by which Orbax counts.

  That clock may be set, or go on while the machine sleeps. A single process waits
  for no other one, so that it need not give up; several keep Orbax's 20 minutes.
  Folders made in the background have a limit of their own: on a disk they are made
  at once.
  """
  if jax.process_count() > 1:
    return None
  return ocp.AsyncOptions(
    timeout_secs=_FOR_EVER,
    create_directories_asynchronously="://" in str(path),
  )


def _restore_args(abstract, **kw) -> ocp.args.PyTreeRestore:
  args = ocp.checkpoint_utils.construct_restore_args(abstract)
  return ocp.args.PyTreeRestore(item=abstract, restore_args=args, **kw)


class Checkpoints:
  """The checkpoints of one workdir.

  Writing happens in the background; a checkpoint is complete or absent. As a
  context: what was begun is written at its end, unless a write has failed.
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
    progress.quiet_libraries()
    self.path = epath.Path(workdir) / "checkpoints"
    self._held = retention.Held()
    if read_only and not self.path.exists():
      raise CheckpointError(f"{self.path}: no such directory; train first")
    self._manager = ocp.CheckpointManager(
      self.path.absolute() if "://" not in str(self.path) else self.path,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=None
        if read_only
        else retention.policy(keep, keep_every, self._held),
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
        async_options=_patience(self.path),
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

  def hold(self, step: int | None) -> None:
    """Retains a step whatever its age, until another one is held."""
    self._held.step = step

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
      meta: Of `identity.make_meta`.

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
    if _lost_a_process(error):
      return CheckpointError(
        f"process {jax.process_index()} of {jax.process_count()} lost the others "
        f"while a checkpoint was written: {_short(error)}. Once all "
        f"are up again, the same command resumes from step {kept[0]}"
      )
    return CheckpointError(
      f"{self.path}: a checkpoint could not be written: {_short(error)}. Make "
      f"room or choose another --workdir; the newest complete step is {kept[0]}, and "
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

  def raw_params(
    self, step: int
  ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Parameters of any model on the host, in the shapes they were saved in.

    Args:
      step: Which.

    Returns:
      {path: array}, the moving average where one was kept, and the `meta`.
    """
    meta = self.meta(step)
    name = "ema" if meta["config"]["train"]["ema_decay"] > 0 else "params"
    found = self._manager.item_metadata(step)["state"].tree[name]
    abstract = {k: np.zeros(x.shape, x.dtype) for k, x in found.items()}
    args = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), abstract)
    state = ocp.args.PyTreeRestore(
      item={name: abstract}, restore_args={name: args}, partial_restore=True
    )
    out = self._manager.restore(step, args=ocp.args.Composite(state=state))
    return {k: np.asarray(x) for k, x in out["state"][name].items()}, meta

  def newest(
    self, read: Callable[[int], T], at_most: int | None = None
  ) -> tuple[int, T]:
    """Reads the newest step that can be read; tells of those that cannot.

    Args:
      read: What reads a step.
      at_most: Later steps are known to be damaged.

    Returns:
      The step and what `read` gave, the same step on every process.

    Raises:
      CheckpointError: No step can be read; says why the newest cannot.
    """
    first = None
    steps = [n for n in self.steps if at_most is None or n <= at_most]
    for step in reversed(steps):
      out, error = None, None
      try:
        out = read(step)
      except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # The machine's fault, not the checkpoint's.
      except Exception as e:  # Cut or changed bytes fail in many ways.
        error = e
      if jax.process_count() > 1:
        fine = multihost_utils.process_allgather(np.asarray(error is None))
        if error is None and not np.all(fine):
          error = CheckpointError("another process cannot read it")
      if error is None:
        return step, out
      first = first or (step, error)
      logging.warning(
        f"{self.path}/{step} cannot be read ({_short(error)}): trying the step "
        "before it"
      )
    if first is None:
      raise CheckpointError(f"{self.path} holds no complete checkpoint")
    step, error = first
    if isinstance(error, CheckpointError):
      raise error
    raise CheckpointError(
      f"{self.path}/{step} cannot be read, nor can a step before it: "
      f"{_short(error)}. Choose another --workdir to train anew"
    ) from error

  def set_aside(self, newer_than: int) -> None:
    """Moves later steps to workdir/damaged_checkpoints: they will come again."""
    bad = [n for n in self.steps if n > newer_than]
    if not bad:
      return
    if jax.process_index() == 0:
      aside = self.path.parent / DAMAGED
      aside.mkdir(parents=True, exist_ok=True)
      for n in bad:
        if (aside / str(n)).exists():
          (aside / str(n)).rmtree()
        (self.path / str(n)).rename(aside / str(n))
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("damaged checkpoints set aside")
    self._manager.reload()

  def meta(self, step: int | None = None) -> dict[str, Any]:
    """What `identity.make_meta` gave when the step was written."""
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

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind, error, trace) -> None:
    # Orbax waits minutes for the threads of a write that has failed.
    if not isinstance(error, CheckpointError):
      self.close()


def _short(error: BaseException) -> str:
  """The first line of an error: Orbax's may go on with the whole tree.

  Long enough for a deep path and what the system says after it.
  """
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:500].rstrip(" .:")
