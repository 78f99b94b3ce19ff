"""What a number of a config must be: a test of it, and the words for it."""

from collections.abc import Callable

Limit = tuple[Callable[[float], bool], str]


def at_least(least: float) -> Limit:
  """Numbers from `least` on."""
  return (lambda x: x >= least), f"at least {least}"


ABOVE_ZERO: Limit = (lambda x: x > 0), "above 0"
SHARE: Limit = (lambda x: 0 <= x <= 1), "from 0 to 1"
