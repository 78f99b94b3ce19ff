"""Session vectors and page texts, read from Parquet.

Vectors have the columns `key` and `embedding`, as `lumos_jax.export` writes them;
texts have `key`, `titles` (texts of a session's pages, in order; or `pages`, where
there are no titles) and may have `categories` (known categories of these pages).
`lumos sessions` writes one table with all of them.
"""

import collections
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from etils import epath

from lumos_jax.data import records as records_lib

KEY, VECTOR, CATEGORIES = "key", "embedding", "categories"
TITLES, PAGES, SPLIT = "titles", "pages", "split"
_LISTS = (pl.List, pl.Array)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]+")


class IntentError(ValueError):
  """Intents cannot be made of what was given; says what to do."""


@dataclasses.dataclass(frozen=True)
class Sessions:
  """Some sessions, in an order that depends on their keys and the seed alone.

  Attributes:
    keys: [S].
    vectors: Float32 [S, D].
    pages: Texts of each session's pages, in order.
    categories: Known categories of each session's pages; None without any.
    counts: What was read and what could not be used, by reason.
  """

  keys: tuple[str, ...]
  vectors: np.ndarray
  pages: tuple[tuple[str, ...], ...]
  categories: tuple[tuple[str, ...], ...] | None
  counts: dict[str, int]

  def __len__(self) -> int:
    return len(self.keys)

  def take(self, rows: Sequence[int]) -> "Sessions":
    """Those at the given positions."""
    pick = lambda x: tuple(x[i] for i in rows)
    known = None if self.categories is None else pick(self.categories)
    return Sessions(
      pick(self.keys), self.vectors[list(rows)], pick(self.pages), known, {}
    )

  def known(self) -> list[str] | None:
    """The category that most of a session's pages have; "" where none is known.

    Ties go to the category that was visited first.
    """
    if self.categories is None:
      return None
    return [main_category(x) for x in self.categories]


def main_category(names: Sequence[str]) -> str:
  """The most frequent of a session's categories, the first of equals; or ""."""
  most = collections.Counter(x for x in names if x).most_common(1)
  return most[0][0] if most else ""


class Source:
  """Vectors of all sessions, part by part, and texts of some."""

  def __init__(self, vectors: epath.PathLike, texts: epath.PathLike):
    """Files, or folders of parts.

    Raises:
      IntentError: There are none, or columns are absent or of another type.
    """
    self.files, self.texts = _files(vectors), _files(texts)
    for path in self.files:
      _check(path, {KEY: pl.String, VECTOR: _LISTS})
    schemas = [pl.read_parquet_schema(p) for p in self.texts]
    self._column = TITLES if all(TITLES in s for s in schemas) else PAGES
    self._categories = all(CATEGORIES in s for s in schemas)
    for path in self.texts:
      _check(path, {KEY: pl.String, self._column: _LISTS})

  def parts(
    self, people: bool = False
  ) -> Iterator[tuple[list[str], np.ndarray]]:
    """Keys and vectors [S, D] of each part that has rows.

    Args:
      people: Leaves out sessions of bots, where a column `split` tells them.
    """
    width = None
    for path in self.files:
      columns = [KEY, VECTOR]
      columns += [SPLIT] * (people and SPLIT in pl.read_parquet_schema(path))
      frame = pl.read_parquet(path, columns=columns)
      if SPLIT in columns:
        frame = frame.filter(pl.col(SPLIT) != records_lib.BOTS)
      frame = frame.select(KEY, VECTOR)
      if not len(frame):
        continue
      found = _matrix(frame, path)
      if width is not None and found.shape[1] != width:
        raise IntentError(
          f"{path}: vectors of {found.shape[1]} numbers, others have {width}"
        )
      width = found.shape[1]
      yield frame[KEY].to_list(), found

  def _bots(self) -> int:
    told = [p for p in self.files if SPLIT in pl.read_parquet_schema(p)]
    found = [pl.read_parquet(p, columns=[SPLIT])[SPLIT] for p in told]
    return sum(int((x == records_lib.BOTS).sum()) for x in found)

  def sample(self, most: int, seed: int) -> Sessions:
    """At most so many sessions with finite vectors, drawn by key.

    Raises:
      IntentError: No session can be used, or a key comes twice.
    """
    counts: collections.Counter = collections.Counter()
    drawn: list[tuple[bytes, str, np.ndarray]] = []
    seen: set[bytes] = set()
    if bots := self._bots():
      counts["sessions of bots, left out"] = bots
    for keys, vectors in self.parts(people=True):
      finite = np.isfinite(vectors).all(1)
      counts["sessions"] += len(keys)
      counts["vectors not finite"] += int((~finite).sum())
      for i, key in enumerate(keys):
        order = place(key, seed)
        if order in seen:
          raise IntentError("vectors: a session's key comes twice")
        seen.add(order)
        if finite[i]:
          drawn.append((order, key, vectors[i]))
      if len(drawn) > 2 * most:  # Memory is that of the sample, not of all.
        drawn = sorted(drawn, key=lambda x: x[0])[:most]
    drawn = sorted(drawn, key=lambda x: x[0])[:most]
    if not drawn:
      raise IntentError("vectors: there is no session with a finite vector")
    keys = [key for _, key, _ in drawn]
    pages, categories = self._texts_of(keys, counts)
    return Sessions(
      tuple(keys),
      np.stack([x for _, _, x in drawn]),
      pages,
      categories,
      {k: v for k, v in counts.items() if v},
    )

  def _texts_of(self, keys: list[str], counts: collections.Counter):
    columns = [KEY, self._column, *[CATEGORIES] * self._categories]
    frame = (
      pl.scan_parquet(self.texts)
      .select(columns)
      .filter(pl.col(KEY).is_in(keys))
      .collect()
    )
    if frame[KEY].n_unique() < len(frame):
      raise IntentError("texts: a session's key comes twice")
    rows = {row[0]: row[1:] for row in frame.iter_rows()}
    pages, categories = [], []
    for key in keys:
      row = rows.get(key)
      counts["sessions without texts"] += row is None
      texts = [clean(x) for x in (row[0] if row else None) or ()]
      counts["pages without a text"] += sum(not x for x in texts)
      pages.append(tuple(x for x in texts if x))
      if self._categories:
        known = (row[1] if row else None) or ()
        categories.append(tuple(x for x in map(clean, known) if x))
    return tuple(pages), tuple(categories) if self._categories else None


def place(key: str, seed: int) -> bytes:
  """Where a key stands in a draw: no other key and no reader changes it."""
  text = f"{seed}:{key}".encode("utf-8", "surrogatepass")
  return hashlib.blake2b(text, digest_size=16).digest()


def clean(text: str | None) -> str:
  """A text on one line, without control and direction marks; "" for null."""
  return " ".join(_CONTROL.sub(" ", text or "").split())


def _files(path: epath.PathLike) -> list[str]:
  path = epath.Path(path)
  found = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
  found = [p for p in found if not p.name.startswith(".")]
  if not found or not found[0].exists():
    raise IntentError(f"{path}: there is no Parquet file")
  return [os.fspath(p) for p in found]


def _check(path: str, columns) -> None:
  schema = pl.read_parquet_schema(path)
  for name, kind in columns.items():
    if name not in schema:
      raise IntentError(
        f"{path} has no column {name!r}, it has {sorted(schema)}"
      )
    if not isinstance(schema[name], kind):
      raise IntentError(f"{path}: column {name!r} is {schema[name]}")


def _matrix(frame: pl.DataFrame, path: str) -> np.ndarray:
  if frame[KEY].null_count() or frame[VECTOR].null_count():
    raise IntentError(f"{path}: a key or a vector is null")
  column = frame[VECTOR]
  if isinstance(column.dtype, pl.List):
    widths = column.list.len()
    if widths.min() != widths.max():
      raise IntentError(f"{path}: vectors of {widths.min()}..{widths.max()}")
    column = column.list.to_array(int(widths[0]))
  # A null inside of a vector becomes NaN, and is counted as not finite.
  return np.asarray(column.to_numpy(), np.float32)
