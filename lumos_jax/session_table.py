r"""Writes a data set's sessions with their vectors and titles to Parquet.

  lumos sessions --workdir=runs/intent_wikispeedia --out=sessions [--first=4]

One row a session: key, split, clicks, pages, titles and categories in the order of
the clicks, the labels, and the run's embedding. Parts are complete or absent: the
same command continues an interrupted one. Without --workdir, --data_dir alone gives
the same table without vectors.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from absl import app
from absl.flags import argparse_flags
from etils import epath

from lumos_jax import evaluate, files, predictor, startup
from lumos_jax.data import pages as pages_lib
from lumos_jax.data import records as records_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import sessions
from lumos_jax.evaluators import predict

MANIFEST = "manifest.json"
PART_SESSIONS = 65_536
ERRORS = (*evaluate.ERRORS, schema_lib.SchemaError)


def write(
  out: epath.PathLike,
  workdir: epath.PathLike | None = None,
  *,
  data_dir: epath.PathLike | None = None,
  first: int = 0,
  step: int | str | None = None,
  replace: bool = False,
) -> dict[str, Any]:
  """Writes the table; see the module's text.

  Args:
    out: Folder to write to.
    workdir: Of a run of recipe "intent"; None for no vectors.
    data_dir: A prepared data set; default the run's own.
    first: Clicks that are read, of sessions that have more; 0 for all clicks of
      all sessions.
    step: Checkpoint; default the newest.
    replace: Removes a table of another model, step or data that `out` holds.

  Returns:
    The manifest.

  Raises:
    ValueError: Neither run nor data set is named, or `out` holds another table.
  """
  if workdir is None and data_dir is None:
    raise ValueError(
      "give --workdir, or --data_dir for a table without vectors"
    )
  model, field = None, None
  if workdir is not None:
    model = predictor.Predictor(workdir, step)
    if model.recipe.inputs is not sessions:
      raise ValueError(
        f"a run of recipe {model.config.recipe!r} reads no sessions"
      )
    records, field = model.open_data(data_dir), model.config.data.target
  else:
    records = records_lib.Records.open(data_dir)
  known = pages_lib.Pages.load(records.path)
  field = field or (known.field if known else None)
  names = [f.name for f in records.schema.categorical("activity")]
  if field not in names:
    raise ValueError(
      f"{records.path} names no field of pages; its fields are {names}"
    )
  manifest = {
    "data": records.schema.hash,
    "model": model.model_hash if model else "",
    "step": model.step if model else -1,
    "first": first,
    "page_field": field,
  }
  folder = epath.Path(out)
  path = folder / MANIFEST
  if path.exists() and json.loads(path.read_text()) != manifest:
    if not replace:
      raise ValueError(
        f"{folder} holds another table (see {MANIFEST}): choose another --out"
      )
    # The manifest last: what a kill leaves is still another table.
    for old in folder.glob("*.parquet"):
      old.unlink()
  folder.mkdir(parents=True, exist_ok=True)
  predict.write_atomic(path, json.dumps(manifest, indent=1).encode())
  total = kept = 0
  for split in records.splits:
    size = records.stats["splits"][split]["users"]
    for n, start in enumerate(range(0, size, PART_SESSIONS)):
      place = folder / f"{split}-{n:05d}.parquet"
      if place.exists():
        kept += 1
        continue
      stop = min(size, start + PART_SESSIONS)
      frame = _frame(
        records, split, start, stop, first, names.index(field), known, model
      )
      aside = place.parent / f".{place.name}.new"
      with files.naming(place), aside.open("wb") as f:
        frame.write_parquet(f)
      aside.replace(place)
      total += len(frame)
  there = f"; {kept} parts were there" if kept else ""
  print(f"{total:,} sessions written to {folder}{there}", file=sys.stderr)
  return manifest


def read(folder: epath.PathLike) -> pl.DataFrame:
  """The table that `write` wrote, whole.

  Raises:
    FileNotFoundError: There is none.
  """
  found = sorted(epath.Path(folder).glob("*.parquet"))
  if not found:
    raise FileNotFoundError(f"{folder} holds no table of lumos sessions")
  return pl.concat([pl.read_parquet(str(f)) for f in found])


def _frame(
  records, split, start, stop, first, column, known, model
) -> pl.DataFrame:
  source = records.source(split)
  field = records.schema.categorical("activity")[column]
  if known is None:
    values = ["(missing)", "(unknown)", *(field.values or ())]
    title, category = np.asarray(values), np.full(len(values), "")
  else:
    title, category = known.title, known.category
  name = np.asarray(["(missing)", "(unknown)", *(field.values or ())])
  found = [
    r for r in source.__getitems__(range(start, stop)) if len(r["day"]) > first
  ]
  ids = [r["categorical"][: first or None, column] for r in found]
  data: dict[str, Any] = {
    "key": [r["key"] for r in found],
    "split": [split] * len(found),
    "clicks": [len(i) for i in ids],
    "pages": [name[i].tolist() for i in ids],
    "titles": [title[i].tolist() for i in ids],
    "categories": [category[i].tolist() for i in ids],
  }
  text = pl.List(pl.String)
  kinds = dict(
    key=pl.String, split=pl.String, clicks=pl.Int32, pages=text, titles=text,
    categories=text,
  )  # fmt: skip
  for i, label in enumerate(records.schema.labels):
    data[label.name] = [_outcome(r, i) for r in found]
    kinds[label.name] = pl.Float32
  if model is not None:
    data["embedding"] = vectors(model, found, first)
    width = model.config.model.embedding_width
    kinds["embedding"] = pl.Array(pl.Float32, width)
  return pl.DataFrame(data, schema=kinds)


def _outcome(record, label: int) -> float | None:
  mine = record["label_id"] == label
  return float(record["label_value"][mine][-1]) if mine.any() else None


def vectors(model, found, first: int = 0) -> np.ndarray:
  """Vectors of sessions.

  Args:
    model: A `predictor.Predictor` of recipe "intent".
    found: S records, with keys that differ.
    first: Clicks that are read, of sessions that have more.

  Returns:
    float32 [S, E], in their order; zeros of a session that has no more clicks.
  """
  run, place = model.embedder(), {r["key"]: i for i, r in enumerate(found)}
  groups = sessions.groups([found], run.batch_size, first)
  batches = sessions.batches_of(
    model.schema, model.config.data, groups, run.batch_size, short=True
  )
  out = np.zeros((len(found), model.config.model.embedding_width), "f4")
  for batch, part in run.stream(model.parameters, batches):
    mine = batch["user_mask"]
    at = [place[k] for k in batch["key"][mine].tolist()]
    out[at] = part["embedding"][mine]
  return out


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse_flags.ArgumentParser(
    prog="lumos sessions", description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add("--out", required=True, help="folder to write to")
  add("--workdir", help="of a run of recipe intent; default no vectors")
  add("--data_dir", help="a prepared data set; default the run's own")
  add("--first", type=int, default=0, help="clicks that are read; 0 for all")
  add("--step", help="checkpoint, or best; default the newest")
  return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
  """Entry point."""
  startup.keep_compilations()
  step = args.step
  try:
    write(
      args.out,
      args.workdir,
      data_dir=args.data_dir,
      first=args.first,
      step=int(step) if step and step.isdecimal() else step,
    )
  except ERRORS as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  app.run(main, flags_parser=_arguments)
