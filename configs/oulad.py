"""LUMOS on OULAD: clicks, submissions and withdrawal of online students.

  LUMOS_OULAD_DIR=DIR python -m lumos_jax.main --config=configs/oulad.py

Trains on presentations BBB/2013B and AAA/2013J, tests on AAA/2014J and
BBB/2013J (clicks of that one break off, in some copies on day 132). The files:
https://analyse.kmi.open.ac.uk/open-dataset (CC BY 4.0).
"""

from lumos_jax import config as config_lib


def get_config(arg=None):
  """Arguments: steps=, seed=."""
  args = config_lib.parse_arg(arg, steps=600, seed=0)
  c = config_lib.default()
  c.name = "oulad"
  c.seed = args.seed
  c.tasks = dict(
    clicks=dict(kind="regression", field="clicks", horizon_days=14),
    submits=dict(
      kind="binary", field="submissions", reduce="any", horizon_days=14
    ),
    withdrawn=dict(
      kind="binary", label="withdrawn", reduce="any", horizon_days=28
    ),
  )
  c.evals = dict(
    validation=dict(type="forecast", split="validation", every_steps=100),
    forecast=dict(type="forecast"),
    baseline_lightgbm=dict(type="baseline_lightgbm", origin_stride_days=7),
    baseline_naive=dict(type="baseline_naive"),
    ablation=dict(type="ablation"),
  )
  d = c.data
  d.source = "oulad"
  d.validation_split, d.test_split = "validation", "test"
  # Other students, so that label windows of the splits may overlap in days.
  d.train_origin_first, d.train_origin_last = 14, 224
  d.validation_origin = d.test_origin = 98
  d.history_days = d.eval_history_days = 252
  d.origins_per_example, d.origin_stride_days = 16, 14
  d.origin_jitter_days = 13

  config_lib.set_size(c, "base")
  c.model.patch_days = 7
  c.model.members = 8  # Other views did worse: docs/results.md.
  c.model.habit_days = (7, 14, 28, 56, 0)
  o = c.optimizer
  o.name = "muon"
  o.learning_rate, o.adam_learning_rate = 5e-3, 2e-3
  o.warmup_steps = 50
  t = c.train
  t.steps, t.batch_size, t.ema_decay = args.steps, 32, 0.99
  c.lock()
  return c
