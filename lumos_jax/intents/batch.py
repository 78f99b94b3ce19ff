"""Labels of all sessions, part by part, to Parquet.

A part has the columns key, intent (the best label's id, or "other"), intents (ids
of all labels it has, the likeliest first) and confidences (theirs, in this order).
"""

import collections
import hashlib
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
_COLUMNS = ("key", "intent", "intents", "confidences")
_GIVEN = {"row": pl.UInt32, "id": pl.String, "confidence": pl.Float32}


def label(
  student: student_lib.Student, keys: list[str], vectors: np.ndarray
) -> pl.DataFrame:
  """Labels of sessions; a vector that is not finite has "other"."""
  found = [
    _rows(student, vectors[i : i + _ROWS], i)
    for i in range(0, len(vectors), _ROWS)
  ]
  every = pl.DataFrame({"key": keys}, {"key": pl.String}).with_row_index("row")
  given = pl.concat([pl.DataFrame(schema=_GIVEN), *found])
  lists = given.group_by("row", maintain_order=True).agg(
    pl.col("id").first().alias("intent"),
    pl.col("id").alias("intents"),
    pl.col("confidence").alias("confidences"),
  )
  return (
    every.join(lists, on="row", how="left", maintain_order="left")
    .with_columns(
      pl.col("intent").fill_null(taxonomy_lib.OTHER),
      pl.col("intents", "confidences").fill_null([]),
    )
    .select(_COLUMNS)
  )


def _rows(student, vectors: np.ndarray, first: int) -> pl.DataFrame:
  """The labels that sessions have, the likeliest of each first."""
  p = student.confidences(vectors)
  row, label = np.nonzero(student.chosen(p))
  value = p[row, label]
  order = np.lexsort((label, -value, row))
  row, label, value = row[order], label[order], value[order]
  ids = np.asarray(student.ids, object)[label]
  return pl.DataFrame(
    {"row": row + first, "id": pl.Series(ids.tolist()), "confidence": value},
    _GIVEN,
  )


def write(
  student: student_lib.Student,
  name: str,
  source: sessions_lib.Source,
  out: epath.Path,
  say: Callable[[str], None] = lambda text: None,
) -> None:
  """Labels of all sessions; parts that are there, and whole, are kept.

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
    there = {"name": name, "complete": False, "parts": {}}
    stages.write(manifest, json.dumps(there))
  sums: dict[str, str] = dict(there.get("parts", {}))
  sizes: collections.Counter = collections.Counter()
  labelled, total = 0, 0
  for n, (keys, vectors) in enumerate(source.parts()):
    path = out / f"part-{n:05d}.parquet"
    data = path.read_bytes() if path.exists() else b""
    if data and hashlib.sha256(data).hexdigest() == sums.get(path.name):
      frame = pl.read_parquet(data)
    else:
      frame, buffer = label(student, keys, vectors), io.BytesIO()
      frame.write_parquet(buffer, compression="zstd")
      stages.write(path, buffer.getvalue())
      sums[path.name] = hashlib.sha256(buffer.getvalue()).hexdigest()
      stages.write(manifest, json.dumps(there | {"parts": sums}))
    sizes.update(frame["intent"].to_list())
    labelled += int((frame["intents"].list.len() > 0).sum())
    total += len(frame)
    say(f"{total:,} sessions labelled")
  doc = {
    "name": name,
    "complete": True,
    "parts": sums,
    "sessions": total,
    "coverage": labelled / max(total, 1),
    "sizes": dict(sorted(sizes.items())),
  }
  stages.write(manifest, json.dumps(doc, indent=1))


def files(out: epath.Path) -> list[str]:
  """Manifest and parts as it names them, below the folder of the labels."""
  path = out / MANIFEST
  parts = json.loads(path.read_text()).get("parts", {}) if path.exists() else {}
  return [f"{out.name}/{n}" for n in (MANIFEST, *parts)]
