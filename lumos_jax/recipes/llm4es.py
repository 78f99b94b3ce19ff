"""The LLM4ES recipe: a language model learns users told as text (arXiv 2508.05688).

Fine-tuning is on the next token of all tokens; a user's embedding is the mean of
the last hidden layers, then of the text's tokens.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lumos_jax import state as state_lib
from lumos_jax.llm import inputs as inputs_lib
from lumos_jax.llm import tokenizer as tokenizer_lib
from lumos_jax.llm import weights as weights_lib
from lumos_jax.models import llama
from lumos_jax.objectives import next_event

POOLS = ("mean", "last")
_ADAPTERS = ("lora_a", "lora_b")


class LLM4ES:
  """Model + loss + predict of LLM4ES, as train.py and evaluators call them."""

  @property
  def sees_profile(self) -> bool:
    """Whether texts open with fields of the profile, which may be a label."""
    return bool(self.data_cfg.text.profile)

  @property
  def sequence_length(self) -> int:
    """Tokens of a row, which the mesh's sequence axis may cut."""
    return self.data_cfg.sequence_length

  def __init__(self, config, records, tasks):
    """Opens the model's files; see ValueError's text.

    Raises:
      ValueError: Settings exclude each other, or the files do not serve
        (llm.weights.WeightsError).
    """
    self.cfg, self.objective = config.model, config.objective
    self.data_cfg = config.data
    inputs_lib.check_config(config.data, tasks)
    self.source = None
    if self.cfg.weights:
      self.source = weights_lib.open_source(self.cfg.weights)
      self.architecture = self.source.architecture
      tokenizer = tokenizer_lib.of(self.source)
      most, asked = self.source.context, config.data.sequence_length
      if most and asked > most:
        raise ValueError(
          f"data.sequence_length = {asked} is longer than the {most} tokens that "
          f"model.weights = {self.cfg.weights!r} was made for"
        )
    else:
      self.architecture = _from_nothing(self.cfg)
      tokenizer = tokenizer_lib.Bytes()
    if tokenizer.size > self.architecture.vocabulary:
      raise ValueError(
        f"model.vocabulary = {self.architecture.vocabulary} is less than the "
        f"tokenizer's {tokenizer.size}"
      )
    _check_adapters(self.cfg, self.architecture)
    self._check_pool()
    self.inputs = inputs_lib.Texts(
      tokenizer, records.schema, config.data, config.seed
    )

  def _check_pool(self):
    cfg, most = self.cfg, self.architecture.n_layers + 1
    if cfg.pool not in POOLS:
      raise ValueError(f"model.pool = {cfg.pool!r}; use one of {POOLS}")
    if not 1 <= cfg.pool_layers <= most or not -1 <= cfg.pool_layer < most:
      raise ValueError(
        f"the model has {most} hidden states, the embedding among them: "
        f"model.pool_layers = {cfg.pool_layers} must be 1 to {most}, and "
        f"model.pool_layer = {cfg.pool_layer} -1 to {most - 1}"
      )

  def init(self, rngs: nnx.Rngs, batch=None) -> nnx.Module:
    """A model of random weights; the batch is not needed."""
    del batch
    return llama.Llama(self.architecture, self.cfg, rngs=rngs)

  def frozen(self, path: str) -> bool:
    """Whether a parameter stays as it is: all but adapters, where there are any."""
    return self.cfg.lora_rank > 0 and not path.endswith(_ADAPTERS)

  def held_dtype(self, path: str) -> jnp.dtype | None:
    """In what evaluation may hold a parameter; None for as it is.

    The model reads all but the norms' scales in model.dtype: held so, they take
    half the memory and give the same numbers to the bit.
    """
    return None if path.endswith("/scale") else jnp.dtype(self.cfg.dtype)

  def starting_weights(self) -> dict[str, np.ndarray]:
    """The files' weights by parameter path; {} for a model from nothing.

    Raises:
      WeightsError: They are not all of the model's, or more.
    """
    if self.source is None:
      return {}
    found = weights_lib.parameters(self.source)
    weights_lib.check(
      found,
      {k: x for k, x in self._shapes().items() if not k.endswith(_ADAPTERS)},
      self.source.path,
    )
    return found

  def about(self) -> str:
    """A line on what is trained, for the log."""
    shapes = self._shapes()
    trained = {k: x for k, x in shapes.items() if not self.frozen(k)}
    met = len([k for k in shapes if k.endswith("lora_a")])
    met *= self.architecture.n_layers
    text = f"{state_lib.count(trained):,} of {state_lib.count(shapes):,}"
    text = f"{text} parameters are trained"
    if self.cfg.lora_rank:
      text += f"; adapters of rank {self.cfg.lora_rank} stand at {met} matrices"
    return text

  @functools.cache  # noqa: B019 A program has one recipe.
  def _shapes(self) -> Mapping[str, Any]:
    make = lambda: state_lib.split(self.init(nnx.Rngs(params=0)))[1]
    return jax.eval_shape(make)

  def tokens(self, batch) -> int:
    """Tokens that a batch holds, padding included, for tokens/s."""
    return batch["ids"].size

  def totals(self, batch) -> dict[str, jax.Array]:
    """Tokens that are told, of the whole batch before it is cut up."""
    count = jnp.sum(batch["weight"].astype(jnp.float32))
    return {"count": jnp.maximum(count, 1.0)}

  def loss(self, module, batch, rngs, totals, share=1.0):
    """Nats a token of a part of a batch; the parts' add up to the batch's.

    Args:
      module: Of `init`.
      batch: Of `inputs.train_iterator`, or a part of it.
      rngs: Not drawn from.
      totals: Of the whole batch.
      share: The part's share of the batch.

    Returns:
      The loss and the numbers to log.
    """
    del rngs
    states = module(batch["ids"], batch["segment"], batch["position"])
    value = next_event.softmax_sum(
      states,
      module.output(),
      batch["target"],
      batch["weight"].astype(jnp.float32),
      self.objective.chunk,
      first=0,
    )
    value = value / totals["count"]
    padding = jnp.mean((batch["segment"] == 0).astype(jnp.float32))
    return value, {"padding_share": share * padding}

  def predict(self, module, batch) -> dict[str, jax.Array]:
    """How well each text is told.

    Returns:
      {"nats", "tokens": float32 [B, 1]}, sums over the text.
    """
    states = module(batch["ids"], batch["segment"], batch["position"])
    weight = batch["weight"].astype(jnp.float32)
    table = module.output()

    def row(item):
      return next_event.softmax_sum(
        item[0][None],
        table,
        item[1][None],
        item[2][None],
        self.objective.chunk,
        first=0,
      )

    nats = jax.lax.map(row, (states, batch["target"], weight))
    return {"nats": nats[:, None], "tokens": jnp.sum(weight, 1, keepdims=True)}

  def embed(self, module, batch) -> dict[str, jax.Array]:
    """Vectors of texts, {"embedding": float32 [B, D]}.

    Hidden states are counted as transformers counts them: the first is the
    tokens' embedding, the last stands behind the final norm. The start token,
    whose states say nothing of the text, is no token of the mean.
    """
    own = batch["segment"] > 0
    states = self._hidden(module, batch)
    text = own & (
      (batch["position"] > 0) | (jnp.sum(own, 1, keepdims=True) < 2)
    )
    if self.cfg.pool == "last":
      place = jnp.where(own, batch["position"], -1)
      text = own & (place == place.max(1, keepdims=True))
    weight = text.astype(jnp.float32)
    total = jnp.einsum("btd,bt->bd", states, weight)
    return {"embedding": total / jnp.sum(weight, 1, keepdims=True)}

  def _hidden(self, module, batch) -> jax.Array:
    """The mean of the layers that are asked for: float32 [B, T, D]."""
    cfg, most = self.cfg, self.architecture.n_layers + 1
    place = jnp.arange(most)
    if cfg.pool_layer >= 0:
      shares = (place == cfg.pool_layer) * 1.0
    else:
      shares = (place >= most - cfg.pool_layers) / cfg.pool_layers
    return module(batch["ids"], batch["segment"], batch["position"], shares)[1]


def _from_nothing(cfg) -> llama.Architecture:
  """The architecture that config.model's sizes say."""
  return llama.Architecture(
    vocabulary=cfg.vocabulary,
    d_model=cfg.d_model,
    d_ff=cfg.d_ff,
    n_layers=cfg.n_layers,
    n_heads=cfg.n_heads,
    n_kv_heads=cfg.n_kv_heads,
    head_width=cfg.head_width,
    theta=cfg.rope_theta,
    tied=cfg.tied,
  )


def _check_adapters(cfg, a: llama.Architecture) -> None:
  """Raises ValueError where adapters have no matrix to stand beside."""
  if not cfg.lora_rank:
    return
  if not cfg.lora_on:
    raise ValueError(
      "model.lora_rank is set, and model.lora_on = () names no matrix: nothing "
      f"would be trained; name some of {llama.PROJECTIONS}"
    )
  for name in cfg.lora_on:
    if name in ("table", "head", "output_table", "lm_head", "embed_tokens"):
      tied = "which is also the table of the input" if a.tied else "a table"
      raise ValueError(
        f"model.lora_on: {name!r} is the output's table, {tied}: adapters stand "
        f"at {llama.PROJECTIONS} only"
      )
    if name not in llama.PROJECTIONS:
      raise ValueError(
        f"model.lora_on: there is no {name!r}; there are {llama.PROJECTIONS}"
      )
