"""The pages of a data set of clicks: beside the records, by id of the page.

V ids of the page field, W width of a text vector.
"""

import dataclasses

import numpy as np
from etils import epath

from lumos_jax import files

FILE = "pages.npz"


@dataclasses.dataclass(frozen=True)
class Pages:
  """What is known of each page, by its id.

  Attributes:
    field: Of the activity, whose ids these are.
    title: text [V]; "" of the reserved ids.
    category: text [V]; "" where none is known.
    vector: float16 [V, W], of the title; W is 0 without an encoder.
  """

  field: str
  title: np.ndarray
  category: np.ndarray
  vector: np.ndarray

  def save(self, folder: epath.PathLike) -> None:
    """Writes pages.npz."""
    path = epath.Path(folder) / FILE
    with files.naming(path), path.open("wb") as f:
      np.savez_compressed(
        f,
        field=np.asarray(self.field),
        title=self.title,
        category=self.category,
        vector=self.vector,
      )

  @classmethod
  def load(cls, folder: epath.PathLike) -> "Pages | None":
    """Reads pages.npz; None where a data set has none.

    Raises:
      ValueError: The file is damaged.
    """
    path = epath.Path(folder) / FILE
    if not path.exists():
      return None
    try:
      with path.open("rb") as f, np.load(f, allow_pickle=False) as z:
        return cls(str(z["field"]), *(z[n] for n in _ARRAYS))
    except Exception as e:  # A zip cut short fails in many ways.
      raise ValueError(
        f"{path} cannot be read ({type(e).__name__}: {e}): prepare the data again"
      ) from e


_ARRAYS = ("title", "category", "vector")
