"""Keys of recipe "intent" (models/session.py, data/sessions.py), its sizes."""

import ml_collections

from lumos_jax.config import limits

SIZES = {
  "tiny": dict(
    model=dict(
      d_model=32, d_ff=64, n_heads=2, n_encoder_layers=1, activity_width=32,
      embedding_width=16,
    ),
    data=dict(sequence_length=16, segments=4),
    train=dict(batch_size=8),
  ),
  "small": dict(
    model=dict(
      d_model=96, d_ff=384, n_heads=4, n_encoder_layers=2, activity_width=96,
      embedding_width=64,
    ),
  ),
  "large": dict(
    model=dict(
      d_model=512, d_ff=2048, n_heads=8, n_encoder_layers=6,
      activity_width=256, embedding_width=64, dtype="bfloat16",
      scan_layers=True, remat="full",
    ),
    data=dict(sequence_length=256, segments=32),
    optimizer=dict(learning_rate=5e-4, warmup_steps=1000),
    train=dict(batch_size=512),
  ),
}  # fmt: skip

FREE = ()
LIMITS = {
  "data.sequence_length": limits.at_least(1),
  "data.segments": limits.at_least(1),
  "model.embedding_width": limits.at_least(1),
  "model.text_width": limits.at_least(0),
  "model.sprm_prototypes": limits.at_least(1),
  "objective.mask_rate": limits.SHARE,
  "objective.chunk": limits.at_least(1),
  "objective.session_weight": limits.at_least(0),
  "objective.contrastive_weight": limits.SHARE,
  "objective.contrastive_temperature": limits.ABOVE_ZERO,
}


def sessions(d: ml_collections.ConfigDict) -> None:
  """Keys of config.data that data/sessions.py reads."""
  d.target = "page"  # Categorical field of the pages.
  # Fields that follow from the page, hidden where it is: parts of the address.
  d.page_fields = ()
  d.sequence_length = 32  # T, clicks of a row; longer sessions are cut.
  d.segments = 8  # S, sessions that share a row at most.
  d.cache = True  # Keeps decoded training records in memory.


def defaults(c: ml_collections.ConfigDict) -> None:
  """Adds the keys to a config that has the common ones."""
  sessions(c.data)

  m = c.model
  m.update(SIZES["small"]["model"])
  m.masked = True  # Both ways, hidden pages; False: causal, next pages.
  m.pool = "mean"  # Over the session's clicks; or max, last.
  m.text_width = 0  # Of the pages' frozen text vectors; 0: they are not seen.
  m.without = ()  # Inputs left out: fields, or "text".
  m.positions = "learned"  # sinusoidal, rotary, none.
  m.norm = "pre"  # or post.
  m.activation = "gelu"
  m.dropout = 0.1
  m.attention = "softmax"  # Or HSTU's "pointwise", or "none".
  m.sprm = "none"  # Or paper, release: PANTHER's, beside attention; causal.
  m.sprm_scales = ((3, 1), (3, 2), (3, 4))  # (kernel, dilation).
  m.sprm_prototypes = 64
  m.attention_kernel = "auto"  # xla, splash (TPU), cudnn (GPU).
  m.scan_layers = False  # Compile one block and scan it: for deep models.
  m.remat = "none"  # dots, full: less memory, more computation.
  m.dtype = "float32"  # Of computation; bfloat16 on TPU and GPU.

  j = c.objective
  j.mask_rate = 0.25  # Of pages that are predicted, with model.masked.
  j.chunk = 1024  # Targets whose logits exist at a time.
  # Of predicting hidden pages from the session's vector alone.
  j.session_weight = 1.0
  # lambda: two slices of a session are close, those of others are not.
  j.contrastive_weight = 0.0
  j.contrastive_temperature = 0.1
