"""The page at / and the list of routes at /docs: one file each, nothing loaded."""

import functools
import importlib.resources
import json
from typing import Any

from lumos_jax.report import page as report_page

# The page asks its own service alone, whatever a name in the data says.
POLICY = (
  "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
  "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
  "frame-ancestors 'none'"
)


def _resource(package: str, name: str) -> str:
  files = importlib.resources.files(package)
  return files.joinpath(name).read_text(encoding="utf-8")


def _whole(title: str, body: str, script: str = "") -> str:
  style = _resource("lumos_jax.report", "style.css")
  style += _resource(__package__, "page.css")
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n'
    f"<title>{report_page.text(title)}</title>\n<style>\n{style}</style>\n"
    f"</head>\n<body>\n{body}\n{script and f'<script>{script}</script>'}\n"
    "</body>\n</html>\n"
  )


@functools.cache
def page() -> bytes:
  """A user's history, forecasts, next events, and a what-if."""
  body = _resource(__package__, "page.html")
  script = _resource(__package__, "page.js")
  return _whole("lumos", body, script).encode()


def docs(document: dict[str, Any]) -> str:
  """The OpenAPI document, to be read.

  Args:
    document: As the service gives it.
  """
  tag = report_page.tag
  schemas = document["components"]["schemas"]
  parts = []
  for path, operations in document["paths"].items():
    for method, operation in operations.items():
      heading = f"{method.upper()} {path}"
      inside = [tag("p", operation.get("summary", ""))]
      body = operation.get("requestBody")
      if body is not None:
        shown = _schema(body["content"]["application/json"]["schema"], schemas)
        inside.append(tag("details", tag("summary", "request"), shown))
      rows = [
        [status, answer.get("description", "")]
        for status, answer in operation.get("responses", {}).items()
      ]
      ok = operation.get("responses", {}).get("200", {}).get("content", {})
      if found := ok.get("application/json", {}).get("schema"):
        inside.append(
          tag("details", tag("summary", "answer"), _schema(found, schemas))
        )
      table = report_page.table(["status", "means"], rows)
      inside.append(tag("details", tag("summary", "statuses"), table))
      parts.append(tag("section", tag("h2", heading), *inside))
  intro = tag(
    "p",
    "The same as a machine reads it: ",
    tag("a", "/openapi.json", href="/openapi.json"),
    ".",
  )
  main = tag("main", tag("h1", document["info"]["title"]), intro, *parts)
  return _whole("lumos: routes", main)


def _schema(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
  """A schema with what it refers to, as indented JSON."""
  names = [schema["$ref"].rpartition("/")[2]] if "$ref" in schema else []
  shown = {}
  while names:
    name = names.pop(0)
    if name in shown:
      continue
    shown[name] = schemas[name]
    names += [
      x.rpartition("/")[2] for x in _refs(schemas[name]) if x not in shown
    ]
  text = json.dumps(shown or schema, indent=1)
  return report_page.tag("pre", text)


def _refs(value: Any) -> list[str]:
  if isinstance(value, dict):
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [r for x in value.values() for r in _refs(x)]
  if isinstance(value, list):
    return [r for x in value for r in _refs(x)]
  return []
