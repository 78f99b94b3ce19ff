"""Diginetica's click sessions, the benchmark of session-based recommendation.

CIKM Cup 2016, as SR-GNN and its followers cut it (sessions of one click and items of
fewer than five left out, the last week as test): files of `item item ...`, a line a
session, plain or .gz. A session is a record, an item a page; there are no times: the
place stands for the second since 1970.

- *_train*: whole sessions. A hash of a session's items puts a tenth of them into
  validation; published results train on these, too.
- *_test*: a line is a prefix of a session and, at its end, the item to be ranked. Each
  line is a test session of its own, so that HitRate@20 and MRR@20 of evaluator
  `next_page` in the causal form are those of the field: all items are ranked, and every
  prefix counts once.
"""

import hashlib
import os
import pathlib

import polars as pl

from lumos_jax.data import schema as schema_lib

from ..inputs import InputError, Inputs
from .msweb import split_of
from .sequences import lines

ENVIRONMENT = "LUMOS_DIGINETICA_DIR"
_TRAIN, _TEST = "diginetica_all_train_seq.txt", "diginetica_test.txt"


def load(*, path: str = "") -> Inputs:
  """Reads the sessions.

  Args:
    path: Folder of the files; default $LUMOS_DIGINETICA_DIR.
  """
  folder = pathlib.Path(path or os.environ.get(ENVIRONMENT, ""))
  files = [_found(folder, name) for name in (_TRAIN, _TEST)]
  parts, short = {}, 0
  for part, file in zip(("train", "test"), files, strict=True):
    parts[part] = _sessions(file)
    short += sum(len(s) < 2 for s in parts[part])
    parts[part] = [s for s in parts[part] if len(s) > 1]
    if not parts[part]:
      raise InputError(f"{file.name}: no session of two clicks in the file")
  known = {item for s in parts["train"] for item in s}
  strange = [s for s in parts["test"] if s[-1] not in known]
  keys, splits, clicks = [], [], []
  for part, sessions in parts.items():
    for n, s in enumerate(sessions):
      keys.append(f"{part}{n}")
      place = part
      if part == "train":
        place = split_of(_digest(s), (90, 100))
      splits.append(place)
      clicks.append(s)
  split = pl.DataFrame({"key": keys, "split": splits})
  longest = max(map(len, clicks))
  activity = pl.DataFrame({"key": keys, "page": clicks}).explode("page")
  place = pl.int_range(pl.len()).over("key", mapping_strategy="group_to_rows")
  activity = activity.select(
    "key",
    (place * 1000).cast(pl.Datetime("ms")).alias("time"),
    pl.col("page").cast(pl.String),
  )
  schema = schema_lib.Schema(
    name="diginetica",
    activity=(schema_lib.Categorical("page", max_values=len(known)),),
    rows="event",
    epoch="1970-01-01",
    first_day=0,
    last_day=longest // 86_400 + 1,
    train_until=longest // 86_400 + 1,
  )
  return Inputs(
    schema=schema,
    activity=activity.lazy(),
    split=split,
    files={"activity": files[0].name},
    notes={
      "sessions of training": len(parts["train"]),
      "test lines (a prefix and its item)": len(parts["test"]),
      "test lines whose item is in no training session": len(strange),
      "lines of fewer than two clicks, left out": short,
    },
    pieces={f.name: f.stat().st_size for f in files},
  )


def _digest(session: list[int]) -> str:
  return hashlib.sha256(" ".join(map(str, session)).encode()).hexdigest()


def _found(folder: pathlib.Path, name: str) -> pathlib.Path:
  for file in (folder / name, folder / f"{name}.gz"):
    if file.is_file():
      return file
  raise InputError(
    f"no file {folder / name}, nor with .gz: source 'diginetica' needs "
    f"path=FOLDER, or {ENVIRONMENT}=FOLDER"
  )


def _sessions(file: pathlib.Path) -> list[list[int]]:
  out = []
  for n, line in enumerate(lines(file), 1):
    try:
      out.append([int(x) for x in line.split()])
    except ValueError as e:
      raise InputError(f"{file.name}: line {n} has no item numbers: {e}") from e
  return out
