"""The PANTHER recipe: generative pretraining on the next event.

SASRec, BERT4Rec and HSTU are settings of it (configs/panther.py).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from lumos_jax.data import instants, sequences
from lumos_jax.data import schema as schema_lib
from lumos_jax.models import layers, segments
from lumos_jax.models import panther as model_lib
from lumos_jax.objectives import (
  bag,
  contrastive,
  distill,
  fused,
  next_event,
  top,
)
from lumos_jax.recipes import panther_checks


class _Trained(nnx.Module):
  """The model and the heads of auxiliary losses."""

  def __init__(self, cfg, objective, schema, data_cfg, *, rngs):
    self.model = model_lib.Panther(cfg, schema, data_cfg, rngs=rngs)
    kw = dict(dtype=jnp.float32, rngs=rngs)
    fields = schema.categorical("activity")
    if objective.bag_width:
      size = fields[self.model.column].size
      self.bag = bag.Bag(size, objective.bag_width, rngs=rngs)
    if objective.attribute_weight:
      self.others = tuple(
        i for i in range(len(fields)) if i != self.model.column
      )
      self.attribute_heads = nnx.List(
        [
          layers.linear(cfg.d_model, fields[i].size, ("embed", None), **kw)
          for i in self.others
        ]
      )
    if objective.distill_weight:
      width = cfg.d_model * 2 + objective.bag_width
      self.distill_head = layers.linear(
        width, objective.distill_width, ("embed", None), **kw
      )
    if objective.gap_weight:
      self.gap_head = layers.linear(cfg.d_model, 1, ("embed", None), **kw)


class Panther:
  """Model + loss + predict of PANTHER, as train.py and evaluators call them."""

  inputs = sequences

  @property
  def sees_profile(self) -> bool:
    """Whether the model reads the users' profiles."""
    return self.cfg.profile_as != "none"

  @property
  def sequence_length(self) -> int:
    """Tokens of a row, which the mesh's sequence axis may cut."""
    return self.data_cfg.sequence_length

  def __init__(self, config, records, tasks):
    """Checks the config; see ValueError's text."""
    self.cfg, self.objective = config.model, config.objective
    self.data_cfg, self.schema = config.data, records.schema
    sequences.check_config(config.data, tasks)
    model_lib.check_config(config.model, config.data)
    self.column = sequences.target_column(records.schema, config.data)
    panther_checks.check_config(config, records.schema)

  def init(self, rngs: nnx.Rngs, batch=None) -> nnx.Module:
    """A fresh model; the batch is not needed."""
    del batch
    return _Trained(
      self.cfg, self.objective, self.schema, self.data_cfg, rngs=rngs
    )

  def tokens(self, batch) -> int:
    """Tokens that a batch holds, padding included, for tokens/s."""
    return batch["segment"].size

  def totals(self, batch) -> dict[str, jax.Array]:
    """What a loss is divided by, of the whole batch before it is cut up."""
    count = jnp.sum(batch["target"] > 0).astype(jnp.float32)
    out = {"count": jnp.maximum(count, 1.0)}
    if self.objective.distill_weight:
      out["taught"] = jnp.maximum(distill.known(batch), 1.0)
    return out

  def loss(self, module, batch, rngs, totals, share=1.0):
    """Loss of a part of a batch; the parts' losses add up to the batch's.

    Args:
      module: Of `init`.
      batch: The part.
      rngs: Stream "dropout"; it also draws negatives and masks.
      totals: Of the whole batch.
      share: The part's share of the batch.

    Returns:
      The loss and the numbers to log.
    """
    o = self.objective
    target, weight = batch["target"], (batch["target"] > 0)
    if self.cfg.masked:
      states, weight = self._masked(module, batch, rngs)
      # Fewer tokens count here: as many in expectation as in the causal form.
      scale = 1.0 / o.mask_rate
    else:
      states, scale = module.model(batch, rngs), 1.0
    weight = weight.astype(jnp.float32)
    mixed = ()
    if self.cfg.copy:
      copied = module.model.copied(states, batch)
      mixed = copied.keep, copied.of(target)
    value = self._next(module.model, states, target, weight, mixed, rngs)
    value = value * scale / totals["count"]
    padding = jnp.mean((batch["segment"] == 0).astype(jnp.float32))
    logs = {"loss/next": value, "padding_share": share * padding}
    if o.attribute_weight or o.gap_weight:
      for name, (weight, part) in self._auxiliary(
        module, batch, states
      ).items():
        part = part / totals["count"]
        value, logs[f"loss/{name}"] = value + weight * part, part
    if o.bag_width:
      part = bag.loss_sum(
        module.bag,
        batch["ids"][..., self.column],
        batch["segment"],
        self.data_cfg.segments,
        rngs.dropout(),
        o.chunk,
      )
      part = part / totals["count"]
      value, logs["loss/bag"] = value + part, part
    if o.coles_weight:
      total, count = self._coles(module.model, batch, rngs)
      close = share * total / jnp.maximum(count, 1.0)
      logs["loss/coles"] = close
      value = (1.0 - o.coles_weight) * value + o.coles_weight * close
    if o.distill_weight:
      vectors = self._vectors(module, states, batch["ids"][..., self.column])
      far = distill.loss_sum(module.distill_head, vectors, batch)
      far = far / totals["taught"]
      logs["loss/distill"] = far
      value = (1.0 - o.distill_weight) * value + o.distill_weight * far
    if o.contrastive_weight:
      total, count = self._contrastive(module.model, batch)
      close = share * total / jnp.maximum(count, 1.0)
      logs["loss/contrastive"] = close
      # Windows that found another user like theirs: the loss is of them alone.
      logs["contrastive_windows"] = count.astype(jnp.float32)
      w = o.contrastive_weight
      value = (1.0 - w) * value + w * close
    return value, logs

  def _masked(self, module, batch, rngs):
    """States where each token is itself the target, and which are masked.

    A row's token is the event after it, which it may be asked for: the next
    row's, or at the end of a window its target. No other field of it is read.
    """
    target, segment = batch["target"], batch["segment"]
    last = jnp.zeros_like(target[:, :1])
    after = jnp.concatenate([batch["ids"][:, 1:, self.column], last], 1)
    same = jnp.concatenate([segment[:, 1:], last], 1) == segment
    ids = jnp.where(same & (segment > 0), after, target)
    key = rngs.dropout()
    drawn = jax.random.bernoulli(key, self.objective.mask_rate, target.shape)
    chosen = drawn & (target > 0)
    return module.model(batch, rngs, ids, chosen), chosen

  def _next(self, model, states, target, weight, mixed, rngs):
    """Sum of the losses of all targets; `mixed` as in objectives.next_event."""
    o = self.objective
    if o.loss == "softmax":
      states, table = model.scored(states, model.values())
      if fused.runs(o):
        return fused.softmax_sum(states, table, target, weight)
      return next_event.softmax_sum(
        states, table, target, weight, o.chunk, mixed
      )
    vocabulary = model.values.table.shape[0]
    ids, log_q = next_event.draw_negatives(
      rngs.dropout(), vocabulary, o.negatives, o.by_frequency
    )
    scaled, positive = model.scored(states, model.values(target))
    _, negative = model.scored(states, model.values(ids, alike=True))
    if o.loss == "sampled":
      return next_event.sampled_sum(
        scaled,
        positive,
        negative,
        target,
        weight,
        ids,
        log_q,
        o.correct_target,
        o.chunk,
        mixed,
      )
    each = next_event.gbce(
      scaled, positive, negative, target, ids, vocabulary, o.calibration
    )
    return jnp.sum(each * weight)

  def _auxiliary(self, module, batch, states):
    """{name: (weight, summed loss)} of next categories and time to the next.

    The last token of a window knows no next row and has no such loss.
    """
    o, segment = self.objective, batch["segment"]
    inside = (segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] > 0)
    inside = inside & (batch["target"][:, :-1] > 0)
    now, out = states[:, :-1].astype(jnp.float32), {}
    if o.attribute_weight:
      total = 0.0
      for i, head in zip(module.others, module.attribute_heads):
        logits = jax.nn.log_softmax(head(now), -1)
        right = batch["ids"][:, 1:, i][..., None]
        right = jnp.take_along_axis(logits, right, -1)[..., 0]
        total = total - jnp.sum(jnp.where(inside, right, 0.0))
      out["attributes"] = o.attribute_weight, total
    if o.gap_weight:
      gap = instants.elapsed(batch["time"][:, 1:], batch["time"][:, :-1])
      gap = jnp.log1p(jnp.maximum(gap, 0.0))
      miss = jnp.square(module.gap_head(now)[..., 0] - gap)
      out["gap"] = o.gap_weight, jnp.sum(jnp.where(inside, miss, 0.0))
    return out

  def _coles(self, model, batch, rngs):
    """Summed loss of slices whose user has another one, and of how many."""
    o, size = self.objective, self.data_cfg.segments
    segment, position = contrastive.slices(
      batch["segment"], batch["position"], size, rngs.dropout()
    )
    cut = batch | {"segment": segment, "position": position}
    states = model(cut, rngs).astype(jnp.float32)
    mine = segments.members(segment, 2 * size, ~batch["start"])
    return contrastive.of_slices(
      segments.mean(states, mine),
      mine.any(-1),
      batch["profile_user"].reshape(-1),
      o.coles_temperature,
    )

  def _contrastive(self, model, batch):
    """Summed contrastive loss of the batch's windows, and of how many it is."""
    o, schema = self.objective, self.schema
    users = model.latest_users(batch)
    b, s, width = users.shape
    place = jnp.arange(1, s + 1)
    known = (batch["segment"][:, :, None] == place[None, None]).any(1)
    alike = jnp.ones((b * s, b * s), bool)
    flat = lambda name: batch[name].reshape(b * s, -1)
    same = lambda x: x[:, None] == x[None]
    if "profile_categorical" in batch:
      for i, f in enumerate(schema.categorical("profile")):
        if not o.contrastive_fields or f.name in o.contrastive_fields:
          alike &= same(flat("profile_categorical")[:, i])
    for name, tolerance in o.contrastive_within.items():
      x = flat("profile_numeric")[:, schema.numeric_column("profile", name)]
      alike &= jnp.abs(x[:, None] - x[None]) <= tolerance
    return contrastive.loss(
      users.reshape(-1, width),
      alike,
      known.reshape(-1),
      o.contrastive_temperature,
      batch["profile_user"].reshape(-1),
    )

  def _asked(self, module, batch):
    """Scaled states [B, D] at `last`, value vectors [V, D], what is copied."""
    model, last = module.model, batch["last"]
    ids = masked = None
    if self.cfg.masked:
      # The start token's place holds the first event, the last one the mask.
      own = batch["ids"][..., self.column]
      ids = jnp.pad(own[:, 1:], ((0, 0), (0, 1)))
      masked = jnp.arange(ids.shape[1])[None] == last[:, None]
    found = model(batch, None, ids, masked)
    copied = model.copied(found, batch).at(last) if self.cfg.copy else None
    found = jnp.take_along_axis(found, last[:, None, None], 1)[:, 0]
    return *model.scored(found, model.values()), copied

  def probabilities(self, module, batch) -> jax.Array:
    """What each user's next event is: float32 [B, V], for few users or values.

    All values compete, those of the history too; reserved ids have 0.
    """
    states, table, copied = self._asked(module, batch)
    free = jnp.arange(table.shape[0]) >= schema_lib.FIRST_VALUE
    logits = jnp.where(free[None], states @ table.T, -jnp.inf)
    out = jax.nn.softmax(logits, -1)
    if copied is None:
      return out
    share = copied.shares(table.shape[0])
    return jnp.exp(copied.keep) * out + jnp.exp(copied.give) * share

  def next_events(self, module, batch, k: int) -> dict[str, jax.Array]:
    """The most likely values of each user's next event.

    Values of the history do not compete where data.filter_seen says so.

    Args:
      module: Of `init`.
      batch: Of `data.sequences.batches_at`.
      k: Values a user.

    Returns:
      {"value": int32 [B, k] ids, most likely first; "probability": float32 [B,
      k], among the values that compete; 0 where there are fewer than k}.
    """
    return self.listed(*self._asked(module, batch), batch["seen"], k)

  def listed(self, states, table, copied, seen, k: int):
    """As `next_events`, of scored states [B, D] and value vectors [V, D].

    Args:
      states, table: Of `Panther.scored`.
      copied: What the states take from the history, `at` their tokens; or None.
      seen: int32 [B, S], values of the history, 0 for none.
      k: Values a user.
    """
    mixed = None
    if copied is not None:
      given = copied.among(seen, table.shape[0])
      # No value is asked for: the target's share is not read.
      mixed = next_event.Mixed(copied.keep[:, 0], given, given[:, 0])
    elif not self.data_cfg.filter_seen:
      seen = jnp.zeros_like(seen)
    value, p = top.most_likely(states, table, seen, k, mixed=mixed)
    return {"value": value, "probability": p}

  def states(self, module, batch) -> dict[str, jax.Array]:
    """States of each event: {"state": [B, T, D], "seen": bool [B, T]}."""
    own = (batch["segment"] > 0) & ~batch["start"]
    return {"state": module.model(batch).astype(jnp.float32), "seen": own}

  def predict(self, module, batch, k: int = 10) -> dict[str, jax.Array]:
    """Rank of each user's next event, and its `next_events`.

    Returns:
      {"rank": float32 [B, 1]; "value": int32 [B, k]; "probability": float32
      [B, k]}.
    """
    states, table, copied = self._asked(module, batch)
    seen, mixed = batch["seen"], None
    if copied is not None:
      values = jnp.concatenate([seen, batch["next"][:, None]], 1)
      given = copied.among(values, table.shape[0])
      mixed = next_event.Mixed(copied.keep[:, 0], given[:, :-1], given[:, -1])
    elif not self.data_cfg.filter_seen:
      seen = jnp.zeros_like(seen)
    found = next_event.ranks(states, table, batch["next"], seen, mixed=mixed)
    listed = self.listed(states, table, copied, batch["seen"], k)
    return {"rank": found[:, None]} | listed

  def event_vectors(self, module) -> jax.Array:
    """What `embed` sums of an event beside its state, by value: [V, D + W].

    The value's vector in deviations of the table's entries, and that of the bag.
    """
    values = module.model.values()
    found = [values / (jnp.std(values) + 1e-6)]
    if self.objective.bag_width:
      found.append(module.bag(jnp.arange(len(values))[None])[0])
    return jnp.concatenate(found, -1)

  def _vectors(self, module, states, ids) -> jax.Array:
    """What an embedding is the mean of, of each event: [B, T, 2 D + W]."""
    return jnp.concatenate([states, self.event_vectors(module)[ids]], -1)

  def embed(self, module, batch, counted=None) -> dict[str, jax.Array]:
    """Sums over a window, to be added up over a user's windows.

    Args:
      module: Of `init`.
      batch: Of `data.sequences`.
      counted: bool [B, T], events that count; default all.

    Returns:
      {"sums": [B, 2 D], of states and of the events' value vectors, in
      deviations of the table's entries, [B, 2 D + W] with those of the bag;
      "tokens": [B, 1]}.
    """
    ids = batch["ids"][..., self.column]
    found = self._vectors(module, module.model(batch), ids)
    own = (batch["segment"] > 0) & ~batch["start"]
    if counted is not None:
      own = own & counted
    total = jnp.sum(jnp.where(own[..., None], found, 0.0), 1)
    return {"sums": total, "tokens": jnp.sum(own, 1, keepdims=True)}
