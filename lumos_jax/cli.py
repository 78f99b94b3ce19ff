"""The console command `lumos`: every program of the project by one name.

  lumos train --config=pretrain
  lumos export --workdir=runs/pretrain --what=forecasts --out=forecasts
  lumos COMMAND --help

`lumos COMMAND ...` is `python -m MODULE ...`: the same flags, output and exit
status. Nothing is imported before the command is known.
"""

import runpy
import sys
from collections.abc import Sequence

from lumos_jax.names import near

# {command: (module, what it does)}, in the order of a project's life.
COMMANDS = {
  "data_prep": ("lumos_jax.data_prep", "prepare raw tables as a data set"),
  "train": ("lumos_jax.main", "prepare, train, evaluate and report"),
  "main": ("lumos_jax.main", "the same as train"),
  "evaluate": ("lumos_jax.evaluate", "evaluate a stored checkpoint"),
  "export": (
    "lumos_jax.export",
    "write forecasts, embeddings or next events to Parquet",
  ),
  "sessions": (
    "lumos_jax.session_table",
    "write sessions of clicks with vectors and titles to Parquet",
  ),
  "link": (
    "lumos_jax.linking",
    "link sessions of unknown visitors to users who log in later",
  ),
  "intents": (
    "lumos_jax.intents",
    "make intents of sessions: taxonomy, labels, a student",
  ),
  "serve": ("lumos_jax.serving", "answer requests for users over HTTP"),
  "report": ("lumos_jax.report", "write a run's HTML report again"),
  "enrich": (
    "lumos_jax.llm.enrich",
    "tell users as text, for language models",
  ),
  "preflight": (
    "lumos_jax.preflight",
    "check whether a config fits a TPU slice, without a TPU",
  ),
}


def usage() -> str:
  """The text of `lumos --help`."""
  lines = "".join(f"  {k:10s} {what}\n" for k, (_, what) in COMMANDS.items())
  return (
    "usage: lumos COMMAND [FLAGS]\n\n"
    f"commands:\n{lines}\n"
    "`lumos COMMAND --help` lists a command's flags; `lumos --version` prints "
    "the version.\n"
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command.

  Args:
    argv: Arguments after the program's name; default sys.argv's.

  Returns:
    The exit status, where the command does not exit itself.
  """
  command, *rest = (sys.argv[1:] if argv is None else [*argv]) or [""]
  if command in ("--help", "-h", "help"):
    print(usage(), end="")
    return 0
  if command == "--version":
    import lumos_jax

    print(lumos_jax.__version__)
    return 0
  if command not in COMMANDS:
    if command:
      wrong = f"unknown command {command!r}{near(command, COMMANDS)}"
      print(f"error: {wrong}\n", file=sys.stderr)
    print(usage(), end="", file=sys.stderr)
    return 2
  sys.argv = [f"lumos {command}", *rest]
  runpy.run_module(COMMANDS[command][0], run_name="__main__", alter_sys=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
