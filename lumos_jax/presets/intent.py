"""Forms of the intent recipe: sessions of clicks, for any data set of them."""

from lumos_jax import config as config_lib
from lumos_jax.presets import datasets

# Width of the pages' text vectors, by encoder (llm/sentences.py).
TEXT_WIDTHS = {"none": 0, "words": 256, "minilm": 384}


# Options of source clicks that name what a log calls its columns.
_COLUMNS = (
  "visitor", "time", "url", "arrival", "user", "session", "title", "event",
  "device", "time_zone",
)  # fmt: skip


def start(arg: str | None):
  """A config of the intent recipe on a data set.

  Args:
    arg: Of the config file: data=, path= (of its files), texts= (none, words,
      minilm; default words where pages have titles), size= (tiny, small, large),
      causal (next pages instead of hidden ones), contrastive= (lambda), batch=,
      steps=, seed=, smoke, root= (of prepared data); of data=clicks also the log's
      columns, visitor=, time=, url=, arrival=, user=, session=, title=, event=,
      device=, and time_zone=.

  Returns:
    The config, not locked.

  Raises:
    ConfigError: Unknown data set, size or encoder, or arguments that exclude each
      other.
  """
  args = config_lib.parse_arg(
    arg,
    data="wikispeedia",
    path="",
    texts="",
    size="small",
    causal=False,
    contrastive=0.0,
    batch=0,
    steps=0,
    seed=0,
    smoke=False,
    root="",
    **dict.fromkeys(_COLUMNS, ""),
  )
  columns = {n: args[n] for n in _COLUMNS if args[n]}
  if columns and args.data != "clicks":
    raise config_lib.ConfigError(
      f"config arguments {sorted(columns)} are of data=clicks, a log of your own"
    )
  if args.smoke and args.size != "small":
    raise config_lib.ConfigError(
      "config arguments smoke and size= exclude each other"
    )
  untitled = args.data in datasets.UNTITLED
  args.texts = args.texts or ("none" if untitled else "words")
  if args.causal and args.data in datasets.UNORDERED:
    raise config_lib.ConfigError(
      f"config argument causal: the clicks of data={args.data} are in no known "
      "order, so none is the next one"
    )
  if untitled and args.texts != "none":
    raise config_lib.ConfigError(
      f"config argument texts={args.texts!r}: pages of data={args.data} have no "
      "titles"
    )
  if args.texts not in TEXT_WIDTHS:
    raise config_lib.ConfigError(
      f"config argument texts={args.texts!r}: use one of {list(TEXT_WIDTHS)}"
    )
  c = config_lib.default("intent")
  c.name, c.seed = f"intent_{args.data}", args.seed
  c.evals = dict(
    validation=dict(type="next_page", split="validation"),
    next_page=dict(type="next_page"),
  )
  datasets.use(c, args.data, args.path)
  c.data.options.update(columns)
  c.data.root = args.root or c.data.root
  if not untitled:
    c.data.options.texts = args.texts
  c.model.text_width = TEXT_WIDTHS[args.texts]
  c.model.masked = not args.causal
  c.objective.contrastive_weight = args.contrastive
  t, o = c.train, c.optimizer
  t.steps, t.batch_size, t.ema_decay = 2000, 64, 0.99
  o.learning_rate, o.b2, o.warmup_steps = 2e-3, 0.98, 100
  if args.size != "small":
    c.name += f"_{args.size}"
    config_lib.set_size(c, args.size)
  if args.smoke:
    c.name += "_smoke"
    config_lib.set_size(c, "tiny")
    t.steps, o.warmup_steps = 20, 5
    for name in [
      k for k, v in c.evals.items() if v.type in ("conversion", "tiles")
    ]:
      del c.evals[name]
  t.steps = args.steps or t.steps
  t.checkpoint_every = max(1, t.steps // 5)
  c.evals.validation.every_steps = max(1, t.steps // 4)
  t.batch_size = args.batch or t.batch_size
  return c
