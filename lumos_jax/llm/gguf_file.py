"""Weights and header of a GGUF file, under Hugging Face's names and layout."""

import math
from typing import Any

import numpy as np
from etils import epath

from lumos_jax.llm.source import FAMILIES, Source, WeightsError
from lumos_jax.models import llama

# GGUF's names of a block's tensors -> Hugging Face's.
_BLOCK = {
  "attn_norm": "input_layernorm",
  "ffn_norm": "post_attention_layernorm",
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "attn_q_norm": "self_attn.q_norm",
  "attn_k_norm": "self_attn.k_norm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
}
_TOP = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
}
_FACTORS = "rope_freqs.weight"  # GGUF's tensor of divisors.


def open_gguf(path: epath.Path) -> Source:
  """Opens a GGUF file; its weights are read when they are asked for.

  Raises:
    WeightsError: It is none, or of an architecture that is not known.
  """
  try:
    import gguf
  except ImportError as e:
    raise WeightsError(
      f"{path}: reading GGUF needs pip install 'lumos-jax[llm]'"
    ) from e
  try:
    reader = gguf.GGUFReader(str(path))
  except (ValueError, IndexError, OSError) as e:
    raise WeightsError(f"{path} is no GGUF file, or is cut: {e}") from e
  field = lambda key: field_of(reader, key)
  kind = field("general.architecture")
  if kind not in FAMILIES:
    raise WeightsError(
      f"{path}: architecture {kind!r} is not read; there are {list(FAMILIES)}"
    )
  tensors = {t.name: t for t in reader.tensors}

  def dequantised(name: str) -> np.ndarray:
    t = tensors[name]
    return gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)

  def need(key: str, default: Any = None) -> Any:
    found = field(f"{kind}.{key}")
    found = default if found is None else found
    if found is None:
      raise WeightsError(f"{path} lacks {kind}.{key}")
    return found

  if "token_embd.weight" not in tensors:
    raise WeightsError(f"{path} lacks 'token_embd.weight'")
  scaling = field(f"{kind}.rope.scaling.type")
  if scaling not in (None, "none"):
    raise WeightsError(
      f"{path}: rotary scaling {scaling!r} is not read of GGUF"
    )
  bias, norms = FAMILIES[kind]
  heads = int(need("attention.head_count"))
  d_model = int(need("embedding_length"))
  factors = ()
  if _FACTORS in tensors:
    factors = tuple(dequantised(_FACTORS).astype(float).tolist())
  a = llama.Architecture(
    # ne[1] in GGUF's order: rows.
    vocabulary=int(tensors["token_embd.weight"].shape[1]),
    d_model=d_model,
    d_ff=int(need("feed_forward_length")),
    n_layers=int(need("block_count")),
    n_heads=heads,
    n_kv_heads=int(need("attention.head_count_kv", heads)),
    head_width=int(need("attention.key_length", d_model // heads)),
    theta=float(need("rope.freq_base", 10000.0)),
    factors=factors,
    epsilon=float(need("attention.layer_norm_rms_epsilon")),
    tied="output.weight" not in tensors,
    qkv_bias=bias,
    qk_norm=norms,
  )
  names = {_from_gguf(n): n for n in tensors if n != _FACTORS}

  def read(name: str) -> np.ndarray:
    value = dequantised(names[name])
    # Of Llama alone the rows of q and k are stored pair by pair, within heads.
    if kind == "llama" and ".q_proj." in name:
      return unpermuted(value, a.n_heads)
    if kind == "llama" and ".k_proj." in name:
      return unpermuted(value, a.n_kv_heads)
    return value

  context = int(need("context_length", 0))
  return Source(path, a, tuple(names), read, reader, context)


def field_of(reader, key: str) -> Any:
  """A value of a GGUF file's header; None where it is absent."""
  found = reader.fields.get(key)
  return None if found is None else found.contents()


def _from_gguf(name: str) -> str:
  if name in _TOP:
    return _TOP[name]
  parts = name.split(".")
  if len(parts) == 4 and parts[0] == "blk" and parts[2] in _BLOCK:
    return f"model.layers.{parts[1]}.{_BLOCK[parts[2]]}.{parts[3]}"
  return name


def unpermuted(x: np.ndarray, heads: int) -> np.ndarray:
  """Rows of q or k from GGUF's order, i-th channels of both halves side by side.

  Args:
    x: [heads times head width, ...].
    heads: The matrix's own: q and k may have different numbers.
  """
  half = math.prod(x.shape[:1]) // heads // 2
  parts = x.reshape(heads, half, 2, *x.shape[1:])
  return parts.swapaxes(1, 2).reshape(x.shape)
