"""Users and questions of benchmarks/llm4es.py, by data set.

U users, V values or numbers.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lumos_jax.data import instants

Record = Mapping[str, Any]
Questions = dict[str, np.ndarray]

# MovieLens' 21 occupations; the others are a group, too.
_GROUPS = {
  "student": (4, 10),
  "technical": (12, 15, 17),
  "business": (3, 5, 7, 11, 14, 16),
  "education, arts, health": (1, 2, 6, 20),
}


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What the benchmark asks of a data set.

  Attributes:
    shown: Its name in results.
    events: Config of the event model of whose vectors a table is made.
    contrast: Config of the one that CoLES trains.
    questions: (schema, records) -> {label: classes int [U], -1 not known}.
    counted: Categorical fields whose values aggregates count.
    staying: Only users that are still observed on the day are asked.
  """

  shown: str
  events: str
  contrast: str
  questions: Callable[[Any, Sequence[Record]], Questions]
  counted: tuple[str, ...] = ()
  staying: bool = False


def _movielens(schema, users) -> Questions:
  """Gender, age band and occupation group."""
  fields = schema.categorical("profile")
  names = [f.name for f in fields]
  out = {}
  for label in ("gender", "age", "occupation"):
    at = names.index(label)
    ids = np.asarray([r["profile_categorical"][at] for r in users])
    if label == "occupation":
      values = fields[at].values
      ids = np.asarray(
        [_group(int(values[i - 2])) if i > 1 else 0 for i in ids]
      )
    out[label] = ids
  return out


def _group(code: int) -> int:
  """Number of an occupation's group; 0 for others."""
  found = [n for n, of in enumerate(_GROUPS.values(), 1) if code in of]
  return found[0] if found else 0


def _oulad(schema, users) -> Questions:
  """Whether the course was passed, with distinction or not."""
  at = [x.name for x in schema.labels].index("final_result")
  good = [schema.labels[at].values.index(v) for v in ("Pass", "Distinction")]
  values = [_value(r, at) for r in users]
  found = [-1 if v is None else int(v in good) for v in values]
  return {"passed": np.asarray(found)}


def _credit_default(schema, users) -> Questions:
  """Whether a client defaulted: of those who did not there is no row."""
  at = [x.name for x in schema.labels].index("default")
  return {"default": np.asarray([int(_value(r, at) == 1) for r in users])}


def _value(record: Record, label: int) -> float | None:
  mine = np.asarray(record["label_id"]) == label
  return float(record["label_value"][mine][0]) if mine.any() else None


# Vectors that predict a half of a user's events from the other (bag=) are made
# for the users' traits; they were chosen on MovieLens alone.
DATASETS = {
  "movielens": Dataset(
    "movielens_1m",
    "panther:data=movielens,ids,bag=64",
    "panther:data=movielens,ids",
    _movielens,
    ("item",),
  ),
  "oulad": Dataset(
    "oulad",
    "panther:data=oulad,profile=none,bag=64",
    "panther:data=oulad,profile=none",
    _oulad,
    staying=True,
  ),
  "credit_default": Dataset(
    "credit_default",
    "panther:data=credit_default,profile=none,bag=64",
    "panther:data=credit_default,profile=none",
    _credit_default,
    ("status",),
  ),
}


def chosen(records, data: Dataset, users: int, taught: int, day: int):
  """Users of the table, and others from whom a distilled model learns.

  Both are drawn by id. Where the data have splits, the table's are of those that
  nothing trains on, and the others of the split that does.

  Args:
    records: An open `Records`.
    data: What is asked.
    users: Of the table; 0 for all.
    taught: The others; fewer where there are fewer.
    day: Events before it are known; 0 for all.

  Returns:
    Records of the table, and keys of the others.
  """
  held_out = [s for s in records.splits if s != "train"] or ["train"]
  table = _drawn(records, held_out, data, day)
  table = table[:users] if users else table
  mine = {r["key"] for r in table}
  others = [r["key"] for r in _drawn(records, ["train"], data, day)]
  return table, [k for k in others if k not in mine][:taught]


def _drawn(records, splits, data: Dataset, day: int) -> list[Record]:
  found = []
  for split in splits:
    source = records.source(split)
    every = (source[i] for i in range(len(source)))
    found += [r for r in every if _asked(r, data, day)]
  number = lambda r: hashlib.sha256(r["key"].encode()).digest()
  return sorted(found, key=number)


def _asked(record: Record, data: Dataset, day: int) -> bool:
  """Whether a user has events by the day and, if need be, has not left."""
  if data.staying and not record["span"][0] <= day < record["span"][1]:
    return False
  return bool(_until(record, day))


def _until(record: Record, day: int) -> int:
  days = instants.days(record)
  return int(np.searchsorted(days, day)) if day else len(days)


def aggregates(schema, users: Sequence[Record], data: Dataset, day: int):
  """Counts of values, and of numbers mean, deviation, extremes and the last.

  Args:
    schema: Of the records.
    users: U records.
    data: Names the fields whose values are counted.
    day: Events before it.

  Returns:
    float32 sparse [U, V].
  """
  from scipy import sparse

  names = [f.name for f in schema.categorical("activity")]
  sizes = [f.size for f in schema.categorical("activity")]
  parts = []
  for name in data.counted:
    at = names.index(name)
    counts = [
      np.bincount(r["categorical"][: _until(r, day), at], minlength=sizes[at])
      for r in users
    ]
    parts.append(sparse.csr_matrix(np.asarray(counts, np.float32)))
  rows = []
  for r in users:
    x = np.asarray(r["numeric"][: _until(r, day)], np.float64)
    x = np.nan_to_num(x)
    said = [x.mean(0), x.std(0), x.min(0), x.max(0), x[-1], x.sum(0)]
    rows.append(np.concatenate([[len(x)], *said]))
  parts.append(sparse.csr_matrix(np.asarray(rows, np.float32)))
  return sparse.hstack(parts, format="csr")
