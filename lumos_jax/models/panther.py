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
from lumos_jax.models import held as held_lib
from lumos_jax.models.panther_layer import Layer

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
  if cfg.attention == "none" and cfg.positions == "rotary":
    raise ValueError(
      "model.positions = 'rotary' turns the queries and keys of attention, and "
      "model.attention = 'none' has neither: set model.positions = 'learned'"
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

  def embedded(self, batch: dict[str, Any]) -> jax.Array:
    """Input vectors [B, T, D] of all tokens, before the first layer."""
    ids = batch["ids"][..., self.column]
    return self._embed(batch, ids, batch["start"], None)

  def __call__(
    self,
    batch: dict[str, Any],
    rngs: nnx.Rngs | None = None,
    ids: jax.Array | None = None,
    masked: jax.Array | None = None,
    inputs: jax.Array | None = None,
  ) -> jax.Array:
    """States of all tokens.

    Args:
      batch: Of `data.sequences`.
      rngs: Stream "dropout" in training; None to predict.
      ids: int32 [B, T] of the target field, if not the batch's own; then with
        `masked`, bool [B, T]: whose id is hidden.
      inputs: [B, T, D] in the place of `embedded`.

    Returns:
      [B, T, D]: what the token at t says of what comes after it (of itself,
      with model.masked).
    """
    cfg, segment, time = self.cfg, batch["segment"], batch["time"]
    if ids is None:
      ids, masked = batch["ids"][..., self.column], batch["start"]
    x = self._embed(batch, ids, masked, rngs) if inputs is None else inputs
    # Padding is a segment too: its states are defined, and nobody's.
    look = attention.Look(segment, segment, causal=not cfg.masked)
    context = self._context(batch, time)
    step = lambda layer, x, r: layer(x, look, *context, r)
    return self._normed(self.layers(step, x, rngs))

  def extend(
    self, batch: dict[str, Any], past: dict[str, jax.Array]
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """States of the next tokens of windows whose earlier ones are kept.

    Args:
      batch: C rows of each window as `data.sequences` has them, `segment` 1, or
        0 of padding behind them; `position` goes on with the window's. Beside
        them "begin" int32 [B, 3], the instant of the window's first row;
        "window_time" int32 [B, T, 3] and "window_ids" int32 [B, T] of the target
        field, of all the window's rows, these included. `profile_before` counts
        all rows before these, its days those before the window.
      past: Of `nothing`, or as what was found before was put into it: {name: [L,
        B, ..., T, H]}, held.TAIL [L, B, R, D], "pointer" [B, T, D]. L parts in a
        tuple do as well, and need not be cut.

    Returns:
      States [B, C, D], as a pass over the whole window has them, and what these
      tokens add to the past: {name: [L, B, ..., C, H]}, "pointer" [B, C, D].
    """
    look, step = self._ahead(batch)
    x = self._embed(batch, batch["ids"][..., self.column], batch["start"], None)
    context = self._context(batch, batch["window_time"], step)
    new = []
    for i, layer in enumerate(self.layers.each()):
      mine = {k: v[i] for k, v in past.items() if k != "pointer"}
      held = held_lib.Held(mine, step)
      x = layer(x, look, *context, None, held)
      new.append(held.new)
    new = {k: jnp.stack([n[k] for n in new]) for k in new[0]} if new else {}
    x = self._normed(x)
    if self.cfg.copy:
      new["pointer"] = self.pointer.key(x)
    return x, new

  def _ahead(self, batch) -> tuple[attention.Look, jax.Array]:
    """Where the next tokens of a window look, and their places in it."""
    length = batch["window_ids"].shape[1]
    own = batch["segment"] > 0
    every = jnp.ones_like(batch["window_ids"])
    look = attention.Look(
      jnp.ones_like(batch["segment"]), every, batch["position"] + 1
    )
    return look, jnp.where(own, batch["position"], length)

  def nothing(self, rows: int, length: int) -> dict[str, jax.Array]:
    """What `extend` reads before the first token, of B windows of T tokens."""
    cfg, out = self.cfg, {}
    count, width = cfg.n_encoder_layers, cfg.d_model
    make = lambda *shape: jnp.zeros(shape, self.dtype)
    if cfg.attention != "none":
      shape = count, rows, cfg.n_heads, length, width // cfg.n_heads
      out["key"], out["value"] = make(*shape), make(*shape)
    if cfg.sprm in filters.KINDS:
      out["input"] = make(count, rows, length, width)
    elif cfg.sprm != "none":
      reach = sprm.reach(cfg.sprm, cfg.sprm_scales)
      out[held_lib.TAIL] = make(count, rows, reach, width)
    if cfg.copy:
      out["pointer"] = make(rows, length, width)
    return out

  def _context(self, batch, key_time, step=None):
    """Of all layers: days, biases, places."""
    bias = None
    if hasattr(self, "bias"):
      bias = self.bias(self._query_time(batch), key_time, step)
    # From the user's first event: float32 is right to some seconds over years.
    first = instants.begin(batch)
    days = instants.elapsed(batch["time"], first) / instants.DAY_SECONDS
    return days, bias, batch["position"]

  def _normed(self, x):
    return self.norm_out(x) if self.cfg.norm == "pre" else x

  def _query_time(self, batch) -> jax.Array:
    return batch["next_time" if self.cfg.target_time else "time"]

  def copied(
    self, states: jax.Array, batch, past: jax.Array | None = None
  ) -> pointer.Copied:
    """What the states [B, T, D] take from the history; with model.copy.

    With `past` [B, T, D] of `extend`, states [B, C, D] are of the next tokens.
    """
    if past is None:
      segment = batch["segment"]
      look = attention.Look(segment, segment, causal=True)
      ids, time, held = batch["ids"][..., self.column], batch["time"], None
    else:
      look, step = self._ahead(batch)
      held = held_lib.Held({"pointer": past}, step)
      ids, time = batch["window_ids"], batch["window_time"]
    return self.pointer(states, ids, look, self._query_time(batch), time, held)

  def scored(self, states: jax.Array, vectors: jax.Array):
    """States and value vectors whose products are the logits, in float32."""
    return self.scored_states(states), self.scored_values(vectors)

  def scored_states(self, states: jax.Array) -> jax.Array:
    """As `scored`, of states alone."""
    states = states.astype(jnp.float32)
    return _unit(states) * self.scale if self.cfg.cosine else states

  def scored_values(self, vectors: jax.Array) -> jax.Array:
    """As `scored`, of value vectors alone."""
    vectors = vectors.astype(jnp.float32)
    return _unit(vectors) if self.cfg.cosine else vectors


def _unit(x: jax.Array) -> jax.Array:
  return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)


def _owner(batch) -> jax.Array:
  """int32 [B, T]: place of each token's user among the row's; 0 of padding."""
  return jnp.maximum(batch["segment"] - 1, 0)
