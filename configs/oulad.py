"""LUMOS on OULAD: clicks, submissions and withdrawal of online students.

  LUMOS_OULAD_DIR=DIR python -m lumos_jax.main --config=configs/oulad.py

Trains on presentations BBB/2013B and AAA/2013J, tests on AAA/2014J and
BBB/2013J (clicks of that one break off, in some copies on day 132). The files:
https://analyse.kmi.open.ac.uk/open-dataset (CC BY 4.0).
"""

from lumos_jax import config as config_lib
from lumos_jax.presets import datasets, lumos


def get_config(arg=None):
  """Arguments: smoke, size=, steps=, seed=, baselines= (states, all)."""
  args = config_lib.parse_arg(
    arg, smoke=False, size="", steps=0, seed=0, baselines=""
  )
  c = config_lib.default("lumos")
  c.name, c.seed = "oulad", args.seed
  datasets.use(c, "oulad")
  lumos.weekly(c)
  # Other views did worse: docs/results.md.
  c.model.state_members, c.model.sparsity = 0, 0.0
  c.model.habit_days = (7, 14, 28, 56, 0)
  c.train.steps = args.steps or 600
  lumos.evaluate(c, every_steps=100, baselines=args.baselines)
  lumos.finish(c, args, size="base")
  return c
