"""Users of fake_events, told as text to a tiny language model over bytes."""

from fake_events import Records

from lumos_jax import config as config_lib

__all__ = ["Records", "config"]


def config(**overrides):
  """A config of a model from nothing, over bytes."""
  c = config_lib.default("llm4es")
  c.name = "test"
  config_lib.set_size(c, "tiny")
  d = c.data
  d.target, d.holdout_share = "item", 0.3
  d.train_origin_last, d.validation_origin, d.test_origin = 70, 70, 85
  c.objective.chunk = 32
  c.train.steps, c.train.checkpoint_every, c.train.log_every = 4, 2, 1
  c.optimizer.learning_rate, c.optimizer.warmup_steps = 3e-3, 1
  c.model.remat = "none"
  c.evals = dict(
    perplexity=dict(type="perplexity", at_start=True, every_steps=2)
  )
  c.report = False
  for name, value in overrides.items():
    c.update_from_flattened_dict({name.replace("__", "."): value})
  config_lib.check(c)
  return c.lock()
