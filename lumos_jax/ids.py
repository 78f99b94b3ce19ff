"""Ids of users as keyed hashes, which only the owner of the key can make.

A plain hash of a small id space is undone by trying all ids; with a key it is not.
The key is the data owner's: it comes from the environment, or from a file that the
environment names, and is stored nowhere.
"""

import hashlib
import hmac
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

SALT = "LUMOS_SALT"  # Environment variable with the key,
SALT_FILE = "LUMOS_SALT_FILE"  # or with the name of a file that holds it.
KEYED, PLAIN = "keyed hash", "plain"
_LEAST = 16


class IdError(ValueError):
  """The key of hashed ids is absent, too short, or another one."""


def has_salt() -> bool:
  """Whether the environment names a key."""
  return bool(os.environ.get(SALT) or os.environ.get(SALT_FILE))


def salt() -> bytes:
  """The key of hashed ids.

  Raises:
    IdError: It is absent, or has fewer than 16 characters.
  """
  text, file = os.environ.get(SALT, ""), os.environ.get(SALT_FILE, "")
  if not text and file:
    try:
      text = pathlib.Path(file).read_text().strip()
    except OSError as e:
      raise IdError(f"${SALT_FILE}: cannot read {file}: {e.strerror}") from e
  if len(text) < _LEAST:
    raise IdError(
      f"hashed ids need a secret of {_LEAST} characters or more in ${SALT}, or in "
      f"a file that ${SALT_FILE} names: small id spaces are undone by trying all "
      "ids where the key is known"
    )
  return text.encode()


def read(file: str | os.PathLike) -> list[str]:
  """Ids from a text file in UTF-8, one a line; empty lines are left out.

  Raises:
    IdError: It cannot be read; names it.
  """
  try:
    # Spreadsheets put a byte-order mark in front.
    text = pathlib.Path(file).read_text(encoding="utf-8-sig")
  except OSError as e:
    raise IdError(f"{file}: {e.strerror}") from e
  except UnicodeDecodeError as e:
    raise IdError(
      f"{file}: byte {e.start} is not UTF-8: save it as UTF-8, an id a line"
    ) from e
  return [line.strip() for line in text.splitlines() if line.strip()]


def hash_id(key: str, salt: bytes) -> str:
  """32 hex digits that only the salt's owner can make of an id."""
  return hmac.new(salt, key.encode(), hashlib.sha256).hexdigest()[:32]


def form(salt: bytes | None) -> dict[str, str]:
  """How ids are stored, for stats.json; tells keys apart, says nothing of them."""
  if salt is None:
    return {"form": PLAIN}
  digest = hmac.digest(salt, b"lumos ids fingerprint", "sha256")
  return {"form": KEYED, "fingerprint": digest.hex()[:16]}


def hashed(stats: Mapping[str, Any]) -> bool:
  """Whether a data set's ids are keyed hashes, by its stats.json."""
  return stats.get("ids", {}).get("form") == KEYED


def stored(keys: Iterable[str], stats: Mapping[str, Any]) -> list[str]:
  """Ids of the raw tables as a data set stores them.

  Args:
    keys: Ids.
    stats: The data set's stats.json.

  Raises:
    IdError: They are stored as hashes, and the environment has no key, or
      another one.
  """
  if not hashed(stats):
    return list(keys)
  key = salt_of(stats["ids"]["fingerprint"])
  return [hash_id(k, key) for k in keys]


def salt_of(fingerprint: str) -> bytes:
  """The key that ids were hashed with, from the environment.

  Raises:
    IdError: It has none, or another one.
  """
  key = salt()
  if form(key)["fingerprint"] != fingerprint:
    raise IdError(
      f"the key in ${SALT} or ${SALT_FILE} is not the one that the data set's ids "
      "were hashed with"
    )
  return key
