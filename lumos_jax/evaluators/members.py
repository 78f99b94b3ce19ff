"""Members of a forecast: trainings of one model, or rows of its ensemble.

S members, B users of a batch, M tasks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from lumos_jax import checkpoint as checkpoint_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import predict


class Members(NamedTuple):
  """What forecasts by each member.

  Attributes:
    are: What they are, in words.
    predictor: Gives {name: [B, S]}, or [B, 1] of one.
    params: Of all of them, placed.
    weights: [S, M], in the forecast of each task.
  """

  are: str
  predictor: predict.Predictor
  params: Any
  weights: np.ndarray


class Gather:
  """Makes members of parameters, and of other trainings' checkpoints."""

  def __init__(
    self,
    predictor: predict.Predictor,
    schema: schema_lib.Schema,
    tasks: Sequence[tasks_lib.Task],
    checkpoints: Sequence[str],
    name: str,
  ):
    """Keeps what is compiled.

    Args:
      predictor: Of one training; with `rows` where it is an ensemble.
      schema: Of the data.
      tasks: M tasks.
      checkpoints: Workdirs of other trainings.
      name: Of the evaluator, for messages.
    """
    self._predictor, self._schema = predictor, schema
    self._tasks, self._checkpoints = len(tasks), tuple(checkpoints)
    self._name = name
    self._together: predict.Predictor | None = None

  def __call__(self, params: Any) -> Members:
    """Members of one training's parameters, or of a list of several's.

    Raises:
      ValueError: A checkpoint's data were fitted otherwise.
      CheckpointError: There is none, or it is of another model.
    """
    p = self._predictor
    several = list(params) if isinstance(params, list | tuple) else [params]
    several = [p.place(x) for x in several]
    several += [self._restored(w, several[0]) for w in self._checkpoints]
    if len(several) > 1:
      stacked = jax.tree.map(lambda *x: jnp.stack(x), *several)
      self._together = self._together or p.derive(_each)
      weights = np.ones((len(several), self._tasks))
      return Members("trainings", self._together, p.place(stacked), weights)
    if p.rows:
      return Members("rows of one ensemble", p.rows, several[0], p.row_weights)
    logging.warning(
      "%s: one training and no ensemble: intervals leave out what another "
      "training would say; give checkpoints of other seeds",
      self._name,
    )
    return Members("one training", p, several[0], np.ones((1, self._tasks)))

  def _restored(self, workdir: str, like: Any) -> Any:
    shape = lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=x.sharding
    )
    abstract = jax.tree.map(shape, like)
    store = checkpoint_lib.Checkpoints(epath.Path(workdir), read_only=True)
    own = schema_lib.Schema.from_json(store.meta()["schema"])
    if own.model_hash != self._schema.model_hash:
      raise ValueError(
        f"config.evals.{self._name}.checkpoints: {workdir} was trained on data "
        "that were fitted otherwise: train the seeds on one data set"
      )
    found = store.newest(lambda n: store.restore_params(abstract, n))
    return self._predictor.place(found[1])


def _each(fn: predict.PredictFn) -> predict.PredictFn:
  """A function of parameters [S, ...] that gives {name: [B, S]}; O = 1."""

  def every(params, batch):
    found = jax.vmap(fn, (0, None))(params, batch)
    return {k: v[..., 0].T for k, v in found.items()}

  return every
