"""Why a request is refused, as HTTP says it."""


class Problem(Exception):
  """A request that cannot be answered.

  Attributes:
    status: HTTP's.
    reason: For the client. It names no user.
    retry_seconds: After which it may work; None where the request is wrong.
  """

  def __init__(
    self, status: int, reason: str, retry_seconds: int | None = None
  ):
    super().__init__(reason)
    self.status, self.reason = status, reason
    self.retry_seconds = retry_seconds


def unknown_user() -> Problem:
  """Nobody has that id."""
  return Problem(404, "no such user; POST /events makes one")


def wrong(reason: str) -> Problem:
  """The request can be read, and asks for what there is not."""
  return Problem(422, reason)


def conflict(reason: str) -> Problem:
  """The request does not fit what is stored."""
  return Problem(409, reason)


def busy(reason: str) -> Problem:
  """Not now."""
  return Problem(503, reason, 1)
