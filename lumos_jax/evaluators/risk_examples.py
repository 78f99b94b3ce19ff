"""The highest scores of a task, each with the events that moved it most."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lumos_jax.data import instants, scoring
from lumos_jax.data import words as words_lib
from lumos_jax.evaluators import predict

_EVENTS = 6  # Of an example, those that moved its score most.
_READ = 30  # Events that are left out one by one: each costs a score.


def highest(
  p: np.ndarray, user: np.ndarray, use: np.ndarray, count: int
) -> list[int]:
  """Places of the highest scores, one a user, the highest first.

  Args:
    p: float [N].
    user: int [N].
    use: bool [N], which may be chosen.
    count: At most so many.
  """
  out, seen = [], set()
  for i in np.argsort(-p, kind="stable").tolist():
    if use[i] and user[i] not in seen:
      seen.add(user[i])
      out.append(i)
    if len(out) == count:
      break
  return out


def explained(
  why: Any,
  points: scoring.Points,
  places: Sequence[int],
  task: str,
  m: int,
  schema: Any,
) -> list[dict[str, Any]]:
  """A document of each point; users by their hash alone.

  Args:
    why: A `lumos_jax.why.Why` of the model.
    points: All points of the part.
    places: Which of them.
    task: Whose score, column `m` of the labels.
    m: See `task`.
    schema: Of the data.
  """
  say, out = words_lib.Words(schema), []
  for i in places:
    record, place = points.records[points.user[i]], int(points.place[i])
    found = why.without(record, place, task, _READ)
    days = instants.days(record)
    order = np.argsort(-np.abs(found.of_events), kind="stable")[:_EVENTS]
    events = [
      {
        "day": int(days[found.events[j]]),
        "moved": float(found.of_events[j]),
        "values": say.values(
          record["categorical"][found.events[j]],
          record["numeric"][found.events[j]],
        ),
      }
      for j in order
    ]
    scored = None
    if not why.users:
      scored = {
        "day": int(days[place]),
        "values": say.values(
          record["categorical"][place], record["numeric"][place]
        ),
      }
    out.append({
      "task": task,
      "user": predict.hash_keys([record["key"]])[0].decode(),
      "day": place if why.users else int(days[place]),
      "score": float(1.0 / (1.0 + np.exp(-found.score))),
      "label": float(points.y[i, m]) if points.mask[i, m] else None,
      "read": len(found.events),
      "events": events,
      "event": scored,
    })  # fmt: skip
  return out
