"""Base texts rewritten by a model behind an endpoint, each checked."""

import collections
import concurrent.futures
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lumos_jax.llm import check, client, offline, prompts
from lumos_jax.llm import text as text_lib

ENDPOINT = "endpoint"
_USELESS = 40  # Answers of which none can be used before all is stopped.
# key, form, text, source.
Row = dict[str, str]
# Records and their base texts.
Users = Iterable[tuple[Mapping[str, Any], text_lib.Told]]


class Rewriter:
  """Asks an endpoint, and drops what it broke.

  Attributes:
    counts: Of texts: "rewritten", "paid before", and why others were dropped.
  """

  def __init__(self, ask: client.Client, seed: int, workers: int = 4):
    self.ask, self.seed, self.workers = ask, seed, workers
    self.counts: collections.Counter = collections.Counter()
    self._dropped = 0

  def drawn(self, key: str) -> tuple[str, str]:
    """Style and form of a user's rewritten text, by seed and key alone."""
    draw = offline.drawn(self.seed, "endpoint", key)
    style = draw.choice(prompts.STYLES)
    form = draw.choice(prompts.FORMS)
    return style, form if style == prompts.FORMAT else "table"

  def estimate(self, each: Users) -> dict[str, float]:
    """What rewriting texts may cost; asks nothing.

    Returns:
      texts, known (paid before, whole or cut), tokens_in and tokens_out as guessed,
      cost as guessed and most, the upper bound.
    """
    out = dict.fromkeys(
      ("texts", "known", "tokens_in", "tokens_out", "cost", "most"), 0
    )
    e = self.ask.endpoint
    for record, told in each:
      _, messages, schema = prompts.request(told, *self.drawn(record["key"]))
      out["texts"] += 1
      asked = messages, schema
      if self.ask.known(*asked) or self.ask.was_cut(*asked):
        out["known"] += 1
        continue
      size = sum(len(m["content"].encode()) for m in messages)
      # Of English a token has about four bytes, of tables with numbers three.
      tokens_in, tokens_out = size / 3, min(len(told.text) / 2.5, e.max_tokens)
      most = client.most_tokens(self.ask.sent(messages, schema))
      out["tokens_in"] += tokens_in
      out["tokens_out"] += tokens_out
      out["cost"] += e.cost(tokens_in, tokens_out)
      out["most"] += e.cost(most, e.max_tokens)
    return out

  def run(self, each: Users) -> Iterator[Row]:
    """Rewritten texts of (record, told), in their order.

    Raises:
      EndpointError, LimitError: No more is asked; what came before was given.
    """
    with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
      waiting: collections.deque = collections.deque()
      try:
        for record, told in each:
          waiting.append(pool.submit(self._one, record["key"], told))
          if len(waiting) >= 4 * self.workers:
            yield from self._count(*waiting.popleft().result())
        while waiting:
          yield from self._count(*waiting.popleft().result())
      finally:
        for future in waiting:
          future.cancel()

  def _count(self, row: Row | None, *what: str) -> list[Row]:
    self.counts.update(what)
    self._dropped += row is None
    if self._dropped == _USELESS and not self.counts["rewritten"]:
      raise client.EndpointError(
        f"not one of {_USELESS} answers can be used ({dict(self.counts)}): what "
        "was asked is paid and kept; try another model"
      )
    return [] if row is None else [row]

  def _one(self, key: str, told: text_lib.Told) -> tuple:
    """A row, or None, and what it counts as."""
    style, form = self.drawn(key)
    name, messages, schema = prompts.request(told, style, form)
    try:
      found = self.ask.ask(messages, schema)
      text, analysis = prompts.answer(found.text, name, style)
    except client.AnswerError as e:
      return None, f"dropped: {e.kind}"
    except prompts.AnswerFormatError:
      return None, "dropped: junk"
    names = style == prompts.FORMAT
    why = check.broken(told.columns, told.rows, form, text, analysis, names)
    if why:
      return None, f"dropped: broken {why}"
    text = text.rstrip("\n") + "\n"
    if analysis.strip():
      text += analysis.strip() + "\n"
    row = {"key": key, "form": form, "text": text, "source": ENDPOINT}
    paid = ["of these, paid before"] if found.cached else []
    return row, "rewritten", *paid
