"""Command line of data_prep.

python -m data_prep --source=complete_journey --out=data
python -m data_prep --source=complete_journey --out=data --rows=event
python -m data_prep --source=tables --out=data --set schema=my_schema.py
python -m data_prep --source=complete_journey --out=new --fitted=runs/pretrain
python -m data_prep --list
python -m data_prep describe FILES_OR_FOLDERS --out=my_schema.py
python -m data_prep generate --users=10000 --out=world --seed=0
python -m data_prep append data/shop --source=tables --set schema=new.py
python -m data_prep drift --reference=data/shop --new=new/shop
python -m data_prep forget --users=FILE data/shop predictions
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from lumos_jax import ids

from . import append, describe, drift, forget, generate, run, sources

_COMMANDS = {
  "append": append,
  "describe": describe,
  "drift": drift,
  "forget": forget,
  "generate": generate,
}


def _value(text: str):
  """true, 3, 0.5 and ["a"] as JSON; anything else as text."""
  try:
    return json.loads(text)
  except ValueError:
    return text


def options(items: Sequence[str]) -> dict[str, Any]:
  """KEY=VALUE of --set; raises ValueError where it is none."""
  out = {}
  for item in items:
    key, equals, value = item.partition("=")
    if not equals:
      raise ValueError(f"--set {item}: write KEY=VALUE")
    out[key] = _value(value)
  return out


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m data_prep",
    description="Prepares a data set for lumos_jax.",
    epilog=f"Other commands, each with --help: {', '.join(sorted(_COMMANDS))}.",
  )
  parser.add_argument("--source", help="Name of a source; --list shows them.")
  parser.add_argument("--out", default="data", help="Folder of data sets.")
  parser.add_argument(
    "--rows", choices=("day", "event"), help="What a row of activity is."
  )
  parser.add_argument(
    "--set",
    nargs="+",
    action="extend",
    default=[],
    metavar="KEY=VALUE",
    help="Options of the source.",
  )
  parser.add_argument(
    "--fitted",
    default="",
    metavar="DIR",
    help="A data set or a run's workdir whose vocabularies, bins and scales are "
    "taken, so that its checkpoints read the new rows; nothing is fitted.",
  )
  parser.add_argument(
    "--until",
    metavar="DAY",
    help="Leaves out rows from this day (number or date) on.",
  )
  parser.add_argument(
    "--memory_gib",
    type=float,
    help="Memory to stay within; a larger table is prepared in pieces on disk. "
    "Default: half of the machine's; 0 for no limit.",
  )
  parser.add_argument(
    "--hash_ids",
    action=argparse.BooleanOptionalAction,
    help="Stores keyed hashes in place of users' ids. Default: where the "
    f"environment has the key, ${ids.SALT}, or names its file, ${ids.SALT_FILE}.",
  )
  parser.add_argument(
    "--k_anonymous",
    type=int,
    default=0,
    metavar="K",
    help="A categorical value that fewer training users hold counts as unknown.",
  )
  parser.add_argument(
    "--beam",
    action="store_true",
    help="Runs on Apache Beam; further options are Beam's (--runner=...).",
  )
  parser.add_argument("--num_shards", type=int, help="Files of each split.")
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="Replaces a data set that was prepared otherwise.",
  )
  parser.add_argument(
    "--list", action="store_true", help="Lists the sources and their options."
  )
  return parser


def main(argv=None) -> int:
  """Returns the exit status."""
  argv = sys.argv[1:] if argv is None else list(argv)
  if argv and argv[0] in _COMMANDS:
    return _COMMANDS[argv[0]].main(argv[1:])
  parser = _parser()
  args, others = parser.parse_known_args(argv)
  if others and not others[0].startswith("-"):
    parser.error(
      f"{others[0]!r} is no command; use one of {', '.join(sorted(_COMMANDS))}, "
      "or options alone"
    )
  if others and not args.beam:
    parser.error(f"unrecognized arguments: {' '.join(others)}")
  if args.list:
    print(sources.describe())
    return 0
  if not args.source:
    parser.error("--source is needed; --list shows the sources")
  try:
    given = options(args.set)
  except ValueError as e:
    parser.error(str(e))
  if args.rows:
    given["rows"] = args.rows
  if args.until is not None:
    given["until"] = _value(args.until)
  try:
    path = run.prepare(
      args.source,
      args.out,
      overwrite=args.overwrite,
      num_shards=args.num_shards,
      fitted=args.fitted,
      memory_gib=args.memory_gib,
      hash_ids=args.hash_ids,
      k_anonymous=args.k_anonymous,
      beam=others if args.beam else None,
      **given,
    )
  except (ValueError, OSError) as e:
    print(f"error: {e}", file=sys.stderr)
    return 1
  print(path)
  return 0


if __name__ == "__main__":
  sys.exit(main())
