"""An open load on the service, in a process that has neither jax nor the service.

Requests begin at times drawn beforehand (exponential gaps), whether or not earlier
ones are answered; latency counts from the time that a request was meant to begin.
Prints figures as JSON; benchmarks/serve.py starts it.
"""

import argparse
import asyncio
import json

import numpy as np

USERS, ITEMS = 400, 5000
CONNECTIONS = 64
PATHS = ("/score", "/events", "/why")
START = np.datetime64("2020-01-01")


class Connection(asyncio.Protocol):
  """One HTTP/1.1 connection; one request at a time."""

  def __init__(self):
    self._buffer, self._left, self._status = b"", None, 0
    self.answered: asyncio.Future | None = None

  def connection_made(self, transport):
    """Keeps the way to send."""
    self.transport = transport

  def data_received(self, data):
    """Reads an answer: head, then as many bytes as it says."""
    self._buffer += data
    if self._left is None:
      head, found, rest = self._buffer.partition(b"\r\n\r\n")
      if not found:
        return
      self._status = int(head[9:12])
      lines = head.lower().split(b"\r\n")
      length = [x for x in lines if x.startswith(b"content-length:")]
      self._left = int(length[0].split(b":")[1]) if length else 0
      self._buffer = rest
    if len(self._buffer) >= self._left:
      self._buffer, self._left = self._buffer[self._left :], None
      if self.answered is not None and not self.answered.done():
        self.answered.set_result(self._status)

  def connection_lost(self, error):
    """An answer that was waited for does not come."""
    if self.answered is not None and not self.answered.done():
      self.answered.set_result(0)

  def ask(self, request: bytes) -> asyncio.Future:
    """Sends a request; its status."""
    self.answered = asyncio.get_running_loop().create_future()
    self.transport.write(request)
    return self.answered


def request(path: str, document: dict) -> bytes:
  """The bytes of a POST."""
  body = json.dumps(document).encode()
  return (
    f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(body)}\r\n\r\n"
  ).encode() + body


def event(rng, seconds: int) -> dict:
  """An event at so many seconds after the data's last day."""
  at = START + np.timedelta64(100, "D") + np.timedelta64(int(seconds), "s")
  return {
    "time": f"{at}Z",
    "fields": {
      "item": f"i{rng.integers(ITEMS)}",
      "channel": ("web", "app")[rng.integers(2)],
      "amount": round(float(rng.random()), 4),
    },
  }


async def load(args):
  """Asks at times drawn beforehand.

  Returns:
    Latencies [n] in seconds, statuses [n], places in PATHS [n], and how long it took.
  """
  loop, rng = asyncio.get_running_loop(), np.random.default_rng(args.seed)
  count = int(args.rate * args.seconds)
  begin = np.cumsum(rng.exponential(1 / args.rate, count))
  path = (rng.random(count) < args.appends).astype(int)
  whys = int(args.whys * args.seconds)
  if whys:
    others = np.cumsum(rng.exponential(1 / args.whys, whys))
    begin, path = np.append(begin, others), np.append(path, [2] * whys)
    order = np.argsort(begin)
    begin, path, count = begin[order], path[order], count + whys
  users = rng.integers(0, USERS, count)
  # Made beforehand: writing JSON must not delay a request.
  asked = []
  for i in range(count):
    # Later than all before: a user's events come in order of time.
    at = int(args.seed * 100_000 + begin[i]) + 1
    body = {"user_id": f"user{users[i]}", "events": [event(rng, at)]}
    asked.append(request(PATHS[path[i]], body))
  free: list[Connection] = []
  for _ in range(CONNECTIONS):
    _, made = await loop.create_connection(Connection, "127.0.0.1", args.port)
    free.append(made)
  waiting: asyncio.Queue = asyncio.Queue()
  for made in free:
    waiting.put_nowait(made)
  latency, status = np.zeros(count), np.zeros(count, int)
  start = loop.time() + 0.2

  async def one(i):
    connection = await waiting.get()
    status[i] = await connection.ask(asked[i])
    latency[i] = loop.time() - start - begin[i]
    waiting.put_nowait(connection)

  tasks = set()
  for i in range(count):
    delay = start + begin[i] - loop.time()
    if delay > 0.0005:
      await asyncio.sleep(delay)
    task = loop.create_task(one(i))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
  if tasks:
    await asyncio.wait(tasks, timeout=30)
  took = loop.time() - start
  for made in free:
    made.transport.close()
  return latency, status, path, took


async def touch(port: int):
  """Asks for each user once, several at a time: states are then in memory."""
  loop, rng = asyncio.get_running_loop(), np.random.default_rng(0)
  left = list(range(USERS))

  async def work():
    _, made = await loop.create_connection(Connection, "127.0.0.1", port)
    while left:
      body = {"user_id": f"user{left.pop()}", "events": [event(rng, 1)]}
      # A busy service refuses what has waited too long.
      while await made.ask(request("/score", body)) != 200:
        await asyncio.sleep(0.2)
    made.transport.close()

  await asyncio.gather(*(work() for _ in range(32)))


def main() -> None:
  """Prints figures as JSON."""
  import uvloop

  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--port", type=int, required=True)
  add("--seed", type=int, default=0)
  add(
    "--rate", type=float, default=0.0, help="a second; 0 touches each user once"
  )
  add("--seconds", type=float, default=0.0)
  add(
    "--appends", type=float, default=0.0, help="share of requests that append"
  )
  add("--whys", type=float, default=0.0, help="explanations a second, beside")
  args = parser.parse_args()
  if args.rate == 0:
    uvloop.run(touch(args.port))
    print("{}")
    return
  latency, status, path, took = uvloop.run(load(args))
  good = status == 200
  found = {"offered": args.rate, "requests": len(status)}
  # Explanations that a full queue refuses are counted apart.
  why = path == PATHS.index("/why")
  found["errors"] = int((~good & ~why).sum())
  found["answered_per_second"] = float((good & ~why).sum() / took)
  if why.any():
    found["why_refused"] = int((why & (status == 503)).sum())
    found["why_errors"] = int((why & ~good & (status != 503)).sum())
  for i, name in enumerate(("score", "append", "why")):
    mine = latency[(path == i) & good] * 1000
    if len(mine):
      for q in (50, 99, 99.9):
        found[f"{name}_p{q:g}_ms"] = float(np.percentile(mine, q))
  print(json.dumps(found))


if __name__ == "__main__":
  main()
