"""Keys of recipe "hybrid" (recipes/hybrid.py, data/scoring.py), and its sizes."""

import ml_collections

from lumos_jax.config import limits

SIZES = {
  "tiny": dict(
    model=dict(
      bins=4, number_width=2, deep=(16,), cross_rank=8, cnn_channels=4,
      cnn_widths=(2, 3), cnn_events=20,
    ),
    train=dict(batch_size=8),
  ),
  "base": dict(
    model=dict(
      bins=16, number_width=8, deep=(128, 64), cross_rank=32, cnn_channels=32,
      cnn_widths=(2, 3, 5), cnn_events=100,
    ),
  ),
}  # fmt: skip

# Another run's config: its reader checks it.
FREE = ("model.backbone.",)
LIMITS = {
  "data.points_per_user": limits.at_least(0),
  "data.last_events": limits.at_least(0),
  "data.history_events": limits.at_least(0),
  "data.origin_stride_days": limits.at_least(1),
  "model.bins": limits.at_least(1),
  "model.number_width": limits.at_least(1),
  "model.lora_rank": limits.at_least(1),
  "model.cross_layers": limits.at_least(1),
  "model.cnn_events": limits.at_least(1),
  "model.members": limits.at_least(1),
}


def points(d: ml_collections.ConfigDict) -> None:
  """Keys of config.data that data/scoring.py reads."""
  d.unit = "user"  # What is scored: user (as of a day), or event.
  # First day that trains. train_origin_last is the last one; of events, the day
  # before which they train.
  d.train_origin_first = 0
  d.origin_stride_days = 7  # Between the days on which users train.
  d.points_per_user = 0  # At most so many, evenly spaced; 0 for all.
  # Latest events that the backbone reads; 0 for as many as its rows hold.
  d.history_events = 0
  d.last_events = 0  # Whose fields are context features, beside the aggregates.
  d.cut = "time"  # Or random, which is marked in every result.
  d.balanced = False  # As many points with as without the label: marked too.
  # Day by which a training label was known. None: with cut=time the validation's
  # day, where its users are those of training.
  d.known_by = None
  d.cache = True  # Keeps examples in memory.


def defaults(c: ml_collections.ConfigDict) -> None:
  """Adds the hybrid's keys to a config that has the common ones."""
  points(c.data)

  m = c.model
  m.update(SIZES["base"]["model"])
  # Config of the pretrained run (presets.hybrid.over), whose parameters init_from
  # gives; empty for none: context alone.
  m.backbone = ml_collections.ConfigDict()
  m.tune = "frozen"  # How the backbone learns: frozen, lora, full.
  m.lora_rank, m.lora_alpha = 8, 16.0
  m.lora_modules = ""  # Pattern of paths whose matrices get adapters; "": all.
  m.parts = ("context", "events", "user", "deviation")  # That the head sees.
  m.numbers = "piecewise"  # Bins of equal frequency; or periodic.
  m.frequency_deviation = 0.3  # Of periodic's first frequencies.
  m.cross_layers = 2
  m.dropout = 0.1
  m.members = 1  # Heads whose probabilities are averaged.
