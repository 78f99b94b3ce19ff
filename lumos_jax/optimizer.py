"""Optimizers and learning-rate schedules, from Optax."""

from collections.abc import Collection, Mapping

import optax
import optax.contrib

_SCHEDULES = ("cosine", "linear", "constant")
# Fitted once and not trained. Muon's decay of what Adam takes knows no mask: a
# threshold of 3 that decays to 2.99 is another one.
_FITTED = ("amounts/", "model/habits/")


def schedule(cfg, steps: int) -> optax.Schedule:
  """Linear warm-up, then the decay that optimizer.schedule names."""
  if cfg.schedule not in _SCHEDULES:
    raise ValueError(f"optimizer.schedule = {cfg.schedule!r}; use {_SCHEDULES}")
  warmup = min(cfg.warmup_steps, max(steps - 1, 0))
  rest = max(steps - warmup, 1)
  end = cfg.learning_rate * cfg.final_fraction
  decay = {
    "cosine": optax.cosine_decay_schedule(
      cfg.learning_rate, rest, cfg.final_fraction
    ),
    "linear": optax.linear_schedule(cfg.learning_rate, end, rest),
    "constant": optax.constant_schedule(cfg.learning_rate),
  }[cfg.schedule]
  up = optax.linear_schedule(0.0, cfg.learning_rate, max(warmup, 1))
  return optax.join_schedules([up, decay], [warmup]) if warmup else decay


def _scaled(cfg, rate: optax.Schedule) -> optax.Schedule:
  if not cfg.adam_learning_rate:
    return rate
  factor = cfg.adam_learning_rate / cfg.learning_rate
  return lambda step: factor * rate(step)


def make(
  cfg,
  steps: int,
  axes: Mapping[str, tuple[str | None, ...]],
  frozen: Collection[str] = (),
) -> optax.GradientTransformation:
  """The optimizer of config.optimizer.

  Args:
    cfg: config.optimizer.
    steps: Length of the schedule.
    axes: {path: logical axes}: matrices decay, biases, scales and embedding
      tables do not (under Muon they do: what Adam takes knows no mask there);
      Muon takes the hidden layers' matrices, Adam the rest.
    frozen: Paths of parameters that are not trained: no moments are kept.
  """
  matrix = {k: k.endswith("/kernel") for k in axes}
  decayed = lambda params: {k: matrix[k] for k in params}
  rate = schedule(cfg, steps)
  if cfg.name == "adamw":
    core = optax.adamw(
      rate, cfg.b1, cfg.b2, weight_decay=cfg.weight_decay, mask=decayed
    )
  elif cfg.name == "muon":
    dims = {
      # Stacked blocks' matrices are many, along axes in front.
      k: optax.contrib.MuonDimensionNumbers(len(a) - 2, len(a) - 1)
      if matrix[k] and "/head/" not in k
      else None
      for k, a in axes.items()
    }
    core = optax.contrib.muon(
      rate,
      adam_learning_rate=_scaled(cfg, rate),
      adam_b1=cfg.b1,
      adam_b2=cfg.b2,
      weight_decay=cfg.weight_decay,
      weight_decay_mask=decayed,
      adam_weight_decay=cfg.weight_decay,
      # Updates of root-mean-square 0.2 let AdamW's learning rates carry over.
      consistent_rms=0.2,
      muon_weight_dimension_numbers=dims,
    )
  else:
    raise ValueError(f"optimizer.name = {cfg.name!r}; use 'adamw' or 'muon'")
  if frozen:
    labels = {k: "frozen" if k in frozen else "trained" for k in axes}
    each = {"trained": core, "frozen": optax.set_to_zero()}
    core = optax.partition(each, labels)
  fitted = {k: k.startswith(_FITTED) for k in axes}
  parts = [core, optax.masked(optax.set_to_zero(), fitted)]
  if cfg.clip_norm:
    parts.insert(0, optax.clip_by_global_norm(cfg.clip_norm))
  return optax.chain(*parts)
