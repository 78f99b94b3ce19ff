"""The intent recipe: sessions of clicks as vectors (arXiv 2606.26277).

Pages are predicted, hidden ones both ways or next ones causally; a session's
embedding is the mean of its clicks' states.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax.data import pages as pages_lib
from lumos_jax.data import sessions
from lumos_jax.models import segments
from lumos_jax.models import session as model_lib
from lumos_jax.objectives import contrastive, next_event, top

_TEXTS = "texts"
# Of the pages that are to be predicted: hidden, and another page; the rest stay,
# so that states of pages that are seen are trained too (BERT's shares).
_HIDDEN, _OTHER = 0.8, 0.1


class Intent:
  """Model + loss + predict of sessions, as train.py and evaluators call them."""

  inputs = sessions
  sees_profile = False

  @property
  def sequence_length(self) -> int:
    """Tokens of a row, which the mesh's sequence axis may cut."""
    return self.data_cfg.sequence_length

  def __init__(self, config, records, tasks):
    """Checks the config; see ValueError's text."""
    self.cfg, self.objective = config.model, config.objective
    self.data_cfg, self.schema = config.data, records.schema
    sessions.check_config(config.data, tasks)
    model_lib.check_config(config.model)
    self.column = sessions.target_column(records.schema, config.data)
    # A stored model has its texts with its weights, and asks no data for them.
    self._path = getattr(records, "path", None)
    o = self.objective
    if o.contrastive_weight and config.train.accumulate > 1:
      raise ValueError(
        f"train.accumulate = {config.train.accumulate} cuts the batch, and "
        "objective.contrastive_weight compares all of its sessions: set "
        "train.accumulate = 1, or objective.contrastive_weight = 0.0"
      )
    if self.cfg.masked and not 0.0 < o.mask_rate < 1.0:
      raise ValueError(
        f"objective.mask_rate = {o.mask_rate} must lie between 0 and 1"
      )

  def init(self, rngs: nnx.Rngs, batch=None) -> nnx.Module:
    """A fresh model, its texts all zero; the batch is not needed."""
    del batch
    return model_lib.Session(self.cfg, self.schema, self.data_cfg, rngs=rngs)

  def frozen(self, path: str) -> bool:
    """Whether a parameter stays as it is: the pages' text vectors do."""
    return path == _TEXTS

  def starting_weights(self) -> dict[str, np.ndarray]:
    """The data set's text vectors, by parameter path.

    Raises:
      ValueError: The data set has none, or of another width.
    """
    if not self.cfg.text_width or model_lib.TEXT in self.cfg.without:
      return {}
    found = pages_lib.Pages.load(self._path)
    size = self.schema.categorical("activity")[self.column].size
    shape = size, self.cfg.text_width
    if found is None or found.vector.shape != shape:
      has = "none" if found is None else f"vectors {found.vector.shape}"
      raise ValueError(
        f"model.text_width = {self.cfg.text_width} needs text vectors {shape} of "
        f"the pages, and {self._path} has {has}: prepare the data with "
        "data.options.texts, or set model.text_width to their width (0: none)"
      )
    return {_TEXTS: found.vector.astype(np.float32)}

  def about(self) -> str:
    """A line on the inputs, for the log."""
    known = "with" if self.starting_weights() else "without"
    return f"pages {known} frozen text vectors"

  def tokens(self, batch) -> int:
    """Clicks that a batch holds, padding included, for tokens/s."""
    return batch["segment"].size

  def totals(self, batch) -> dict[str, jax.Array]:
    """What a loss is divided by, of the whole batch before it is cut up."""
    count = jnp.sum(self._target(batch) > 0).astype(jnp.float32)
    return {"count": jnp.maximum(count, 1.0)}

  def _target(self, batch) -> jax.Array:
    """Ids of the pages that a click is asked for, [B, T]; 0 for none."""
    target, segment = batch["target"], batch["segment"]
    if self.cfg.masked:
      return target
    none = jnp.zeros_like(target[:, :1])
    after = jnp.concatenate([target[:, 1:], none], 1)
    same = jnp.concatenate([segment[:, 1:], none], 1) == segment
    return jnp.where(same & (segment > 0), after, 0)

  def loss(self, module, batch, rngs, totals, share=1.0):
    """Nats a page of a part of a batch; the parts' add up to the batch's.

    Args:
      module: Of `init`.
      batch: Of `sessions.train_iterator`, or a part of it.
      rngs: Stream "dropout"; it also draws what is hidden.
      totals: Of the whole batch.
      share: The part's share of the batch.

    Returns:
      The loss and the numbers to log.
    """
    o, table = self.objective, module.pages()
    target, segment = self._target(batch), batch["segment"]
    total = lambda x, ids, weight: next_event.softmax_sum(
      x, table, ids, weight.astype(jnp.float32), o.chunk
    )
    if self.cfg.masked:
      batch, place, asked, hidden = self._masked(batch, rngs)
      states = module(batch, rngs, hidden)
      at = lambda x: jnp.take_along_axis(x, place, 1)
      # Logits of the pages that are asked alone. These are fewer: scaled, they
      # count as many as in the causal form.
      scale = target.shape[1] / place.shape[1]
      target, chosen = at(target), at(asked)
      found = jnp.take_along_axis(states, place[..., None], 1)
    else:
      states = found = module(batch, rngs)
      chosen, scale = target > 0, 1.0
    value = total(found, target, chosen) * scale / totals["count"]
    padding = jnp.mean((segment == 0).astype(jnp.float32))
    logs = {"loss/page": value, "padding_share": share * padding}
    if o.session_weight and self.cfg.masked:
      # A page that is seen would tell itself: hidden ones alone are asked.
      size = self.data_cfg.segments
      own = (segment > 0) & ~asked
      vector = model_lib.pooled(states, segment, size, self.cfg.pool, own)
      mine = jnp.maximum(at(segment) - 1, 0)[..., None]
      vector = jnp.take_along_axis(vector, mine, 1)
      part = total(vector, target, at(hidden)) * scale / _HIDDEN
      part = part / totals["count"]
      logs["loss/session"] = part
      value = value + o.session_weight * part
    if o.contrastive_weight:
      summed, count = self._contrastive(module, batch, rngs)
      close = share * summed / jnp.maximum(count, 1.0)
      logs["loss/contrastive"] = close
      w = o.contrastive_weight
      value = (1.0 - w) * value + w * close
    return value, logs

  def _masked(self, batch, rngs):
    """The batch with some pages changed; places [B, K] of those that are asked.

    Also which are asked and which are hidden, bool [B, T]. K pages a row: its
    places in front of the others' where it has fewer.
    """
    target, ids = batch["target"], batch["ids"]
    key = jax.random.split(rngs.dropout(), 3)
    count = max(1, round(self.objective.mask_rate * target.shape[1]))
    drawn = jax.random.uniform(key[0], target.shape) + (target > 0)
    _, place = jax.lax.top_k(drawn, count)
    row = jnp.arange(len(target))[:, None]
    asked = jnp.zeros(target.shape, bool).at[row, place].set(True)
    asked = asked & (target > 0)
    u = jax.random.uniform(key[1], target.shape)
    hidden = asked & (u < _HIDDEN)
    # Another click's page, with all that follows from it.
    rows = ids.reshape(-1, ids.shape[-1])
    drawn = jax.random.randint(key[2], target.shape, 0, rows.shape[0])
    drawn = rows[drawn]
    other = asked & (u >= _HIDDEN) & (u < _HIDDEN + _OTHER)
    other = other & (drawn[..., self.column] > 0)
    names = [f.name for f in self.schema.categorical("activity")]
    follows = (self.data_cfg.target, *self.data_cfg.page_fields)
    of_page = np.asarray([n in follows for n in names])
    ids = jnp.where(other[..., None] & of_page[None, None], drawn, ids)
    return batch | {"ids": ids}, place, asked, hidden

  def _contrastive(self, module, batch, rngs):
    """Summed loss of slices whose session has another one, and of how many."""
    o, size = self.objective, self.data_cfg.segments
    segment, position = contrastive.slices(
      batch["segment"], batch["position"], size, rngs.dropout()
    )
    cut = batch | {"segment": segment, "position": position}
    states, own = module(cut, rngs), segment > 0
    found = model_lib.pooled(states, segment, 2 * size, self.cfg.pool, own)
    known = segments.members(segment, 2 * size, own).any(-1)
    owner = jnp.arange(segment.shape[0] * size)
    return contrastive.of_slices(found, known, owner, o.contrastive_temperature)

  def predict(self, module, batch, k: int = 10) -> dict[str, jax.Array]:
    """Rank of each session's last page among all, and the likeliest ones.

    Args:
      module: Of `init`.
      batch: Of `sessions.eval_batches`.
      k: Pages that are listed.

    Returns:
      {"rank": float32 [B, 1]; "value": int32 [B, k]; "probability": float32
      [B, k]}.
    """
    last, hidden = batch["last"], None
    if self.cfg.masked:
      hidden = jnp.arange(self.sequence_length)[None] == last[:, None]
    at = last if self.cfg.masked else jnp.maximum(last - 1, 0)
    states = module(batch, None, hidden)
    found = jnp.take_along_axis(states, at[:, None, None], 1)[:, 0]
    none = jnp.zeros((last.shape[0], 1), jnp.int32)
    table = module.pages()
    rank = next_event.ranks(found, table, batch["next"], none)
    value, p = top.most_likely(found, table, none, k)
    return {"rank": rank[:, None], "value": value, "probability": p}

  def embed(self, module, batch) -> dict[str, jax.Array]:
    """Vectors of sessions, one a row: {"embedding": float32 [B, E]}."""
    states, own = module(batch), batch["segment"] > 0
    found = model_lib.pooled(states, batch["segment"], 1, self.cfg.pool, own)
    return {"embedding": found[:, 0]}
