"""Answers that were paid for, and what was spent: one SQLite file, no pickle.

The key of an answer is all that was sent. Only whole answers are kept. What a call
may cost is booked before it is made and settled after it, so that a killed
process has spent at most what the file says.
"""

import contextlib
import hashlib
import json
import pathlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spent (
  id INTEGER PRIMARY KEY, cost REAL NOT NULL, settled INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS cut (key TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS lacks (
  server TEXT, feature TEXT, PRIMARY KEY (server, feature)
);
"""


class CacheError(ValueError):
  """The file of answers cannot be used; names it."""


class LimitError(ValueError):
  """A call could cost more than is left of the limit."""


def key(sent: Mapping[str, Any]) -> str:
  """The key of all that is sent: sha256, in hex."""
  text = json.dumps(sent, sort_keys=True, ensure_ascii=True)
  return hashlib.sha256(text.encode()).hexdigest()


class Answers:
  """Opens or makes the file; several threads and processes may use it."""

  def __init__(self, path: epath.PathLike):
    """Raises CacheError where the file is none of ours."""
    self.path = pathlib.Path(path)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self._lock = threading.Lock()
    with self._named():
      # Each statement is a transaction of its own, but where one is begun.
      self._db = sqlite3.connect(
        self.path, timeout=60, isolation_level=None, check_same_thread=False
      )
      self._db.executescript(_TABLES)

  @contextlib.contextmanager
  def _named(self) -> Iterator[None]:
    try:
      with self._lock:
        yield
    except sqlite3.Error as e:
      raise CacheError(
        f"{self.path}: {e}: give another file for answers, or restore this one"
      ) from e

  def close(self) -> None:
    """Closes the file."""
    with self._named():
      self._db.close()

  def get(self, key: str) -> dict[str, Any] | None:
    """An answer, or None."""
    with self._named():
      found = self._db.execute(
        "SELECT answer FROM answers WHERE key = ?", (key,)
      ).fetchone()
    return json.loads(found[0]) if found else None

  def put(self, key: str, answer: Mapping[str, Any]) -> None:
    """Keeps a whole answer."""
    # Escaped: half of a pair is text in JSON, and none in SQLite.
    text = json.dumps(answer)
    with self._named():
      self._db.execute(
        "INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, text)
      )

  def put_cut(self, key: str) -> None:
    """Keeps that a request was paid and its answer was cut, not the answer."""
    with self._named():
      self._db.execute("INSERT OR REPLACE INTO cut VALUES (?)", (key,))

  def was_cut(self, key: str) -> bool:
    """Whether the answer was cut: the same request would be paid again."""
    with self._named():
      found = self._db.execute("SELECT 1 FROM cut WHERE key = ?", (key,))
      return found.fetchone() is not None

  def lacks(self, server: str) -> set[str]:
    """What a server was found to lack."""
    with self._named():
      found = self._db.execute(
        "SELECT feature FROM lacks WHERE server = ?", (server,)
      )
      return {row[0] for row in found}

  def put_lack(self, server: str, feature: str) -> None:
    """Keeps what a server lacks: requests differ, and so do their keys."""
    with self._named():
      self._db.execute(
        "INSERT OR REPLACE INTO lacks VALUES (?, ?)", (server, feature)
      )

  def spent(self) -> float:
    """Of all calls, those whose end is not known at the most they may cost."""
    with self._named():
      return self._spent()

  def _spent(self) -> float:
    return self._db.execute("SELECT TOTAL(cost) FROM spent").fetchone()[0]

  def book(self, cost: float, limit: float) -> int:
    """Books the most that a call may cost.

    Returns:
      The booking, for `settle`.

    Raises:
      LimitError: It is more than is left.
    """
    with self._named():
      self._db.execute("BEGIN IMMEDIATE")
      try:
        spent = self._spent()
        if spent + cost > limit:
          raise LimitError(
            f"the next call may cost {cost:.4g}, and {spent:.4g} of the limit "
            f"{limit:.4g} is spent"
          )
        return self._db.execute(
          "INSERT INTO spent (cost, settled) VALUES (?, 0)", (cost,)
        ).lastrowid
      finally:
        self._db.execute("COMMIT")

  def settle(self, booking: int, cost: float) -> None:
    """Says what a booked call did cost."""
    with self._named():
      self._db.execute(
        "UPDATE spent SET cost = ?, settled = 1 WHERE id = ?", (cost, booking)
      )
