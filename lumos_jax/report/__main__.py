"""python -m lumos_jax.report --workdir=W [--data_dir=D]"""

import sys

from absl import app, flags

from lumos_jax import report

_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)
_DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Its data set, if not where the config says."
)


def main(argv):
  """Entry point."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  try:
    print(report.build(_WORKDIR.value, _DATA_DIR.value))
  except FileNotFoundError as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  app.run(main)
