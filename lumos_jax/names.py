"""Messages about a name that is not known."""

import difflib
from collections.abc import Iterable


def near(name: str, names: Iterable[str]) -> str:
  """The end of a sentence that says a name is not known.

  Returns:
    "; did you mean 'x'?" for a name close to one of the names, or ".".
  """
  lower = {n.lower(): n for n in names}
  close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
  return f"; did you mean {lower[close[0]]!r}?" if close else "."
