"""TV-Rec's filter (arXiv 2510.25259) over item ids, no attention, as a peer.

  LUMOS_SEQUENCES_DIR=DIR python -m lumos_jax.main \
    --config=configs/tvrec.py:data=beauty

Answers, full ranking, leave-one-out, Recall@10 / NDCG@10: Beauty .1017 / .0608,
Sports .0635 / .0363. The filter is the paper's; positions, cosines / .07 and all
prefixes of a row at once are ours (docs/panther.md). The best of five
checkpoints by validation NDCG@10 is tested.
"""

from lumos_jax.presets import panther


def get_config(arg=None):
  """Arguments: see `panther.start`."""
  c, _ = panther.start("tvrec", arg)
  m, t = c.model, c.train
  m.attention, m.sprm, m.norm = "none", "tvrec", "post"
  m.cosine, m.temperature = True, 0.07
  m.positions = "learned"  # Of any size: phases are of attention.
  c.objective.loss = "softmax"
  t.best.metric, t.evaluate_best = "validation/ndcg@10", True
  c.evals.validation.every_steps = max(1, t.steps // 5)
  c.lock()
  return c
