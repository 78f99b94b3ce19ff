"""The HTTP service: FastAPI's routes and document, plain functions inside.

A body is read and checked once, by pydantic's own JSON parser, and an answer is
written once, by orjson: FastAPI's general path for both takes as long as the model.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import fastapi
import orjson
import pydantic
from fastapi.responses import Response

import lumos_jax
from lumos_jax.serving import document as document_lib
from lumos_jax.serving import encoder, guard, intent, messages, page
from lumos_jax.serving import jobs as jobs_lib
from lumos_jax.serving import metrics as metrics_lib
from lumos_jax.serving import scorer as scorer_lib
from lumos_jax.serving.problems import Problem

_REFUSALS = {
  401: "A bearer token is needed, or another one",
  413: "The body is too large",
  415: "The body is no JSON",
  422: "The request is wrong; the reason names the place",
  429: "Too many requests a second",
  503: "Not now: not ready yet, too many requests, or the store fails",
}
_USER = {404: "No such user", 409: "It does not fit what is stored of the user"}
_USERS = "/users/"


def make(
  service: "Service", metrics: metrics_lib.Metrics, **limits: Any
) -> Callable:
  """The ASGI application.

  Args:
    service: Holds the scorer, once it is there.
    metrics: Counters.
    **limits: Of `guard.Guard`.
  """
  app = fastapi.FastAPI(
    title="lumos",
    version=lumos_jax.__version__,
    description="A trained run of lumos_jax as a service.",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
  )
  # It is logged by the guard, without what the client sent.
  failed = Problem(500, "the service has failed; its log says where")
  app.add_exception_handler(Exception, lambda *_: refusal(failed))
  app.add_exception_handler(
    404, lambda *_: refusal(Problem(404, "there is no such path"))
  )
  app.add_exception_handler(
    405, lambda *_: refusal(Problem(405, "not by this method"))
  )
  _routes(app, service, metrics)
  document = document_lib.of(app, bool(limits.get("token")))
  app.add_route(
    "/openapi.json", lambda _: _json(document), include_in_schema=False
  )
  shown = page.docs(document).encode()
  app.add_route("/docs", lambda _: _html(shown), include_in_schema=False)
  app.add_route("/", lambda _: _html(page.page()), include_in_schema=False)
  known = {r.path for r in app.routes}
  known.add("/openapi.json")
  _count(metrics, service)
  return guard.Guard(
    app,
    metrics,
    ready=lambda: service.scorer is not None,
    routes=lambda path: _route(path, known),
    **limits,
  )


class Service:
  """What the routes use; empty until the model is compiled.

  Attributes:
    scorer: None before.
  """

  scorer: scorer_lib.Scorer | None = None


def _route(path: str, known: set[str]) -> str:
  """The name of a path, which may hold an id."""
  if path in known:
    return path
  return "/users/{user_id}" if path.startswith(_USERS) else "other"


def _json(document: Any, status: int = 200, headers=None) -> Response:
  return Response(
    orjson.dumps(document),
    status,
    headers=headers,
    media_type="application/json",
  )


def _html(text: bytes) -> Response:
  # Nothing is loaded from anywhere else, and no other page may hold this one.
  headers = {
    "content-security-policy": page.POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
  }
  return Response(text, headers=headers, media_type="text/html")


def refusal(problem: Problem) -> Response:
  """A problem as an answer."""
  headers = None
  if problem.retry_seconds is not None:
    headers = {"retry-after": str(problem.retry_seconds)}
  return _json({"reason": problem.reason}, problem.status, headers)


def read(kind: type[pydantic.BaseModel], body: bytes) -> Any:
  """A body as a message.

  Raises:
    Problem: It is no JSON, or not of the form; names the first place.
  """
  try:
    return kind.model_validate_json(body)
  except pydantic.ValidationError as e:
    raise Problem(422, _first(e)) from None


# Names that pydantic gives to the alternatives of a value.
_TAGS = re.compile(r"(str|int|float|bool|constrained-.*|list\[.*\])$")


def _first(error: pydantic.ValidationError) -> str:
  """The first place that is wrong, and why; no value is repeated."""
  errors = error.errors(include_url=False, include_input=False)
  place = lambda x: [
    p for p in x["loc"] if isinstance(p, int) or not _TAGS.match(p)
  ]
  first = errors[0]
  same = [e for e in errors if place(e) == place(first)]
  reason = first["msg"]
  if len(same) > 1:  # None of the alternatives fits.
    reason = "the value is of no type that is expected here"
    if any(e["type"] == "finite_number" for e in same):
      reason = "numbers must be finite"
  text = "".join(
    f"[{p}]" if isinstance(p, int) else f".{p[:60]}" for p in place(first)
  )
  return f"{text.lstrip('.') or 'body'}: {reason}"


def _routes(app: fastapi.FastAPI, service, metrics) -> None:
  m = messages

  def ask(path, request, answer, what, text):
    def args(x):
      found = {n: getattr(x, n) for n in request.model_fields if n != "user_id"}
      for name in ("events", "edits"):
        if name in found:
          found[name] = [i.model_dump() for i in found[name]]
      return found

    async def endpoint(request_: fastapi.Request) -> Response:
      try:
        x = read(request, await request_.body())
        job = jobs_lib.Ask(what, service.scorer.keys.user(x.user_id), args(x))
        queue = service.scorer.whys if what == "why" else service.scorer.asks
        return _json(await queue(job))
      except Problem as e:
        return refusal(e)

    _add(app, "POST", path, endpoint, answer, text, _USER, request)

  ask("/score", m.ScoreRequest, m.ScoreAnswer, "score", "Score new events")
  ask("/why", m.WhyRequest, m.WhyAnswer, "why", "What moved a score")
  ask("/next", m.NextRequest, m.NextAnswer, "next", "Likeliest next events")
  ask(
    "/forecast",
    m.ForecastRequest,
    m.ForecastAnswer,
    "forecast",
    "Forecasts of tasks, and under an edited calendar",
  )
  ask(
    "/embedding",
    m.EmbeddingRequest,
    m.EmbeddingAnswer,
    "embedding",
    "A user's embedding",
  )
  ask(
    "/history",
    m.HistoryRequest,
    m.HistoryAnswer,
    "past",
    "A user's newest rows in words",
  )
  ask(
    "/calendar",
    m.CalendarRequest,
    m.CalendarAnswer,
    "ahead",
    "Calendar entries that concern a user",
  )

  async def intents(request: fastapi.Request) -> Response:
    try:
      x = read(m.IntentRequest, await request.body())
      if x.vector is not None:
        model = service.scorer.live.model
        return _json(intent.of_vector(model, x.vector))
      events = [e.model_dump() for e in x.events]
      job = jobs_lib.Ask("intent", b"", {"events": events})
      return _json(await service.scorer.asks(job))
    except Problem as e:
      return refusal(e)

  refused = {409: "There are no intents, or of another checkpoint"}
  _add(
    *(app, "POST", "/intent", intents, m.IntentAnswer),
    *("Intents of a session", refused, m.IntentRequest),
  )

  async def append(request: fastapi.Request) -> Response:
    try:
      x = read(m.AppendRequest, await request.body())
      keys = service.scorer.keys
      name = x.idempotency_key
      job = jobs_lib.Append(
        keys.user(x.user_id),
        [e.model_dump() for e in x.events],
        "" if name is None else keys.request(name).hex(),
        x.profile,
        x.groups,
      )
      return _json(await service.scorer.writes(job))
    except Problem as e:
      return refusal(e)

  _add(
    *(app, "POST", "/events", append, m.AppendAnswer, "Store new events"),
    *({409: _USER[409]}, m.AppendRequest),
  )

  async def delete(user_id: str) -> Response:
    try:
      if not 1 <= len(user_id) <= 512:
        raise Problem(422, "user_id has 1 to 512 characters")
      key = service.scorer.keys.user(user_id)
      await service.scorer.writes(jobs_lib.Delete(key))
      return Response(status_code=204)
    except Problem as e:
      return refusal(e)

  app.add_api_route(
    _USERS + "{user_id:path}",  # An id may hold a slash.
    delete,
    methods=["DELETE"],
    summary="Forget a user",
    status_code=204,
    response_class=Response,
    responses=_responses({404: _USER[404]}),
  )

  async def about() -> Response:
    return _json(_about(service.scorer))

  _add(app, "GET", "/about", about, m.About, "What can be asked")

  async def health() -> Response:
    return _json({"status": "alive"})

  async def ready() -> Response:
    if service.scorer is None:
      return refusal(Problem(503, "the model is not compiled yet", 5))
    return _json({"status": "ready"})

  _add(app, "GET", "/health", health, m.Health, "Whether the process answers")
  _add(app, "GET", "/ready", ready, m.Health, "Whether the model is compiled")

  async def counters() -> Response:
    # Counting users or bytes may read the disk.
    found = await asyncio.to_thread(metrics.text)
    return Response(found, media_type="text/plain; version=0.0.4")

  app.add_api_route(
    "/metrics",
    counters,
    methods=["GET"],
    summary="Counters for Prometheus",
    response_class=fastapi.responses.PlainTextResponse,
    responses=_responses({}),
  )


def _responses(more: dict[int, str]) -> dict[int | str, dict[str, Any]]:
  out = {}
  for status, text in sorted({**_REFUSALS, **more}.items()):
    out[status] = {"model": messages.Refusal, "description": text}
  return out


def _add(app, method, path, endpoint, answer, text, more=None, request=None):
  """A route whose function reads the body and makes the response itself."""
  extra = None
  if request is not None:
    schema = {"$ref": document_lib.REFS.format(model=request.__name__)}
    content = {"application/json": {"schema": schema}}
    extra = {"requestBody": {"required": True, "content": content}}
  app.add_api_route(
    path,
    endpoint,
    methods=[method],
    summary=text,
    response_model=answer,
    responses=_responses(more or {}),
    openapi_extra=extra,
  )


def _about(s: scorer_lib.Scorer) -> dict[str, Any]:
  model, schema = s.live.model, s.live.model.schema
  of = lambda fields: {
    n: type(f).__name__.lower() for n, f in fields.columns.items()
  }
  events = encoder.Encoder(schema, model.layout.fields)
  profile = encoder.Encoder(schema, schema.profile, "profile")
  able = ["history"] if model.sessions else ["score", "history"]
  able += ["intent"] if model.student else []
  if model.sessions:
    able.append("embedding")
  elif model.risks:
    able.append("why")
  else:
    able += ["embedding", "next" if model.events else "forecast"]
  tasks = {t.name: t.kind for t in model.tasks}
  return {
    "model": {"step": model.step, "hash": model.model_hash},
    "recipe": model.predictor.config.recipe,
    "data": schema.name,
    "kind": model.scores,
    "answers": able,
    "fields": of(events),
    "profile": of(profile),
    "tasks": tasks,
    "horizon_days": max([t.horizon_days for t in model.tasks], default=0),
    "calendar": [f.name for f in schema.calendar],
  }


def _count(metrics: metrics_lib.Metrics, service: Service) -> None:
  def of(fn):
    return lambda: fn(service.scorer) if service.scorer else 0.0

  for name, text, fn in (
    ("step", "Checkpoint in use", lambda s: s.live.model.step),
    ("asks_waiting", "Questions that wait", lambda s: len(s.asks)),
    ("whys_waiting", "Explanations that wait", lambda s: len(s.whys)),
    ("writes_waiting", "Writes that wait", lambda s: len(s.writes)),
    ("asks_total", "Questions answered", lambda s: s.asks.done),
    ("ask_batches_total", "Calls of the model", lambda s: s.asks.batches),
    ("events_appended_total", "Events stored", lambda s: s.appended),
    ("commits_total", "Commits of the store", lambda s: s.commits),
    ("conflicts_total", "Commits tried again", lambda s: s.conflicts),
    ("users_in_memory", "Users in memory", lambda s: len(s.users)),
    ("states_in_memory", "States in memory", lambda s: len(s.live.states)),
    ("state_hits_total", "States found", lambda s: s.live.states.hits),
    ("state_misses_total", "States made", lambda s: s.live.states.misses),
    ("store_bytes", "Bytes of the store", lambda s: s.store.size()),
  ):
    metrics.gauge(name, text, of(fn))
