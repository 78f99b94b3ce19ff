"""python -m lumos_jax.report --workdir=W [--data_dir=D]"""

import argparse
import sys
from collections.abc import Sequence

from lumos_jax import report
from lumos_jax.report import load


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m lumos_jax.report",
    description="Writes WORKDIR/report.html from a run's other outputs.",
  )
  add = parser.add_argument
  add("--workdir", required=True, help="of the run's outputs")
  add("--data_dir", help="the data set, if not where the config says")
  args = parser.parse_args(argv)
  try:
    run = load.load(args.workdir, args.data_dir)
    if run.empty:
      absent = [v.rstrip(".") for k, v in run.absent.items() if k != "data"]
      raise ValueError(
        f"{args.workdir} has nothing to show yet: {'; '.join(absent)}"
      )
    print(report.write(run))
  except (OSError, ValueError) as e:
    print(f"error: {e}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
