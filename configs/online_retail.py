"""LUMOS on your own tables, shown on UCI Online Retail (CC0).

  python -m lumos_jax.main --config=configs/online_retail.py:path=FOLDER

FOLDER holds online_retail.parquet; data_prep/examples/online_retail.py says
what its columns are. Copy both files to begin with your own data.
"""

from lumos_jax import config as config_lib


def get_config(arg=None):
  """Arguments: path= (of the raw files), steps=, seed=."""
  args = config_lib.parse_arg(arg, path="", steps=400, seed=0)
  c = config_lib.default()
  c.name = "online_retail"
  c.seed = args.seed
  c.tasks = dict(
    buys=dict(kind="binary", field="invoices", reduce="any"),
    returns=dict(kind="binary", field="returns", reduce="any"),
    spend=dict(kind="regression", field="sales"),
  )
  c.evals = dict(
    validation=dict(type="forecast", split="validation", every_steps=100),
    forecast=dict(type="forecast"),
    baseline_lightgbm=dict(type="baseline_lightgbm"),
    baseline_naive=dict(type="baseline_naive"),
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

  config_lib.set_size(c, "base")
  c.model.patch_days = 7
  c.model.members, c.model.state_members = 8, 4
  c.model.sparsity = 0.004
  c.model.habit_days = (7, 14, 28, 56, 112, 0)
  o = c.optimizer
  o.name = "muon"
  o.learning_rate, o.adam_learning_rate = 5e-3, 2e-3
  o.warmup_steps = 50
  t = c.train
  t.steps, t.batch_size, t.ema_decay = args.steps, 64, 0.99
  c.lock()
  return c
