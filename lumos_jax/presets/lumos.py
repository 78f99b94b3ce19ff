"""Forms of LUMOS, for any data set of days; sizes are in config/lumos.py."""

from lumos_jax import config as config_lib

# What a forecast is compared and stacked with: models on hand-made features.
TABULAR = ("baseline_lightgbm", "baseline_linear", "baseline_calendar")
# Beside what the model says of users, for the stack; minutes: `baselines=states`.
STATES = ("baseline_lightgbm_states",)
# As long again as all else of a run on two cores: `baselines=all`.
LONG = ("baseline_catboost", "baseline_tabm")
_MORE = {"": (), "states": STATES, "all": LONG}


def weekly(c) -> None:
  """Weeks of days as tokens, habits, an ensemble of heads, Muon; two cores.

  A causal encoder serves all origins of a user in one pass.
  """
  m = c.model
  m.patch_days = 7
  m.members, m.state_members = 8, 4
  m.sparsity = 0.004
  m.habit_days = (7, 14, 28, 56, 112, 0)
  o = c.optimizer
  o.name = "muon"
  o.learning_rate, o.adam_learning_rate = 5e-3, 2e-3
  o.warmup_steps = 50
  c.train.batch_size, c.train.ema_decay = 32, 0.99


def paper(c, history_days: int) -> None:
  """The paper's form: bidirectional over days, one origin a pass, AdamW."""
  d = c.data
  # Learned positions: as many days to evaluate as in training.
  d.history_days = d.eval_history_days = history_days
  d.origins_per_example, d.origin_stride_days = 1, 7
  # Any day between the first and the last origin.
  d.origin_jitter_days = d.train_origin_last - d.train_origin_first
  m = c.model
  m.causal, m.positions, m.norm = False, "learned", "post"
  m.regression_loss = "mse_nonzero"
  o = c.optimizer
  o.learning_rate, o.weight_decay, o.b2 = 1e-4, 1e-5, 0.999
  o.warmup_steps = 50
  c.train.batch_size = 256


def evaluate(
  c, every_steps: int, ablation: bool = True, baselines: str = ""
) -> None:
  """Forecasts beside baselines', their stack, and the data set's questions.

  Raises:
    ConfigError: `baselines` is none of "", "states" and "all".
  """
  if baselines not in _MORE:
    raise config_lib.ConfigError(
      f"config argument baselines={baselines}: use one of states, all"
    )
  own = c.evals
  tabular = (*TABULAR, *_MORE[baselines])
  c.evals = dict(
    validation=dict(
      type="forecast", split="validation", every_steps=every_steps
    ),
    forecast=dict(type="forecast"),
    **{name: dict(type=name) for name in (*tabular, "baseline_naive")},
    baseline_best=dict(type="baseline_best"),
    baseline_stack=dict(type="baseline_stack"),
    stack=dict(type="stack"),
  )
  if ablation:
    c.evals.ablation = dict(type="ablation")
  c.evals.update(own)


def finish(c, args, size: str) -> None:
  """Sets size and smoke, which stand above data set and form, and locks.

  Args:
    c: The config.
    args: Of its file: size, steps, smoke.
    size: Where none is asked for.

  Raises:
    ConfigError: No such size, or one beside smoke, which has its own.
  """
  if args.smoke and args.size:
    raise config_lib.ConfigError(
      "config arguments smoke and size= exclude each other"
    )
  config_lib.set_size(c, "tiny" if args.smoke else args.size or size)
  if args.smoke:  # Does it run? Some steps of the smallest model.
    c.name = "smoke" if c.name == "pretrain" else f"{c.name}_smoke"
    t = c.train
    t.steps, t.batch_size, t.checkpoint_every = args.steps or 20, 16, 10
    c.optimizer.warmup_steps = 5
    short = {n: dict(rounds=20) for n in ("baseline_lightgbm", *STATES)}
    short |= dict(
      baseline_catboost=dict(rounds=20), baseline_tabm=dict(epochs=2)
    )
    for name in {*TABULAR, *STATES, *LONG} & set(c.evals):
      c.evals[name].update(n_origins=2, members=2, folds=2)
      c.evals[name].update(short.get(name, {}))
    if "what_if" in c.evals and c.evals.what_if.get("sweep_days"):
      c.evals.what_if.sweep_days = (7,)
  c.lock()
