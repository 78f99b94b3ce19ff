"""The hybrid recipe: a discriminative head over a pretrained backbone.

PANTHER, section on downstream use: p(label) = g(context features; TextCNN over the
last events; user embedding; deviation of observed from predicted behaviour), g a
DCN. The backbone is PANTHER's or LUMOS's, frozen, LoRA-tuned or fully tuned;
without one, g of context features alone is left.

B batch, T events or tokens, D their width, F context features, M tasks.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from lumos_jax import config as config_lib
from lumos_jax.data import scoring
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.models import dcn, fields, layers, lora, numbers
from lumos_jax.recipes import expected, lumos, panther

TUNES = ("frozen", "lora", "full")
PARTS = ("context", "events", "user", "deviation")
BACKBONE = "backbone/"  # Of its parameters' paths.
_BACKBONES = {"panther": panther.Panther, "lumos": lumos.Lumos}


class _Trained(nnx.Module):
  """Head and backbone."""

  def __init__(self, recipe: "Hybrid", *, rngs: nnx.Rngs):
    cfg, context = recipe.cfg, recipe.inputs.context
    if recipe.backbone is not None:
      self.backbone = recipe.backbone.init(rngs)
      if cfg.tune == "lora":
        self.adapters = lora.Adapters(
          self.backbone,
          cfg.lora_modules,
          cfg.lora_rank,
          cfg.lora_alpha,
          rngs=rngs,
        )
        logging.log_first_n(
          logging.INFO,
          "LoRA of rank %d meets %d of %d weight matrices of the backbone",
          1,
          cfg.lora_rank,
          len(self.adapters.paths),
          self.adapters.count,
        )
    width = 0
    if "context" in cfg.parts:
      self.numbers = numbers.Numbers(
        len(recipe.dense),
        cfg.numbers,
        cfg.bins,
        cfg.number_width,
        cfg.frequency_deviation,
        rngs=rngs,
      )
      width += len(recipe.dense) * cfg.number_width
      sizes = [context.sizes[i] for i in recipe.ids]
      self.tables = nnx.List(
        [
          layers.embedding(
            n, fields.embedding_width(n), ("vocab", None), rngs=rngs
          )
          for n in sizes
        ]
      )
      width += sum(map(fields.embedding_width, sizes))
    if recipe.backbone is not None:
      shapes = jax.eval_shape(
        lambda batch: recipe.pretrained_parts(self.backbone, batch),
        recipe.inputs.nobody(),
      )
      norm = lambda n: layers.layer_norm(n, dtype=jnp.float32, rngs=rngs)
      if "events" in cfg.parts:
        inputs = shapes["series"].shape[-1]
        self.norm_events = norm(inputs)
        self.cnn = dcn.TextCNN(
          inputs, cfg.cnn_widths, cfg.cnn_channels, rngs=rngs
        )
        width += self.cnn.outputs
      for part in ("user", "deviation"):
        n = shapes[part].shape[-1]
        if part in cfg.parts and n:
          setattr(self, f"norm_{part}", norm(n))
          width += n
    self.heads = nnx.List(
      [
        dcn.DCN(
          width,
          len(recipe.tasks),
          cross_layers=cfg.cross_layers,
          cross_rank=cfg.cross_rank,
          deep=cfg.deep,
          dropout=cfg.dropout,
          rngs=rngs,
        )
        for _ in range(cfg.members)
      ]
    )


class Hybrid:
  """Model + loss + predict of a hybrid, as train.py and evaluators call them."""

  sequence_length = None  # Its rows stay on one device.

  def __init__(self, config, records, tasks):
    """Checks the config; see ValueError's text."""
    self.cfg, self.tasks = config.model, tuple(tasks)
    self.schema = records.schema
    self._check()
    self.backbone, theirs = None, None
    if self.cfg.backbone:
      theirs = config_lib.stored(self.cfg.backbone.to_dict())
      if theirs.recipe not in _BACKBONES:
        raise ValueError(
          f"model.backbone is a run of recipe {theirs.recipe!r}; use one of "
          f"{list(_BACKBONES)}"
        )
      if not config.init_from and not len(config.init_new):
        raise ValueError(
          "model.backbone is set and init_from is not: give the workdir of the "
          "pretrained run, --init_from=DIR, or let it begin anew, "
          "--config.init_new=\"('backbone/',)\""
        )
      self.backbone = _BACKBONES[theirs.recipe](
        theirs, records, tasks_lib.from_config(theirs.tasks)
      )
      if theirs.recipe == "panther":
        expected.check(self.backbone)
    self.inputs = scoring.Scoring(config.data, records, tasks, theirs)
    context = self.inputs.context
    self.ids = tuple(sorted(context.sizes))
    self.dense = tuple(
      i for i in range(len(context.names)) if i not in context.sizes
    )

  def _check(self) -> None:
    cfg = self.cfg
    if cfg.tune not in TUNES:
      raise ValueError(f"model.tune = {cfg.tune!r}; use one of {TUNES}")
    if cfg.numbers not in numbers.KINDS:
      raise ValueError(
        f"model.numbers = {cfg.numbers!r}; use one of {numbers.KINDS}"
      )
    unknown = [p for p in cfg.parts if p not in PARTS]
    if unknown or not cfg.parts:
      raise ValueError(f"model.parts = {tuple(cfg.parts)}; use some of {PARTS}")
    if not cfg.backbone and "context" not in cfg.parts:
      raise ValueError(
        "model.parts has no 'context', and there is no model.backbone: nothing is "
        "left to score by"
      )
    if not cfg.backbone and cfg.tune != "frozen":
      raise ValueError(
        f"model.tune = {cfg.tune!r} without a model.backbone: there is nothing to "
        "tune; leave it out"
      )

  def id_width(self, position: int) -> int:
    """Width of the embedding of a context id."""
    return fields.embedding_width(self.inputs.context.sizes[position])

  def frozen(self, path: str) -> bool:
    """Whether a parameter is not trained."""
    if path.startswith(BACKBONE):
      return self.cfg.tune != "full"
    return path == "numbers/edges"

  def init(self, rngs: nnx.Rngs, batch=None) -> nnx.Module:
    """A fresh model; of a batch, numbers take their bins."""
    module = _Trained(self, rngs=rngs)
    if batch is not None and hasattr(module, "numbers"):
      module.numbers.fit(batch["context"][:, np.asarray(self.dense, int)])
    return module

  def tokens(self, batch) -> int:
    """Points of a batch, or tokens of their histories, for tokens/s."""
    for name in ("segment", "history_day"):
      if name in batch:
        return batch[name].size
    return len(batch["context"])

  def totals(self, batch) -> dict[str, jax.Array]:
    """What a loss is divided by, of the whole batch before it is cut up."""
    count = jnp.sum(batch["label_mask"][:, 0], 0).astype(jnp.float32)
    return {"count": jnp.maximum(count, 1.0)}

  def vectors(
    self, module: nnx.Module, batch, context: bool = False
  ) -> dict[str, jax.Array]:
    """All continuous inputs of a score, as vectors; see why.py.

    Args:
      module: Of `init`.
      batch: Of `data.scoring`.
      context: Those of the context alone.

    Returns:
      {"numbers": float32 [B, N W], of each context number W wide; "ids": [B, ...],
      of each context id; "tokens": [B, T, D], of each row of the history, what is
      known of its event, the time around it and the profile; "profile": [B, ...]
      as of the last event}. The latter two with PANTHER as the backbone.
    """
    out = {}
    if "context" in self.cfg.parts:
      x, ids = batch["context"], []
      out["numbers"] = module.numbers(x[:, np.asarray(self.dense, int)])
      for i, table in zip(self.ids, module.tables, strict=True):
        place = jnp.nan_to_num(x[:, i]).astype(jnp.int32)
        ids.append(table[...][jnp.clip(place, 0, len(table[...]) - 1)])
      out["ids"] = jnp.concatenate(
        ids or [jnp.zeros((len(x), 0), jnp.float32)], -1
      )
    if isinstance(self.backbone, panther.Panther) and not context:
      model = self.backbone_of(module).model
      out["tokens"] = model.embedded(batch)
      if self.backbone.cfg.profile_as != "none":
        found = model.latest_users(batch)[:, 0]
        out["profile"] = found.astype(jnp.float32)
    return out

  def backbone_of(self, module: nnx.Module) -> nnx.Module:
    """The backbone's module, adapted where it is by low rank."""
    if self.cfg.tune == "lora":
      return module.adapters(module.backbone)
    return module.backbone

  def pretrained_parts(
    self,
    module: nnx.Module,
    batch,
    rngs: nnx.Rngs | None = None,
    given: Mapping[str, jax.Array] | None = None,
  ) -> dict[str, jax.Array]:
    """What the backbone says of each point.

    Args:
      module: The backbone's.
      batch: Of `data.scoring`.
      rngs: Stream "dropout" where it is tuned; else None.
      given: "tokens" and "profile" of `vectors` in the place of the batch's; then
        a frozen backbone has gradients, too.

    Returns:
      {"series": float32 [B, K, D + deviations], of the last K events, and "seen":
      bool [B, K]; "user": [B, ...], mean and last state and the profile's
      embedding; "deviation": [B, ...], of the scored event, and of the last events
      the last, mean, highest and lowest; [B, 0] of LUMOS, which expects no events}.
    """
    if self.cfg.tune == "frozen":
      rngs = None
    if isinstance(self.backbone, panther.Panther):
      out = self._of_events(module, batch, rngs, given or {})
    else:
      out = self._of_days(module, batch)
    if self.cfg.tune == "frozen" and given is None:
      out = jax.lax.stop_gradient(out)
    return out

  def _of_events(self, module, batch, rngs, given):
    model = module.model
    k = min(self.cfg.cnn_events, batch["segment"].shape[1])
    states = model(batch, rngs, inputs=given.get("tokens"))
    deviation, known = expected.of_batch(self.backbone, module, batch, states)
    states = states.astype(jnp.float32)
    own = (batch["segment"] > 0) & ~batch["start"]
    at = batch["last"][:, None] - jnp.arange(k)[::-1][None]
    inside, at = at >= 0, jnp.maximum(at, 0)
    take = lambda x: jnp.take_along_axis(
      x, at.reshape(at.shape + (1,) * (x.ndim - 2)), 1
    )
    seen = take(own) & inside
    late, told = take(deviation), take(known) & inside
    last = jnp.take_along_axis(states, batch["last"][:, None, None], 1)[:, 0]
    profile = given.get("profile")
    if profile is None and self.backbone.cfg.profile_as != "none":
      profile = model.latest_users(batch)[:, 0].astype(jnp.float32)
    event = None
    if "event_ids" in batch:
      pointed = None
      if self.backbone.cfg.copy:
        pointed = expected.pointed_at(module, batch, states, batch["last"])
      event = self._of_event(module, batch, last, pointed)
      # Without history or a start token nothing was expected.
      event = jnp.where((batch["segment"] > 0).any(1)[:, None], event, 0.0)
    return self._joined(take(states), seen, late, told, last, profile, event)

  def _of_event(self, module, batch, last, pointed, table=None):
    """Deviation of the scored event from what the history expected; [B, F]."""
    return expected.features(
      self.backbone,
      module,
      last,
      batch["event_ids"],
      batch["event_gap"],
      pointed,
      table,
    )

  def _joined(self, states, seen, late, told, last, profile, event):
    """What `pretrained_parts` returns, of the last K rows and the scored event."""
    user = [dcn.mean(states, seen), last]
    if profile is not None:
      user.append(profile)
    summary = [] if event is None else [event]
    summary += [
      late[:, -1] * told[:, -1:],
      dcn.mean(late, told),
      dcn.extreme(late, told, jnp.max, -jnp.inf),
      dcn.extreme(late, told, jnp.min, jnp.inf),
    ]
    return {
      "series": jnp.concatenate([states, late], -1),
      "seen": seen,
      "user": jnp.concatenate(user, -1),
      "deviation": jnp.concatenate(summary, -1),
    }

  def predict_kept(
    self,
    module: nnx.Module,
    batch,
    last: jax.Array,
    pointed: Any = None,
    table: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """`predict` of points whose earlier rows were read before, see serving/states.

    Args:
      module: Of `init`.
      batch: What `Panther.extend` reads of each last row; "context"; "states"
        float32 [B, K - 1, D] and "deviations" [B, K, F] of the rows before it and
        of these and itself, the latest at the end; "seen" and "told" bool [B, K],
        which are events and which were expected; of an event that is scored
        "event_ids" and "event_gap".
      last: [B, D], state of the last row.
      pointed: Of the same rows; with model.copy.
      table: [V, D], the backbone's scored value vectors.
    """
    backbone, last = self.backbone_of(module), last.astype(jnp.float32)
    states = jnp.concatenate([batch["states"], last[:, None]], 1)
    profile = event = None
    if self.backbone.cfg.profile_as != "none":
      profile = backbone.model.users(batch)[:, 0].astype(jnp.float32)
    if "event_ids" in batch:
      event = self._of_event(backbone, batch, last, pointed, table)
    found = self._joined(
      states, batch["seen"], batch["deviations"], batch["told"], last, profile,
      event,
    )  # fmt: skip
    inputs = self.vectors(module, batch, context=True)
    return self._named(self._scored(module, inputs, found))

  def _of_days(self, module, batch):
    states, seen, _ = module.model.states(batch)
    states = states.astype(jnp.float32)
    k = min(self.cfg.cnn_events, states.shape[1])
    found = self.backbone.embed(module, batch)
    forecasts = self.backbone.predict(module, batch)
    logits = [_logit(v) for _, v in sorted(forecasts.items())]
    user = [found["mean"], found["last"], *logits]
    return {
      "series": states[:, -k:],
      "seen": seen[:, -k:],
      "user": jnp.concatenate(user, -1),
      "deviation": jnp.zeros((len(states), 0)),
    }

  def logits(
    self,
    module: nnx.Module,
    batch,
    rngs: nnx.Rngs | None = None,
    given: Mapping[str, jax.Array] | None = None,
  ) -> jax.Array:
    """Logits of S members, float32 [S, B, M].

    Args:
      module: Of `init`.
      batch: Of `data.scoring`.
      rngs: Stream "dropout" in training; None to predict.
      given: `vectors` in the place of the batch's own.
    """
    x = self.vectors(module, batch) if given is None else given
    found = None
    if self.backbone is not None:
      found = self.pretrained_parts(
        self.backbone_of(module), batch, rngs, given
      )
    return self._scored(module, x, found, rngs)

  def _scored(self, module, x, found, rngs=None):
    """Logits [S, B, M] of `vectors` and of what the backbone says."""
    parts = [x[k] for k in ("numbers", "ids") if k in x]
    if found is not None:
      if "events" in self.cfg.parts:
        series = module.norm_events(found["series"])
        parts.append(module.cnn(series, found["seen"]))
      for part in ("user", "deviation"):
        if hasattr(module, f"norm_{part}"):
          parts.append(getattr(module, f"norm_{part}")(found[part]))
    x = jnp.concatenate(parts, -1)
    return jnp.stack([head(x, rngs) for head in module.heads])

  def loss(self, module, batch, rngs, totals, share=1.0):
    """Loss of a part of a batch; the parts' losses add up to the batch's.

    Args:
      module: Of `init`.
      batch: The part.
      rngs: Stream "dropout".
      totals: Of the whole batch.
      share: Not used: all terms have data.

    Returns:
      The loss and the numbers to log: {"loss/<task>": value}.
    """
    del share
    z = self.logits(module, batch, rngs)
    y, mask = batch["labels"][:, 0], batch["label_mask"][:, 0]
    each = jnp.maximum(z, 0.0) - z * y[None] + jnp.log1p(jnp.exp(-jnp.abs(z)))
    each = jnp.sum(jnp.where(mask[None], each, 0.0), 1)
    each = jnp.mean(each / totals["count"][None], 0)
    logs = {f"loss/{t.name}": each[m] for m, t in enumerate(self.tasks)}
    return jnp.sum(each), logs

  def predict(self, module: nnx.Module, batch) -> dict[str, jax.Array]:
    """Probabilities {task: float32 [B, 1]}, the mean of the members'."""
    return self._named(self.logits(module, batch))

  def _named(self, logits):
    p = jax.nn.sigmoid(logits).mean(0)
    return {t.name: p[:, m, None] for m, t in enumerate(self.tasks)}

  def pretrained(self, module: nnx.Module, batch) -> dict[str, jax.Array]:
    """What the backbone says, as features of other models: {name: [B, ...]}."""
    found = self.pretrained_parts(module.backbone, batch)
    return {k: found[k] for k in ("user", "deviation") if found[k].shape[-1]}


def _logit(p: jax.Array) -> jax.Array:
  """Of probabilities; amounts as they are, on a logarithm's scale."""
  inside = jnp.clip(p, 1e-6, 1 - 1e-6)
  logit = jnp.log(inside) - jnp.log1p(-inside)
  return jnp.where((p >= 0) & (p <= 1), logit, jnp.log1p(jnp.maximum(p, 0.0)))
