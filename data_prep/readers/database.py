"""Tables that a query gives: DuckDB files, SQLite, and what a URI reaches."""

import os
import re
import sqlite3
import urllib.parse

import polars as pl

from ..inputs import InputError


def place(uri: str) -> str:
  """A URI without user, password and parameters, for messages."""
  parts = urllib.parse.urlsplit(uri)
  host = parts.netloc.rpartition("@")[2]
  return f"{parts.scheme}://{host}{parts.path}"


def duckdb(file: str, query: str, where: str) -> pl.DataFrame:
  """Rows of a query to a DuckDB file, which is opened read-only.

  Raises:
    InputError: DuckDB is not installed, or it refuses file or query.
  """
  try:
    import duckdb as library
  except ImportError as e:
    raise InputError(
      f"{where}: reading {file} needs DuckDB: pip install duckdb pyarrow"
    ) from e
  try:
    with library.connect(file, read_only=True) as connection:
      return connection.sql(query).pl()
  except library.Error as e:
    raise InputError(f"{where}: {file}: {_line(str(e))}") from e


def query(text: str, uri: str, where: str) -> pl.DataFrame:
  """Rows of a query to a database; `$NAME` in the URI is the environment's.

  Raises:
    InputError: The database's client is missing, or it refuses the query. The
      message never holds the URI's user, password or parameters.
  """
  full = os.path.expandvars(uri)
  scheme = urllib.parse.urlsplit(full).scheme
  if not scheme:
    raise InputError(
      f"{where}: uri is no address like postgresql://host/database (if it is "
      "$NAME, set that environment variable)"
    )
  if scheme == "duckdb":
    return duckdb(full.partition("://")[2], text, where)
  if scheme == "sqlite":
    return _sqlite(full.partition("://")[2], text, where)
  try:
    return pl.read_database_uri(text, full)
  except ImportError as e:
    raise InputError(
      f"{where}: a query to {place(full)} needs connectorx: pip install "
      "connectorx pyarrow"
    ) from e
  except Exception as e:  # Whatever the client raises; it may hold the URI.
    reason = _redact(_line(str(e)), full)
    # No cause: a traceback would print the client's text as it stands.
    raise InputError(f"{where}: {place(full)}: {reason}") from None


def _sqlite(file: str, text: str, where: str) -> pl.DataFrame:
  """SQLite needs no more than Python."""
  if not os.path.isfile(file):
    raise InputError(f"{where}: there is no SQLite file {file}")
  try:
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
      return pl.read_database(text, connection, infer_schema_length=None)
    finally:
      connection.close()
  except sqlite3.Error as e:
    raise InputError(f"{where}: {file}: {e}") from e


def _line(text: str) -> str:
  return text.strip().partition("\n")[0]


def _redact(text: str, uri: str) -> str:
  parts = urllib.parse.urlsplit(uri)
  text = text.replace(uri, place(uri))
  secrets = [parts.password, parts.username, parts.query]
  secrets += [v for _, v in urllib.parse.parse_qsl(parts.query)]
  raw = parts.netloc.rpartition("@")[0].partition(":")
  for secret in {*secrets, *raw[::2]}:
    if secret:
      text = text.replace(secret, "***")
      text = text.replace(urllib.parse.unquote(secret), "***")
  return re.sub(r"//[^/\s]*@", "//", text)
