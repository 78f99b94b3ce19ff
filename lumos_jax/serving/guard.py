"""What stands before every request: token, limits, counters, a log without names.

Plain ASGI: a wrapper of two functions takes microseconds, where middleware with
request objects takes as long as the rest of a request.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Callable

from absl import logging

from lumos_jax.serving import metrics as metrics_lib
from lumos_jax.serving import problems

# They hold no data: a load balancer asks for them, and a browser for the page.
OPEN = ("/", "/health", "/ready")
_TOO_LONG = "the body has more than {} bytes"
_MOST_CLIENTS = 10_000  # Whose rates are kept.


class _Rate:
  """Requests a second of each client: a bucket that fills again."""

  def __init__(self, per_second: float):
    self._rate, self._most = per_second, max(per_second, 1.0)
    self._buckets: dict[str, tuple[float, float]] = {}

  def allows(self, client: str, now: float) -> bool:
    left, since = self._buckets.get(client, (self._most, now))
    left = min(self._most, left + (now - since) * self._rate)
    if len(self._buckets) >= _MOST_CLIENTS and client not in self._buckets:
      self._buckets.clear()
    self._buckets[client] = (left - 1.0 if left >= 1.0 else left), now
    return left >= 1.0


class Guard:
  """ASGI application around another one."""

  def __init__(
    self,
    app: Callable,
    metrics: metrics_lib.Metrics,
    *,
    token: str = "",
    most_bytes: int = 1 << 20,
    most_requests: int = 512,
    per_second: float = 0.0,
    ready: Callable[[], bool] = lambda: True,
    routes: Callable[[str], str] = lambda path: path,
  ):
    """Keeps limits.

    Args:
      app: What answers.
      metrics: Counters.
      token: Bearer token that is asked for; "" for none.
      most_bytes: Of a body.
      most_requests: At a time.
      per_second: Of one client; 0 for no limit.
      ready: Whether questions can be answered.
      routes: Name of a path in logs and counters, without ids.
    """
    self._app, self._metrics, self._ready = app, metrics, ready
    # Digests have one length: comparing them tells nothing of the token's.
    self._token = hashlib.sha256(token.encode()).digest() if token else None
    self._bytes, self._requests = most_bytes, most_requests
    self._rate = _Rate(per_second) if per_second else None
    self._routes, self._running = routes, 0

  async def __call__(self, scope, receive, send):
    """Answers, or has the application answer."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    begin, status = time.perf_counter(), 0
    route = self._routes(scope["path"])

    async def sent(message):
      nonlocal status
      if message["type"] == "http.response.start":
        status = message["status"]
      await send(message)

    self._running += 1
    self._metrics.running.set(self._running)
    try:
      refused = self._refused(scope)
      if refused is not None:
        await _answer(sent, *refused)
        return
      await self._app(scope, self._bounded(scope, receive), sent)
    except Exception as e:
      # Messages and values may hold what a client sent: the places tell enough.
      logging.error(
        "%s %s failed: %s at %s",
        *(scope["method"], route, type(e).__name__, _places(e)),
      )
      if not status:
        await _answer(sent, 500, "the service has failed; its log says where")
    finally:
      self._running -= 1
      self._metrics.observe(route, status, time.perf_counter() - begin)

  def _refused(self, scope):
    """(status, reason, headers) of a request that goes no further; or None."""
    path, headers = scope["path"], scope["headers"]
    if self._running > self._requests:
      return 503, "too many requests at a time", ((b"retry-after", b"1"),)
    if self._rate is not None:
      client = scope.get("client") or ("",)
      if not self._rate.allows(client[0], time.monotonic()):
        return 429, "too many requests a second", ((b"retry-after", b"1"),)
    if path in OPEN:
      return None
    length, kind, token = b"", b"", b""
    for name, value in headers:
      if name == b"content-length":
        length = value
      elif name == b"content-type":
        kind = value
      elif name == b"authorization":
        token = value
    if self._token is not None and not self._allowed(token):
      return (
        401,
        "a bearer token is needed",
        ((b"www-authenticate", b"Bearer"),),
      )
    if length and (not length.isdigit() or int(length) > self._bytes):
      return 413, _TOO_LONG.format(self._bytes)
    if scope["method"] == "POST":
      media = kind.split(b";")[0].strip().lower()
      if media != b"application/json":
        return 415, "send application/json"
    if not self._ready() and path not in ("/metrics", "/openapi.json", "/docs"):
      return 503, "the model is not compiled yet", ((b"retry-after", b"5"),)
    return None

  def _allowed(self, header: bytes) -> bool:
    scheme, _, given = header.partition(b" ")
    digest = hashlib.sha256(given.strip()).digest()
    return hmac.compare_digest(digest, self._token) and (
      scheme.lower() == b"bearer"
    )

  def _bounded(self, scope, receive):
    """Bodies without a length are counted as they come."""
    if any(name == b"content-length" for name, _ in scope["headers"]):
      return receive
    left = self._bytes

    async def counted():
      nonlocal left
      message = await receive()
      left -= len(message.get("body", b""))
      if left < 0:
        raise problems.Problem(413, _TOO_LONG.format(self._bytes))
      return message

    return counted


def _places(error: BaseException) -> str:
  out, trace = [], error.__traceback__
  while trace is not None:
    code = trace.tb_frame.f_code
    out.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}")
    trace = trace.tb_next
  return " > ".join(out[-6:])


async def _answer(send, status: int, reason: str, headers=()) -> None:
  body = json.dumps({"reason": reason}).encode()
  await send({
    "type": "http.response.start",
    "status": status,
    "headers": [
      (b"content-type", b"application/json"),
      (b"content-length", str(len(body)).encode()),
      *headers,
    ],
  })  # fmt: skip
  await send({"type": "http.response.body", "body": body})
