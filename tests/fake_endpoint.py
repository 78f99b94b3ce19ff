"""An OpenAI-compatible endpoint on this machine, which can behave badly."""

import contextlib
import http.server
import json
import threading
import time


class Endpoint:
  """A server in a thread; `behave` makes each answer.

  Attributes:
    url: Its base URL.
    requests: Bodies of what was asked.
    paid: Answers that a provider would charge for.
    keys: Authorization headers.
  """

  def __init__(self, behave):
    self.behave, self.requests, self.keys, self.paid = behave, [], [], 0
    outer = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sent = json.loads(body)
        outer.requests.append(sent)
        outer.keys.append(self.headers.get("Authorization"))
        status, doc, headers = outer.behave(sent, len(outer.requests))
        if status == "hang":
          time.sleep(doc)
          return
        text = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
        outer.paid += status == 200
        with contextlib.suppress(OSError):  # The client may be gone.
          self.send_response(status)
          self.send_header("Content-Type", "application/json")
          self.send_header("Content-Length", str(len(text)))
          for name, value in headers.items():
            self.send_header(name, value)
          self.end_headers()
          self.wfile.write(text)

      def log_message(self, *args):
        pass

    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._server.daemon_threads = True
    self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
    self._thread = threading.Thread(
      target=self._server.serve_forever, args=(0.02,), daemon=True
    )
    self._thread.start()

  def close(self):
    self._server.shutdown()
    self._server.server_close()


def reply(content, reason="stop", usage=(100, 50), **message):
  """A completion, as (status, body, headers)."""
  doc = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
      {
        "index": 0,
        "finish_reason": reason,
        "message": {"role": "assistant", "content": content, **message},
      }
    ],
  }
  if usage:
    sent, made = usage
    doc["usage"] = {
      "prompt_tokens": sent,
      "completion_tokens": made,
      "total_tokens": sent + made,
    }
  return 200, doc, {}


def error(status, message="no", **headers):
  return status, {"error": {"message": message, "code": "c"}}, headers


def rewrite(sent, change=lambda lines: lines):
  """What a good model answers: the table as it was asked for."""
  asked = json.loads(sent["messages"][1]["content"])
  head, *lines = change(asked["table"].splitlines())
  system = sent["messages"][0]["content"]
  titles = head.split(", ")
  table = [line.split(", ") for line in lines]
  doc = {"id": asked["id"]}
  if "analysis" in system:
    doc["text"], doc["analysis"] = "\n".join([head, *lines]), "Steady habits."
  elif "as json" in system:
    doc["text"] = json.dumps([dict(zip(titles, r)) for r in table])
  elif "as yaml" in system:
    pairs = lambda r: [f"{t}: {x}" for t, x in zip(titles, r)]
    doc["text"] = "\n".join("- " + "\n  ".join(pairs(r)) for r in table)
  elif "as html" in system:
    row = lambda r, t: "<tr>" + "".join(f"<{t}>{x}</{t}>" for x in r) + "</tr>"
    text = "".join(row(r, "td") for r in table)
    doc["text"] = f"<table>{row(titles, 'th')}{text}</table>"
  elif "as markdown" in system:
    row = lambda r: "| " + " | ".join(r) + " |"
    rule = row(["---"] * len(titles))
    doc["text"] = "\n".join([row(titles), rule, *map(row, table)])
  else:
    said = [f"On {r[0]} there was {', '.join(r[1:])}." for r in table]
    doc["text"] = "\n".join(said)
  return doc
