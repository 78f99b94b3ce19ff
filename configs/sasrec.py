"""SASRec (arXiv 1808.09781): causal self-attention over item ids, as a peer.

  LUMOS_MOVIELENS_DIR=DIR python -m lumos_jax.main \
    --config=configs/sasrec.py:data=movielens

Answers, full ranking, leave-one-out: ML-1M NDCG@10 .1259 (BCE), .1726 (gBCE,
gSASRec), .1821 (softmax) and .1857 (3,000 negatives); HR@10 .2392, .3003, .3152,
.3159. loss= softmax, sampled or gbce; by default sampled, on movielens softmax.
"""

from lumos_jax.presets import panther


def get_config(arg=None):
  """Arguments: see `panther.start`, and loss=."""
  c, args = panther.start("sasrec", arg, loss="")
  c.objective.loss = args.loss or c.objective.loss
  if args.loss == "gbce":
    c.name = c.name.replace("sasrec", "gsasrec")
    c.objective.by_frequency = False
    c.objective.negatives = 256
  c.lock()
  return c
