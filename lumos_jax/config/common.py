"""Keys of every config, whatever its recipe."""

import ml_collections

from lumos_jax.config import limits

# What stands in them has names of its own; their readers check them.
FREE = ("tasks.", "evals.", "data.options.")

LIMITS = {
  "train.steps": limits.at_least(0),
  "train.log_every": limits.at_least(1),
  "train.checkpoint_every": limits.at_least(1),
}


def defaults(c: ml_collections.ConfigDict) -> None:
  """Adds the keys; a system's file adds its own to data, model, objective."""
  c.name = "lumos"  # Of the experiment: the default workdir is runs/<name>.
  c.recipe = "lumos"  # The system; set by config.default().
  c.seed = 0
  # Workdir of another run, whose parameters a new one begins at.
  c.init_from = ""
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
  d.train_origin_last = 0  # Last day that serves as a training origin.
  d.validation_origin = 0
  d.test_origin = 0
  d.workers = 0  # Processes that read; 0 reads in threads of this one.
  d.read_threads = 2

  c.model = ml_collections.ConfigDict()
  c.objective = ml_collections.ConfigDict()

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
