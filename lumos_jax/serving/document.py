"""The service's OpenAPI document."""

from typing import Any

import fastapi
from fastapi.openapi import utils as openapi_utils

from lumos_jax.serving import guard, messages

REFS = "#/components/schemas/{model}"


def of(app: fastapi.FastAPI, token: bool) -> dict[str, Any]:
  """The document, with the bodies that FastAPI does not read.

  Args:
    app: With its routes.
    token: Whether a bearer token is needed.
  """
  document = openapi_utils.get_openapi(
    title=app.title,
    version=app.version,
    description=app.description,
    routes=app.routes,
  )
  schemas = document.setdefault("components", {}).setdefault("schemas", {})
  kinds = [
    x
    for x in vars(messages).values()
    if isinstance(x, type)
    and issubclass(x, messages.UserRequest | messages.IntentRequest)
  ]
  for kind in kinds:
    made = kind.model_json_schema(ref_template=REFS)
    schemas |= made.pop("$defs", {})
    schemas[kind.__name__] = made
  for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own form.
    schemas.pop(name, None)
  if token:
    scheme = {"type": "http", "scheme": "bearer"}
    document["components"]["securitySchemes"] = {"token": scheme}
    document["security"] = [{"token": []}]
    for path in guard.OPEN:
      for operation in document["paths"].get(path, {}).values():
        operation["security"] = []
  return document
