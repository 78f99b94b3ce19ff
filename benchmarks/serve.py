r"""The HTTP service under load: latency against offered load, and a soak.

  python benchmarks/serve.py [--seconds=20] [--loads=50,100,200,400,700,1000]
  python benchmarks/serve.py --minutes=10

Makes a PANTHER with fresh parameters (no figure depends on what it has learned) and
generated users, starts `python -m lumos_jax.serving` on their store, and asks it
from another process. The load is open: requests begin at times drawn beforehand
(exponential gaps), whether or not earlier ones are answered, and latency counts from
the time that a request was meant to begin. With --minutes, a fifth of the requests
append an event, and the service's memory is read on the way. Also times the look-up
of a user in memory and in the store. Writes benchmarks/results/serve.json.
"""

import argparse
import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

# Run as a script, Python puts benchmarks/ on the path, not the root.
ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks import results  # noqa: E402

USERS, ITEMS, LENGTH = 400, 5000, 512
CONNECTIONS = 64
APPENDS = 0.2
START = np.datetime64("2020-01-01")


# The load, in a process of its own: neither jax nor the service is in it.


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


async def load(
  port: int, rate: float, seconds: float, appends: float, seed: int
):
  """Asks at times drawn beforehand; latencies [n] in seconds and statuses [n]."""
  loop, rng = asyncio.get_running_loop(), np.random.default_rng(seed)
  count = int(rate * seconds)
  begin = np.cumsum(rng.exponential(1 / rate, count))
  users = rng.integers(0, USERS, count)
  adds = rng.random(count) < appends
  # Made beforehand: writing JSON must not delay a request.
  asked = []
  for i in range(count):
    # Later than all before: a user's events come in order of time.
    at = int(seed * 100_000 + begin[i]) + 1
    body = {"user_id": f"user{users[i]}", "events": [event(rng, at)]}
    asked.append(request("/events" if adds[i] else "/score", body))
  free: list[Connection] = []
  for _ in range(CONNECTIONS):
    _, made = await loop.create_connection(Connection, "127.0.0.1", port)
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
  return latency, status, adds, took


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


def as_load(args) -> None:
  """What the other process does: prints figures as JSON."""
  import uvloop

  if args.rate == 0:
    uvloop.run(touch(args.port))
    print("{}")
    return
  latency, status, adds, took = uvloop.run(
    load(args.port, args.rate, args.seconds, args.appends, args.seed)
  )
  good = status == 200
  found = {"offered": args.rate, "requests": len(status)}
  found["errors"] = int((~good).sum())
  found["answered_per_second"] = float(good.sum() / took)
  for name, some in (("score", ~adds), ("append", adds)):
    mine = latency[some & good] * 1000
    if len(mine):
      for q in (50, 99, 99.9):
        found[f"{name}_p{q:g}_ms"] = float(np.percentile(mine, q))
  print(json.dumps(found))


# The service, and what it serves.


def prepare(root: pathlib.Path) -> pathlib.Path:
  """A run with fresh parameters and a store of generated users."""
  import fake_events

  fake_events.ITEMS = ITEMS
  from load_test import saved

  from lumos_jax.serving import history, store

  rng = np.random.default_rng(0)
  lengths = rng.integers(20, 2 * LENGTH, USERS).tolist()
  records = fake_events.Records(lengths=lengths, attributes=False)
  config = fake_events.config(
    data__sequence_length=LENGTH,
    data__overlap=64,
    data__filter_seen=False,
    model__d_model=128,
    model__d_ff=512,
    model__n_heads=4,
    model__n_encoder_layers=4,
    model__activity_width=64,
  )
  workdir = root / "run"
  workdir.mkdir(parents=True)
  saved(workdir, config, records)
  folder = workdir / "serving"
  kept = store.open_store(folder)
  keys, layout = store.Keys(folder), history.Layout(records.schema)
  for start in range(0, USERS, 500):
    changes = []
    for record in records.users[start : start + 500]:
      user = history.from_record(layout, record, 4096, 1)
      fields = history.fields_of(user)
      changes.append(store.Change(keys.user(record["key"]), 0, fields))
    kept.commit(changes)
  kept.close()
  return workdir


def start(workdir: pathlib.Path) -> tuple[subprocess.Popen, int, float]:
  """The service, once it is ready; its port, and the seconds that took."""
  begin = time.perf_counter()
  argv = [sys.executable, "-m", "lumos_jax.serving", f"--workdir={workdir}"]
  env = os.environ | {"PYTHONPATH": str(ROOT)}
  running = subprocess.Popen(
    [*argv, "--port=0", "--empty", "--state_mib=4096"],
    stderr=subprocess.PIPE,
    text=True,
    env=env,
  )
  for line in running.stderr:
    if " answers at " in line:
      port = int(line.split("127.0.0.1:")[1].split()[0])
      return running, port, time.perf_counter() - begin
    print(line, end="", file=sys.stderr)
  raise RuntimeError("the service did not start")


def asked(port: int, *flags: str) -> subprocess.Popen:
  """The other process."""
  argv = [sys.executable, __file__, "--as_load", f"--port={port}", *flags]
  return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> dict:
  """Its figures."""
  out, _ = process.communicate()
  if process.returncode:
    raise RuntimeError("the load ended with an error")
  return json.loads(out)


def memory_mib(pid: int) -> float:
  """Resident memory of a process."""
  text = pathlib.Path(f"/proc/{pid}/status").read_text()
  return int(text.split("VmRSS:")[1].split()[0]) / 1024


def cpu_seconds(pid: int) -> float:
  """Processor time that a process has used."""
  fields = pathlib.Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lookups(workdir: pathlib.Path) -> dict[str, float]:
  """Microseconds of a look-up, in memory and in the store."""
  from lumos_jax.serving import history, model, scorer, store

  folder = workdir / "serving"
  kept, keys = store.open_store(folder), store.Keys(folder)
  core = scorer.Scorer(model.Model(workdir), kept, keys)
  found = {}
  users = [keys.user(f"user{i}") for i in range(USERS)]
  for name in ("store", "memory"):
    each = []
    for user in users:
      begin = time.perf_counter()
      assert isinstance(core.lookup([user])[user], history.User)
      each.append(1e6 * (time.perf_counter() - begin))
    for q in (50, 99):
      found[f"lookup_{name}_p{q}_us"] = float(np.percentile(each, q))
  core.close()
  return found


def curve(args, workdir) -> list[dict]:
  """Rows of each offered load."""
  running, port, ready = start(workdir)
  rows = []
  try:
    begin = time.perf_counter()
    ended(asked(port, "--rate=0"))
    print(
      f"states made in {time.perf_counter() - begin:.0f} s", file=sys.stderr
    )
    for i, rate in enumerate(args.loads):
      cpu = cpu_seconds(running.pid)
      flags = f"--rate={rate}", f"--seconds={args.seconds}", f"--seed={i + 1}"
      found = ended(asked(port, *flags))
      used = cpu_seconds(running.pid) - cpu
      found["service_cpu_ms_per_request"] = 1000 * used / found["requests"]
      found["ready_seconds"] = ready
      print(json.dumps(found), file=sys.stderr)
      rows.append(row(f"/score, states in memory, {rate:g} requests/s", found))
  finally:
    running.terminate()
    running.wait()
  return rows


def soak(args, workdir) -> list[dict]:
  """One row of minutes of load with appends."""
  running, port, _ = start(workdir)
  try:
    ended(asked(port, "--rate=0"))
    seconds, rate = 60 * args.minutes, args.soak_rate
    flags = f"--rate={rate}", f"--seconds={seconds}", f"--appends={APPENDS}"
    other = asked(port, *flags, "--seed=1")
    begin, memory = time.perf_counter(), []
    while other.poll() is None:
      time.sleep(1)
      memory.append((time.perf_counter() - begin, memory_mib(running.pid)))
    found = ended(other)
  finally:
    running.terminate()
    running.wait()
  t, mib = np.asarray(memory).T
  # After the first fifth, in which caches fill.
  late = t > t[-1] / 5
  slope = np.polyfit(t[late], mib[late], 1)[0]
  found |= {
    "memory_mib_first_fifth": float(mib[~late][-1]),
    "memory_mib_end": float(mib[-1]),
    "memory_mib_per_minute": float(60 * slope),
    "minutes": args.minutes,
  }
  print(json.dumps(found), file=sys.stderr)
  name = f"{rate:g} requests/s, {APPENDS:.0%} appends, {args.minutes:g} minutes"
  return [row(name, found)]


def row(config: str, found: dict) -> dict:
  """A row of the result file."""
  return dict(
    dataset="generated",
    split=f"{USERS} users",
    protocol="open loop, another process; latency from the intended start",
    model=f"PANTHER, D 128, 4 layers, T {LENGTH}, V {ITEMS}",
    config=config,
    metrics=found,
  )


def main() -> None:
  """Measures and writes the result file."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--loads", default="50,100,200,400,700,1000", help="requests/s")
  add("--seconds", type=float, default=20.0, help="of each load")
  add("--minutes", type=float, default=0.0, help="of a soak, instead")
  add("--soak_rate", type=float, default=100.0, help="requests/s of the soak")
  add("--note", default="", help="said in each row, such as of a busy machine")
  add("--root", help="folder for run and store; it must be new")
  for name in ("port", "seed"):
    add(f"--{name}", type=int, default=0, help=argparse.SUPPRESS)
  for name in ("rate", "appends"):
    add(f"--{name}", type=float, default=0.0, help=argparse.SUPPRESS)
  add("--as_load", action="store_true", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.as_load:
    as_load(args)
    return
  args.loads = [float(x) for x in args.loads.split(",")]
  with tempfile.TemporaryDirectory() as aside:
    workdir = prepare(pathlib.Path(args.root or aside) / "serve")
    if args.minutes:
      rows = soak(args, workdir)
    else:
      rows = [row("look-up of a user", lookups(workdir)), *curve(args, workdir)]
  if args.note:
    rows = [r | {"config": f"{r['config']}; {args.note}"} for r in rows]
  argv = [a for a in sys.argv if not a.startswith("--root")]
  print(results.write("serve", rows, argv=argv, add=True))


if __name__ == "__main__":
  main()
