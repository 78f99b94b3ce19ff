"""A taxonomy by a language model: generate, update batch by batch, review.

Each request follows from the answers before it, and answers are kept (llm/answers):
a run that was killed asks only what was not answered yet.
"""

import collections
import threading
from collections.abc import Callable, Sequence
from typing import Any

from lumos_jax.intents import prompts
from lumos_jax.intents import sessions as sessions_lib
from lumos_jax.intents import taxonomy as taxonomy_lib
from lumos_jax.llm import client

_TRIES = 3  # Of a request whose answers are of no use.
_REVIEWS = 3  # Until the number of labels is the one asked for.


class Asker:
  """Asks until an answer can be read; counts what could not.

  Attributes:
    counts: "asked", "paid before", and answers of no use by reason.
  """

  def __init__(self, ask: client.Client):
    self.ask = ask
    self.counts: collections.Counter = collections.Counter()
    self._lock = threading.Lock()

  def _count(self, what: str) -> None:
    with self._lock:
      self.counts[what] += 1

  def read(
    self, request: prompts.Request, parse: Callable[[str, str], Any]
  ) -> Any | None:
    """A parsed answer, or None after `_TRIES` of no use.

    Raises:
      EndpointError, LimitError: No more can be asked.
    """
    messages = list(request.messages)
    for _ in range(_TRIES):
      try:
        found = self.ask.ask(messages, request.schema)
      except client.AnswerError as e:
        # What was cut or refused would be so again.
        self._count(f"no answer: {e.kind}")
        return None
      self._count("paid before" if found.cached else "asked")
      try:
        return parse(found.text, request.name)
      except prompts.AnswerFormatError as e:
        self._count(f"of no use: {e}")
        # Another request than the first, so that another answer can come.
        messages = [
          *messages,
          {"role": "assistant", "content": found.text},
          {
            "role": "user",
            "content": f"That cannot be used: {e}. Give the whole answer again.",
          },
        ]
    return None


def build(
  asker: Asker,
  batches: Sequence[Sequence[Sequence[str]]],
  count: int,
  say: Callable[[str], None] = lambda text: None,
) -> tuple[taxonomy_lib.Taxonomy, list[str]]:
  """A taxonomy of representative sessions.

  Args:
    asker: Of the endpoint.
    batches: Page texts of sessions, batch by batch.
    count: Labels in the end.
    say: Gets a line a round.

  Returns:
    The taxonomy, and what a reader has to know of how it was made.

  Raises:
    IntentError: No batch gave a label.
    EndpointError, LimitError: No more can be asked; answers are kept.
  """
  labels: list[taxonomy_lib.Label] = []
  taken: list[str] = []
  told: list[str] = []
  lost = 0
  for i, batch in enumerate(batches):
    task = prompts.UPDATE if labels else prompts.GENERATE
    # Room to tell things apart before the review joins them.
    request = prompts.request(task, labels, batch, 2 * count)
    found = asker.read(request, prompts.labels)
    if found is None:
      lost += 1
    else:
      labels = _merged(found, labels, taken, asker.counts)
    say(f"batch {i + 1} of {len(batches)}: {len(labels)} labels")
  if not labels:
    raise sessions_lib.IntentError(
      "the model gave no taxonomy that can be used "
      f"({dict(asker.counts)}): use another model, or the namer without one"
    )
  if lost:
    told.append(f"{lost} of {len(batches)} batches had no answer of use")
  for i in range(_REVIEWS):
    if i and len(labels) == count:
      break
    request = prompts.request(prompts.REVIEW, labels, (), count)
    found = asker.read(request, prompts.labels)
    if found is not None:
      labels = _merged(found, labels, taken, asker.counts)
    say(f"review {i + 1}: {len(labels)} labels")
    if found is None:
      told.append("a review had no answer of use")
      break
  if len(labels) > count:
    dropped = ", ".join(repr(x.name) for x in labels[count:])
    told.append(
      f"{len(labels)} labels after {_REVIEWS} reviews; left out: {dropped}"
    )
    labels = labels[:count]
  elif len(labels) < count:
    told.append(f"{len(labels)} labels, {count} were asked for")
  return taxonomy_lib.Taxonomy(tuple(labels)), told


def _merged(
  found, labels, taken: list[str], counts
) -> list[taxonomy_lib.Label]:
  """An answer's labels with our ids: known ones stay, others are new."""
  known, out = {x.id for x in labels}, []
  for key, name, definition in found:
    if key and key not in known:
      counts["labels with an unknown id"] += 1
    if key in known:
      known.discard(key)  # A second label of one id is a new one.
    else:
      key = taxonomy_lib.number(taken)
      taken.append(key)
    out.append(taxonomy_lib.Label(key, name, definition))
  return out
