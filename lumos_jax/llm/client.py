"""Calls of an OpenAI-compatible endpoint: retried, paced, limited, never twice.

Base URL, model and key come from the environment (`Endpoint.of_environment`). No
message of this module holds the key, or what a server said in its own words: that
may repeat what was sent.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lumos_jax.llm import answers as answers_lib

URL, MODEL, KEY = "OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_API_KEY"
_LONGEST_WAIT = 60.0  # Seconds between tries.
_FAILURES = 5  # Requests that fail one after the other before all is stopped.
_OLD_LIMIT, _NEW_LIMIT = "max_tokens", "max_completion_tokens"
_FORMATS = "response_format"
# Errors before a request has left.
_NOT_SENT = ("ConnectError", "ConnectTimeout")
_FORMAT = re.compile(r"response_format|json_schema|structured output", re.I)
_MOST_TOKENS = 10**9  # A server that says more of one answer says nonsense.


class EndpointError(ValueError):
  """The endpoint cannot be used; what was answered is kept."""


class AnswerError(ValueError):
  """One request has no answer that can be used.

  Attributes:
    kind: "cut", "refused", "junk" or "failed".
  """

  def __init__(self, kind: str, text: str):
    super().__init__(text)
    self.kind = kind


@dataclasses.dataclass(frozen=True)
class Endpoint:
  """Where answers come from, and at what price.

  Attributes:
    url, model: Of the server.
    key: Secret; not shown.
    price_in, price_out: Of a million tokens sent and received, in one currency.
    limit: Most to spend over all runs with one file of answers.
    per_minute: Requests; 0 for no limit.
    timeout_seconds: Of a request.
    retries: Of a request that failed for a reason that may pass.
    temperature, seed, max_tokens: Sent with each request.
  """

  url: str
  model: str
  key: str = dataclasses.field(default="none", repr=False)
  price_in: float = 0.0
  price_out: float = 0.0
  limit: float = 0.0
  per_minute: int = 60
  timeout_seconds: float = 120.0
  retries: int = 5
  temperature: float = 0.7
  seed: int = 0
  max_tokens: int = 4096

  def __post_init__(self):
    if not re.match(r"https?://", self.url):
      raise EndpointError(
        f"{URL} must begin with http:// or https://, and end where its paths "
        "begin, often with /v1"
      )
    if "@" in self.url.partition("://")[2].partition("/")[0]:
      raise EndpointError(
        f"{URL} holds a user or password, which would be logged and kept: give "
        f"the key as {KEY}"
      )
    if not re.fullmatch(r"[!-~]+", self.key):
      raise EndpointError(
        f"{KEY} holds a space, a line end or a letter beyond ASCII: no header "
        "takes it"
      )

  @classmethod
  def of_environment(cls, **kw: Any) -> "Endpoint":
    """URL and model of the environment, the key if there is one.

    Raises:
      EndpointError: One is absent; names it.
    """
    found = {n: os.environ.get(n, "").strip() for n in (URL, MODEL, KEY)}
    absent = [n for n in (URL, MODEL) if not found[n]]
    if absent:
      raise EndpointError(
        f"say in the environment which endpoint to ask: {', '.join(absent)} "
        f"(and {KEY}, where the server wants a key)"
      )
    return cls(found[URL], found[MODEL], found[KEY] or "none", **kw)

  def cost(self, tokens_in: float, tokens_out: float) -> float:
    """Of tokens sent and received."""
    return (self.price_in * tokens_in + self.price_out * tokens_out) / 1e6


@dataclasses.dataclass(frozen=True)
class Answer:
  """A whole answer.

  Attributes:
    text: Its content.
    cached: It was paid before.
  """

  text: str
  cached: bool


class Client:
  """Asks one endpoint; from several threads.

  Attributes:
    calls: Requests that were sent, tries included.
  """

  def __init__(
    self,
    endpoint: Endpoint,
    answers: answers_lib.Answers,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Connects to nothing yet; raises EndpointError without `openai`."""
    try:
      import openai
    except ImportError as e:
      raise EndpointError(
        'asking an endpoint needs openai: pip install "lumos-jax[llm]"'
      ) from e
    self._openai, self.endpoint, self.answers = openai, endpoint, answers
    self._sleep, self._clock = sleep, clock
    # It logs a line a request.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Retries are ours: each may be paid, so each is booked.
    self._client = openai.OpenAI(
      base_url=endpoint.url,
      api_key=endpoint.key,
      max_retries=0,
      timeout=endpoint.timeout_seconds,
    )
    self._lock = threading.Lock()
    self._next, self._failed, self.calls = 0.0, 0, 0
    self._server = json.dumps([endpoint.url, endpoint.model])
    self._lacks = answers.lacks(self._server)
    self._formats_work = False
    self._under_way: dict[str, list] = {}

  def close(self) -> None:
    """Closes connections."""
    self._client.close()

  def sent(
    self,
    messages: list[dict[str, str]],
    schema: Mapping[str, Any] | None,
    formats: bool | None = None,
  ) -> dict[str, Any]:
    """All that is sent for messages; `schema` where the server has formats.

    Args:
      messages, schema: See `ask`.
      formats: Whether it has; default what is known of it.
    """
    e = self.endpoint
    if formats is None:
      formats = _FORMATS not in self._lacks
    out = {
      "model": e.model,
      "messages": messages,
      "temperature": e.temperature,
      "seed": e.seed,
      _NEW_LIMIT if _OLD_LIMIT in self._lacks else _OLD_LIMIT: e.max_tokens,
    }
    if schema is not None and formats:
      out["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
      }
    return out

  def known(self, messages, schema=None) -> Answer | None:
    """The answer, if it was paid before."""
    for key in self._keys(messages, schema):
      found = self.answers.get(key)
      if found is not None:
        return Answer(found["text"], True)
    return None

  def was_cut(self, messages, schema=None) -> bool:
    """Whether the answer was cut before: the same request would be paid again."""
    return any(map(self.answers.was_cut, self._keys(messages, schema)))

  def _keys(self, messages, schema) -> list[str]:
    """Keys that an answer may have, from before a lack was learned too."""
    each = [None, True] if _FORMATS in self._lacks else [None]
    return [self._key(self.sent(messages, schema, x)) for x in each]

  def _key(self, sent: Mapping[str, Any]) -> str:
    """Of all that is sent; by which of its names the limit goes is no matter."""
    sent = dict(sent)
    sent[_OLD_LIMIT] = sent.pop(_NEW_LIMIT, None) or sent[_OLD_LIMIT]
    return answers_lib.key({"url": self.endpoint.url, **sent})

  @contextlib.contextmanager
  def _alone(self, key: str) -> Iterator[None]:
    """One thread at a time asks the same: the next one finds the answer."""
    with self._lock:
      mine = self._under_way.setdefault(key, [threading.Lock(), 0])
      mine[1] += 1
    try:
      with mine[0]:
        yield
    finally:
      with self._lock:
        mine[1] -= 1
        if not mine[1]:
          del self._under_way[key]

  def ask(
    self,
    messages: list[dict[str, str]],
    schema: Mapping[str, Any] | None = None,
  ) -> Answer:
    """An answer of the file, or of the endpoint.

    Args:
      messages: Of a chat, each {"role", "content"}.
      schema: JSON schema of the answer, where the server has structured outputs;
        else the messages have to say it.

    Raises:
      AnswerError: There is no answer, or no whole one.
      EndpointError: The endpoint fails again and again, or refuses all.
      LimitError: The call could cost more than is left.
    """
    with self._alone(answers_lib.key({"m": messages, "s": schema})):
      return self._ask(messages, schema)

  def _ask(self, messages, schema) -> Answer:
    found = self.known(messages, schema)
    if found is not None:
      return found
    if self.was_cut(messages, schema):
      raise AnswerError("cut", "the answer was cut at max_tokens before")
    tries = 0
    while True:
      sent = self.sent(messages, schema)
      try:
        answer = self._call(sent)
      except _Passing as e:
        if tries == self.endpoint.retries:
          self._fail("failed", f"{e}, {tries + 1} times")
        self._sleep(e.wait or _backoff(tries))
        tries += 1
      except _Lasting as e:
        self._fail(e.kind, str(e))
      except _Learned as e:
        self._lacks.add(str(e))
        self.answers.put_lack(self._server, str(e))
      else:
        return answer

  def _fail(self, kind: str, why: str) -> None:
    """One request fails; raises EndpointError where many did in a row."""
    with self._lock:
      self._failed += 1
      if self._failed >= _FAILURES:
        raise EndpointError(
          f"the endpoint failed {self._failed} requests one after the other, the "
          f"last with {why}: what it answered is kept; run again later"
        )
    raise AnswerError(kind, why)

  def _call(self, sent: dict[str, Any]) -> Answer:
    """One request: booked, sent, settled, judged and kept."""
    e, lib = self.endpoint, self._openai
    most = e.cost(most_tokens(sent), e.max_tokens)
    booking = self.answers.book(most, e.limit)
    self._pace()
    try:
      with self._lock:
        self.calls += 1
      reply = self._client.chat.completions.create(**sent)
    except lib.APITimeoutError as error:
      self._unless_sent(error, booking)
      raise _Passing("a timeout") from error
    except lib.APIStatusError as error:
      self.answers.settle(booking, 0.0)
      raise self._judge(error, sent) from error
    except lib.APIConnectionError as error:
      self._unless_sent(error, booking)
      raise _Passing("no connection") from error
    except (lib.OpenAIError, ValueError, RecursionError) as error:
      raise _Lasting("junk", "an answer that is no JSON") from error
    return self._keep(reply, sent, booking)

  def _unless_sent(self, error: Exception, booking: int) -> None:
    """What was sent may be paid, though no answer came: its booking stays."""
    if type(error.__cause__).__name__ in _NOT_SENT:
      self.answers.settle(booking, 0.0)

  def _keep(self, reply: Any, sent: Mapping[str, Any], booking: int) -> Answer:
    usage = getattr(reply, "usage", None)
    counted = [
      getattr(usage, n, None) for n in ("prompt_tokens", "completion_tokens")
    ]
    if all(isinstance(n, int) and 0 <= n <= _MOST_TOKENS for n in counted):
      self.answers.settle(booking, self.endpoint.cost(*counted))
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or not choices:
      raise _Lasting("junk", "an answer without choices")
    reason = getattr(choices[0], "finish_reason", None)
    message = getattr(choices[0], "message", None)
    # Before anything is read of the text: a cut one can be valid JSON.
    if reason == "length":
      self._works(sent)
      self.answers.put_cut(self._key(sent))
      raise AnswerError("cut", "the answer was cut at max_tokens")
    if reason == "content_filter" or getattr(message, "refusal", None):
      self._works(sent)
      raise AnswerError("refused", "the endpoint refused to answer")
    text = getattr(message, "content", None)
    if reason != "stop" or not isinstance(text, str) or not text.strip():
      raise AnswerError("junk", "the answer has no text, or no end")
    self._works(sent)
    self.answers.put(self._key(sent), {"text": text})
    return Answer(text, False)

  def _works(self, sent: Mapping[str, Any]) -> None:
    """The endpoint has answered, whatever it says."""
    with self._lock:
      self._failed = 0
      self._formats_work |= _FORMATS in sent

  def _judge(self, error: Any, sent: Mapping[str, Any]) -> Exception:
    """What a status means: it may pass, or it never will."""
    status = error.status_code
    if status in (408, 409, 429) or status >= 500:
      return _Passing(f"HTTP {status}", _retry_after(error))
    said = str(getattr(error, "body", "") or "")
    if status in (400, 413, 422):
      # A server that has answered in a format before lacks none, whatever it
      # repeats of what was sent.
      lacks = _FORMATS in sent and not self._formats_work
      if lacks and _FORMAT.search(said):
        return _Learned(_FORMATS)
      if _OLD_LIMIT in sent and _NEW_LIMIT in said:
        return _Learned(_OLD_LIMIT)
      # Too long, or a filter before the model: others may pass.
      return _Lasting("failed", f"HTTP {status}{_reason(error)}")
    hint = {
      401: f"correct ${KEY}",
      403: f"the key of ${KEY} may not use it",
      404: f"correct ${URL} and ${MODEL}",
    }.get(status, "see the server's log")
    return EndpointError(f"the endpoint answers HTTP {status}: {hint}")

  def _pace(self) -> None:
    if not self.endpoint.per_minute:
      return
    with self._lock:
      now = self._clock()
      wait = max(self._next - now, 0.0)
      self._next = max(self._next, now) + 60.0 / self.endpoint.per_minute
    if wait:
      self._sleep(wait)


class _Passing(Exception):
  """A failure that may pass; `wait` in seconds, 0 where it is not said."""

  def __init__(self, text: str, wait: float = 0.0):
    super().__init__(text)
    self.wait = wait


class _Lasting(Exception):
  """A failure that would come again; `kind` as of AnswerError."""

  def __init__(self, kind: str, text: str):
    super().__init__(text)
    self.kind = kind


class _Learned(Exception):
  """The server lacks what the text names; the next request does without."""


def most_tokens(sent: Mapping[str, Any]) -> int:
  """Upper bound of a request's tokens: its bytes, as a token has one or more."""
  return len(json.dumps(sent, ensure_ascii=False).encode("utf-8", "replace"))


def _backoff(tries: int) -> float:
  """Seconds: 1, 2, 4, ... each by half to one and a half."""
  return min(2.0**tries, _LONGEST_WAIT) * random.uniform(0.5, 1.5)


def _reason(error: Any) -> str:
  """What a server names as wrong, if it is a bare word: no text of users."""
  body = error.body if isinstance(error.body, dict) else {}
  body = body["error"] if isinstance(body.get("error"), dict) else body
  named = [str(body.get(n) or "") for n in ("code", "param")]
  words = [w for w in named if re.fullmatch(r"[a-z_.]{1,40}", w)]
  return f" ({', '.join(words)})" if words else ""


def _retry_after(error: Any) -> float:
  """Seconds that the server asks to wait; 0 where it does not say."""
  said = error.response.headers.get("retry-after", "")
  try:
    wait = float(said)
  except ValueError:  # A date.
    return 0.0
  return min(max(wait, 0.0), _LONGEST_WAIT) if math.isfinite(wait) else 0.0
