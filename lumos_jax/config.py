"""The default config: every key there is, with its meaning.

An experiment (configs/*.py) starts from `default()` and changes values; the
result is locked. A misspelt key, in a flag or in a file, is an error that names
the nearest one.
"""

import operator
import pathlib
import runpy
from collections.abc import Iterator
from typing import Any

import ml_collections
from ml_collections.config_flags import config_path

from lumos_jax.names import near

# Widths and depths. "paper": 14.7 M parameters as in LUMOS' public port.
SIZES: dict[str, dict[str, int]] = {
  "tiny": dict(
    d_model=32, d_ff=64, n_heads=2, n_encoder_layers=1, n_decoder_layers=1,
    activity_width=16, calendar_width=16, profile_width=8, day_width=16,
    head_width=16, mix_width=32,
  ),
  "base": dict(
    d_model=128, d_ff=256, n_heads=4, n_encoder_layers=2, n_decoder_layers=1,
    activity_width=64, calendar_width=32, profile_width=32, day_width=64,
    head_width=64, mix_width=128,
  ),
  "paper": dict(
    d_model=512, d_ff=1024, n_heads=8, n_encoder_layers=4, n_decoder_layers=2,
    activity_width=128, calendar_width=128, profile_width=64, day_width=128,
    head_width=96, mix_width=256,
  ),
  "large": dict(
    d_model=1024, d_ff=4096, n_heads=16, n_encoder_layers=12,
    n_decoder_layers=4, activity_width=256, calendar_width=256,
    profile_width=128, day_width=256, head_width=64, mix_width=256,
  ),
}  # fmt: skip


# What stands in them has names of its own; their readers check them.
_FREE = (
  "tasks.",
  "evals.",
  "data.options.",
  "model.views.",
  "objective.contrastive_within.",
)


class ConfigError(ValueError):
  """A config's file, argument or key is not known; says which there are."""


def default() -> ml_collections.ConfigDict:
  """All keys with their default values; not locked."""
  c = ml_collections.ConfigDict()
  c.name = "lumos"  # Of the experiment: the default workdir is runs/<name>.
  c.recipe = "lumos"
  c.seed = 0
  c.init_from = (
    ""  # Workdir of another run, whose parameters a new one begins at.
  )
  c.init_step = ""  # Of it: "best" or a step; "" for the newest.
  c.init_new = ()  # Paths of parameters that begin anew, or parts of such paths.
  c.tasks = ml_collections.ConfigDict()  # {name: fields of data.tasks.Task}.
  c.evals = (
    ml_collections.ConfigDict()
  )  # {name: dict(type=..., every_steps=...)}.

  c.data = d = ml_collections.ConfigDict()
  d.source = "complete_journey"  # A source of data_prep.
  d.root = "data"  # Where prepared data sets live; prepared when missing.
  d.options = ml_collections.ConfigDict()  # Options of the source.
  d.train_split = d.validation_split = d.test_split = "train"
  d.train_origin_first = 0  # First and last day that serve as training origin.
  d.train_origin_last = 0
  d.validation_origin = 0
  d.test_origin = 0
  d.history_days = 364  # T, rows of history in training; events if rows=event.
  d.eval_history_days = 364
  d.origins_per_example = 1  # O; more than one needs a causal encoder.
  d.origin_stride_days = 7
  d.origin_jitter_days = 6  # The last origin is drawn this far before the last.
  d.daily_labels = False  # Targets of the sequence head.
  # Next-event prediction (recipe "panther"; data/sequences.py).
  d.target = ""  # Categorical field whose next value is predicted.
  d.sequence_length = 64  # T, tokens of a row; longer users are cut.
  d.overlap = 8  # Events that a window repeats from the one before it.
  d.segments = 32  # S, users that share a row at most.
  d.start_token = True  # An empty row first: the first event is predicted too.
  d.holdout = "last"  # Or "time": by train_origin_last and the two origins.
  d.filter_seen = True  # Values of the history do not compete.
  d.cache = False  # Keeps decoded training records in memory.
  d.workers = 0  # Processes that read; 0 reads in threads of this one.
  d.read_threads = 2

  c.model = m = ml_collections.ConfigDict()
  m.update(SIZES["base"])
  m.causal = True
  m.patch_days = 1  # Days that make one token.
  m.positions = "rotary"  # learned, sinusoidal or rotary (real time stamps).
  m.norm = "pre"  # pre, or the paper's post.
  m.activation = "relu"
  m.dropout = 0.1
  m.head = "aggregated"  # or sequence.
  m.members = 1  # Of the aggregated head, an ensemble whose mean is forecast.
  m.state_members = 0  # Of these, members that see no habits.
  m.sparsity = 0.0  # L1 weight of a linear row on habits; 0 for no such row.
  m.views = ml_collections.ConfigDict()  # {task: views that forecast it}.
  m.habit_days = ()  # Windows of habit sums that the head sees; 0 = all.
  m.regression_loss = "l1"  # mse_nonzero (the paper's), hurdle, tweedie, l1.
  m.weighting = "uncertainty"  # or sum, learned.
  m.ablate = ()  # no_future, no_past, no_context: trained without.
  # Of recipe "panther" (models/panther.py).
  m.attention = "softmax"  # Or HSTU's "pointwise", or "none".
  m.sprm = "none"  # paper, release: beside attention.
  m.sprm_scales = ((3, 1), (3, 2), (3, 4))  # (kernel, dilation).
  m.sprm_prototypes = 64
  m.profile_as = "none"  # token, or position: at every one.
  m.time_bias = False  # Attention biases of time differences.
  m.target_time = False  # When the next event is, not what, is seen too.
  m.tell_later = False  # Whether the next event is later, or of the same time.
  m.copy = False  # A pointer at values of the history beside the logits.
  m.masked = False  # BERT4Rec's form instead of the causal one.
  m.use_attributes = True  # Of the target's values, where the data have them.
  m.use_fields = True  # The events' other fields.
  m.cosine = False  # Logits are cosines / temperature.
  m.temperature = 0.05
  m.attention_kernel = "auto"  # xla, splash (TPU), cudnn (GPU).
  m.scan_layers = False  # Compile one block and scan it: for deep models.
  m.remat = "none"  # dots, full: less memory, more computation.
  m.dtype = "float32"  # Of computation; bfloat16 on TPU and GPU.

  c.objective = j = ml_collections.ConfigDict()  # Of recipe "panther".
  j.loss = "softmax"  # Over all values; sampled, gbce.
  j.kernel = "chunked"  # Of softmax; or tokamax: fused, on TPU.
  j.chunk = 1024  # Targets whose logits exist at a time, if chunked.
  j.negatives = 128  # Of sampled and gbce, shared by a batch.
  j.by_frequency = True  # Negatives by frequency, else uniform.
  j.correct_target = True  # Of sampled: the target's logit too.
  j.calibration = 0.75  # t of gbce.
  j.mask_rate = 0.2  # Of model.masked.
  j.contrastive_weight = 0.0  # lambda of the contrastive profile loss.
  j.contrastive_temperature = 1.0  # tau.
  j.contrastive_fields = ()  # Profile fields that positives share; () for all.
  j.contrastive_within = ml_collections.ConfigDict()  # {numeric: tolerance}.
  j.attribute_weight = 0.0  # Of predicting the next event's other categories.
  j.gap_weight = 0.0  # Of predicting the time to the next event.
  j.bag_width = (
    0  # Of vectors that foretell half a user's events from the rest.
  )

  c.optimizer = o = ml_collections.ConfigDict()
  o.name = "adamw"  # or muon.
  o.learning_rate = 1e-3
  o.adam_learning_rate = 0.0  # With Muon, for tables, heads, biases; 0: same.
  o.schedule = "cosine"  # or linear, constant.
  o.warmup_steps = 100
  o.final_fraction = 0.0  # Of the learning rate, at the last step.
  o.weight_decay = 1e-2
  o.b1, o.b2 = 0.9, 0.99
  o.clip_norm = 1.0  # 0 for none.

  c.train = t = ml_collections.ConfigDict()
  t.steps = 1000
  t.batch_size = 128  # B, users a step over all hosts.
  t.init_batches = 8  # Whose statistics scale the inputs of a fresh model.
  t.accumulate = 1  # Parts that a batch is cut into, one after another.
  t.ema_decay = 0.0  # 0 for none; evaluations use the average.
  t.log_every = 10
  t.checkpoint_every = 200
  t.keep = 3
  t.keep_every = 0
  # The best checkpoint is retained too: metric="validation/mean_auc", say, of an
  # evaluator that runs every_steps; mode is max or min.
  t.best = ml_collections.ConfigDict(dict(metric="", mode="max"))
  t.patience = 0  # Evaluations without a better one that stop the run; 0: none.
  t.evaluate_best = False  # The last evaluation is of the best step.

  c.mesh = ml_collections.ConfigDict(
    dict(data=-1, fsdp=1, sequence=1, tensor=1)
  )
  c.eval_batch_size = 256
  c.report = True
  return c


def parse_arg(arg: str | None, **defaults: Any) -> ml_collections.ConfigDict:
  """Reads "size=base,steps=1000,smoke": `file.py:` arguments of a config.

  Args:
    arg: What stands behind the colon.
    **defaults: Every known name with its default, which also gives its type.

  Raises:
    ConfigError: Unknown name or a value of another type.
  """
  out = ml_collections.ConfigDict(defaults)
  for part in filter(None, (arg or "").split(",")):
    name, given, text = part.partition("=")
    if name not in defaults:
      raise ConfigError(
        f"config argument {name!r} is unknown{near(name, defaults)} There are "
        f"{sorted(defaults)}"
      )
    kind = type(defaults[name])
    if kind is not bool and not given:
      raise ConfigError(f"config argument {name!r} needs a value, {name}=...")
    try:
      if kind is bool:
        value = {"": True, "true": True, "false": False}[text.lower()]
      else:
        value = kind(text)
    except (ValueError, KeyError) as e:
      raise ConfigError(
        f"config argument {part!r}: not of type {kind.__name__}"
      ) from e
    out[name] = value
  return out


def set_size(config: ml_collections.ConfigDict, size: str) -> None:
  """Sets the model's widths and depths to a named size."""
  if size not in SIZES:
    raise ConfigError(
      f"config argument size={size!r} is unknown{near(size, SIZES)} There are "
      f"{list(SIZES)}"
    )
  config.model.update(SIZES[size])


def load(path: str) -> ml_collections.ConfigDict:
  """The config of a file: "FILE.py" or "FILE.py:ARGUMENTS".

  Raises:
    ConfigError: There is no such file, or its arguments are not known.
  """
  name, *arguments = path.split(":", 1)
  file = pathlib.Path(name)
  if not file.is_file():
    folders = {file.parent, pathlib.Path("configs")}
    there = sorted(str(p) for f in folders for p in f.glob("[!_]*.py"))
    raise ConfigError(
      f"no config file {name!r}{near(name, there)} {pathlib.Path.cwd()} has "
      f"{there}"
    )
  found = runpy.run_path(name)
  if "get_config" not in found:
    raise ConfigError(f"{name} has no function get_config()")
  return found["get_config"](*arguments)


def _keys(config: ml_collections.ConfigDict, prefix="") -> Iterator[str]:
  for name, value in config.items():
    yield prefix + name
    if isinstance(value, ml_collections.ConfigDict):
      yield from _keys(value, f"{prefix}{name}.")


def check_key(config: ml_collections.ConfigDict, key: str) -> None:
  """Raises ConfigError where a config lacks "train.steps" or its like."""
  try:
    parts = config_path.split(key)
  except ValueError:
    parts = (key,)
  where, node = "config", config
  for part in parts:
    if isinstance(node, list) and part in range(len(node)):
      where, node = f"{where}[{part}]", node[part]
      continue
    if not isinstance(node, (ml_collections.ConfigDict, dict)):
      raise ConfigError(f"config.{key}: {where} has no keys, it is {node!r}")
    if part not in node:
      raise ConfigError(
        f"config.{key}: there is no such key{near(key, _keys(config))} {where} "
        f"has {sorted(node)}"
      )
    where, node = f"{where}.{part}", node[part]


# What numbers of a config must be; what only one part reads, that part checks.
_AT_LEAST = {
  "train.steps": 0,
  "train.log_every": 1,
  "train.checkpoint_every": 1,
  "data.sequence_length": 1,
  "data.segments": 1,
  "model.sprm_prototypes": 1,
  "objective.negatives": 1,
  "objective.chunk": 1,
  "objective.bag_width": 0,
}
_ABOVE_ZERO = ("model.temperature", "objective.contrastive_temperature")
_SHARES = ("objective.contrastive_weight",)


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError for keys that nothing reads and impossible numbers."""
  known = list(_keys(default()))
  for key in _keys(config):
    if key not in known and not key.startswith(_FREE):
      raise ConfigError(
        f"config.{key}: nothing reads this key{near(key, known)}"
      )
  value = lambda key: operator.attrgetter(key)(config)
  wrong = [(k, f"at least {n}") for k, n in _AT_LEAST.items() if value(k) < n]
  wrong += [(k, "above 0") for k in _ABOVE_ZERO if not value(k) > 0]
  wrong += [(k, "from 0 to 1") for k in _SHARES if not 0 <= value(k) <= 1]
  for key, words in wrong:
    raise ConfigError(f"config.{key} = {value(key)} must be {words}")
