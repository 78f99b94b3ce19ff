"""What is asked of the scorer's threads, and what bounds them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Settings:
  """What bounds the service.

  Attributes:
    window: Rows kept of a user.
    batch: Requests that share a call.
    waiting: Requests that may wait for a thread.
    deadline_seconds: After which a request that still waits is refused.
    cache_bytes: Of users in memory.
    state_bytes: Of their states in memory.
    score_events: Most events that one request scores.
  """

  window: int = 4096
  batch: int = 64
  waiting: int = 2048
  deadline_seconds: float = 2.0
  cache_bytes: int = 256 << 20
  state_bytes: int = 1 << 30
  score_events: int = 32


@dataclasses.dataclass(frozen=True)
class Ask:
  """A question about a user.

  Attributes:
    what: A method of `answers.Answers`.
    user: Hash of the id; b"" of a visitor, of whom nothing is stored.
    args: What that method reads.
  """

  what: str
  user: bytes
  args: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Append:
  """Events to be kept of a user.

  Attributes:
    user: Hash of the id.
    events: {"time": ..., "fields": {...}} each.
    request: Hash of the idempotency key; "" without.
    profile: Of a new user; None for nothing known.
    groups: Calendar groups of a new user.
  """

  user: bytes
  events: Sequence[Mapping[str, Any]]
  request: str = ""
  profile: Mapping[str, Any] | None = None
  groups: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Delete:
  """A user to be forgotten."""

  user: bytes


class Compact:
  """The store is to be written anew."""
