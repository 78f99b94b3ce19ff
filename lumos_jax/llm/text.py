"""A user's events as text that fits a context.

  teller = text.Teller(records.schema, {"form": "table", "decimals": 2})
  told = teller.tell(record, until=day, count=tokenizer_count, room=512)
  told.text, told.kept, told.cut

`texts` gives the texts of a split in mixed forms, as training reads them. Values
are data: a text holds no control token, whatever a value says, if it is encoded
by `encode_data`.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lumos_jax.data import schema as schema_lib
from lumos_jax.llm import cells, forms
from lumos_jax.llm import rows as rows_lib
from lumos_jax.llm.rows import Options, TextError

__all__ = ["Options", "Teller", "TextError", "Told", "encode_data", "texts"]

Record = Mapping[str, Any]
Count = Callable[[str], int]
# One row of cells -> its cells by other names (llm/offline.py).
Rename = Callable[[Sequence[rows_lib.Column], list], tuple[Sequence, list]]


@dataclasses.dataclass(frozen=True)
class Told:
  """A text of a user.

  Attributes:
    text: What it says.
    form: In which form.
    columns, rows: What it tells, the oldest first.
    kept: Events in it.
    cut: Older events that did not fit.
  """

  text: str
  form: str
  columns: tuple[rows_lib.Column, ...]
  rows: list[list[rows_lib.Cell]]
  kept: int
  cut: int


class Teller:
  """Tells records of one schema.

  Attributes:
    rows: What is told, and under which names.
    counts: Of all that was told: "texts", "events", "cut_texts" and "cut_events"
      (older events that did not fit), "empty_texts" (not one event fits).
  """

  def __init__(
    self,
    schema: schema_lib.Schema,
    options: Options | Mapping[str, Any] | None = None,
  ):
    """Raises TextError where an option does not fit the schema."""
    self.options = Options.of(options)
    if self.options.form not in forms.NAMES:
      forms.of(self.options.form)
    self.rows = rows_lib.Rows(schema, self.options)
    self.group = self._group()
    self.counts = collections.Counter(
      texts=0, events=0, cut_texts=0, cut_events=0, empty_texts=0
    )

  def lines(self, record: Record, until: int = 0) -> tuple[str, list[str]]:
    """The base text in parts, to be cut between tokens that are counted.

    Returns:
      What stands before the events, and each event, the oldest first.

    Raises:
      TextError: The form has more than that (html, grouped).
    """
    if self.options.form == forms.GROUPED:
      raise TextError("form 'grouped' does not part into events: use tell()")
    form, columns = forms.of(self.options.form), self.rows.columns
    if form.foot(columns):
      raise TextError(f"form {self.options.form!r} has an end: use tell()")
    found = self.rows.read(record, until)
    head = self.profile(record) + form.head(columns)
    return head, [form.event(columns, row) for row in found]

  def profile(self, record: Record) -> str:
    """A line about the user, of `options.profile`; "" where it names none."""
    if not self.rows.about:
      return ""
    said = []
    for c, cell in zip(self.rows.about, self.rows.read_profile(record)):
      t = cells.mark(cell)
      t = cells.MISSING if t is None else cells.clean(t)
      title = cells.quoted(cells.clean(c.title), (",", ":"))
      said.append(f"{title}: {cells.quoted(t, ',')}")
    return "Profile: " + ", ".join(said) + "\n"

  def tell(
    self,
    record: Record,
    until: int = 0,
    *,
    form: str = "",
    count: Count | None = None,
    room: int = 0,
    rename: Rename | None = None,
    behind: Callable[[Sequence, list], str] | None = None,
  ) -> Told:
    """The text of the newest events that fit.

    Args:
      record: Of the user.
      until: Events before this day; of all where it is 0.
      form: Default `options.form`.
      count: Text -> its tokens; default none is counted and all is told.
      room: Most tokens.
      rename: Gives other names to columns and cells.
      behind: (columns, rows told) -> text behind the events; it must fit, too.
    """
    form = form or self.options.form
    columns, found = self.rows.columns, self.rows.read(record, until)
    if rename is not None:
      columns, found = rename(columns, found)
    front = self.profile(record)

    def write(kept):
      newest = found[len(found) - kept :]
      text = front + forms.write(form, columns, newest, self.group)
      return text + behind(columns, newest) if behind else text

    kept = len(found)
    if count is not None:
      guess = self._most(form, columns, found, count, room)
      kept = _largest(lambda n: count(write(n)) <= room, guess, kept)
    text = write(kept)
    cut = len(found) - kept
    self.counts.update(
      texts=1,
      events=kept,
      cut_texts=int(cut > 0),
      cut_events=cut,
      empty_texts=int(not kept),
    )
    return Told(text, form, tuple(columns), found[cut:], kept, cut)

  def _most(self, form, columns, found, count, room: int) -> int:
    """About how many of the newest events fit, by their own texts."""
    f = forms.of("table" if form == forms.GROUPED else form)
    left, kept = room - count(f.head(columns) + f.foot(columns)), 0
    for row in reversed(found):
      left -= count(f.event(columns, row))
      if left < 0:
        break
      kept += 1
    return kept

  def _group(self) -> int:
    """Column of the headings of form "grouped"."""
    name, rows = self.options.group, self.rows
    if name:
      if name not in rows.names:
        raise TextError(
          f"group = {name!r} is not told; told are {list(filter(None, rows.names))}"
        )
      return rows.names.index(name)
    sized = [(n, i) for i, n in enumerate(rows.sizes) if n]
    # Without categories a heading a day is the best there is.
    return min(sized)[1] if sized else 0


def _largest(fits: Callable[[int], bool], guess: int, most: int) -> int:
  """The largest number up to `most` that fits, near a guess; 0 where none does."""
  low, high, step = guess, most + 1, 1
  if fits(low):
    while low < most and fits(min(low + step, most)):
      low, step = min(low + step, most), 2 * step
    high = min(low + step, high)
  else:
    while low and not fits(low):
      low, high, step = max(low - step, 0), low, 2 * step
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if fits(middle) else (low, middle)
  return low


def encode_data(tokenizer: Any, text: str) -> list[int]:
  """Ids of a text in which nothing is parsed as a control token.

  Args:
    tokenizer: One of llm/tokenizer.py, a `tokenizers.Tokenizer`, or one of
      `transformers`.
    text: Of users' values.

  Raises:
    TextError: Ids hold a control token all the same.
  """
  if hasattr(tokenizer, "digest"):  # Ours: stripped of control tokens.
    return list(tokenizer.encode([text])[0])
  control: set[int] = set()
  if hasattr(tokenizer, "all_special_ids"):
    control = set(tokenizer.all_special_ids)
    ids = tokenizer.encode(
      text, add_special_tokens=False, split_special_tokens=True
    )
  else:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    control = {
      i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special
    }
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode(text, add_special_tokens=False).ids
  if not control.isdisjoint(ids):
    raise TextError("a text holds a control token: its ids are refused")
  return list(ids)


def texts(
  records,
  split: str,
  cfg: Mapping[str, Any] | None = None,
  epoch: int = 0,
  seed: int = 0,
  *,
  until: int = 0,
  count: Count | None = None,
  room: int = 0,
) -> Iterator[tuple[str, str]]:
  """(key, text) of each user of a split, in mixed forms.

  Which form, names and summary a user has depends on the seed, the epoch and the
  user alone, so that it is the same in any order and on any host.

  Args:
    records: An open `Records`.
    split: Of it.
    cfg: Keys of `Options`, and those of `offline.Mix`; None for their defaults.
    epoch: Forms change with it.
    seed: Of the choice.
    until: Events before this day; of all where it is 0. Texts to train on need
      it, or later events are learned.
    count, room: As in `Teller.tell`.
  """
  from lumos_jax.llm import offline  # Which tells with this module.

  mixer = offline.Mixer(records.schema, cfg, seed)
  source = records.source(split)
  for i in range(len(source)):
    record = source[i]
    told = mixer.tell(record, epoch, until=until, count=count, room=room)
    yield record["key"], told.text
