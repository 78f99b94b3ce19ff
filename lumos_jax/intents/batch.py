"""Labels of all sessions, part by part, to Parquet.

A part has the columns key, intent (the best label's id, or "other"), intents (ids
of all labels it has, the likeliest first) and confidences (theirs, in this order).
"""

import collections
import io
import json
from collections.abc import Callable

import numpy as np
import polars as pl
from etils import epath

from lumos_jax.intents import sessions as sessions_lib
from lumos_jax.intents import stages
from lumos_jax.intents import student as student_lib
from lumos_jax.intents import taxonomy as taxonomy_lib

MANIFEST = "manifest.json"
_ROWS = 8192  # Of a call of the student: its arrays stay in the cache.
_SCHEMA = {
  "key": pl.String,
  "intent": pl.String,
  "intents": pl.List(pl.String),
  "confidences": pl.List(pl.Float32),
}


def label(
  student: student_lib.Student, keys: list[str], vectors: np.ndarray
) -> pl.DataFrame:
  """Labels of sessions; a vector that is not finite has "other"."""
  found = [
    _rows(student, vectors[i : i + _ROWS])
    for i in range(0, len(vectors), _ROWS)
  ]
  columns = [sum((x[n] for x in found), []) for n in range(3)]
  values = dict(zip(_SCHEMA, (keys, *columns), strict=True))
  return pl.DataFrame(values, _SCHEMA)


def _rows(student, vectors):
  p = student.confidences(vectors)
  chosen, order = student.chosen(p), np.argsort(-p, 1, kind="stable")
  top, ids, values = [], [], []
  for i in range(len(p)):
    mine = [j for j in order[i].tolist() if chosen[i, j]]
    ids.append([student.ids[j] for j in mine])
    values.append([float(p[i, j]) for j in mine])
    top.append(ids[-1][0] if mine else taxonomy_lib.OTHER)
  return top, ids, values


def write(
  student: student_lib.Student,
  name: str,
  source: sessions_lib.Source,
  out: epath.Path,
  say: Callable[[str], None] = lambda text: None,
) -> None:
  """Labels of all sessions; parts that are there are kept.

  Args:
    student: Labels them.
    name: Of the student and the vectors: parts of another name are removed.
    source: Of the vectors.
    out: Folder.
    say: Gets a line a part.
  """
  manifest = out / MANIFEST
  there = json.loads(manifest.read_text()) if manifest.exists() else {}
  if there.get("name") != name:
    manifest.unlink(missing_ok=True)
    for old in out.glob("part-*.parquet") if out.exists() else ():
      old.unlink()
    stages.write(manifest, json.dumps({"name": name, "complete": False}))
  sizes: collections.Counter = collections.Counter()
  labelled, total = 0, 0
  for n, (keys, vectors) in enumerate(source.parts()):
    path = out / f"part-{n:05d}.parquet"
    if path.exists():
      frame = pl.read_parquet(path.read_bytes())
    else:
      frame, buffer = label(student, keys, vectors), io.BytesIO()
      frame.write_parquet(buffer, compression="zstd")
      stages.write(path, buffer.getvalue())
    sizes.update(frame["intent"].to_list())
    labelled += int((frame["intents"].list.len() > 0).sum())
    total += len(frame)
    say(f"{total:,} sessions labelled")
  doc = {
    "name": name,
    "complete": True,
    "sessions": total,
    "coverage": labelled / max(total, 1),
    "sizes": dict(sorted(sizes.items())),
  }
  stages.write(manifest, json.dumps(doc, indent=1))
