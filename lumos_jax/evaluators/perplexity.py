"""How well a language model tells users that fine-tuning has not seen."""

import numpy as np

from lumos_jax.evaluators import base, predict


class Perplexity(base.Evaluator):
  """Perplexity a token over the texts of held-out users.

  With `at_start` also before the first step: what the model knew by itself.
  """

  without = ("origin", "seen", "mean_tasks")

  def batches(self, predictor: predict.Predictor, calendar=None):
    """Batches of the held-out users' texts."""
    del calendar
    return predictor.inputs.eval_batches(
      self.records, self.data_cfg, self.split_name, predictor.batch_size
    )

  def __init__(self, *args, **kw):
    """As base.Evaluator; ValueError where the recipe tells no texts."""
    super().__init__(*args, **kw)
    if self.predictor is not None and not hasattr(
      self.predictor.inputs, "counts"
    ):
      raise ValueError(
        f"config.evals.{self.name}.type = 'perplexity' is of recipe 'llm4es'"
      )

  def run(self, params) -> base.Metrics:
    """Yields perplexity, nats a token, users, tokens and what was cut."""
    before = dict(self.predictor.inputs.counts)
    found = self.predictor(params, self.batches(self.predictor))
    nats, tokens = (
      float(np.sum(found.p[name], dtype=np.float64))
      for name in ("nats", "tokens")
    )
    yield "perplexity", float(np.exp(nats / tokens))
    yield "nats_per_token", nats / tokens
    yield "users", float(len(found.key))
    yield "tokens", tokens
    cut = self.predictor.inputs.counts
    for name in ("cut_texts", "cut_events"):
      yield name, float(cut[name] - before[name])
