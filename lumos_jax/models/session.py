"""A session of clicks -> a state a click, and one vector (arXiv 2606.26277).

A click is its page (a table, and the page's frozen text vector), what follows from
its address, and how it was: event type, device, dwell. Each is a part of one
MLP's input; a transformer of PANTHER's layers follows.

B batch, T clicks of a packed row, S sessions of a row, D model width, E embedding
width, V pages, W width of a text vector.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.data import schema as schema_lib
from lumos_jax.models import (
  attention,
  fields,
  layers,
  relative,
  segments,
  stack,
  values,
)
from lumos_jax.models.panther_layer import Layer

ATTENTIONS = ("softmax", "pointwise", "none")
POSITIONS = ("learned", "sinusoidal", "rotary", "none")
POOLS = ("mean", "max", "last")
SPRMS = ("none", "paper", "release")
TEXT = "text"
_FAR = -1e9


def check_config(cfg) -> None:
  """Raises ValueError, naming the keys, where settings exclude each other."""
  for name, known in (
    ("attention", ATTENTIONS),
    ("positions", POSITIONS),
    ("pool", POOLS),
    ("sprm", SPRMS),
    ("attention_kernel", attention.KERNELS),
  ):
    if cfg[name] not in known:
      raise ValueError(f"model.{name} = {cfg[name]!r}; use one of {known}")
  stack.check_config(cfg)
  if cfg.attention == "none" and cfg.sprm == "none":
    raise ValueError(
      "model.attention = 'none' and model.sprm = 'none': a click would see no "
      "other; choose one of them"
    )
  if cfg.masked and cfg.sprm != "none":
    raise ValueError(
      "model.masked = True looks both ways, and SPRM is causal: set model.sprm = "
      "'none'"
    )


class _Chosen:
  """Columns of a click that are seen beside its page, as a schema of their own."""

  def __init__(self, schema, target: str, without):
    names = [f.name for f in schema.activity]
    for name in without:
      if name not in (*names, TEXT):
        raise ValueError(
          f"model.without: no input {name!r}; there are {[*names, TEXT]}"
        )
    kept = tuple(f for f in schema.activity if f.name not in (target, *without))
    self.schema = dataclasses.replace(schema, activity=kept)
    place = [f.name for f in schema.categorical("activity")]
    self.ids = tuple(place.index(f.name) for f in kept if schema_lib.has_ids(f))
    self.numbers = tuple(
      schema.numeric_column("activity", f.name) + i
      for f in kept
      if not schema_lib.has_ids(f)
      for i in range(schema_lib.width(f))
    )


class Session(nnx.Module):
  """Clicks of packed sessions -> states [B, T, E] that predict pages."""

  def __init__(self, cfg, schema: schema_lib.Schema, data_cfg, *, rngs):
    """Builds the parameters.

    Args:
      cfg: config.model.
      schema: Of the data; its rows are clicks.
      data_cfg: config.data: target, page_fields, sequence_length.
      rngs: Stream "params".

    Raises:
      ValueError: model.without or data.page_fields names no input.
    """
    self.cfg, self.length = cfg, data_cfg.sequence_length
    self.dtype = jnp.dtype(cfg.dtype)
    kw = dict(dtype=self.dtype, rngs=rngs)
    small = dict(deviation=values.DEVIATION, rngs=rngs)
    pages = schema.categorical("activity")
    names = [f.name for f in pages]
    self.column = names.index(data_cfg.target)
    for name in data_cfg.page_fields:
      if name not in names:
        raise ValueError(
          f"data.page_fields: no field {name!r} with ids; there are {names}"
        )
    follows = (data_cfg.target, *data_cfg.page_fields)
    # Tuples: an array would be a parameter of the module.
    self.of_page = tuple(n in follows for n in names)
    width = cfg.embedding_width
    self.values = values.Values(pages[self.column], width, True, rngs=rngs)
    self.blank = layers.embedding(1, width, (None, None), **small)
    self.sees_page = data_cfg.target not in cfg.without
    inputs = width if self.sees_page else 0
    self.has_text = cfg.text_width > 0 and TEXT not in cfg.without
    if self.has_text:
      # Frozen: what is known of the pages, by id (recipes/intent.py).
      self.texts = layers.zeros(
        (pages[self.column].size, cfg.text_width), ("vocab", None)
      )
      self.text_in = layers.linear(
        cfg.text_width, cfg.activity_width, (None, "embed"), **kw
      )
      # A rare page is predicted by what its text says.
      self.text_out = layers.linear(
        cfg.text_width, width, (None, "embed"), use_bias=False, **kw
      )
      inputs += cfg.activity_width
    chosen = _Chosen(schema, data_cfg.target, cfg.without)
    self.ids_seen, self.numbers_seen = chosen.ids, chosen.numbers
    self.has_more = bool(chosen.schema.activity)
    if self.has_more:
      self.event = fields.RowEncoder(
        chosen.schema,
        "activity",
        cfg.activity_width,
        activation=cfg.activation,
        **kw,
      )
      inputs += cfg.activity_width
    if not inputs:
      raise ValueError(f"model.without = {tuple(cfg.without)} leaves no input")
    self.hidden = layers.linear(inputs, cfg.d_model, (None, "mlp"), **kw)
    self.joined = layers.linear(
      cfg.d_model, cfg.d_model, ("mlp", "embed"), **kw
    )
    if cfg.positions == "learned":
      self.positions = layers.embedding(
        self.length, cfg.d_model, (None, None), **small
      )
    if cfg.attention == "pointwise":
      self.bias = relative.RelativeBias(
        self.length, cfg.n_heads, use_time=False
      )
    layer = lambda r: Layer(cfg, self.length, dtype=self.dtype, rngs=r)
    self.layers = stack.Stack(layer, cfg.n_encoder_layers, cfg, rngs)
    self.norm_out = layers.layer_norm(cfg.d_model, **kw)
    self.out = layers.linear(cfg.d_model, width, ("embed", None), **kw)

  def pages(self) -> jax.Array:
    """Vectors of all pages, whose products with states are logits: [V, E]."""
    out = self.values()
    if self.has_text:
      out = out + self.text_out(self.texts[...]).astype(out.dtype)
    return out

  def _embed(self, ids, numeric, hidden) -> jax.Array:
    """Input vectors [B, T, D]; nothing of a hidden page is read."""
    page = ids[..., self.column]
    hidden = hidden[..., None]
    of_page = np.asarray(self.of_page)[None, None]
    ids = jnp.where(hidden & of_page, 0, ids)
    parts = []
    if self.sees_page:
      # Products with states are logits: entries are small. Inputs are not.
      own = jnp.where(hidden, self.blank[...][None], self.values(page))
      parts.append(own.astype(self.dtype) * self.cfg.embedding_width**0.5)
    if self.has_text:
      text = self.text_in(self.texts[...])[page]
      parts.append(jnp.where(hidden, 0, text))
    if self.has_more:
      parts.append(
        self.event(
          ids[..., np.asarray(self.ids_seen, np.int32)],
          numeric[..., np.asarray(self.numbers_seen, np.int32)],
        )
      )
    x = jnp.concatenate(parts, -1)
    x = layers.ACTIVATIONS[self.cfg.activation](self.hidden(x))
    return self.joined(x)

  def __call__(
    self,
    batch: dict[str, jax.Array],
    rngs: nnx.Rngs | None = None,
    hidden: jax.Array | None = None,
  ) -> jax.Array:
    """States of all clicks.

    Args:
      batch: Of `data.sessions`.
      rngs: Stream "dropout" in training; None to predict.
      hidden: bool [B, T], clicks whose page is not seen; default none.

    Returns:
      float32 [B, T, E]: of a click what its page may be (model.masked), or what
      comes after it.
    """
    cfg, segment, position = self.cfg, batch["segment"], batch["position"]
    if hidden is None:
      hidden = jnp.zeros(segment.shape, bool)
    x = self._embed(batch["ids"], batch["numeric"], hidden)
    if cfg.positions == "learned":
      x = x + self.positions[...][position].astype(self.dtype)
    elif cfg.positions == "sinusoidal":
      x = x + attention.sinusoidal(position, cfg.d_model).astype(self.dtype)
    x = layers.dropout(cfg.dropout, rngs, x)
    look = attention.Look(segment, segment, causal=not cfg.masked)
    # Rotary phases turn with the place; clicks may have no times.
    turn, bias = position.astype(jnp.float32), None
    if hasattr(self, "bias"):
      none = jnp.zeros((*segment.shape, 3), jnp.int32)
      bias = self.bias(none, none)
    step = lambda layer, x, r: layer(x, look, turn, bias, position, r)
    x = self.layers(step, x, rngs)
    x = self.norm_out(x) if cfg.norm == "pre" else x
    return self.out(x).astype(jnp.float32)


def pooled(
  states: jax.Array, segment: jax.Array, count: int, kind: str, own: jax.Array
) -> jax.Array:
  """One vector a session.

  Args:
    states: float32 [B, T, E].
    segment: int32 [B, T], 1 to `count`; 0 is padding.
    count: S.
    kind: One of POOLS.
    own: bool [B, T], clicks that count.

  Returns:
    [B, S, E]; zeros of a session without a click that counts.
  """
  mine = segments.members(segment, count, own)
  some = mine.any(-1, keepdims=True)
  if kind == "max":
    # A session at a time: [B, S, T, E] would not fit.
    pick = lambda m: jnp.where(m[..., None], states, _FAR).max(1)
    found = jax.lax.map(pick, jnp.moveaxis(mine, 1, 0))
    return jnp.where(some, jnp.moveaxis(found, 0, 1), 0.0)
  if kind == "last":
    step = jnp.arange(segment.shape[1])[None, None]
    last = jnp.where(mine, step, -1).max(-1, keepdims=True)
    mine = mine & (step == last)
  return segments.mean(states, mine)
