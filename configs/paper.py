"""LUMOS in the paper's form (arXiv 2512.08957) on Complete Journey.

  python -m lumos_jax.main --config=configs/paper.py
  python -m lumos_jax.main --config=configs/paper.py:size=tiny,steps=300

Bidirectional encoder over user-days, one origin a pass, learned positions,
post-norm, MSE over non-zero targets, uncertainty weighting, AdamW as in the
public port. `size=paper` (14.7 M parameters) is meant for an accelerator,
`size=large` (200 M) for a slice; see python -m lumos_jax.preflight.
"""

from configs import pretrain
from lumos_jax import config as config_lib


def get_config(arg=None):
  """Arguments: size=, steps=, seed=."""
  args = config_lib.parse_arg(arg, size="paper", steps=5000, seed=0)
  c = pretrain.get_config(
    f"size={args.size},steps={args.steps},seed={args.seed}"
  )
  with c.unlocked():
    c.name = "paper"
    d = c.data
    d.history_days = d.eval_history_days = 252
    d.origins_per_example, d.origin_stride_days = 1, 7
    d.origin_jitter_days = 197
    m = c.model
    m.causal, m.patch_days, m.positions = False, 1, "learned"
    m.norm, m.regression_loss = "post", "mse_nonzero"
    m.habit_days, m.members, m.state_members, m.sparsity = (), 1, 0, 0.0
    m.views = dict()
    o = c.optimizer
    o.name, o.learning_rate, o.weight_decay = "adamw", 1e-4, 1e-5
    o.b2 = 0.999
    c.train.batch_size = 256
    c.train.ema_decay = 0.0
    if args.size == "large":  # 200 M parameters, for a slice of 256 chips.
      d.history_days = d.eval_history_days = 360
      m.dtype, m.scan_layers, m.remat = "bfloat16", True, "full"
      c.mesh.fsdp, c.train.batch_size = 8, 4096
  return c
