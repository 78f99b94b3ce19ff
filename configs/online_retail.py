"""LUMOS on your own tables, shown on UCI Online Retail (CC0).

  python -m lumos_jax.main --config=configs/online_retail.py:path=FOLDER

FOLDER holds online_retail.parquet; data_prep/examples/online_retail.py says
what its columns are. Copy both files to begin with your own data.
"""

from lumos_jax import config as config_lib
from lumos_jax.presets import lumos


def get_config(arg=None):
  """Arguments: path= (of the raw files), smoke, size=, steps=, seed=,
  baselines= (states, all)."""
  args = config_lib.parse_arg(
    arg, path="", smoke=False, size="", steps=0, seed=0, baselines=""
  )
  c = config_lib.default("lumos")
  c.name, c.seed = "online_retail", args.seed
  c.tasks = dict(
    buys=dict(kind="binary", field="invoices", reduce="any"),
    returns=dict(kind="binary", field="returns", reduce="any"),
    spend=dict(kind="regression", field="sales"),
  )
  d = c.data
  d.source = "tables"
  d.options = dict(schema="data_prep/examples/online_retail.py", path=args.path)
  # Day 0 is 2010-12-01; 276 + 28 = 304 is the schema's TRAIN_UNTIL.
  d.train_origin_first, d.train_origin_last = 56, 276
  d.validation_origin, d.test_origin = 304, 345
  d.history_days, d.eval_history_days = 280, 343
  d.origins_per_example, d.origin_stride_days = 14, 14
  d.origin_jitter_days = 13

  lumos.weekly(c)
  c.train.steps, c.train.batch_size = args.steps or 400, 64
  lumos.evaluate(c, every_steps=100, ablation=False, baselines=args.baselines)
  lumos.finish(c, args, size="base")
  return c
