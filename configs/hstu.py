"""HSTU (arXiv 2402.17152): pointwise gated attention with time bias, as a peer.

  LUMOS_MOVIELENS_DIR=DIR python -m lumos_jax.main \
    --config=configs/hstu.py:data=movielens

Answers ML-1M HR@10 .3097, NDCG@10 .1720 (Meta's HSTU, full ranking,
leave-one-out). The time bias sees the time stamps of the history only, where the
data have them; `target_time` also shows when the target happens, which answers
RecTools' HSTU-large (.3642, .2164).
"""

from lumos_jax.presets import datasets, panther


def get_config(arg=None):
  """Arguments: see `panther.start`, and target_time."""
  c, args = panther.start("hstu", arg, target_time=False)
  m = c.model
  m.attention, m.d_ff = "pointwise", 0
  # A layer has no feed-forward part: two stand for one of the others.
  m.n_encoder_layers *= 2
  m.time_bias = args.data in datasets.TIMED
  m.target_time = args.target_time
  if args.target_time:
    c.name += "_target_time"
  c.lock()
  return c
