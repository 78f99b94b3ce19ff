"""The student: a small MLP from a session vector to labels, without jax.

Two files, no pickle: student.npz holds arrays, student.json what they mean.
`distill.fit` makes it.
"""

import dataclasses
import io
import json
from typing import Any

import numpy as np
from etils import epath

from lumos_jax.intents import sessions as sessions_lib
from lumos_jax.intents import taxonomy as taxonomy_lib

ARRAYS, ABOUT = "student.npz", "student.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Student:
  """Labels sessions.

  Attributes:
    layers: (kernel, bias) in order, ReLU between them.
    mean, scale: Of the vectors, [D].
    slope, shift: Calibrated confidence = sigmoid(slope * logit + shift).
    threshold: A label is given where its confidence reaches it.
    abstain: A session is "other" where no confidence reaches it.
    ids, names: Of the labels [L].
    model_hash: Of the encoder whose vectors it reads; "" where it is not known.
    about: Of how it was made.
  """

  layers: tuple[tuple[np.ndarray, np.ndarray], ...]
  mean: np.ndarray
  scale: np.ndarray
  slope: float
  shift: float
  threshold: float
  abstain: float
  ids: tuple[str, ...]
  names: tuple[str, ...]
  model_hash: str = ""
  about: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    # The scale of vectors is part of the first layer: one pass less.
    w, b = self.layers[0]
    first = (w / self.scale[:, None]).astype(np.float32)
    start = (b - self.mean @ first).astype(np.float32)
    object.__setattr__(self, "_folded", ((first, start), *self.layers[1:]))

  @property
  def width(self) -> int:
    """Numbers of a vector."""
    return len(self.mean)

  def logits(self, vectors: np.ndarray) -> np.ndarray:
    """Float32 [S, L] before calibration, of float32 [S, D]."""
    x = vectors
    *hidden, (w, b) = self._folded
    for kernel, bias in hidden:
      x = x @ kernel
      x += bias
      np.maximum(x, 0.0, out=x)
    return x @ w + b

  def confidences(self, vectors: np.ndarray) -> np.ndarray:
    """Calibrated, float32 [S, L].

    Raises:
      IntentError: Vectors are of another width.
    """
    x = np.asarray(vectors, np.float32)
    if x.ndim != 2 or x.shape[1] != self.width:
      raise sessions_lib.IntentError(
        f"the student reads vectors of {self.width} numbers, not {x.shape[1:]}"
      )
    z = self.slope * self.logits(x) + self.shift
    return 1.0 / (1.0 + np.exp(-np.clip(z, -60.0, 60.0)))

  def chosen(self, p: np.ndarray) -> np.ndarray:
    """Whether a session gets a label, bool [S, L], of confidences [S, L].

    A vector that is not finite gets none.
    """
    top = p.max(1, keepdims=True)
    return (p >= self.threshold) & (top >= self.abstain)

  def top(self, p: np.ndarray) -> list[str]:
    """The one label that fits best, or "other"."""
    best, has = p.argmax(1), self.chosen(p).any(1)
    return [
      self.ids[i] if ok else taxonomy_lib.OTHER
      for i, ok in zip(best, has, strict=True)
    ]

  def save(self, folder: epath.Path) -> None:
    """Writes both files, the description last."""
    arrays = {"mean": self.mean, "scale": self.scale}
    for i, (w, b) in enumerate(self.layers):
      arrays |= {f"kernel_{i}": w, f"bias_{i}": b}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    numbers = ("slope", "shift", "threshold", "abstain")
    doc = {
      "format": _FORMAT,
      "width": self.width,
      "layers": len(self.layers),
      "labels": [
        {"id": i, "name": n} for i, n in zip(self.ids, self.names, strict=True)
      ],
      **{n: getattr(self, n) for n in numbers},
      "model_hash": self.model_hash,
      "about": self.about,
    }
    for name, content in (
      (ARRAYS, buffer.getvalue()),
      (ABOUT, json.dumps(doc, indent=1).encode()),
    ):
      aside = folder / f".{name}.new"
      aside.write_bytes(content)
      aside.replace(folder / name)

  @classmethod
  def load(cls, folder: epath.PathLike) -> "Student":
    """What `save` wrote.

    Raises:
      IntentError: It is absent or damaged; names the file.
    """
    folder = epath.Path(folder)
    if not (folder / ABOUT).exists():
      raise sessions_lib.IntentError(
        f"{folder} has no {ABOUT}: run lumos intents first"
      )
    try:
      doc = json.loads((folder / ABOUT).read_text())
      if doc["format"] != _FORMAT:
        raise ValueError(f"format {doc['format']!r}")
      content = io.BytesIO((folder / ARRAYS).read_bytes())
      with np.load(content, allow_pickle=False) as x:
        layers = tuple(
          (x[f"kernel_{i}"], x[f"bias_{i}"]) for i in range(doc["layers"])
        )
        mean, scale = x["mean"], x["scale"]
      numbers = ("slope", "shift", "threshold", "abstain")
      return cls(
        layers,
        mean,
        scale,
        **{n: float(doc[n]) for n in numbers},
        ids=tuple(r["id"] for r in doc["labels"]),
        names=tuple(r["name"] for r in doc["labels"]),
        model_hash=doc["model_hash"],
        about=doc["about"],
      )
    except (OSError, ValueError, KeyError, TypeError) as e:
      raise sessions_lib.IntentError(
        f"{folder}: the student's files are damaged ({e}): run lumos intents "
        "again"
      ) from e
