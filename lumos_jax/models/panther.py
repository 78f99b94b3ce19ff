"""PANTHER (arXiv 2510.10102): a causal transformer over events.

A layer is self-attention and SPRM (or another filter over time) side by side,
then a feed-forward layer; the user's profile embedding joins every position.
With other settings the same model is SASRec, BERT4Rec, HSTU, or like BSARec and
TV-Rec.

B batch, T tokens of a packed row, S segments (users) of a row, D model width,
V vocabulary of the target field.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.data import instants
from lumos_jax.data import schema as schema_lib
from lumos_jax.models import (
  attention,
  event_habits,
  fields,
  filters,
  layers,
  pointer,
  relative,
  sprm,
  stack,
  values,
)

ATTENTIONS = ("softmax", "pointwise", "none")
PROFILES = ("none", "token", "position")
SPRMS = (*sprm.KINDS, *filters.KINDS)
POSITIONS = ("learned", "sinusoidal", "rotary", "none")


def check_config(cfg, data_cfg) -> None:
  """Raises ValueError, naming the keys, where settings exclude each other."""
  for name, known in (
    ("attention", ATTENTIONS),
    ("sprm", SPRMS),
    ("profile_as", PROFILES),
    ("positions", POSITIONS),
    ("attention_kernel", attention.KERNELS),
  ):
    if cfg[name] not in known:
      raise ValueError(f"model.{name} = {cfg[name]!r}; use one of {known}")
  stack.check_config(cfg)
  if cfg.attention == "none" and cfg.sprm == "none":
    raise ValueError(
      "model.attention = 'none' and model.sprm = 'none': a token would see no "
      "other; choose one of them"
    )
  if cfg.profile_as == "token" and not data_cfg.start_token:
    raise ValueError(
      "model.profile_as = 'token' puts the profile into the start token: set "
      "data.start_token = True"
    )
  if cfg.masked and not data_cfg.start_token:
    raise ValueError("model.masked = True needs data.start_token = True")
  if cfg.masked and (cfg.use_fields or cfg.time_bias):
    raise ValueError(
      "model.masked = True reads the target field alone: set model.use_fields = "
      "False and model.time_bias = False"
    )
  if cfg.masked and cfg.sprm != "none":
    raise ValueError(
      "model.masked = True looks both ways, and SPRM is causal, as every filter "
      "is here: set model.sprm = 'none'"
    )
  if cfg.target_time and not cfg.time_bias:
    raise ValueError("model.target_time = True needs model.time_bias = True")
  if cfg.tell_later and data_cfg.holdout != "time":
    raise ValueError(
      "model.tell_later = True reveals something about the target's time, which is "
      "known where data.holdout = 'time' alone; see model.target_time"
    )
  if cfg.copy and data_cfg.filter_seen:
    raise ValueError(
      "model.copy = True points at values of the history, and "
      "data.filter_seen = True leaves them out: set one of them to False"
    )
  if cfg.copy and cfg.masked:
    raise ValueError("model.copy = True needs model.masked = False")


class Layer(nnx.Module):
  """Attention and SPRM, or a filter, side by side; then feed-forward."""

  def __init__(self, cfg, length: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
    """`cfg` is config.model; `length` is T."""
    kw = dict(dtype=dtype, rngs=rngs)
    width = cfg.d_model
    self.kind, self.pre = cfg.attention, cfg.norm == "pre"
    # Of attention, and of what stands beside it.
    self.merge = (0.5, 0.5) if cfg.sprm == "release" else (1.0, 1.0)
    if self.kind == "softmax":
      self.attention = attention.Attention(
        width,
        cfg.n_heads,
        use_rotary=cfg.positions == "rotary",
        kernel=cfg.attention_kernel,
        **kw,
      )
    elif self.kind == "pointwise":
      self.attention = attention.PointwiseAttention(
        width, cfg.n_heads, length, **kw
      )
    if cfg.sprm in filters.KINDS:
      self.filter = filters.make(cfg, length, rngs=rngs)
      self.merge = (1.0 - cfg.filter_share, cfg.filter_share)
    elif cfg.sprm != "none":
      self.sprm = sprm.SPRM(
        width, cfg.sprm, cfg.sprm_scales, cfg.sprm_prototypes, **kw
      )
    self.norm = layers.layer_norm(width, **kw)
    # HSTU's gate and the release's prototypes stand for the feed-forward.
    self.has_ff = bool(cfg.d_ff)
    if self.has_ff:
      self.norm_ff = layers.layer_norm(width, **kw)
      self.ff_in = layers.linear(width, cfg.d_ff, ("embed", "mlp"), **kw)
      self.ff_out = layers.linear(cfg.d_ff, width, ("mlp", "embed"), **kw)
    self.rate, self.activation = cfg.dropout, cfg.activation

  def _mix(self, h, look, time, bias, position):
    if hasattr(self, "filter"):
      found = self.filter(h, look, position)
    elif hasattr(self, "sprm"):
      found = self.sprm(h, look.query)
    else:
      found = None
    if self.kind == "none":
      return found
    if self.kind == "softmax":
      out = self.attention(h, h, look, time, time, bias)
    else:
      out = self.attention(h, look, bias)
    if found is None:
      return out
    return self.merge[0] * out + self.merge[1] * found

  def _ff(self, h, rngs):
    h = layers.ACTIVATIONS[self.activation](self.ff_in(h))
    return self.ff_out(layers.dropout(self.rate, rngs, h))

  def __call__(self, x, look, time, bias, position, rngs) -> jax.Array:
    """x [B, T, D] -> [B, T, D]; `position` int32 [B, T], in the window."""
    drop = lambda y: layers.dropout(self.rate, rngs, y)
    if self.pre:
      x = x + drop(self._mix(self.norm(x), look, time, bias, position))
      return x + drop(self._ff(self.norm_ff(x), rngs)) if self.has_ff else x
    x = self.norm(x + drop(self._mix(x, look, time, bias, position)))
    return self.norm_ff(x + drop(self._ff(x, rngs))) if self.has_ff else x


class Panther(nnx.Module):
  """Events of packed users -> a state a token, and scores of what comes next."""

  def __init__(self, cfg, schema: schema_lib.Schema, data_cfg, *, rngs):
    """Builds the parameters.

    Args:
      cfg: config.model.
      schema: Of the data; its rows are events.
      data_cfg: config.data: target, sequence_length.
      rngs: Stream "params".
    """
    self.cfg, self.length = cfg, data_cfg.sequence_length
    self.dtype = jnp.dtype(cfg.dtype)
    kw = dict(dtype=self.dtype, rngs=rngs)
    width = cfg.d_model
    names = [f.name for f in schema.categorical("activity")]
    self.column = names.index(data_cfg.target)
    field = schema.categorical("activity")[self.column]
    self.values = values.Values(field, width, cfg.use_attributes, rngs=rngs)
    self.has_more = cfg.use_fields and len(schema.activity) > 1
    if self.has_more:
      self.event = fields.RowEncoder(
        schema,
        "activity",
        cfg.activity_width,
        without=data_cfg.target,
        activation=cfg.activation,
        **kw,
      )
      self.event_out = layers.linear(
        cfg.activity_width, width, (None, "embed"), **kw
      )
    if cfg.profile_as != "none":
      if not schema.profile:
        raise ValueError(
          f"model.profile_as = {cfg.profile_as!r}, and {schema.name!r} has no "
          "profile: set model.profile_as = 'none'"
        )
      self.profile = fields.RowEncoder(
        schema, "profile", cfg.profile_width, activation=cfg.activation, **kw
      )
      parts = 1
      if cfg.profile_habits:
        seen = () if cfg.use_fields else (data_cfg.target,)
        self.habits = event_habits.Habits(
          schema, cfg.profile_width, seen, cfg.activation, **kw
        )
        parts = 2
      self.profile_out = layers.linear(
        parts * cfg.profile_width, width, (None, "embed"), **kw
      )
    if cfg.positions == "learned":
      self.positions = layers.embedding(
        self.length, width, (None, None), deviation=values.DEVIATION, rngs=rngs
      )
    if cfg.time_bias or cfg.attention == "pointwise":
      self.bias = relative.RelativeBias(
        self.length, cfg.n_heads, use_time=cfg.time_bias
      )
    if cfg.target_time:
      # Beside the biases, which say how far each event is from the target.
      self.ahead = layers.embedding(
        relative.TIME_BUCKETS,
        width,
        (None, None),
        deviation=values.DEVIATION,
        rngs=rngs,
      )
    if cfg.tell_later:
      self.later = layers.embedding(
        2, width, (None, None), deviation=values.DEVIATION, rngs=rngs
      )
    layer = lambda r: Layer(cfg, self.length, dtype=self.dtype, rngs=r)
    self.layers = stack.Stack(layer, cfg.n_encoder_layers, cfg, rngs)
    self.norm_out = layers.layer_norm(width, **kw)
    if cfg.copy:
      self.pointer = pointer.Pointer(
        width, self.length, use_time=cfg.time_bias, **kw
      )
    if cfg.masked or data_cfg.start_token:
      # The mask or, where none is, the start token: neither is a missing value.
      self.blank = layers.embedding(
        1, width, (None, "embed"), deviation=values.DEVIATION, rngs=rngs
      )
    if cfg.cosine:
      # Cosines are at most 1: what they are multiplied by.
      self.scale = 1.0 / cfg.temperature

  def users(self, batch) -> jax.Array:
    """Profile embeddings e_u [B, T, D], as of each token.

    Static attributes and, with model.profile_habits, statistics of the user's
    events up to this token: none that is later, so that every token may be a
    place of prediction.
    """
    empty = lambda dtype: jnp.zeros((*batch["time"].shape[:1], 1, 0), dtype)
    x = self.profile(
      batch.get("profile_categorical", empty(jnp.int32)),
      batch.get("profile_numeric", empty(jnp.float32)),
    )
    x = jnp.take_along_axis(x, _owner(batch)[..., None], 1)
    if hasattr(self, "habits"):
      x = jnp.concatenate([x, self.habits(batch)], -1)
    return self.profile_out(x)

  def latest_users(self, batch) -> jax.Array:
    """e_u as of the last token of each segment: [B, S, D]."""
    segments = batch["profile_user"].shape[1]
    mine = (
      batch["segment"][:, None] == jnp.arange(1, segments + 1)[None, :, None]
    )
    step = jnp.arange(mine.shape[-1])[None, None]
    last = jnp.max(jnp.where(mine, step, 0), -1)
    return jnp.take_along_axis(self.users(batch), last[..., None], 1)

  def _embed(self, batch, ids, blank, rngs) -> jax.Array:
    """Input vectors [B, T, D].

    Args:
      batch: Of `data.sequences`.
      ids: int32 [B, T] of the target field.
      blank: bool [B, T], rows that are no event, or a masked one: nothing but
        their place and time is read.
      rngs: Stream "dropout", or None.
    """
    cfg = self.cfg
    x = self.values(ids)
    if hasattr(self, "blank"):
      x = jnp.where(blank[..., None], self.blank[...][None], x)
    x = x.astype(self.dtype) * cfg.d_model**0.5
    if self.has_more:
      numeric = batch.get("numeric")
      if numeric is None:
        numeric = jnp.zeros((*ids.shape, 0), jnp.float32)
      more = self.event(batch["ids"], numeric)
      x = x + jnp.where(blank[..., None], 0, self.event_out(more))
    if cfg.profile_as != "none":
      user = self.users(batch)
      if cfg.profile_as == "token":
        user = jnp.where(batch["start"][..., None], user, 0)
      x = x + user
    if cfg.positions == "learned":
      x = x + self.positions[...][batch["position"]].astype(self.dtype)
    elif cfg.positions == "sinusoidal":
      x = x + attention.sinusoidal(batch["position"], cfg.d_model)
    gap = instants.elapsed(batch["next_time"], batch["time"])
    if cfg.target_time:
      bucket = relative.time_bucket(gap)
      x = x + self.ahead[...][bucket].astype(self.dtype)
    if cfg.tell_later:
      later = (gap > 0) | batch["start"]
      x = x + self.later[...][later.astype(jnp.int32)].astype(self.dtype)
    return layers.dropout(cfg.dropout, rngs, x)

  def __call__(
    self,
    batch: dict[str, Any],
    rngs: nnx.Rngs | None = None,
    ids: jax.Array | None = None,
    masked: jax.Array | None = None,
  ) -> jax.Array:
    """States of all tokens.

    Args:
      batch: Of `data.sequences`.
      rngs: Stream "dropout" in training; None to predict.
      ids: int32 [B, T] of the target field, if not the batch's own; then with
        `masked`, bool [B, T]: whose id is hidden.

    Returns:
      [B, T, D]: what the token at t says of what comes after it (of itself,
      with model.masked).
    """
    cfg, segment, time = self.cfg, batch["segment"], batch["time"]
    if ids is None:
      ids, masked = batch["ids"][..., self.column], batch["start"]
    x = self._embed(batch, ids, masked, rngs)
    # Padding is a segment too: its states are defined, and nobody's.
    look = attention.Look(segment, segment, causal=not cfg.masked)
    bias = None
    if hasattr(self, "bias"):
      bias = self.bias(self._query_time(batch), time)
    # From the user's first event: float32 is right to some seconds over years.
    first = jnp.arange(time.shape[1])[None] - batch["position"]
    first = jnp.take_along_axis(time, first[..., None], 1)
    days = instants.elapsed(time, first) / instants.DAY_SECONDS
    place = batch["position"]
    step = lambda layer, x, r: layer(x, look, days, bias, place, r)
    x = self.layers(step, x, rngs)
    return self.norm_out(x) if cfg.norm == "pre" else x

  def _query_time(self, batch) -> jax.Array:
    return batch["next_time" if self.cfg.target_time else "time"]

  def copied(self, states: jax.Array, batch) -> pointer.Copied:
    """What the states [B, T, D] take from the history; with model.copy."""
    return self.pointer(
      states,
      batch["ids"][..., self.column],
      batch["segment"],
      self._query_time(batch),
      batch["time"],
    )

  def scored(self, states: jax.Array, vectors: jax.Array):
    """States and value vectors whose products are the logits, in float32."""
    states, vectors = (x.astype(jnp.float32) for x in (states, vectors))
    if not self.cfg.cosine:
      return states, vectors
    unit = lambda x: x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)
    return unit(states) * self.scale, unit(vectors)


def _owner(batch) -> jax.Array:
  """int32 [B, T]: place of each token's user among the row's; 0 of padding."""
  return jnp.maximum(batch["segment"] - 1, 0)
