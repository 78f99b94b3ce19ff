"""What states of users refuse, by name, and the way out."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lumos_jax.data import sequences
from lumos_jax.serving.user_state import State


class CannotAppend(ValueError):
  """The model's states cannot be updated event by event; names the setting.

  The way out is `Predictor.predict` on the whole history.
  """


class OutOfOrder(ValueError):
  """An event is older than the last one: `rebuild` from sorted events."""


class NotAsked(ValueError):
  """A state cannot say this: no events without a start token, or no time."""


def check_model(recipe) -> None:
  """Raises CannotAppend where a recipe's states cannot go on with new events."""
  if recipe.inputs is not sequences:
    raise CannotAppend(
      "recipe 'lumos' reads days up to a day of prediction, not events: its "
      "forecasts and embeddings are recomputed from the history"
    )
  if recipe.cfg.masked:
    raise CannotAppend(
      "model.masked = True looks both ways, so that each new event changes the "
      "states of all others: they are recomputed from the history"
    )


def check_events(i: int, state: State, events: Mapping[str, Any]) -> None:
  """Checks events of a user, the i-th.

  Raises:
    OutOfOrder: They do not come in order.
    ValueError: Their arrays do not have the model's columns.
  """
  count = len(events["time"])
  for name, x in state.window.raw.items():
    found, right = np.shape(events[name]), (count, *x.shape[1:])
    if found != right:
      raise ValueError(
        f"user {i}: {name} has shape {found}, of {count} events it must be {right}"
      )
  time = np.asarray(events["time"], np.int64)
  last = state.last_time
  if last is not None:
    time = np.concatenate([[last], time])
  if not (time[1:] < time[:-1]).any():
    if last is None or len(time) < 2 or time[1] > last or not state.tie:
      return
    tie = int(events["tie"][0]) if "tie" in events else 0
    if not tie or tie >= state.tie:
      return
    raise OutOfOrder(
      f"user {i}: event 0 has the instant of the last one and comes before it in "
      "the order of data_prep: rebuild the state from sorted events"
    )
  place = int((time[1:] < time[:-1]).argmax()) + (last is None)
  raise OutOfOrder(
    f"user {i}: event {place} is older than the one before it: rebuild the state "
    "from sorted events"
  )
