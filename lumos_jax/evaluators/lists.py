"""What the top-k lists of all users hold together.

U users, K values of a list, V vocabulary.
"""

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lumos_jax.data import sequences
from lumos_jax.data.schema import ANY, FIRST_VALUE, Composite

_USERS = 1024  # Read at a time.
_counted: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def training_counts(records: Any, data_cfg: Any) -> np.ndarray:
  """Training events of each value that are like those asked for: int64 [V].

  Reads the training split once for all evaluators of a data set. See
  `sequences.Sequences.asked` for which events count.
  """
  key = data_cfg.target, data_cfg.holdout, data_cfg.train_split
  key += data_cfg.train_origin_last, data_cfg.validation_origin
  kept = _counted.setdefault(records, {})
  if key not in kept:
    cut = sequences.Sequences(records.schema, data_cfg)
    column = sequences.target_column(records.schema, data_cfg)
    size = records.schema.categorical("activity")[column].size
    counts = np.zeros(size, np.int64)
    source = records.source(data_cfg.train_split)
    for start in range(0, len(source), _USERS):
      block = range(start, min(start + _USERS, len(source)))
      events = []
      for record in source.__getitems__(block):
        n = cut.training_events(record)
        asked = cut.asked(record)[:n]
        events.append(record["categorical"][:n, column][asked])
      counts += np.bincount(np.concatenate(events), minlength=size)
    kept[key] = counts
  return kept[key]


def of_lists(
  top: np.ndarray, counts: np.ndarray, ks: Sequence[int]
) -> Iterator[tuple[str, float]]:
  """Coverage and novelty of the first k values of the lists.

  coverage@k: share of all values that stand in at least one user's list
  (catalogue coverage; Ge, Delgado-Battenfeld and Jannach 2010).
  novelty@k: mean over lists and their values of -log2 p(v), the value's
  self-information in bits (Zhou et al. 2010; Vargas and Castells 2011), where
  p(v) = (n_v + 1) / (n + values) of n training events.

  Args:
    top: int [U, K], the most likely first; 0 where a list is shorter.
    counts: int [V], training events of each value.
    ks: Cutoffs, at most K.
  """
  values = len(counts) - FIRST_VALUE
  known = counts[FIRST_VALUE:]
  bits = np.zeros(len(counts))
  bits[FIRST_VALUE:] = -np.log2((known + 1.0) / (known.sum() + values))
  for k in ks:
    shown = top[:, :k]
    shown = shown[shown >= FIRST_VALUE]
    yield f"coverage@{k}", len(np.unique(shown)) / max(values, 1)
    if len(shown):
      yield f"novelty@{k}", float(bits[shown].mean())


def of_parts(
  field: Composite, target: np.ndarray, first: np.ndarray
) -> Iterator[tuple[str, float]]:
  """How often the first value has each part of the next event's token.

  Over users whose next token says the part: an unknown token says none, a
  smaller one not all.

  Args:
    field: The target field.
    target: int [U], the next event's token.
    first: int [U], the first value of each list.
  """
  parts = np.full((field.size, len(field.of)), ANY)
  parts[FIRST_VALUE:] = np.asarray(field.values).reshape(-1, len(field.of))
  for i, name in enumerate(field.of):
    said = parts[target, i] != ANY
    if said.any():
      right = parts[first[said], i] == parts[target[said], i]
      yield f"part_accuracy/{name}", float(right.mean())
