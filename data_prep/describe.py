"""Guesses what raw tables are, for a first draft of a description.

lumos data_prep describe FILES_OR_FOLDERS --out=shop.py

Reads the first rows of each file. Every guess is a comment in the draft; what is
guessed wrong is corrected there.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import polars as pl

from . import drafts, guesses
from .inputs import InputError
from .readers import files as files_lib
from .readers import moments, problems, rows


def main(argv: Sequence[str]) -> int:
  """The sub-command; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="lumos data_prep describe",
    description="Drafts a description of raw tables, and a config.",
  )
  parser.add_argument("paths", nargs="+", help="Files, or folders of files.")
  parser.add_argument("--out", required=True, help="The description, a .py.")
  parser.add_argument("--overwrite", action="store_true")
  args = parser.parse_args(argv)
  try:
    for path in describe(args.paths, args.out, overwrite=args.overwrite):
      print(path)
  except (InputError, OSError) as e:
    print(f"error: {e}", file=sys.stderr)
    return 1
  return 0


def describe(
  paths: Sequence[str], out: str, *, overwrite: bool = False
) -> list[pathlib.Path]:
  """Writes a description and, beside it, NAME_config.py; returns both.

  Raises:
    InputError: No table of users' events is found, or a file cannot be read.
    FileExistsError: A draft stands there already.
  """
  description = pathlib.Path(out)
  if description.suffix != ".py" or not description.stem.isidentifier():
    raise InputError(f"--out={out}: give a name like shop.py")
  config = description.with_name(f"{description.stem}_config.py")
  for path in (description, config):
    if path.exists() and not overwrite:
      raise FileExistsError(
        f"{path} exists: give --overwrite, or another --out"
      )
  tables, skipped = _tables(paths)
  activity = _activity(tables)
  first, last = _span(activity)
  profile = _profile(tables, activity)
  text, tasks = drafts.description(
    description.stem, activity, profile, tables, skipped, first, last
  )
  description.parent.mkdir(parents=True, exist_ok=True)
  description.write_text(text)
  days = (
    (last - first).days + 1
    if not isinstance(first, int)
    else (last - first + 1)
  )
  start = first if isinstance(first, int) else 0  # Dates count from 0.
  config.write_text(drafts.config(description.resolve(), tasks, days, start))
  if activity.doubt:
    print(f"check {description}: {activity.doubt}", file=sys.stderr)
  return [description, config]


def _tables(paths) -> tuple[list[guesses.Table], list[str]]:
  """Every file that can be read, and the names of the others."""
  found, skipped = [], []
  for path in map(pathlib.Path, paths):
    if not path.exists():
      raise InputError(f"{path}: there is no such file or folder")
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in inside:
      if not file.is_file():
        skipped.append(f"{file.name} (a folder: name it on its own)")
      elif (
        not files_lib.kind_of(file.name)
        or (kind := files_lib.kind_of(file.name)) == "duckdb"
      ):
        skipped.append(f"{file.name} (not a format that is sampled)")
      elif kind == "csv" and problems.separator(
        line := problems.head(file)
      ) not in line.partition(b"\n")[0].decode("utf-8", "replace"):
        skipped.append(f"{file.name} (text of one column, or no table)")
      else:
        found.append(guesses.sampled(file.resolve()))
  return found, skipped


def _activity(tables: Sequence[guesses.Table]) -> guesses.Table:
  """The longest table that has users and times."""
  fits = [t for t in tables if t.key and (t.time or t.parts)]
  if not fits:
    seen = "; ".join(f"{t.file.name}: {t.sample.columns}" for t in tables)
    if unread := [text for t in tables for text in t.unread]:
      seen += f". No times: {'; '.join(unread)}"
    raise InputError(
      "no table has both a column of users and one of times that can be read. "
      f"Found: {seen or 'no table'}. Rename a column (user_id, time), or write "
      "the description by hand: docs/data.md"
    )
  chosen = max(fits, key=lambda t: t.rows)
  chosen.why.insert(
    0,
    f"activity is {chosen.file.name}: {chosen.rows:,} rows of users and times",
  )
  return chosen


def _span(activity: guesses.Table) -> tuple:
  read = files_lib.read(
    activity.file.parent, "activity", {"file": activity.file.name}, set()
  )
  where = activity.file.name
  if activity.parts:
    time = guesses.time_of_parts(activity.parts)
    frame = read.frame.select(time=time)
    return rows.span(frame, moments.local_day(frame, "", where), (), where)
  frame = read.frame.select(pl.col(activity.time).alias("time"))
  declared = moments.Declared(activity.time, **activity.declared)
  frame, _ = moments.resolve(frame, "time", where, "", declared)
  return rows.span(frame, moments.local_day(frame, "", where), (), where)


def _profile(
  tables: Sequence[guesses.Table], activity: guesses.Table
) -> guesses.Table | None:
  """The table with one row a user, under the same key."""
  for table in tables:
    if table is activity or table.key != activity.key:
      continue
    keys = table.sample[table.key].drop_nulls()
    if len(keys) and keys.n_unique() == len(keys):
      table.why.insert(0, f"profile is {table.file.name}: one row a user")
      return table
  return None
