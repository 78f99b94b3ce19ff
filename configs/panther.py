"""PANTHER: next behaviour, generatively pretrained (arXiv 2510.10102).

  python -m lumos_jax.main --config=configs/panther.py
  python -m lumos_jax.main --config=configs/panther.py:smoke
  LUMOS_SEQUENCES_DIR=DIR python -m lumos_jax.main \
    --config=configs/panther.py:data=beauty

Answers the paper's table of HitRate@1/5/10 over the full vocabulary: ML-1M
.0705/.2103/.3078, Yelp .0929/.2204/.2924. Data sets: complete_journey (tokens of
a year's purchases; needs no file), movielens, beauty, sports, toys, yelp, tabformer
(credit-card payments; give path=FILE, card_transaction.v1.csv). Peers on the same
data: configs/sasrec.py, bert4rec.py, hstu.py, tvrec.py.
"""

from lumos_jax import config as config_lib
from lumos_jax.presets import panther


def get_config(arg=None):
  """Arguments: see `panther.start`, and parts.

  sprm= (paper, release, none; bsarec, tvrec: other filters in its place),
  cosine= (on, off: cosines / .07, or products), profile= (position, token, none),
  contrastive= (lambda), ids (see the target's ids alone, and the profile if
  profile= is given); target_time (be told when the next event happens, though not
  which it is); copy= (on, off: a pointer at the history; on where values of the
  history compete); bag= (width of vectors that predict half of a user's events
  from the others: for user embeddings).
  """
  parts = dict(sprm="paper", profile="", contrastive=0.0, ids=False)
  parts |= dict(target_time=False, copy="", bag=0, cosine="on")
  c, args = panther.start("panther", arg, **parts)
  for name, known in (("copy", ("", "on", "off")), ("cosine", ("on", "off"))):
    if args[name] not in known:
      raise config_lib.ConfigError(
        f"config argument {name}={args[name]!r}: use on or off"
      )
  c.model.sprm = args.sprm
  # The release has .05.
  c.model.cosine, c.model.temperature = args.cosine == "on", 0.07
  # At a slice's length all pairs of tokens are too many to keep.
  repeats = not c.data.filter_seen and args.size != "large"
  if args.copy == "on" or (repeats and not args.copy):
    panther.pointer(c, args.data)
  c.objective.bag_width = args.bag
  panther.shown(c, args)
  c.lock()
  return c
