"""Tiny configs of recipe "hybrid" over the events of fake_events.py."""

import fake_events
from fake_events import Records  # noqa: F401

from lumos_jax import config as config_lib


def backbone():
  """Config of a tiny PANTHER that expects attributes and gaps, too."""
  c = fake_events.config(
    data__start_token=True,
    model__profile_as="position",
    objective__attribute_weight=0.1,
    objective__gap_weight=0.1,
  )
  return c


def config(tune="frozen", unit="user", over=True, **overrides):
  """Scores whether an event follows in a week; overrides by dotted name."""
  c = config_lib.default("hybrid")
  c.name, c.report = "test", False
  config_lib.set_size(c, "tiny")
  c.tasks = dict(
    buys=dict(kind="binary", field="amount", reduce="any", horizon_days=7)
  )
  d = c.data
  d.train_origin_first, d.train_origin_last = 20, 50
  d.validation_origin, d.test_origin, d.unit = 60, 75, unit
  if over:
    c.model.backbone = backbone().to_dict()
    c.init_new = ("backbone/",)
  c.model.tune, c.model.dropout = tune, 0.0
  c.train.steps, c.train.init_batches = 4, 2
  c.train.log_every, c.train.checkpoint_every = 1, 2
  c.optimizer.warmup_steps = 1
  c.eval_batch_size = 16
  c.update_from_flattened_dict(
    {n.replace("__", "."): v for n, v in overrides.items()}
  )
  c.lock()
  return c
