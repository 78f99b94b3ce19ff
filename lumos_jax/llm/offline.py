"""Enrichment without a model: mixed forms, other names, and summaries.

What a user's text looks like is drawn by the seed, the epoch and the key alone.
The lexicon of other names is data (lexicon.json), read and corrected by hand.
"""

import collections
import dataclasses
import functools
import hashlib
import importlib.resources
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumos_jax.data import schema as schema_lib
from lumos_jax.llm import cells, forms, rows
from lumos_jax.llm import text as text_lib


@dataclasses.dataclass(frozen=True)
class Mix:
  """What varies, beside the keys of `rows.Options`.

  Attributes:
    forms: Drawn from, equally often; (): all.
    base_share: Of texts in the base form and with the base names.
    lexicon_share: Of the other texts, with names from the lexicon.
    summary_share: Of the other texts, with a summary behind the events.
  """

  forms: tuple[str, ...] = ()
  base_share: float = 0.25
  lexicon_share: float = 0.5
  summary_share: float = 0.25

  def __post_init__(self):
    for name in self.forms:
      if name not in forms.NAMES:
        forms.of(name)
    for name in ("base_share", "lexicon_share", "summary_share"):
      if not 0 <= getattr(self, name) <= 1:
        raise rows.TextError(f"{name} = {getattr(self, name)} is not in 0 to 1")


def parted(cfg: Mapping[str, Any] | None) -> tuple[dict, dict]:
  """Keys for `rows.Options`, and keys for `Mix`."""
  own = [f.name for f in dataclasses.fields(Mix)]
  text, mix = {}, {}
  for k, v in dict(cfg or {}).items():
    v = tuple(v) if isinstance(v, list) else v
    (mix if k in own else text)[k] = v
  return text, mix


class Mixer:
  """Tells users in forms that change from epoch to epoch.

  Attributes:
    teller: Of the base text; its counts are of all texts.
    mix: What varies.
  """

  def __init__(
    self,
    schema: schema_lib.Schema,
    cfg: Mapping[str, Any] | None = None,
    seed: int = 0,
  ):
    """`cfg` has keys of `rows.Options` and of `Mix`; raises TextError."""
    own = [f.name for f in dataclasses.fields(Mix)]
    cfg = {
      k: tuple(v) if isinstance(v, list) else v
      for k, v in dict(cfg or {}).items()
    }
    self.mix = Mix(**{k: v for k, v in cfg.items() if k in own})
    self.teller = text_lib.Teller(
      schema, {k: v for k, v in cfg.items() if k not in own}
    )
    self.seed = seed

  def tell(self, record: Mapping[str, Any], epoch: int = 0, **kw):
    """A user's text of an epoch: `text.Told`.

    Args:
      record: Of the user.
      epoch: Of training.
      **kw: until, count and room of `Teller.tell`.
    """
    draw = drawn(self.seed, epoch, record["key"])
    mix = self.mix
    # All are drawn always: one share does not change what another one gives.
    base, renamed, summed = (draw.random() for _ in range(3))
    form = draw.choice(mix.forms or forms.NAMES)
    if base < mix.base_share:
      return self.teller.tell(record, **kw)
    rename = behind = None
    if renamed < mix.lexicon_share and self.teller.options.names:
      rename = functools.partial(renaming, draw=draw)
    if summed < mix.summary_share:
      behind = lambda columns, found: summary(columns, found) + "\n"
    return self.teller.tell(
      record, form=form, rename=rename, behind=behind, **kw
    )


def drawn(*what: Any) -> random.Random:
  """Random numbers that depend on what is given, and on no process."""
  digest = hashlib.sha256(json.dumps([str(w) for w in what]).encode())
  return random.Random(digest.digest())


@functools.cache
def lexicon() -> dict[str, dict[str, list[str]]]:
  """{"fields" or "values": {name: other names}}, of lexicon.json."""
  file = importlib.resources.files("lumos_jax.llm").joinpath("lexicon.json")
  return json.loads(file.read_text("utf-8"))


def renaming(
  columns: Sequence[rows.Column],
  found: list[list[rows.Cell]],
  draw: random.Random,
) -> tuple[list[rows.Column], list[list[rows.Cell]]]:
  """Columns and rows under names of the lexicon, one a name.

  A name that another column or value has already is not taken, so that what
  differed still differs.
  """
  titles = _other([c.title for c in columns], lexicon()["fields"], draw)
  new = [dataclasses.replace(c, title=titles[c.title]) for c in columns]
  out = [list(row) for row in found]
  for i, c in enumerate(columns):
    if c.kind != rows.TEXT:
      continue
    texts = sorted({r[i] for r in found if isinstance(r[i], str)})
    names = _other(texts, lexicon()["values"], draw)
    for row in out:
      row[i] = names.get(row[i], row[i]) if isinstance(row[i], str) else row[i]
  return new, out


def _other(names: Sequence[str], known, draw: random.Random) -> dict[str, str]:
  """{name: another one of the lexicon, or itself}, all different."""
  out, taken = {}, {n.lower() for n in names}
  for name in names:
    choices = [n for n in known.get(name.lower(), ()) if n not in taken]
    new = draw.choice([name, *choices])
    if new != name:
      taken.add(new)
      new = new.capitalize() if name[:1].isupper() else new
    out[name] = new
  return out


def summary(
  columns: Sequence[rows.Column], found: Sequence[Sequence[rows.Cell]]
) -> str:
  """A paragraph on events: how many, when, the usual values, the amounts.

  Args:
    columns: Of the rows.
    found: Rows, the oldest first. Numbers are told as the cells have them.
  """
  if not found:
    return "There are no events."
  count = len(found)
  said = [f"There {'is' if count == 1 else 'are'} {_many(count, 'event')}"]
  if columns[0].kind == rows.TIME:
    first, last = found[0][0], found[-1][0]
    said[0] += f", on {first}" if first == last else f", from {first} to {last}"
  for i, c in enumerate(columns):
    title, values = cells.clean(c.title), [row[i] for row in found]
    if c.kind == rows.TEXT:
      said.append(_of_category(title, values))
    elif c.kind == rows.NUMBER:
      said.append(_of_number(title, values))
  return ". ".join(filter(None, said)) + "."


def _many(count: int, word: str) -> str:
  return f"{count} {word}{'s' * (count != 1)}"


def _of_category(title: str, values) -> str:
  counts = collections.Counter(v for v in values if isinstance(v, str))
  if not counts:
    return ""
  # Equally frequent ones by name: the text depends on nothing else.
  (value, times), *_ = sorted(counts.items(), key=lambda x: (-x[1], x[0]))
  value = cells.quoted(cells.clean(value), ".,")
  if len(counts) == 1:
    return f"The {title} is always {value}" if times > 1 else ""
  if times == 1:
    return f"No {title} comes twice"
  return (
    f"The most frequent {title} is {value}, in {_many(times, 'event')}; there are "
    f"{len(counts)} different ones"
  )


def _of_number(title: str, values) -> str:
  x = np.asarray([float(v) for v in values if isinstance(v, rows.Number)])
  x = x[np.isfinite(x)]
  if not len(x):
    return ""
  low, high, mean = (rows.number(v, 2) for v in (x.min(), x.max(), x.mean()))
  if low == high:
    return f"The {title} is {low} each time" if len(x) > 1 else ""
  return f"The {title} lies between {low} and {high}, and is {mean} on average"
