"""Some users with readable events: what came next and what was predicted."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lumos_jax.data import schema as schema_lib
from lumos_jax.data import sequences
from lumos_jax.evaluators import predict

_EVENTS = 8  # Of the history, the latest.
_PREDICTED = 5


class Example(NamedTuple):
  """A user before its next event.

  Attributes:
    key: Hash of the user id, see predict.hash_keys.
    history: Number of events before the next one.
    events: The latest of them, [(day, id of the target field)].
    following: The next event, (day, id).
  """

  key: bytes
  history: int
  events: list[tuple[int, int]]
  following: tuple[int, int]


def choose(
  records: Any, data_cfg: Any, split: str, count: int
) -> list[Example]:
  """Up to `count` users with a next event, spread evenly over the split."""
  cut = sequences.Sequences(records.schema, data_cfg)
  column = sequences.target_column(records.schema, data_cfg)
  source, out = records.source(data_cfg[f"{split}_split"]), []
  # A step that shares no factor with the number of users visits all of them.
  users = len(source)
  step = max(1, users // count)
  while np.gcd(step, users) > 1:
    step += 1
  for i in range(users):
    record = source[i * step % users]
    if cut.example(record, split) is None:
      continue
    at, days = cut.cut(record, split), record["day"]
    ids = record["categorical"][:, column]
    start = max(0, at - _EVENTS)
    events = [(int(days[j]), int(ids[j])) for j in range(start, at)]
    following = int(days[at]), int(ids[at])
    key = predict.hash_keys([record["key"]])[0]
    out.append(Example(key, at, events, following))
    if len(out) == count:
      break
  return out


def readable(
  examples: Sequence[Example],
  key: np.ndarray,
  ranking: Any,
  schema: schema_lib.Schema,
  target: str,
) -> dict[str, Any]:
  """A JSON document of the examples; users by their hash alone.

  Args:
    examples: Of `choose`.
    key: bytes [U], ascending, the order of the ranking.
    ranking: next_event.Ranking.
    schema: Of the data.
    target: data.target.
  """

  def event(day, i):
    return {"day": day, "values": schema.token(target, i)}

  users = []
  for e in examples:
    at = int(np.searchsorted(key, e.key))
    predicted = [
      {"values": schema.token(target, int(i)), "probability": float(p)}
      for i, p in zip(ranking.top[at], ranking.probability[at])
      if i >= schema_lib.FIRST_VALUE
    ]
    users.append(
      {
        "user": e.key.decode(),
        "history": e.history,
        "events": [event(*x) for x in e.events],
        "next": event(*e.following),
        "rank": int(ranking.rank[at]),
        "predicted": predicted[:_PREDICTED],
      }
    )
  return {"target": target, "examples": users}
