"""Keys of recipe "lumos" (models/lumos.py, data/pipeline.py), and its sizes."""

import ml_collections

# What a size sets, in every config: widths and depths, and what follows from
# them. "paper": 14.7 M parameters as in LUMOS' public port; "large": 205 M, for
# a slice of 256 chips.
SIZES = {
  "tiny": dict(
    model=dict(
      d_model=32, d_ff=64, n_heads=2, n_encoder_layers=1, n_decoder_layers=1,
      activity_width=16, calendar_width=16, profile_width=8, day_width=16,
      head_width=16, mix_width=32,
    ),
  ),
  "base": dict(
    model=dict(
      d_model=128, d_ff=256, n_heads=4, n_encoder_layers=2, n_decoder_layers=1,
      activity_width=64, calendar_width=32, profile_width=32, day_width=64,
      head_width=64, mix_width=128,
    ),
  ),
  "paper": dict(
    model=dict(
      d_model=512, d_ff=1024, n_heads=8, n_encoder_layers=4,
      n_decoder_layers=2, activity_width=128, calendar_width=128,
      profile_width=64, day_width=128, head_width=96, mix_width=256,
    ),
  ),
  "large": dict(
    model=dict(
      d_model=1024, d_ff=4096, n_heads=16, n_encoder_layers=12,
      n_decoder_layers=4, activity_width=256, calendar_width=256,
      profile_width=128, day_width=256, head_width=64, mix_width=256,
      dtype="bfloat16", scan_layers=True, remat="full",
    ),
    train=dict(batch_size=4096),
    mesh=dict(fsdp=8),
  ),
}  # fmt: skip

FREE = ("model.views.",)
LIMITS = {}


def days(d: ml_collections.ConfigDict) -> None:
  """Keys of config.data that data/pipeline.py reads."""
  d.train_origin_first = 0  # First day that serves as a training origin.
  d.history_days = 364  # T, rows of history in training; events if rows=event.
  d.eval_history_days = 364
  d.origins_per_example = 1  # O; more than one needs a causal encoder.
  d.origin_stride_days = 7
  d.origin_jitter_days = 6  # The last origin is drawn this far before the last.
  d.daily_labels = False  # Targets of the sequence head.


def defaults(c: ml_collections.ConfigDict) -> None:
  """Adds LUMOS' keys to a config that has the common ones."""
  days(c.data)

  m = c.model
  m.update(SIZES["base"]["model"])
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
  m.own_window = False  # A task sees the calendar ahead in its window alone.
  m.habit_days = ()  # Windows of habit sums that the head sees; 0 = all.
  m.regression_loss = "distribution"  # or the paper's, mse_nonzero.
  m.weighting = "uncertainty"  # or sum, learned.
  m.ablate = ()  # no_future, no_past, no_context: trained without.
  m.attention_kernel = "auto"  # xla, splash (TPU), cudnn (GPU).
  m.scan_layers = False  # Compile one block and scan it: for deep models.
  m.remat = "none"  # dots, full: less memory, more computation.
  m.dtype = "float32"  # Of computation; bfloat16 on TPU and GPU.
