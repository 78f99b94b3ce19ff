"""LUMOS (arXiv 2512.08957): history encoder, decoder over the known future.

Paper's form: a token is a user-day; bidirectional encoder over T past days;
the queries of the decoder are the H future days' calendar rows, which look at
the encoder's output by cross-attention.

Beyond the paper: a causal encoder serves many origins in one pass (each
origin's queries look only at days before it); `patch_days` consecutive days
may make one token; habits (window sums of raw rows) may join the decoder's
output at the head.

B batch, T history rows, O origins, H horizon days, p patch days, P = T / p
tokens, Q = H / p queries an origin, D model width.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.data import ablation
from lumos_jax.data import calendar as calendar_lib
from lumos_jax.data import schema as schema_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.models import (
  attention,
  blocks,
  fields,
  habits,
  heads,
  layers,
  stack,
)

_POSITIONS = ("learned", "sinusoidal", "rotary")


def check_config(cfg, data_cfg, horizon: int) -> None:
  """Raises ValueError, naming the keys, where settings exclude each other."""
  stack.check_config(cfg)
  if cfg.attention_kernel not in attention.KERNELS:
    raise ValueError(
      f"model.attention_kernel = {cfg.attention_kernel!r}; use one of "
      f"{attention.KERNELS}"
    )
  p = cfg.patch_days
  for name, days in (
    ("data.history_days", data_cfg.history_days),
    ("data.eval_history_days", data_cfg.eval_history_days),
    ("data.origin_stride_days", data_cfg.origin_stride_days),
    ("the longest horizon_days", horizon),
  ):
    if days % p:
      raise ValueError(
        f"{name} = {days} is not a multiple of model.patch_days = {p}"
      )
  if not cfg.causal and data_cfg.origins_per_example != 1:
    raise ValueError(
      "model.causal = False needs data.origins_per_example = 1: a "
      "bidirectional encoder would show one origin what lies after it"
    )
  if cfg.head == "sequence" and cfg.habit_days:
    raise ValueError(
      "model.head = 'sequence' reads no habits: set model.habit_days = ()"
    )
  if not 0 <= cfg.state_members < cfg.members:
    raise ValueError(
      f"model.state_members = {cfg.state_members} must leave one of "
      f"model.members = {cfg.members}"
    )
  if (cfg.state_members or cfg.sparsity) and not cfg.habit_days:
    raise ValueError(
      "model.state_members and model.sparsity are about habits, and "
      "model.habit_days = (): set model.state_members = 0, model.sparsity = 0.0"
    )
  if any(not isinstance(d, int) or d < 0 for d in cfg.habit_days):
    raise ValueError(
      f"model.habit_days = {cfg.habit_days!r}; use numbers of days, 0 for all"
    )
  for task, views in cfg.views.items():
    if not views or set(views) - set(heads.VIEWS):
      raise ValueError(
        f"model.views.{task} = {views}; use some of {heads.VIEWS}"
      )
  if cfg.positions not in _POSITIONS:
    raise ValueError(f"model.positions = {cfg.positions!r}; use {_POSITIONS}")
  if (
    cfg.positions == "learned"
    and data_cfg.history_days != data_cfg.eval_history_days
  ):
    raise ValueError(
      "model.positions = 'learned' needs data.eval_history_days equal to "
      "data.history_days; use 'rotary' or 'sinusoidal' to vary it"
    )


class Lumos(nnx.Module):
  """Encoder-decoder over activity, calendar and profile."""

  def __init__(
    self,
    cfg,
    schema: schema_lib.Schema,
    calendar: calendar_lib.Calendar,
    outputs: int,
    tasks: Sequence[tasks_lib.Task],
    horizon: int,
    history_days: int,
    *,
    rngs: nnx.Rngs,
  ):
    """Builds the parameters.

    Args:
      cfg: config.model.
      schema: Fields of the three tables.
      calendar: For its width and date columns.
      outputs: Z, raw outputs of a task.
      tasks: M tasks.
      horizon: H, in days.
      history_days: T, the length of the learned positions.
      rngs: Stream "params".
    """
    self.cfg = cfg
    self.dtype = jnp.dtype(cfg.dtype)
    self.calendar_columns = ablation.Columns.of(calendar)
    self.horizon = horizon
    self.windows = tuple(t.horizon_days for t in tasks)
    kw = dict(dtype=self.dtype, rngs=rngs)
    act = cfg.activation
    self.activity = fields.RowEncoder(
      schema, "activity", cfg.activity_width, activation=act, **kw
    )
    self.calendar = layers.MLP(
      (calendar.width, cfg.calendar_width, cfg.calendar_width),
      activation=act,
      **kw,
    )
    self.profile = fields.RowEncoder(
      schema, "profile", cfg.profile_width, activation=act, **kw
    )
    context = cfg.calendar_width + cfg.profile_width
    past, p, width = cfg.activity_width + context, cfg.patch_days, cfg.d_model
    day = cfg.day_width if p > 1 else width
    self.past_day = layers.MLP((past, day), activation=act, **kw)
    self.future_day = layers.MLP((context, day), activation=act, **kw)
    if p > 1:
      self.past_patch, self.future_patch = (
        layers.linear(p * day, width, (None, "embed"), **kw) for _ in range(2)
      )
    self.start = layers.linear(cfg.profile_width, width, (None, "embed"), **kw)
    if cfg.positions == "learned":
      count = 1 + (history_days + horizon) // p
      self.positions = layers.embedding(
        count, width, (None, "embed"), rngs=rngs
      )
    use_rotary = cfg.positions == "rotary"
    block = lambda r: blocks.Block(
      cfg, use_rotary=use_rotary, dtype=self.dtype, rngs=r
    )
    self.encoder = stack.Stack(block, cfg.n_encoder_layers, cfg, rngs)
    self.decoder = stack.Stack(block, cfg.n_decoder_layers, cfg, rngs)
    if cfg.norm == "pre":
      self.encoder_norm = layers.layer_norm(width, **kw)
      self.decoder_norm = layers.layer_norm(width, **kw)
    extra = cfg.profile_width
    if cfg.habit_days:
      counted = [t.field for t in tasks if t.field]
      self.habits = habits.Habits(
        schema,
        tuple(cfg.habit_days),
        calendar.width,
        calendar.date_columns,
        horizon,
        [schema.numeric_column("activity", f) for f in counted],
        history_days,
      )
      extra += self.habits.width
    self.head = heads.make(cfg, horizon // p, p, extra, tasks, outputs, **kw)

  def fit(self, batch: dict[str, Any]) -> None:
    """Takes from a batch what is not trained: the scales of habits."""
    if self.cfg.habit_days:
      self.habits.fit(self._ablated(batch))

  def _ablated(self, batch):
    for name in self.cfg.ablate:
      batch = ablation.apply(batch, name, self.calendar_columns)
    return batch

  def __call__(
    self, batch: dict[str, Any], rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """Raw task outputs.

    Args:
      batch: Of `data.pipeline`; only its inputs are read.
      rngs: Stream "dropout" in training; None to predict.

    Returns:
      float32 [R, B, O, M, Z], or [R, B, O, H, M, Z] from the sequence head, in
      R rows (models/heads.py); Z as the regression loss needs
      (objectives/multitask.py).
    """
    batch = self._ablated(batch)
    profile = self.profile(
      batch["profile_categorical"], batch["profile_numeric"]
    )
    states, seen, time = self.encode(batch, profile, rngs)
    queries = self.decode(batch, profile, states, seen, time, rngs)
    last = (batch["origin"] // self.cfg.patch_days)[..., None]
    last = jnp.take_along_axis(states, last, 1)
    b, o, width = *last.shape[:2], profile.shape[-1]
    extra = jnp.broadcast_to(profile[:, None], (b, o, width))
    if self.cfg.habit_days:
      habit = self.habits(batch).astype(self.dtype)
      extra = jnp.concatenate([habit, extra], -1)
    if self.cfg.own_window and self.cfg.head == "aggregated":
      return self._own_windows(queries, last, extra, rngs)
    return self.head(queries, last, extra, rngs).astype(jnp.float32)

  def _own_windows(self, queries, last, extra, rngs):
    """Outputs of tasks that see the calendar of their own windows alone."""
    out, p = 0.0, self.cfg.patch_days
    starts = p * np.arange(queries.shape[2])
    for days in sorted(set(self.windows)):
      near = jnp.where((starts < days)[:, None], queries, 0)
      seen = extra
      if self.cfg.habit_days:
        keep = np.ones(extra.shape[-1], bool)
        keep[: self.habits.width] = self.habits.within(days)
        seen = jnp.where(keep, extra, 0)
      y = self.head(near, last, seen, rngs).astype(jnp.float32)
      mine = np.asarray([d == days for d in self.windows])
      out = out + jnp.where(mine[:, None], y, 0.0)
    return out

  def states(self, batch: dict[str, Any]):
    """The encoded history, as `encode` returns it."""
    batch = self._ablated(batch)
    profile = self.profile(
      batch["profile_categorical"], batch["profile_numeric"]
    )
    return self.encode(batch, profile, None)

  def _time(self, batch):
    """Days of history [B, T] and origins [B, O] from the end of history.

    Small numbers: float32 (and bfloat16 phases) stay exact.
    """
    end = batch["origin_day"][:, -1:]
    history = (batch["history_day"] - end).astype(jnp.float32)
    return history, (batch["origin_day"] - end).astype(jnp.float32)

  def encode(self, batch, profile, rngs):
    """Encodes the history.

    Returns:
      states [B, 1 + P, D], a start token first; seen bool [B, 1 + P]; time
      float32 [B, 1 + P] in days.
    """
    p = self.cfg.patch_days
    activity = self.activity(
      batch["history_categorical"], batch["history_numeric"]
    )
    context = self.calendar(batch["history_calendar"].astype(self.dtype))
    b, t = activity.shape[:2]
    wide = jnp.broadcast_to(profile[:, None], (b, t, profile.shape[-1]))
    rows = self.past_day(jnp.concatenate([activity, context, wide], -1))
    mask = batch["history_mask"]
    rows = jnp.where(mask[..., None], rows, 0)
    x = rows.reshape(b, t // p, -1)
    x = self.past_patch(x) if p > 1 else x
    # The start token keeps attention defined for a user without history.
    x = jnp.concatenate([self.start(profile)[:, None], x], 1)
    seen = mask.reshape(b, -1, p).any(-1)
    seen = jnp.concatenate([jnp.ones((b, 1), bool), seen], 1)
    time = self._time(batch)[0].reshape(b, -1, p)[..., -1]
    time = jnp.concatenate([time[:, :1] - p, time], 1)
    x = self._positions(x, jnp.arange(x.shape[1])[None])
    x = layers.dropout(self.cfg.dropout, rngs, x)
    known = seen.astype(jnp.int32)
    look = attention.Look(jnp.ones_like(known), known, causal=self.cfg.causal)
    step = lambda block, x, r: block(x, None, look, time, time, r)
    x = self.encoder(step, x, rngs)
    if self.cfg.norm == "pre":
      x = self.encoder_norm(x)
    return x, seen, time

  def _positions(self, x, index):
    """Adds positions; index int [1 or B, L]; the future continues the past."""
    if self.cfg.positions == "learned":
      return x + self.positions[...][index].astype(x.dtype)
    if self.cfg.positions == "sinusoidal":
      return x + attention.sinusoidal(index, x.shape[-1]).astype(x.dtype)
    return x

  def decode(self, batch, profile, states, seen, time, rngs):
    """Future queries [B, O, Q, D]; origin o looks at tokens before it only."""
    p, width = self.cfg.patch_days, self.cfg.d_model
    future = self.calendar(batch["future_calendar"].astype(self.dtype))
    b, o, h = future.shape[:3]
    wide = jnp.broadcast_to(
      profile[:, None, None], (b, o, h, profile.shape[-1])
    )
    rows = self.future_day(jnp.concatenate([future, wide], -1))
    x = rows.reshape(b, o, h // p, -1)
    x = self.future_patch(x) if p > 1 else x
    x = x.reshape(b, -1, width)
    before = (
      1 + batch["origin"] // p
    )  # Tokens an origin may see, start included.
    index = before[..., None] + jnp.arange(h // p)[None, None]
    x = self._positions(x, index.reshape(b, -1))
    ahead = self._time(batch)[1][..., None] + p * jnp.arange(h // p)[None, None]
    ahead = (ahead + p - 1).reshape(b, -1)
    limit = jnp.repeat(before, h // p, 1)
    look = attention.Look(jnp.ones_like(limit), seen.astype(jnp.int32), limit)
    layer = lambda block, x, r: block(x, states, look, ahead, time, r)
    x = self.decoder(layer, x, rngs)
    if self.cfg.norm == "pre":
      x = self.decoder_norm(x)
    return x.reshape(b, o, h // p, width)
