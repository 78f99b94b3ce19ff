r"""Writes a run's predictions of users to Parquet.

  python -m lumos_jax.export --workdir=runs/pretrain --out=predictions \
    [--what=forecasts,embeddings] [--as_of=2017-12-04] [--users=FILE] \
    [--data_dir=DIR] [--k=10] [--per_event] [--hash_ids]

One folder a kind below --out, in parts of equally many users, and manifest.json,
which says of what model, data and day they are and whether all is there. A part
is complete or absent: the same command continues an interrupted export, and the
same input gives the same bytes. Memory does not grow with the number of users.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, logging
from absl.flags import argparse_flags
from etils import epath

from lumos_jax import (
  evaluate,
  ids,
  parts,
  population,
  predictor,
  progress,
  startup,
)
from lumos_jax.data import schema as schema_lib

# What a user can mend: printed as one line, without a traceback.
ERRORS = (*evaluate.ERRORS, schema_lib.SchemaError, ids.IdError)


def export(
  workdir: epath.PathLike,
  out: epath.PathLike,
  what: Sequence[str] = (),
  *,
  as_of: int | str | None = None,
  users: Sequence[str] | None = None,
  step: int | str | None = None,
  data_dir: epath.PathLike | None = None,
  k: int = 10,
  per_event: bool = False,
  salt: bytes | None = None,
) -> dict[str, Any]:
  """Writes predictions; see the module's text.

  Args:
    workdir: Of the run.
    out: Folder to write to.
    what: Among predictor.KINDS; default all that the recipe gives.
    as_of: Day number or ISO date; default the day after the data's last.
    users: Ids; default all users of the data set.
    step: Checkpoint; default the newest.
    data_dir: A prepared data set; default the run's own.
    k: Values of a user's next event.
    per_event: Embeddings of each event, or token of days.
    salt: Writes ids as keyed hashes.

  Returns:
    The manifest's header.

  Raises:
    parts.ExportError, PredictError: It cannot be made as asked for.
  """
  model = predictor.Predictor(workdir, step)
  kinds = tuple(what) or model.kinds()
  for kind in kinds:
    model.check_kind(kind)
  if k < 1:
    raise parts.ExportError(f"k = {k} must be 1 or more")
  records = model.open_data(data_dir)
  day = model.day(as_of, records.schema)
  people = population.Population(records)
  positions, unknown = model.users(people, users)
  task = parts.Export(
    model,
    records,
    out,
    kinds,
    day,
    positions,
    k=k,
    per_event=per_event,
    salt=salt,
  )
  if jax.process_index() == 0:
    _tell(task, unknown)
  task.claim()
  task.run()
  return task.header


def _tell(task: parts.Export, unknown: Sequence[str]) -> None:
  """Says what is written, and what it does not know."""
  h = task.header
  say = lambda text: print(text, file=sys.stderr, flush=True)
  say(
    f"{' and '.join(task.kinds)} of {h['users']:,} users as of {h['as_of']} (day "
    f"{task.day}), checkpoint of step {h['step']}, to {task.out}"
  )
  if unknown:
    say(f"{len(unknown):,} of the listed users are not in the data")
  if "horizon_days" in h and task.records.schema.calendar:
    last = task.day + h["horizon_days"] - 1
    known = h["calendar_known_until_day"]
    say(
      f"the calendar known by then reaches day {known}; forecasts look ahead to "
      f"day {last}"
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse_flags.ArgumentParser(
    prog="python -m lumos_jax.export",
    description="Writes a run's predictions of users to Parquet.",
    # Beside lumos_jax.main in one process, whose flags share names.
    conflict_handler="resolve",
  )
  add = parser.add_argument
  add("--workdir", required=True, help="of the run")
  add("--out", required=True, help="folder to write to")
  add(
    "--what",
    default="",
    help=f"among {','.join(predictor.KINDS)}; default all the recipe gives",
  )
  add("--as_of", help="day number or date; default the day after the last")
  add("--users", help="text file with a user id a line; default all users")
  add("--step", type=_step, help="checkpoint, or best; default the newest")
  add("--data_dir", help="a prepared data set; default the run's own")
  add("--k", type=int, default=10, help="values of a user's next event")
  add(
    "--per_event",
    action="store_true",
    help="embeddings of each event (LUMOS: token of days), not each user",
  )
  add(
    "--hash_ids",
    action="store_true",
    help=f"ids as keyed hashes; the key is in the environment, ${ids.SALT}",
  )
  startup.add_process_flags(add)
  return parser.parse_args(argv[1:])


def _step(text: str) -> int | str:
  return text if text == "best" else int(text)


def _salt(hash_ids: bool) -> bytes | None:
  if not hash_ids:
    return None
  return ids.salt()


def main(args: argparse.Namespace) -> None:
  """Entry point."""
  startup.connect_as_asked(args)
  startup.keep_compilations()
  progress.quiet_libraries()
  try:
    users = None
    if args.users:
      users = ids.read(args.users)
    export(
      args.workdir,
      args.out,
      [name for name in args.what.split(",") if name],
      as_of=args.as_of,
      users=users,
      step=args.step,
      data_dir=args.data_dir,
      k=args.k,
      per_event=args.per_event,
      salt=_salt(args.hash_ids),
    )
  except KeyboardInterrupt:
    print(
      "interrupted: the same command continues with the missing parts",
      file=sys.stderr,
    )
    sys.exit(130)
  except ERRORS as e:
    logging.debug("", exc_info=True)
    print(f"error: {e}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  app.run(main, flags_parser=_arguments)
