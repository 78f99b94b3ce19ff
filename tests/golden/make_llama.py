"""Has transformers compute what tests/llama_test.py compares with.

  PYTHONPATH=tests python tests/golden/make_llama.py

Needs torch and transformers, which the tests do not.
"""

import pathlib

import numpy as np
import tiny_llama
import torch
import transformers

OUT = pathlib.Path(__file__).with_name("llama.npz")


def main():
  """Writes logits and hidden states of every tiny model."""
  arrays = {}
  for name, about in tiny_llama.CONFIGS.items():
    kind = about["model_type"]
    kw = {k: v for k, v in about.items() if k != "model_type"}
    config = transformers.AutoConfig.for_model(kind, **kw)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tied = about["tie_word_embeddings"]
    state = {
      n: torch.from_numpy(tiny_llama.value(n, s))
      for n, s in tiny_llama.shapes(about).items()
    }
    absent, extra = model.load_state_dict(state, strict=False)
    assert not extra and set(absent) <= ({"lm_head.weight"} if tied else set())
    with torch.no_grad():
      found = model(
        torch.from_numpy(tiny_llama.IDS).long(), output_hidden_states=True
      )
    arrays[f"{name}/logits"] = found.logits.numpy()
    hidden = [h.numpy() for h in found.hidden_states]
    arrays[f"{name}/hidden"] = np.stack(hidden)
  np.savez_compressed(OUT, **arrays)
  print(f"{OUT}: {OUT.stat().st_size} bytes, transformers", end=" ")
  print(transformers.__version__)


if __name__ == "__main__":
  main()
