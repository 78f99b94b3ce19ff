"""BERT4Rec (arXiv 1904.06690): masked items, seen from both sides, as a peer.

  LUMOS_MOVIELENS_DIR=DIR python -m lumos_jax.main \
    --config=configs/bert4rec.py:data=movielens

Answers ML-1M HR@10 .282 to .284, NDCG@10 .152 to .154 (full ranking,
leave-one-out). It learns from a fifth of the tokens a step, so it wants more steps
than the others, which is for steps= to say; none was tuned for it.
"""

from lumos_jax.presets import panther


def get_config(arg=None):
  """Arguments: see `panther.start`."""
  c, _ = panther.start("bert4rec", arg)
  c.model.masked = True
  c.data.start_token = True
  c.lock()
  return c
