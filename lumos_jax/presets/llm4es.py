"""Forms of LLM4ES, for any data set of events."""

from lumos_jax import config as config_lib
from lumos_jax.presets import datasets


def start(arg: str | None):
  """A config of LLM4ES on a data set.

  Args:
    arg: Of the config file: data=, path= (of its files), weights=, lora= (rank),
      size= (of a model from nothing), length=, batch=, steps=, seed=, smoke.

  Returns:
    The config, not locked.

  Raises:
    ConfigError: Unknown data set or size, or arguments that exclude each other.
  """
  args = config_lib.parse_arg(
    arg,
    data="movielens",
    path="",
    weights="",
    lora=0,
    size="",
    length=0,
    batch=0,
    steps=0,
    seed=0,
    smoke=False,
  )
  if args.smoke and args.size:
    raise config_lib.ConfigError(
      "config arguments smoke and size= exclude each other"
    )
  if args.weights and (args.smoke or args.size):
    raise config_lib.ConfigError(
      "config arguments smoke and size= make a model from nothing: leave out "
      f"weights={args.weights}"
    )
  c = config_lib.default("llm4es")
  c.name, c.seed = f"llm4es_{args.data}", args.seed
  datasets.use(c, args.data, args.path)
  for probe in (v for v in c.evals.values() if v.type == "probe"):
    probe.models = ("lightgbm_llm4es",)  # As published.
  c.model.weights = args.weights or "smollm2"
  c.train.steps = args.steps or 300
  own = c.evals
  c.evals = dict(
    perplexity=dict(
      type="perplexity",
      at_start=True,
      every_steps=max(1, c.train.steps // 3),
    ),
  )
  c.evals.update(own)
  if args.size or args.smoke:
    c.name += "_smoke" if args.smoke else f"_{args.size}"
    config_lib.set_size(c, args.size or "tiny")
  if args.smoke:
    c.train.steps, c.optimizer.warmup_steps = args.steps or 20, 5
    c.evals.perplexity.every_steps = 10
    for name in [k for k, v in c.evals.items() if v.type == "probe"]:
      del c.evals[name]
  c.model.lora_rank = args.lora
  if args.lora:  # Adapters begin at zero and take larger steps.
    c.optimizer.learning_rate = 1e-4
  c.data.sequence_length = args.length or c.data.sequence_length
  c.train.batch_size = args.batch or c.train.batch_size
  c.train.checkpoint_every = max(1, c.train.steps // 3)
  return c
