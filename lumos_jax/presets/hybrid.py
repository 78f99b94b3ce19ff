"""Forms of the hybrid, for any data set of points that are scored."""

import json
import pathlib

from lumos_jax import config as config_lib
from lumos_jax.presets import datasets

# Steps, B, and decay of the parameters' average; chosen on validation points.
_TRAINING = {
  "credit_default": (350, 256, 0.99),
  "oulad": (400, 256, 0.99),
  "complete_journey": (800, 256, 0.99),
  "tabformer": (400, 256, 0.99),
}


def over(c, workdir: str) -> None:
  """Sets the backbone: the run of a workdir, whose parameters begin it.

  Raises:
    ConfigError: There is no run, or its recipe pretrains nothing.
  """
  path = pathlib.Path(workdir) / "config.json"
  if not path.is_file():
    raise config_lib.ConfigError(
      f"config argument backbone={workdir}: no run there, {path} is absent"
    )
  stored = config_lib.stored(json.loads(path.read_text()))
  if stored.recipe == "hybrid":
    raise config_lib.ConfigError(
      f"config argument backbone={workdir}: a run of recipe 'hybrid' is no "
      "backbone; give its own backbone, a run of 'panther' or 'lumos'"
    )
  keep = ("recipe", "tasks", "data", "model", "objective", "train")
  found = {k: v for k, v in stored.to_dict().items() if k in keep}
  # Where its data lay, and what was evaluated, is no part of the model.
  found["data"]["options"], found["data"]["root"] = {}, ""
  c.model.backbone = found
  c.init_from = workdir


def start(name: str, arg: str | None, **more):
  """A config on a data set, with a backbone if one is given.

  Args:
    name: Of the experiment.
    arg: Of the config file: data=, path= (of its files), backbone= (workdir of a
      run), tune=, size=, members=, batch=, steps=, seed=, smoke and `more`.
    **more: Further arguments with their defaults.

  Returns:
    The unlocked config and the parsed arguments.
  """
  args = config_lib.parse_arg(
    arg,
    data="credit_default",
    path="",
    backbone="",
    tune="frozen",
    size="base",
    members=0,
    batch=0,
    steps=0,
    seed=0,
    smoke=False,
    **more,
  )
  if args.smoke and args.size != "base":
    raise config_lib.ConfigError(
      "config arguments smoke and size= exclude each other"
    )
  c = config_lib.default("hybrid")
  c.name, c.seed = f"{name}_{args.data}", args.seed
  datasets.use(c, args.data, args.path)
  config_lib.set_size(c, "tiny" if args.smoke else args.size)
  t = c.train
  t.steps, t.batch_size, t.ema_decay = _TRAINING[args.data]
  t.steps = args.steps or (20 if args.smoke else t.steps)
  t.batch_size = args.batch or (16 if args.smoke else t.batch_size)
  t.checkpoint_every = max(1, t.steps // 4)
  o = c.optimizer
  o.learning_rate, o.weight_decay, o.warmup_steps = 2e-3, 1e-2, 50
  c.model.dropout = 0.3
  c.model.members = args.members or c.model.members
  if args.backbone:
    over(c, args.backbone)
    c.model.tune = args.tune
    c.name += f"_{args.tune}"
  elif args.tune != "frozen":
    raise config_lib.ConfigError(
      f"config argument tune={args.tune} needs backbone=WORKDIR"
    )
  if args.smoke:
    c.name += "_smoke"
    o.warmup_steps = 5
  evaluate(c, args.smoke)
  return c, args


def evaluate(c, smoke: bool = False) -> None:
  """Risk beside LightGBM's, with and without the pretrained features; a stack."""
  fast = dict(rounds=20, members=1) if smoke else {}
  own, steps = c.evals, c.train.steps
  c.evals = dict(
    validation=dict(
      type="forecast", split="validation", every_steps=max(1, steps // 4)
    ),
    risk=dict(type="risk"),
    baseline_lightgbm=dict(type="baseline_lightgbm", **fast),
  )
  if c.model.backbone and c.model.tune == "frozen":
    c.evals.baseline_lightgbm_states = dict(
      type="baseline_lightgbm_states", **fast
    )
  c.evals.stack = dict(type="stack")
  c.evals.update(own)
