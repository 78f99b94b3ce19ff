"""Forms of PANTHER and its peers, for any data set of sequences.

Sizes are in config/panther.py. Results of the published comparisons are of
ids alone; `context` adds what PANTHER sees beside them.
"""

from lumos_jax import config as config_lib
from lumos_jax.presets import datasets

# Steps, B, and decay of the parameters' average. Beauty's and Sports' were
# chosen on validation events. Where rows are long, more steps of fewer rows
# learn more of as many events.
_TRAINING = {
  "credit_default": (1200, 32, 0.99),
  "oulad": (1500, 16, 0.99),
  "complete_journey": (3000, 4, 0.997),
  "movielens": (8000, 8, 0.997),
  "tabformer": (6000, 8, 0.997),
  "beauty": (2500, 32, 0.99),
  "sports": (4000, 32, 0.99),
  "toys": (2500, 32, 0.99),
  "yelp": (2000, 32, 0.99),
}
# Where softmax over all values costs as little as a sample of them.
_FEW_VALUES = ("credit_default", "movielens", "oulad")


def start(name: str, arg: str | None, **more):
  """A config of ids alone on a data set, at a size: SASRec's form.

  Args:
    name: Of the experiment.
    arg: Of the config file: data=, path= (of its files), size= (tiny, small,
      large), width=, batch=, steps=, seed=, smoke and `more`.
    **more: Further arguments with their defaults.

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
    **more,
  )
  if args.smoke and args.size != "small":
    raise config_lib.ConfigError(
      "config arguments smoke and size= exclude each other"
    )
  if args.width and (args.smoke or args.size != "small"):
    raise config_lib.ConfigError(
      "config argument width= is of size=small: leave out size= and smoke"
    )
  c = config_lib.default("panther")
  c.name, c.seed = f"{name}_{args.data}", args.seed
  datasets.use(c, args.data, args.path)
  _form(c, args.data)
  c.train.steps = args.steps or c.train.steps
  c.train.checkpoint_every = max(1, c.train.steps // 10)
  evaluate(c, every_steps=max(1, c.train.steps // 3))
  if args.width:
    c.model.d_model, c.model.d_ff = args.width, 4 * args.width
  if args.size != "small":
    c.name += f"_{args.size}"
    config_lib.set_size(c, args.size)
  if args.smoke:
    _smoke(c, args.steps)
  c.train.batch_size = args.batch or c.train.batch_size
  return c, args


def _form(c, data: str) -> None:
  """Ids alone, as in the published comparisons, and how they are learned."""
  c.data.cache = True
  # Who begins after the split has no history: with a start token every model
  # ranks the same users. A hold-out of the last event has none of these.
  c.data.start_token = c.data.holdout == "time"
  m = c.model
  m.positions, m.activation = "learned", "gelu"
  m.dropout = 0.2 if data in datasets.TIMED else 0.5
  m.use_fields = m.use_attributes = False
  c.objective.loss = "softmax" if data in _FEW_VALUES else "sampled"
  c.objective.negatives = 1024
  o = c.optimizer
  o.learning_rate, o.b2, o.warmup_steps = 3e-3, 0.98, 50
  t = c.train
  t.steps, t.batch_size, t.ema_decay = _TRAINING[data]


def evaluate(c, every_steps: int) -> None:
  """Ranks beside those of three floors, and the data set's own questions."""
  own = c.evals
  c.evals = dict(
    validation=dict(
      type="next_event", split="validation", every_steps=every_steps
    ),
    next_event=dict(type="next_event"),
    baseline_next_event=dict(type="baseline_next_event"),
  )
  c.evals.update(own)


def _smoke(c, steps: int) -> None:
  """Some steps of the smallest model: does it run?"""
  c.name += "_smoke"
  config_lib.set_size(c, "tiny")
  t = c.train
  t.steps, t.checkpoint_every = steps or 20, 10
  c.optimizer.warmup_steps = 5
  c.evals.validation.every_steps = 10
  if "gender" in c.evals:
    del c.evals.gender


def context(c, profile: str) -> None:
  """Beside ids, the events' fields, their times, and the user's profile.

  Args:
    c: The config; its data set has times.
    profile: "position", "token", "none": where the profile joins.
  """
  c.data.start_token = True
  m = c.model
  m.use_fields = True
  # Long rows need a fused kernel, which takes no bias: there time turns phases.
  m.time_bias = m.positions != "rotary"
  m.tell_later = c.data.holdout == "time"
  profile_as(c, profile)


def profile_as(c, profile: str) -> None:
  """Lets the user's profile join: "position", "token", "none"."""
  c.model.profile_as = profile
  c.data.start_token = c.data.start_token or profile == "token"


def shown(c, args) -> None:
  """What PANTHER sees, of the arguments of configs/panther.py.

  Raises:
    ConfigError: An argument would do nothing.
  """
  known = args.data in datasets.TIMED
  profile = args.profile or ("none" if args.ids else "position")
  if not known and (args.contrastive or args.target_time or args.profile):
    raise config_lib.ConfigError(
      "profile=, contrastive= and target_time need times and profiles: use data= "
      f"{datasets.TIMED}"
    )
  if args.ids and (args.target_time or args.contrastive and profile == "none"):
    raise config_lib.ConfigError(
      "config argument ids leaves out times and, without profile=, profiles, "
      "which contrastive= and target_time need: leave out one of them"
    )
  c.model.use_attributes = not args.ids
  if known and args.ids:
    profile_as(c, profile)
  elif known:
    context(c, profile)
    c.model.target_time = args.target_time
  c.objective.contrastive_weight = args.contrastive
  if args.contrastive and args.data == "movielens":
    c.objective.contrastive_fields = ("gender", "age")


def pointer(c, data: str) -> None:
  """A pointer at the history: a mixture, which needs all probabilities.

  They are of the softmax, or of what estimates it where tabformer's 60,000
  tokens are too many for a small machine.
  """
  c.model.copy = True
  c.objective.correct_target = False
  if data != "tabformer":
    c.objective.loss = "softmax"
