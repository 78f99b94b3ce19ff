"""Tiny language models with weights that anyone can make again from their names.

tests/golden/make_llama.py has transformers compute their logits; the tests have
this project do so.
"""

import json
import zlib

import numpy as np

VOCABULARY = 64
_COMMON = dict(
  vocab_size=VOCABULARY,
  hidden_size=16,
  intermediate_size=24,
  num_hidden_layers=2,
  rms_norm_eps=1e-5,
  hidden_act="silu",
  max_position_embeddings=512,
  bos_token_id=1,
  eos_token_id=2,
)
# As Hugging Face's config.json has them.
CONFIGS = {
  "smollm2": dict(
    _COMMON,
    model_type="llama",
    hidden_size=36,
    num_attention_heads=9,
    num_key_value_heads=3,
    rope_theta=100000.0,
    tie_word_embeddings=True,
  ),
  "llama3": dict(
    _COMMON,
    model_type="llama",
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rope_theta=5000.0,
    rope_scaling=dict(
      rope_type="llama3",
      factor=8.0,
      low_freq_factor=1.0,
      high_freq_factor=4.0,
      original_max_position_embeddings=64,
    ),
    tie_word_embeddings=False,
  ),
  "qwen2": dict(
    _COMMON,
    model_type="qwen2",
    num_attention_heads=4,
    num_key_value_heads=2,
    rope_theta=1000.0,
    tie_word_embeddings=True,
  ),
  "qwen3": dict(
    _COMMON,
    model_type="qwen3",
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rope_theta=1000.0,
    tie_word_embeddings=False,
  ),
}
IDS = np.asarray([[1, 7, 63, 0, 12, 12, 40, 3, 2, 55, 9, 31]], np.int32)


def value(name: str, shape) -> np.ndarray:
  """A weight, by its Hugging Face name; large enough to be told apart."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  drawn = rng.standard_normal(shape).astype(np.float32)
  return 1.0 + 0.2 * drawn if "norm" in name else 0.3 * drawn


def shapes(about) -> dict[str, tuple[int, ...]]:
  """{Hugging Face name: shape} of a model's weights."""
  d, f = about["hidden_size"], about["intermediate_size"]
  heads, kv = about["num_attention_heads"], about["num_key_value_heads"]
  width = about.get("head_dim", d // heads)
  table = (about["vocab_size"], d)
  out = {"model.embed_tokens.weight": table, "model.norm.weight": (d,)}
  if not about["tie_word_embeddings"]:
    out["lm_head.weight"] = table
  for i in range(about["num_hidden_layers"]):
    own = {
      "input_layernorm.weight": (d,),
      "post_attention_layernorm.weight": (d,),
      "self_attn.q_proj.weight": (heads * width, d),
      "self_attn.k_proj.weight": (kv * width, d),
      "self_attn.v_proj.weight": (kv * width, d),
      "self_attn.o_proj.weight": (d, heads * width),
      "mlp.gate_proj.weight": (f, d),
      "mlp.up_proj.weight": (f, d),
      "mlp.down_proj.weight": (d, f),
    }
    if about["model_type"] == "qwen2":
      for n, size in (("q", heads), ("k", kv), ("v", kv)):
        own[f"self_attn.{n}_proj.bias"] = (size * width,)
    if about["model_type"] == "qwen3":
      own["self_attn.q_norm.weight"] = own["self_attn.k_norm.weight"] = (width,)
    out |= {f"model.layers.{i}.{n}": s for n, s in own.items()}
  return out


def save(folder, name: str, dtype=np.float32, **changes) -> dict:
  """Writes a model's directory without a tokenizer; returns its weights."""
  import safetensors.numpy

  about = CONFIGS[name] | changes
  tensors = {n: value(n, s).astype(dtype) for n, s in shapes(about).items()}
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(about))
  safetensors.numpy.save_file(tensors, folder / "model.safetensors")
  return tensors
