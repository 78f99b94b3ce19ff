"""LUMOS in the paper's form (arXiv 2512.08957) on Complete Journey.

  python -m lumos_jax.main --config=configs/paper.py
  python -m lumos_jax.main --config=configs/paper.py:size=tiny,steps=300
  python -m lumos_jax.main --config=configs/paper.py:data=oulad

Bidirectional encoder over user-days, one origin a pass, learned positions,
post-norm, MSE over non-zero targets, uncertainty weighting, AdamW as in the
public port. `size=paper` (14.7 M parameters) is meant for an accelerator,
`size=large` (200 M) for a slice; see python -m lumos_jax.preflight.
"""

from lumos_jax import config as config_lib
from lumos_jax.presets import datasets, lumos


def get_config(arg=None):
  """Arguments: data= (complete_journey, oulad), smoke, size=, steps=, seed=,
  baselines= (states, all)."""
  args = config_lib.parse_arg(
    arg,
    data="complete_journey",
    smoke=False,
    size="",
    steps=0,
    seed=0,
    baselines="",
  )
  c = config_lib.default("lumos")
  c.name, c.seed = "paper", args.seed
  if args.data != "complete_journey":
    c.name += f"_{args.data}"
  datasets.use(c, args.data)
  lumos.paper(c, history_days=360 if args.size == "large" else 252)
  c.train.steps = args.steps or 5000
  lumos.evaluate(c, every_steps=200, baselines=args.baselines)
  lumos.finish(c, args, size="paper")
  return c
