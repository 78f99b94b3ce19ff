"""LUMOS on Complete Journey, the default job: a quick run on two CPU cores.

  python -m lumos_jax.main --config=configs/pretrain.py
  python -m lumos_jax.main --config=configs/pretrain.py:smoke
  python -m lumos_jax.main --config=configs/pretrain.py:size=base,steps=1000
"""

from lumos_jax import config as config_lib


def get_config(arg=None):
  """Arguments: smoke, size=, steps=, seed=."""
  args = config_lib.parse_arg(arg, smoke=False, size="base", steps=600, seed=0)
  c = config_lib.default()
  c.name = "pretrain"
  c.seed = args.seed
  c.tasks = dict(
    churn=dict(kind="binary", field="baskets", reduce="none"),
    redeem=dict(kind="binary", field="redemptions", reduce="any"),
    active7=dict(
      kind="binary", field="baskets", reduce="any", horizon_days=7
    ),
    seafood=dict(kind="binary", field="department=SEAFOOD", reduce="any"),
    spend=dict(kind="regression", field="sales"),
    trips=dict(kind="regression", field="baskets"),
  )
  d = c.data
  d.source = "complete_journey"
  # Label windows of 28 days must not overlap: 281 + 28 = 309, 309 + 28 = 337.
  d.train_origin_first, d.train_origin_last = 28, 281
  d.validation_origin, d.test_origin = 309, 337
  d.history_days, d.eval_history_days = 280, 336
  d.origins_per_example, d.origin_stride_days = 36, 7

  config_lib.set_size(c, args.size)
  c.model.patch_days = 7
  c.model.habit_days = (7, 14, 28, 56, 112, 0)
  c.train.steps = args.steps
  c.train.ema_decay = 0.99
  if args.smoke:
    config_lib.set_size(c, "tiny")
    c.name = "smoke"
    c.train.steps = 20
    c.train.checkpoint_every = 10
    c.optimizer.warmup_steps = 5
  c.lock()
  return c
