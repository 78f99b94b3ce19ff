"""Pages of a click source: titles, categories and text vectors, stored once."""

import dataclasses
from collections.abc import Callable

import numpy as np
import polars as pl

from lumos_jax.data import pages as pages_lib
from lumos_jax.data import schema as schema_lib

from .inputs import InputError

_MOST_LETTERS = 400  # Of a title; a page's whole text is none.


@dataclasses.dataclass(frozen=True)
class Pages:
  """What a source knows of its pages.

  Attributes:
    field: The Categorical field of the activity whose values are pages.
    frame: Columns page, title and category; one row a page. Titles are null
      where there is none: the page's name then stands for it.
    texts: Encoder of the titles, see `lumos_jax.llm.sentences.encoder`.
  """

  field: str
  frame: pl.DataFrame
  texts: str = "words"


def table(
  pages: Pages,
  schema: schema_lib.Schema,
  encoder: Callable | None = None,
) -> tuple[pages_lib.Pages, dict[str, int]]:
  """Titles, categories and vectors by id of the fitted vocabulary; and counts.

  Args:
    pages: Of the source.
    schema: Fitted.
    encoder: texts -> (vectors [N, W], counts); default that of `pages.texts`.

  Raises:
    InputError: There is no such encoder, or its files are not there.
  """
  from lumos_jax.llm import sentences

  names = {f.name: f for f in schema.categorical("activity")}
  values = names[pages.field].values
  frame = pages.frame.unique("page", keep="first", maintain_order=True)
  known = {p: (t, c) for p, t, c in frame.rows()}
  reserved = ("",) * schema_lib.FIRST_VALUE
  found = [known.get(v, (None, "")) for v in values]
  title = [t or v for (t, _), v in zip(found, values, strict=True)]
  long = sum(len(t) > _MOST_LETTERS for t in title)
  title = [t[:_MOST_LETTERS] for t in title]
  try:
    encoder = encoder or sentences.encoder(pages.texts)
  except sentences.SentenceError as e:
    raise InputError(f"option texts: {e}") from e
  vectors, counts = encoder(title)
  rows = np.zeros((len(reserved) + len(title), vectors.shape[1]), np.float16)
  rows[len(reserved) :] = vectors
  counts = counts | {
    "pages without a title": sum(not t for t, _ in found),
    f"titles cut to {_MOST_LETTERS} letters": long,
  }
  return (
    pages_lib.Pages(
      pages.field,
      np.asarray([*reserved, *title], np.str_),
      np.asarray([*reserved, *(c or "" for _, c in found)], np.str_),
      rows,
    ),
    counts,
  )
