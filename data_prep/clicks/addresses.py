"""Addresses and titles of pages, without what may say who somebody is.

An address keeps its host and path. Query and fragment are dropped, except keys
that a list allows. What looks like an email address, token, card number, long
number, IP address or nested address in a part of the path is replaced by a word in
braces, however often it is percent-encoded. Names of people cannot be told from
other words: give patterns of your own for paths that hold them.
"""

import re
import unicodedata
import urllib.parse
from collections.abc import Sequence

_MOST_DECODINGS = 6
_MOST_LETTERS = 2000  # Of an address; the rest is cut.
_ENCODED = re.compile(r"%[0-9a-fA-F]{2}|[%\\]u[0-9a-fA-F]{4}|&(?:#|amp|commat)")
# "&#64;", as HTML has it, percent-encoded or not.
_AND, _HASH = r"(?:&|%(?:25)*26)(?:amp;)?", r"(?:#|%(?:25)*23)"
_AT = re.compile(
  rf"{_AND}(?:{_HASH}(?:0*64|x0*40)|commat)(?:;|%(?:25)*3b)?", re.I
)
_EMAIL = re.compile(r"[^\s/@]+(?:@|\(at\)|\[at\])[^\s/@]*", re.I)
_DIGITS = re.compile(r"(?<![0-9])\+?[0-9](?:[ .()_\u2010-\u2015-]?[0-9]){8,}")
_IP = re.compile(
  r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9.])"
  r"|(?<![0-9a-f:])(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}(?![0-9a-f:])",
  re.I,
)
_NESTED = re.compile(r"(?:[a-z][a-z0-9+.-]*:/?/?/|www\.)\S*", re.I)
_UUID = re.compile(
  r"(?<![0-9a-f])[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}(?![0-9a-f])",
  re.I,
)
_LONG = re.compile(r"[A-Za-z0-9+=_~.-]{16,}")
_HEX = re.compile(r"[0-9a-f]{16,}", re.I)
_CHANGES = 6  # Of a token; names of products with their sizes have fewer.
EMAIL, CARD, NUMBER, IP, URL, TOKEN, OWN = (
  "{email}", "{card}", "{number}", "{ip}", "{url}", "{token}", "{masked}"
)  # fmt: skip


class Cleaner:
  """Cleans addresses and titles; counts what it masked.

  Attributes:
    counts: {what: texts in which it was masked}; different texts count once.
  """

  def __init__(
    self, allowed_keys: Sequence[str] = (), patterns: Sequence[str] = ()
  ):
    """Settings.

    Args:
      allowed_keys: Keys of the query that are kept, with their values masked as
        parts of a path are.
      patterns: Regular expressions that are masked, too, wherever they match.

    Raises:
      ValueError: A pattern is no regular expression.
    """
    self._allowed, self.counts = frozenset(allowed_keys), {}
    try:
      self._own = [re.compile(p) for p in patterns]
    except re.error as e:
      raise ValueError(f"option patterns: no regular expression: {e}") from e

  def _note(self, what: str) -> None:
    self.counts[what] = self.counts.get(what, 0) + 1

  def address(self, url: str | None) -> tuple[str, ...] | None:
    """Parts of a page's name: host, parts of the path, allowed query.

    None for no address.
    """
    if url is None or not url.strip():
      return None
    if len(url) > _MOST_LETTERS:
      self._note("addresses cut")
      url = url[:_MOST_LETTERS]
    # An "@" as HTML has it would be cut at its "#".
    url = _AT.sub("%40", _plain(url.strip()))
    # By hand: urlsplit refuses some addresses, and clicks are as they are.
    url, _, _ = url.partition("#")
    url, asked, query = url.partition("?")
    scheme, slashes, rest = url.partition("://")
    host = ""
    if slashes and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
      host, _, path = rest.partition("/")
    elif url.startswith("//"):
      host, _, path = url[2:].partition("/")
    else:
      path = url
    host = host.rpartition("@")[2].lower()  # No user and password.
    host = host.removesuffix(":80").removesuffix(":443")
    parts = []
    for part in path.split("/"):
      part, matrix, _ = part.partition(";")
      if matrix:
        self._note("matrix parameters dropped")
      decoded = _decoded(part)
      if "=" in decoded.partition("&")[2]:  # A query without its "?".
        self._note("queries in paths dropped")
        decoded = decoded.partition("&")[0]
      # A part that holds slashes, a query or a fragment once decoded is an
      # address in an address: its own query is dropped alike.
      if re.search(r"[?#]", decoded):
        self._note("queries in paths dropped")
        decoded = re.split(r"[?#]", decoded)[0]
      for inner in self._nested(decoded).split("/"):
        inner = inner.partition(";")[0]
        if inner and inner != ".":
          parts.append(inner)
    parts = [self.text(p) for p in self._cards(parts)]
    kept = []
    if asked:
      for pair in re.split("[&;]", query):
        key, _, value = pair.partition("=")
        if key in self._allowed:
          value = self._nested(_decoded(value.replace("+", " ")))
          if re.search(r"[?#]", value):
            self._note("queries in values dropped")
            value = re.split(r"[?#]", value)[0]
          kept.append(f"{key}={self.text(value)}")
        elif pair:
          self._note("query keys dropped")
    host = self.text(host) if host else ""
    return (host, *parts, *(("?" + "&".join(sorted(kept)),) if kept else ()))

  def _cards(self, parts: Sequence[str]) -> list[str]:
    """Parts of a path, with a word for those that are one card number together."""
    out, i = list(parts), 0
    while i < len(out):
      stop = i
      while stop < len(out) and out[stop].isdecimal():
        stop += 1
      for end in range(stop, i + 1, -1):
        if is_card("".join(out[i:end])):
          self._note(f"{CARD} masked")
          out[i:end] = [CARD]
          break
      i += 1
    return out

  def _nested(self, text: str) -> str:
    if not _NESTED.search(text):
      return text
    self._note(f"{URL} masked")
    return _NESTED.sub(URL, text)

  def text(self, text: str) -> str:
    """A title, or a part of an address, with what is private masked."""
    out = _decoded(text)

    def mask(pattern, word, fits=lambda found: True):
      nonlocal out
      done = pattern.sub(lambda m: word if fits(m.group()) else m.group(), out)
      if done != out:
        self._note(f"{word} masked")
        out = done

    mask(_NESTED, URL)
    mask(_EMAIL, EMAIL)
    mask(_UUID, TOKEN)
    mask(_DIGITS, CARD, is_card)
    mask(_IP, IP, lambda t: t.count(".") == 3 or t.count(":") > 2)
    # Whole runs before the parts of them that are hexadecimal.
    mask(_LONG, TOKEN, is_token)
    mask(_HEX, TOKEN, lambda t: any(c.isdigit() for c in t))
    mask(_DIGITS, NUMBER)
    # Last: what they leave of an address or token is none of the above any more.
    for own in self._own:
      mask(own, OWN)
    return out


def _plain(text: str) -> str:
  """NFKC, without control and format characters; spaces are single."""
  text = unicodedata.normalize("NFKC", text)
  text = "".join(
    " " if c.isspace() else c
    for c in text
    if c.isspace() or unicodedata.category(c)[0] != "C"
  )
  return re.sub(" +", " ", text).strip()


def _decoded(text: str) -> str:
  """Percent-encoding taken off, as often as it was put on."""
  text = _plain(text)
  for _ in range(_MOST_DECODINGS):
    if not _ENCODED.search(text):
      return text
    new = urllib.parse.unquote(text, errors="replace")
    new = re.sub(
      r"[%\\]u([0-9a-fA-F]{4})", lambda m: chr(int(m.group(1), 16)), new
    )
    new = _AT.sub("@", new)
    new = _plain(new.encode("utf-8", "replace").decode())
    if new == text:
      return text
    text = new
  # Encoded beyond reason: nothing of it is kept.
  return TOKEN if _ENCODED.search(text) else text


def is_card(text: str) -> bool:
  """Whether 13 to 19 digits of a text have the check digit of payment cards."""
  digits = [int(c) for c in text if c.isascii() and c.isdigit()]
  if not 13 <= len(digits) <= 19:
    return False
  double = [d * 2 - 9 * (d > 4) for d in digits[-2::-2]]
  return (sum(digits[-1::-2]) + sum(double)) % 10 == 0


def is_token(text: str) -> bool:
  """Whether a long run of letters and digits is random, not words.

  Words of an address are joined by "-" or "_" and hold few digits each; a token
  has a run of 16 or more that mixes digits with letters, or changes case often, or
  it changes between small letters, large ones and digits often as a whole.
  """
  whole = 0
  for run in re.split(r"[-_.~+=]", text):
    pairs = list(zip(run, run[1:], strict=False))
    changes = sum(a.islower() and b.isupper() for a, b in pairs)
    whole += changes + sum(
      a.isalnum() and b.isalnum() and a.isdigit() != b.isdigit()
      for a, b in pairs
    )
    if len(run) < 16:
      continue
    digits = sum(c.isdigit() for c in run)
    letters = sum(c.isalpha() for c in run)
    if (digits >= 1 and letters >= 2) or changes >= 4:
      return True
  if whole >= _CHANGES:
    return True
  # A signed token: three long parts between points.
  pieces = text.split(".")
  return (
    len(pieces) == 3
    and all(len(p) > 8 for p in pieces)
    and any(c.isdigit() for c in text)
  )
