"""What asking a model for intents may cost, told before anything is asked."""

from typing import Any

from lumos_jax.intents import prompts
from lumos_jax.intents import taxonomy as taxonomy_lib
from lumos_jax.intents import teacher as teacher_lib
from lumos_jax.llm import answers as answers_lib

_LABEL = 220  # Characters of a label with its definition.
_REVIEWS = 2
_PAIR = 40  # Characters of an answer's label with its confidence.
_SESSIONS, _CLUSTERS = 6, 16  # As far as clusters are not known yet.


def estimate(chain: Any) -> dict[str, float]:
  """Requests, tokens and cost of a chain from its beginning, as guessed.

  What was paid before is in it: labels that are not there yet cannot be asked for.
  """
  o, e = chain.options, chain.asker.ask.endpoint
  sessions, label = chain.sample, "x" * (_LABEL // 2)
  many = [
    taxonomy_lib.Label(f"i{n:02d}", label[:40], label) for n in range(o.labels)
  ]
  k = o.k or max(_CLUSTERS, o.labels)
  size = min(4 * _SESSIONS, len(sessions))
  rounds = -(-k // 4)
  asked = prompts.request(prompts.UPDATE, many, sessions.pages[:size], 2)
  made = prompts.expected_tokens(asked, 2 * o.labels * _LABEL)
  review = prompts.request(prompts.REVIEW, many, (), 2)
  judged = prompts.expected_tokens(review, o.labels * _LABEL)
  some = range(min(teacher_lib.A_REQUEST, len(sessions)))
  taxonomy = taxonomy_lib.Taxonomy(tuple(many))
  label_request = teacher_lib.request(taxonomy, sessions, some)
  labelled = prompts.expected_tokens(label_request, len(some) * 2 * _PAIR)
  teach = -(-min(o.teach, len(sessions)) // teacher_lib.A_REQUEST)
  parts = ((rounds, made), (_REVIEWS, judged), (teach, labelled))
  tokens_in = sum(n * x[0] for n, x in parts)
  tokens_out = sum(n * min(x[1], e.max_tokens) for n, x in parts)
  return {
    "requests": sum(n for n, _ in parts),
    "tokens_in": tokens_in,
    "tokens_out": tokens_out,
    "cost": e.cost(tokens_in, tokens_out),
  }


def tell(chain: Any) -> None:
  """Says the estimate; a chain whose model has answered goes on at once.

  Raises:
    LimitError: It is more than the limit, and nothing was spent yet.
  """
  found, e = estimate(chain), chain.asker.ask.endpoint
  spent = chain.asker.ask.answers.spent()
  chain.say(
    f"about {found['requests']:,} requests of {found['tokens_in']:,.0f} tokens to "
    f"send and {found['tokens_out']:,.0f} to receive in all, about "
    f"{found['cost']:.2f}; spent until now {spent:.2f}, limit {e.limit:.2f}"
  )
  if not spent and found["cost"] > e.limit:
    raise answers_lib.LimitError(
      f"this would cost about {found['cost']:.2f}, and --max_cost is "
      f"{e.limit:.2f}: raise it, or label fewer sessions with --teach; nothing was "
      "asked"
    )
