"""LUMOS on Complete Journey: the default job, for two CPU cores.

  python -m lumos_jax.main --config=configs/pretrain.py
  python -m lumos_jax.main --config=configs/pretrain.py:smoke
  python -m lumos_jax.main --config=configs/pretrain.py:steps=2000,seed=1

A causal encoder serves 14 origins a pass, a token is a week of seven user-days,
and the head, an ensemble, sees habits beside the decoder's output. The
paper's own form is configs/paper.py.
"""

from lumos_jax import config as config_lib
from lumos_jax.presets import datasets, lumos


def get_config(arg=None):
  """Arguments: smoke, size=, steps=, seed=, ablate= (one of no_future, ...),
  baselines= (states, all)."""
  args = config_lib.parse_arg(
    arg, smoke=False, size="", steps=0, seed=0, ablate="", baselines=""
  )
  c = config_lib.default("lumos")
  c.name, c.seed = "pretrain", args.seed
  datasets.use(c, "complete_journey")
  lumos.weekly(c)
  # Rare outcomes: the states alone forecast them worse (validation origin).
  rare = ("all", "linear")
  c.model.views = dict(redeem=rare, seafood=rare)
  if args.ablate:
    c.model.ablate = (args.ablate,)
  c.train.steps = args.steps or 600
  lumos.evaluate(c, every_steps=200, baselines=args.baselines)
  lumos.finish(c, args, size="base")
  return c
