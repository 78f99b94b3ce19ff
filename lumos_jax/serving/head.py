"""What kept states say with a hybrid's head on them.

n users asked for, K rows that the head reads, D model width, F context features.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumos_jax.serving import reader
from lumos_jax.serving.user_state import State

Events = Mapping[str, np.ndarray]


class Head:
  """Mixed into `states.States`, of a run whose recipe is a hybrid."""

  _head: Any
  _settings: Any
  _ask: Any
  _one_each: Any

  def risk(
    self,
    states: Sequence[State],
    at: Sequence[int],
    context: np.ndarray,
    events: Sequence[Events] | None = None,
    looks: Sequence[np.ndarray | None] | None = None,
  ) -> dict[str, np.ndarray]:
    """Raw scores of a hybrid, as `recipe.predict` gives them of whole windows.

    Args:
      states: Of users as of the points, each with a row.
      at: Instants of the points, microseconds; of users the begin of a day.
      context: float32 [n, F], of `data.scoring`.
      events: One of each user, where events are scored; then `at` is not read.
      looks: Of `append_looks`, with which no row is read again; where `direct`.

    Returns:
      {task: float32 [n]}.

    Raises:
      OutOfOrder, NotAsked: See there.
    """
    each = [self._series(s) for s in states]
    series = {k: np.stack([e[k] for e in each]) for k in each[0]}
    series["context"] = np.asarray(context, np.float32)
    if events is not None:
      at, ids = self._one_each(states, events)
    last = [s.last_time if s.count else t for s, t in zip(states, at)]
    if events is None:
      at = list(map(max, last, at))
    else:
      gap = (np.asarray(at, np.int64) - np.asarray(last, np.int64)) / 1e6
      series["event_gap"] = gap.astype(np.float32)
      series["event_ids"] = np.stack(ids)
    more = lambda some: {k: x[some] for k, x in series.items()}
    run = functools.partial(reader.risk, self._head)
    return self._ask("risk", run, states, at, more, events is not None, looks)

  def _series(self, state: State) -> dict[str, np.ndarray]:
    """What a hybrid's head reads of a user's last rows, see `predict_kept`."""
    k = min(self._head.cfg.cnn_events, self._settings.length)
    kept, end = state.window.past, state.held - 1
    out = {}
    for name, room in ((reader.STATES, k - 1), (reader.DEVIATIONS, k)):
      x, n = kept[name][0], min(room, end)
      out[name] = np.zeros((room, x.shape[1]), np.float32)
      out[name][room - n :] = x[end - n : end]
    place = np.arange(state.held - k, state.held)  # In the window.
    start = state.start_token and not state.begin
    out["seen"], out["told"] = place >= int(start), place >= 1
    return out
