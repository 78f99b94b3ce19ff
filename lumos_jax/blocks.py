"""What becomes of a model's outputs: predictions of a block of users.

Each function takes the block's number, its batches with their outputs {name: [B,
...]}, padding included, and the day that is predicted at.
"""

import dataclasses

import chex
import numpy as np

from lumos_jax.evaluators import probe


@dataclasses.dataclass(frozen=True)
class Block:
  """Predictions of some users.

  Attributes:
    index: Of the block.
    keys: User ids, one a row.
    columns: {name: [rows, ...]}.
  """

  index: int
  keys: list[str]
  columns: dict[str, np.ndarray]


def of_users(index: int, parts, day: int) -> Block:
  """A row a user; forecasts [B, O] at their one origin are numbers."""
  del day
  for batch, found in parts:
    chex.assert_tree_shape_prefix(found, batch["user_mask"].shape)
  columns = {
    n: np.concatenate([f[n][b["user_mask"]] for b, f in parts])
    for n in parts[0][1]
  }
  columns = {
    n: x[:, 0] if x.shape[1:] == (1,) else x for n, x in columns.items()
  }
  return Block(index, _keys(parts), columns)


def of_next_events(index: int, parts, day: int) -> Block:
  """A row a candidate, the likeliest first; users with fewer have fewer."""
  del day
  keys, out = [], {"rank": [], "value": [], "probability": []}
  for batch, found in parts:
    mask = batch["user_mask"]
    p, value = found["probability"][mask], found["value"][mask]
    own = np.asarray(batch["key"])[mask]
    user, place = np.nonzero(value > 0)  # 0 fills up where there are fewer.
    keys += own[user].tolist()
    out["rank"].append(place + 1)
    out["value"].append(value[user, place])
    out["probability"].append(p[user, place])
  columns = {n: np.concatenate(x) for n, x in out.items()}
  return Block(index, keys, columns)


def of_windows(index: int, parts, day: int) -> Block:
  """Users' embeddings from sums over their rows (evaluators/probe.py)."""
  del day
  keys = np.concatenate(
    [np.asarray(b["key"])[b["user_mask"]] for b, _ in parts]
  )
  if not len(keys):  # Padding alone: another host has users.
    return Block(index, [], {})
  sums = np.concatenate([f["sums"][b["user_mask"]] for b, f in parts])
  tokens = np.concatenate([f["tokens"][b["user_mask"]] for b, f in parts])
  first = np.append(True, keys[1:] != keys[:-1])
  start = np.flatnonzero(first)
  total = np.add.reduceat(sums.astype(np.float64), start)
  count = np.add.reduceat(tokens.astype(np.float64), start)
  vectors = probe.pooled(total, count).astype(np.float32)
  return Block(index, keys[start].tolist(), {"embedding": vectors})


def of_states(index: int, parts, day: int) -> Block:
  """A row an event, or a token of days."""
  keys, out = [], {"day": [], "time": [], "embedding": []}
  for batch, found in parts:
    for i in np.flatnonzero(batch["user_mask"]):
      at = np.flatnonzero(found["seen"][i])
      keys += [str(batch["key"][i])] * len(at)
      out["embedding"].append(found["state"][i][at])
      if "day" in found:
        out["day"].append((found["day"][i][at] + day).astype(np.int32))
        continue
      record, first = batch["rows"][i]
      out["day"].append(record["day"][at + first])
      out["time"].append(record["time"][at + first])
  columns = {n: np.concatenate(x) for n, x in out.items() if x}
  return Block(index, keys, columns)


def _keys(parts) -> list[str]:
  return [
    str(k) for b, _ in parts for k in np.asarray(b["key"])[b["user_mask"]]
  ]
