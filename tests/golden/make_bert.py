"""Has transformers compute what tests/sentences_test.py compares with.

  python tests/golden/make_bert.py [FOLDER of all-MiniLM-L6-v2]

Writes golden/bert, a tiny random model and its vectors; with a folder also
minilm.npy. Needs torch and transformers, which the tests do not.
"""

import json
import pathlib
import sys

import numpy as np
import tokenizers
import torch
import transformers
from safetensors import torch as safetensors_torch
from tokenizers import models, normalizers, pre_tokenizers, processors

HERE = pathlib.Path(__file__).parent
WORDS = "[PAD] [UNK] [CLS] [SEP] the law of gravity ##s art a".split()
TEXTS = ["the law of gravity", "", "arts", "a stranger law", "the " * 40]
MINILM_TEXTS = [
  "Obi-Wan Kenobi",
  "Zürich, die größte Stadt",
  "",
  "How the law of gravity was found, and by whom: a history of a long idea",
  "日本の歴史",
]


def vectors(model, encode, most):
  """Unit vectors of the means of the last states, a text at a time."""
  found = []
  for ids in map(encode, TEXTS if most < 256 else MINILM_TEXTS):
    ids = ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]
    with torch.no_grad():
      out = model(torch.tensor([ids]), torch.ones(1, len(ids)))
    mean = out.last_hidden_state[0].mean(0)
    found.append(torch.nn.functional.normalize(mean, dim=0).numpy())
  return np.stack(found)


def tiny():
  """Writes the tiny model."""
  out = HERE / "bert"
  out.mkdir(exist_ok=True)
  torch.manual_seed(0)
  vocabulary = {w: i for i, w in enumerate(WORDS)}
  tokenizer = tokenizers.Tokenizer(
    models.WordPiece(vocabulary, unk_token="[UNK]")
  )
  tokenizer.normalizer = normalizers.BertNormalizer()
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
  )
  tokenizer.save(str(out / "tokenizer.json"))
  c = transformers.BertConfig(
    vocab_size=len(WORDS),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
  )
  model = transformers.BertModel(c, add_pooling_layer=False).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.add_(0.3 * torch.randn_like(p))
  weights = {k: v.contiguous() for k, v in model.state_dict().items()}
  safetensors_torch.save_file(weights, out / "model.safetensors")
  names = (
    "hidden_size", "num_hidden_layers", "num_attention_heads",
    "layer_norm_eps", "max_position_embeddings", "hidden_act",
  )  # fmt: skip
  doc = {k: getattr(c, k) for k in names} | {"model_type": "bert"}
  (out / "config.json").write_text(json.dumps(doc, indent=1))
  found = vectors(model, lambda t: tokenizer.encode(t).ids, 12)
  np.savez(out / "golden.npz", vector=found)


def minilm(folder):
  """Writes vectors of the real model."""
  model = transformers.AutoModel.from_pretrained(folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  found = vectors(model, lambda t: tokenizer(t)["input_ids"], 256)
  np.save(HERE / "minilm.npy", found)


if __name__ == "__main__":
  tiny()
  if sys.argv[1:]:
    minilm(sys.argv[1])
