"""Text -> ids of a model's tokens; what a value says is never a control token."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

from lumos_jax.llm import gguf_file, weights

# How GGUF's names of pre-tokenizers part a text (llama.cpp has these patterns).
_LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_PATTERNS = {"llama-bpe": _LLAMA3, "qwen2": _QWEN2}
_DIGITS = ("smollm",)  # Digits one by one, then GPT-2's pattern.
_PLAIN = ("gpt-2", "default")
_CONTROL, _USER_DEFINED = 3, 4  # GGUF's kinds of tokens.
_PROBE = "2024-05-31,abc{12.5}|XYZ~"


class Tokenizer(Protocol):
  """What the pipeline needs of one.

  Attributes:
    size: Ids are below it.
    start: Opens every text, in training and in use.
    end: Ends a text in training.
    digest: 16 hex digits that tell it from others.
  """

  size: int
  start: int
  end: int
  digest: str

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text, without start and end."""

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids."""


class Bytes:
  """Bytes of UTF-8 as tokens, for models that are trained from nothing."""

  start, end, size = 256, 257, 258
  digest = hashlib.sha256(b"bytes").hexdigest()[:16]

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """See `Tokenizer`; lone surrogates become question marks."""
    return [list(t.encode("utf-8", "replace")) for t in texts]

  def decode(self, ids: Sequence[int]) -> str:
    """See `Tokenizer`; start and end are left out."""
    return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


class Pieces:
  """A model's own tokenizer, stripped of what turns text into control tokens."""

  def __init__(self, doc: dict[str, Any], start: int, end: int, size: int):
    """Builds it.

    Args:
      doc: Of a tokenizer.json.
      start, end: Ids of the start and the end of a text.
      size: V of the model.
    """
    import tokenizers

    # Without these, "<|im_start|>" in a value is a text of many tokens.
    self._control = {t["id"] for t in doc.get("added_tokens") or ()}
    plain = dict(
      doc, added_tokens=[], post_processor=None, truncation=None, padding=None
    )
    text = json.dumps(plain)
    self._run = tokenizers.Tokenizer.from_str(text)
    self.start, self.end, self.size = start, end, size
    self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """See `Tokenizer`; lone surrogates become question marks.

    Raises:
      ValueError: A text became a control token in spite of all.
    """
    clean = [t.encode("utf-8", "replace").decode() for t in texts]
    found = self._run.encode_batch_fast(clean, add_special_tokens=False)
    out = [e.ids for e in found]
    for ids in out:
      if not self._control.isdisjoint(ids):
        raise ValueError("a text holds a control token: its ids are refused")
    return out

  def decode(self, ids: Sequence[int]) -> str:
    """See `Tokenizer`; start and end are left out."""
    return self._run.decode(
      [i for i in ids if i not in (self.start, self.end)],
      skip_special_tokens=False,
    )


def of(source: weights.Source) -> Pieces:
  """The tokenizer beside a model's weights.

  Raises:
    WeightsError: There is none, or it is another model's.
  """
  if source.gguf is not None:
    return _of_gguf(source)
  return _of_directory(source)


def _of_directory(source: weights.Source) -> Pieces:
  path = source.path / "tokenizer.json"
  if not path.exists():
    raise weights.WeightsError(
      f"{source.path} has no tokenizer.json: save the model's tokenizer there"
    )
  doc = weights.read_json(path)
  config = weights.read_json(source.path / "config.json")
  more = source.path / "tokenizer_config.json"
  names = weights.read_json(more) if more.exists() else {}
  added = {t["content"]: t["id"] for t in doc.get("added_tokens") or ()}
  ids = {}
  for key in ("bos", "eos"):
    # The tokenizer's own word stands above the model's.
    said = names.get(f"{key}_token")
    said = said["content"] if isinstance(said, dict) else said
    told = config.get(f"{key}_token_id")
    told = told if isinstance(told, list) else [told]
    ids[key] = added.get(said)
    if ids[key] is None:
      ids[key] = told[0]
    elif told != [None] and key == "eos" and ids[key] not in told:
      # A chat model may name another end of text, one that it also has.
      _check_known(told[0], added, path)
  start = ids["eos"] if ids["bos"] is None else ids["bos"]
  end = start if ids["eos"] is None else ids["eos"]
  if start is None:
    raise weights.WeightsError(f"{source.path} names neither bos nor eos token")
  for token in {start, end}:
    _check_known(token, added, path)
  size = source.architecture.vocabulary
  return _checked(_made(doc, start, end, size, path), doc, path)


def _made(doc, start: int, end: int, size: int, path) -> Pieces:
  """Builds it; WeightsError where `tokenizers` does not know it."""
  try:
    return Pieces(doc, start, end, size)
  except Exception as e:  # That library raises no other kind.
    raise weights.WeightsError(f"{path} is no tokenizer: {e}") from e


def _check_known(token: int, added, path) -> None:
  if token not in added.values():
    raise weights.WeightsError(
      f"{path} has no control token of id {token}, which the model's config "
      "names: it is another model's tokenizer"
    )


def _checked(tokenizer: Pieces, doc, path) -> Pieces:
  """Raises WeightsError where ids lie beyond the model's table."""
  vocab = doc["model"].get("vocab") or {}
  own = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
  most = max([*own, *(t["id"] for t in doc.get("added_tokens") or ())])
  if most >= tokenizer.size:
    raise weights.WeightsError(
      f"{path} has ids up to {most}, and the model a table of {tokenizer.size}: "
      "it is another model's tokenizer"
    )
  (ids,) = tokenizer.encode([_PROBE])
  if tokenizer.decode(ids) != _PROBE:
    raise weights.WeightsError(
      f"{path} does not give back {_PROBE!r}, but {tokenizer.decode(ids)!r}: texts "
      "would lose letters; it is cut, or another model's tokenizer"
    )
  return tokenizer


def _of_gguf(source: weights.Source) -> Pieces:
  field = lambda key: gguf_file.field_of(source.gguf, f"tokenizer.ggml.{key}")
  kind, way = field("model"), field("pre") or "default"
  if kind != "gpt2":
    raise weights.WeightsError(
      f"{source.path}: tokenizer {kind!r} is not read of GGUF, only 'gpt2': use "
      "the model's safetensors directory"
    )
  split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
  if way in _PATTERNS:
    first = {
      "type": "Split",
      "pattern": {"Regex": _PATTERNS[way]},
      "behavior": "Isolated",
      "invert": False,
    }
    steps = [first, split | {"use_regex": False}]
  elif way in _DIGITS:
    first = {"type": "Digits", "individual_digits": True}
    steps = [first, split | {"use_regex": True}]
  elif way in _PLAIN:
    steps = [split | {"use_regex": True}]
  else:
    known = [*_PATTERNS, *_DIGITS, *_PLAIN]
    raise weights.WeightsError(
      f"{source.path}: pre-tokenizer {way!r} is not known; there are {known}"
    )
  tokens, kinds = field("tokens"), field("token_type")
  control = [
    i for i, k in enumerate(kinds or ()) if k in (_CONTROL, _USER_DEFINED)
  ]
  left = set(control)
  doc = {
    "version": "1.0",
    "added_tokens": [{"id": i, "content": tokens[i]} for i in control],
    "normalizer": {"type": "NFC"} if way == "qwen2" else None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
    "decoder": split | {"use_regex": True},
    "model": {
      "type": "BPE",
      "vocab": {t: i for i, t in enumerate(tokens) if i not in left},
      "merges": [m.split(" ") for m in field("merges")],
      "dropout": None,
      "unk_token": None,
      "continuing_subword_prefix": None,
      "end_of_word_suffix": None,
      "fuse_unk": False,
      "byte_fallback": False,
      # Llama 3 has tokens that no merges make.
      "ignore_merges": way == "llama-bpe",
    },
  }
  start, end = field("bos_token_id"), field("eos_token_id")
  start = end if start is None else start
  if start is None or end is None:
    raise weights.WeightsError(f"{source.path} names no start or end token")
  size = source.architecture.vocabulary
  found = _made(doc, int(start), int(end), size, source.path)
  return _checked(found, doc, source.path)
