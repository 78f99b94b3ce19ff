"""Why a file cannot be read: which file, which line, and the option that helps."""

import codecs
import contextlib
import csv
import gzip
import io
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from data_prep.inputs import InputError

_BOMS = {
  codecs.BOM_UTF16_LE: "utf-16",
  codecs.BOM_UTF16_BE: "utf-16",
}
_ZSTD = "zstandard"


def opened(file: pathlib.Path) -> io.BufferedIOBase:
  """A file's bytes, unpacked where its name ends in .gz or .zst.

  Raises:
    InputError: zstandard is needed and not installed.
  """
  if file.suffix == ".gz":
    return gzip.open(file, "rb")
  if file.suffix == ".zst":
    try:
      import zstandard
    except ImportError as e:
      raise InputError(
        f"{file}: reading this .zst needs {_ZSTD}: pip install {_ZSTD}"
      ) from e
    return zstandard.open(file, "rb")
  return open(file, "rb")


def head(file: pathlib.Path, size: int = 1 << 16) -> bytes:
  """The first bytes of a file, unpacked.

  Raises:
    InputError: They cannot be unpacked.
  """
  try:
    with opened(file) as f:
      return f.read(size)
  except (OSError, EOFError, zlib.error) as e:
    raise InputError(_packed(file, 0, e)) from e


def check_encoding(file: pathlib.Path, start: bytes) -> None:
  """Refuses bytes that are UTF-16 where UTF-8 is read.

  Raises:
    InputError: Names the encoding to declare.
  """
  for mark, name in _BOMS.items():
    if start.startswith(mark):
      raise InputError(
        f'{file}: the file is {name}, not UTF-8: give its table "encoding": '
        f'"{name}"'
      )
  if b"\0" in start:
    raise InputError(
      f"{file}: line {start[: start.index(0)].count(10) + 1} holds zero bytes: "
      'the file is damaged, or UTF-16: give its table "encoding": "utf-16"'
    )


@contextlib.contextmanager
def named(
  where: str, files: Sequence[pathlib.Path], table: Mapping[str, Any]
) -> Iterator[None]:
  """Turns a reader's error into one that names file, line and option.

  Args:
    where: The table, for what has no file.
    files: That are being read.
    table: Its entry in the description.
  """
  try:
    yield
  except pl.exceptions.NoDataError as e:
    empty = next((f.name for f in files if not f.stat().st_size), where)
    raise InputError(f"{empty} (table {where}): a file is empty") from e
  except InputError:
    raise
  except (pl.exceptions.PolarsError, OSError) as e:
    for file in files:
      found = _diagnose(file, table)
      if found:
        raise InputError(found) from e
    names = ", ".join(f.name for f in files[:5])
    reason = str(e).strip().partition("\n")[0]
    raise InputError(f"{names} (table {where}) cannot be read: {reason}") from e


def _diagnose(file: pathlib.Path, table: Mapping[str, Any]) -> str:
  """What is wrong with one file; "" where nothing is found."""
  if file.suffix in (".parquet", ".pq", ".arrow", ".feather", ".ipc"):
    scan = (
      pl.scan_parquet if file.suffix in (".parquet", ".pq") else pl.scan_ipc
    )
    try:
      scan(file).select(pl.all().count()).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as e:
      reason = str(e).partition("\n")[0]
      return f"{file} cannot be read, it is cut or damaged: {reason}"
    return ""
  encoding = table.get("encoding") or "utf-8"
  number = 0
  try:
    with opened(file) as f:
      for line in f:
        number += 1
        if encoding == "utf-8":
          line.decode(encoding)
  except UnicodeDecodeError as e:
    return (
      f"{file}: line {number} is not UTF-8 (byte {e.object[e.start]:#04x} at "
      f'position {e.start}): give its table "encoding", such as "latin1" or '
      '"cp1252"'
    )
  except (OSError, EOFError, zlib.error) as e:
    return _packed(file, number, e)
  return _cells(file, table.get("separator") or separator(head(file)), encoding)


def _cells(file: pathlib.Path, mark: str, encoding: str) -> str:
  """The first record with more cells than the header."""
  with io.TextIOWrapper(opened(file), encoding, newline="") as text:
    try:
      reader = csv.reader(text, delimiter=mark)
      wanted = len(next(reader, ()))
      line = reader.line_num + 1
      for row in reader:
        if len(row) > wanted:
          return (
            f"{file}: line {line} has {len(row)} cells, the header {wanted}: "
            "quote cells that hold the separator, correct the line, or give "
            f'the table its "separator" (it is read with {mark!r})'
          )
        line = reader.line_num + 1
    except (csv.Error, UnicodeError) as e:
      return f"{file}: line {line}: {e}"
  return ""


def _packed(file: pathlib.Path, lines: int, error: Exception) -> str:
  return (
    f"{file}: the compressed file is cut or damaged after line {lines:,} "
    f"({error}): fetch it again"
  )


def separator(start: bytes) -> str:
  """The separator of a header line: what stands in it most often."""
  line = start.partition(b"\n")[0].decode("utf-8", "replace")
  outside = "".join(line.split('"')[::2])  # Without what is quoted.
  return max(",;\t|", key=lambda mark: outside.count(mark))
