"""The files of a language model, opened."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from lumos_jax.models import llama

# {model_type of config.json or GGUF's architecture: (biases of q, k and v, norms
# of q and k)}.
FAMILIES = {
  "llama": (False, False),
  "qwen2": (True, False),
  "qwen3": (False, True),
}


class WeightsError(ValueError):
  """A model's files are absent, of another kind, or do not fit together."""


@dataclasses.dataclass(frozen=True)
class Source:
  """A model's files, opened.

  Attributes:
    path: Of the directory or file.
    architecture: Of the model.
    names: Of its tensors, as Hugging Face has them.
    read: name -> array, in Hugging Face's layout.
    gguf: The reader of a GGUF file, which has the tokenizer too; else None.
    context: Tokens of the longest text that the model was made for; 0 if its files
      do not say.
  """

  path: epath.Path
  architecture: llama.Architecture
  names: tuple[str, ...]
  read: Callable[[str], np.ndarray]
  gguf: Any = None
  context: int = 0
