"""PANTHER: next behaviour, generatively pretrained (arXiv 2510.10102).

  python -m lumos_jax.main --config=configs/panther.py
  python -m lumos_jax.main --config=configs/panther.py:smoke
  LUMOS_SEQUENCES_DIR=DIR python -m lumos_jax.main \
    --config=configs/panther.py:data=beauty

Answers the paper's table of HitRate@1/5/10 over the full vocabulary: ML-1M
.0705/.2103/.3078, Yelp .0929/.2204/.2924. Data sets: complete_journey (tokens of
a year's purchases; needs no file), movielens, beauty, sports, toys, yelp, tabformer
(credit-card payments; give path=FILE, card_transaction.v1.csv). Peers on the same
data: configs/sasrec.py, bert4rec.py, hstu.py.
"""

import pathlib

from lumos_jax import config as config_lib

_SEQUENCES = {
  "beauty": "Beauty",
  "sports": "Sports_and_Outdoors",
  "toys": "Toys_and_Games",
  "yelp": "Yelp",
}
TIMED = ("complete_journey", "movielens", "tabformer")
DATA = (*TIMED, *_SEQUENCES)
# "large": for a slice; python -m lumos_jax.preflight tells which.
SIZES = ("small", "large")
# Beauty's 2,500 and Sports' were chosen on validation events.
_STEPS = {
  "complete_journey": 3000,
  "movielens": 8000,
  "tabformer": 6000,
  "sports": 4000,
  "yelp": 2000,
}


def experiment(name: str, arg: str | None, **defaults):
  """A config without its model's form: data, evaluation, training.

  Args:
    name: Of the experiment.
    arg: Of the config file: data=, path= (of its files), size=, width=,
      batch=, steps=, seed=, smoke and `defaults`.
    **defaults: Further arguments.

  Returns:
    The unlocked config and the parsed arguments.
  """
  args = config_lib.parse_arg(
    arg,
    data="complete_journey",
    path="",
    size="small",
    width=0,
    batch=0,
    steps=0,
    seed=0,
    smoke=False,
    **defaults,
  )
  if args.data not in DATA:
    raise config_lib.ConfigError(
      f"config argument data={args.data!r} is unknown; there are {list(DATA)}"
    )
  if args.size not in SIZES:
    raise config_lib.ConfigError(
      f"config argument size={args.size!r} is unknown; there are {list(SIZES)}"
    )
  if args.smoke and args.size != "small":
    raise config_lib.ConfigError(
      "config arguments smoke and size= exclude each other"
    )
  c = config_lib.default()
  c.name, c.recipe, c.seed = f"{name}_{args.data}", "panther", args.seed
  steps = args.steps or _STEPS.get(args.data, 2500)
  c.evals = dict(
    validation=dict(
      type="next_event", split="validation", every_steps=max(1, steps // 3)
    ),
    next_event=dict(type="next_event"),
    baseline_next_event=dict(type="baseline_next_event"),
  )
  set_data(c.data, args.data, args.path)
  if args.data == "movielens" and not args.smoke:
    c.evals.gender = dict(type="probe", label="gender")
  m = c.model
  width = args.width or 96
  m.d_model, m.d_ff, m.n_heads, m.n_encoder_layers = width, 4 * width, 2, 2
  m.activity_width, m.profile_width = 48, 48
  m.positions, m.activation = "learned", "gelu"
  m.dropout = 0.2 if args.data in TIMED else 0.5
  # Ids alone, as in the published comparisons; PANTHER's own config adds more.
  m.use_fields = m.use_attributes = False
  # Over few values the whole softmax costs as little.
  c.objective.loss = "softmax" if args.data == "movielens" else "sampled"
  c.objective.negatives = 1024
  o = c.optimizer
  o.learning_rate, o.b2, o.warmup_steps = 3e-3, 0.98, 50
  t = c.train
  t.steps, t.batch_size, t.ema_decay = steps, 32, 0.99
  if args.data in TIMED:
    # Rows are long: more steps of fewer rows learn more of as many events.
    t.batch_size, t.ema_decay = 8, 0.997
  c.eval_batch_size = 256
  if args.data == "complete_journey":  # 512 tokens a row.
    t.batch_size = 4
  t.checkpoint_every = max(1, steps // 10)
  if args.size == "large":
    c.name += "_large"
    m.d_model, m.d_ff, m.n_heads, m.n_encoder_layers = 768, 3072, 12, 12
    m.activity_width, m.profile_width = 256, 128
    m.dtype, m.scan_layers, m.remat = "bfloat16", True, "full"
    m.dropout, m.positions = 0.1, "rotary"
    c.mesh.fsdp = 8
    d = c.data
    d.sequence_length, d.overlap, d.segments = 2048, 128, 32
    o.learning_rate, o.warmup_steps = 3e-4, 1000
    t.batch_size, t.ema_decay = 256, 0.0
    c.eval_batch_size = 8
  if args.smoke:
    c.name += "_smoke"
    t.steps, t.checkpoint_every, o.warmup_steps = args.steps or 20, 10, 5
    c.evals.validation.every_steps = 10
    m.d_model, m.d_ff = 32, 64
    d = c.data
    d.sequence_length, d.overlap, d.segments, t.batch_size = 32, 4, 4, 8
  t.batch_size = args.batch or t.batch_size
  return c, args


def set_data(d, data: str, path: str = "") -> None:
  """Source, target and hold-out of a data set in config.data."""
  d.cache = True
  d.start_token = False
  if data == "complete_journey":
    d.source, d.target = "complete_journey", "token"
    d.options = dict(rows="event")
    d.holdout, d.filter_seen = "time", False
    d.train_origin_last, d.validation_origin, d.test_origin = 309, 309, 337
    d.sequence_length, d.overlap, d.segments = 512, 64, 4
    return
  if data == "tabformer":
    d.source, d.target = "tabformer", "token"
    d.holdout, d.filter_seen = "time", False
    # Days from 1990 on: 2018-01-01, until which the source fits, and 2019-01-01.
    d.train_origin_last, d.validation_origin, d.test_origin = (
      10227,
      10227,
      10592,
    )
    d.sequence_length, d.overlap, d.segments = 256, 32, 4
    d.options = dict(path=path)
    return
  d.target, d.holdout = "item", "last"
  if data == "movielens":
    d.source = "movielens"
    d.options = dict(path=path) if path else {}
    d.sequence_length, d.overlap, d.segments = 200, 40, 8
    return
  file = _SEQUENCES[data]
  d.source = "sequences"
  d.options = dict(
    path=str(pathlib.Path(path) / f"{file}.txt.gz"),
    attributes=f"{file}_item2attributes.json.gz",
    name=data,
  )
  # Users of Yelp come back to a place.
  d.filter_seen = data != "yelp"
  d.sequence_length, d.overlap, d.segments = 64, 8, 32


def get_config(arg=None):
  """Arguments: see `experiment`, and parts.

  sprm= (paper, release, none), profile= (position, token, none),
  contrastive= (lambda), ids (see the target's ids alone); target_time (be told
  when the next event happens, though not which it is); copy= (on, off: a pointer
  at the history; on where values of the history compete); bag= (width of vectors
  that foretell half of a user's events from the others: for user embeddings).
  """
  c, args = experiment(
    "panther",
    arg,
    sprm="paper",
    profile="",
    contrastive=0.0,
    ids=False,
    target_time=False,
    copy="",
    bag=0,
  )
  if args.copy not in ("", "on", "off"):
    raise config_lib.ConfigError(
      f"config argument copy={args.copy!r}: use on or off"
    )
  m, data = c.model, args.data
  m.sprm = args.sprm
  m.cosine, m.temperature = True, 0.07  # The release has .05.
  m.use_attributes = not args.ids
  # At a slice's length all pairs of tokens are too many to keep.
  repeats = not c.data.filter_seen and args.size == "small"
  m.copy = args.copy == "on" or (repeats and not args.copy)
  if m.copy:
    # A mixture needs probabilities over all values: the softmax, or what
    # estimates it where tabformer's 60,000 tokens are too many for a small machine.
    c.objective.correct_target = False
    if data != "tabformer":
      c.objective.loss = "softmax"
  c.objective.bag_width = args.bag
  timed = not args.ids and data in TIMED
  if not timed and (args.contrastive or args.target_time or args.profile):
    raise config_lib.ConfigError(
      "profile=, contrastive= and target_time need times and profiles: use data= "
      f"{TIMED}, without ids"
    )
  if timed:
    m.use_fields = True
    # Long rows need a fused kernel, which takes no bias: time turns phases.
    m.time_bias = args.size == "small"
    m.profile_as = args.profile or "position"
    m.target_time = args.target_time
    m.tell_later = c.data.holdout == "time"
    c.data.start_token = True
    c.objective.contrastive_weight = args.contrastive
    if data == "movielens":
      c.objective.contrastive_fields = ("gender", "age")
  c.lock()
  return c
