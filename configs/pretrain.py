"""LUMOS on Complete Journey: the default job, for two CPU cores.

  python -m lumos_jax.main --config=configs/pretrain.py
  python -m lumos_jax.main --config=configs/pretrain.py:smoke
  python -m lumos_jax.main --config=configs/pretrain.py:steps=2000,seed=1

A causal encoder serves 14 origins a pass, a token is a week of seven user-days,
and the head, an ensemble, sees habits beside the decoder's output. The
paper's own form is configs/paper.py.
"""

from lumos_jax import config as config_lib

TASKS = dict(
  churn=dict(kind="binary", field="baskets", reduce="none"),
  redeem=dict(kind="binary", field="redemptions", reduce="any"),
  active7=dict(kind="binary", field="baskets", reduce="any", horizon_days=7),
  seafood=dict(kind="binary", field="department=SEAFOOD", reduce="any"),
  spend=dict(kind="regression", field="sales"),
  trips=dict(kind="regression", field="baskets"),
)

EVALS = dict(
  validation=dict(type="forecast", split="validation", every_steps=200),
  forecast=dict(type="forecast"),
  baseline_lightgbm=dict(type="baseline_lightgbm"),
  baseline_naive=dict(type="baseline_naive"),
  ablation=dict(type="ablation"),
  # What if the campaigns of type B that open after the origin came earlier or
  # later? One of them opens two days after it.
  what_if=dict(
    type="what_if",
    edits=[
      dict(op="move", match=dict(type="Type B", start=339), days=7),
    ],
    sweep_days=(-2, 7, 14, 21),
    over="changed",
  ),
)


def get_config(arg=None):
  """Arguments: smoke, size=, steps=, seed=, ablate= (one of no_future, ...)."""
  args = config_lib.parse_arg(
    arg, smoke=False, size="base", steps=600, seed=0, ablate=""
  )
  c = config_lib.default()
  c.name = "pretrain"
  c.seed = args.seed
  c.tasks = TASKS
  c.evals = EVALS
  d = c.data
  d.source = "complete_journey"
  # Label windows of 28 days must not overlap: 281 + 28 = 309, 309 + 28 = 337.
  # Earlier origins than day 84 have too little history to be like the test's.
  d.train_origin_first, d.train_origin_last = 84, 281
  d.validation_origin, d.test_origin = 309, 337
  d.history_days, d.eval_history_days = 280, 336
  d.origins_per_example, d.origin_stride_days = 14, 14
  d.origin_jitter_days = 13

  config_lib.set_size(c, args.size)
  c.model.patch_days = 7
  c.model.members, c.model.state_members = 8, 4
  c.model.sparsity = 0.004
  # Rare outcomes: the states alone forecast them worse (validation origin).
  rare = ("all", "linear")
  c.model.views = dict(redeem=rare, seafood=rare)
  c.model.habit_days = (7, 14, 28, 56, 112, 0)
  if args.ablate:
    c.model.ablate = (args.ablate,)
  o = c.optimizer
  o.name = "muon"
  o.learning_rate, o.adam_learning_rate = 5e-3, 2e-3
  o.warmup_steps = 50
  t = c.train
  t.steps, t.batch_size, t.ema_decay = args.steps, 32, 0.99
  if args.smoke:
    c.name = "smoke"
    config_lib.set_size(c, "tiny")
    t.steps, t.batch_size, t.checkpoint_every = 20, 16, 10
    o.warmup_steps = 5
    c.evals.baseline_lightgbm.update(n_origins=2, rounds=20)
    c.evals.what_if.sweep_days = (7,)
  c.lock()
  return c
