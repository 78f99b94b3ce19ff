"""Keys of recipe "panther" (models/panther.py, data/sequences.py), its sizes.

SASRec, BERT4Rec and HSTU are settings of it.
"""

import ml_collections

from lumos_jax.config import limits

# What a size sets, in every config: widths and depths, and what follows from
# them. "large" (90 M parameters and its tables) is for a slice: rows so long
# need a fused attention kernel, for which time turns phases.
SIZES = {
  "tiny": dict(
    model=dict(
      d_model=32, d_ff=64, n_heads=2, n_encoder_layers=2, activity_width=48,
      profile_width=48,
    ),
    data=dict(sequence_length=32, overlap=4, segments=4),
    train=dict(batch_size=8),
  ),
  "small": dict(
    model=dict(
      d_model=96, d_ff=384, n_heads=2, n_encoder_layers=2, activity_width=48,
      profile_width=48,
    ),
  ),
  "large": dict(
    model=dict(
      d_model=768, d_ff=3072, n_heads=12, n_encoder_layers=12,
      activity_width=256, profile_width=128, dropout=0.1, positions="rotary",
      dtype="bfloat16", scan_layers=True, remat="full",
    ),
    data=dict(sequence_length=2048, overlap=128, segments=32),
    optimizer=dict(learning_rate=3e-4, warmup_steps=1000),
    train=dict(batch_size=256, ema_decay=0.0),
    mesh=dict(fsdp=8),
    eval_batch_size=8,
  ),
}  # fmt: skip

FREE = ("objective.contrastive_within.",)
LIMITS = {
  "data.sequence_length": limits.at_least(1),
  "data.segments": limits.at_least(1),
  "model.sprm_prototypes": limits.at_least(1),
  "model.filter_share": limits.SHARE,
  "model.filter_frequencies": limits.at_least(1),
  "model.filter_rank": limits.at_least(1),
  "model.temperature": limits.ABOVE_ZERO,
  "objective.negatives": limits.at_least(1),
  "objective.chunk": limits.at_least(1),
  "objective.bag_width": limits.at_least(0),
  "objective.contrastive_temperature": limits.ABOVE_ZERO,
  "objective.contrastive_weight": limits.SHARE,
  "objective.coles_temperature": limits.ABOVE_ZERO,
  "objective.coles_weight": limits.SHARE,
  "objective.distill_weight": limits.SHARE,
  "objective.distill_width": limits.at_least(0),
}


def sequences(d: ml_collections.ConfigDict) -> None:
  """Keys of config.data that data/sequences.py reads."""
  d.target = ""  # Categorical field whose next value is predicted.
  d.sequence_length = 64  # T, tokens of a row; longer users are cut.
  d.overlap = 8  # Events that a window repeats from the one before it.
  d.segments = 32  # S, users that share a row at most.
  d.start_token = True  # An empty row first: the first event is predicted too.
  d.holdout = "last"  # Or "time": by train_origin_last and the two origins.
  d.filter_seen = True  # Values of the history do not compete.
  d.cache = False  # Keeps decoded training records in memory.


def defaults(c: ml_collections.ConfigDict) -> None:
  """Adds PANTHER's keys to a config that has the common ones."""
  sequences(c.data)
  c.data.teacher = ""  # Parquet of users' vectors: objective.distill_weight.

  m = c.model
  m.update(SIZES["small"]["model"])
  m.positions = "rotary"  # learned, sinusoidal, rotary (time stamps), none.
  m.norm = "pre"  # or post.
  m.activation = "relu"
  m.dropout = 0.1
  m.attention = "softmax"  # Or HSTU's "pointwise", or "none".
  # Beside attention, or instead of it: paper, release (PANTHER's), bsarec, tvrec.
  m.sprm = "none"
  m.sprm_scales = ((3, 1), (3, 2), (3, 4))  # (kernel, dilation).
  m.sprm_prototypes = 64
  m.filter_share = 0.7  # alpha of bsarec and tvrec; attention has the rest.
  m.filter_frequencies = (
    3  # That bsarec's low-pass keeps, the constant included.
  )
  m.filter_rank = 32  # M of tvrec: filters that its taps are mixtures of.
  m.profile_as = "none"  # token, or position: at every one.
  m.profile_habits = True  # In it, statistics of the user's events until then.
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

  j = c.objective
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
  # Of CoLES: two slices of a user are close, those of others are not.
  j.coles_weight = 0.0
  j.coles_temperature = 0.1
  j.distill_weight = 0.0  # Of meeting data.teacher's vector of the same user.
  j.distill_width = 0  # Numbers of such a vector.
  j.attribute_weight = 0.0  # Of predicting the next event's other categories.
  j.gap_weight = 0.0  # Of predicting the time to the next event.
  j.bag_width = 0  # Of vectors that predict half a user's events from the rest.
