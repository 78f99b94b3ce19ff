r"""The HTTP service under load: latency against offered load, and a soak.

  python benchmarks/serve.py [--seconds=20] [--loads=50,100,200,400,700,1000]
  python benchmarks/serve.py --minutes=10
  python benchmarks/serve.py --hybrid [--loads=100,200,400,700] [--minutes=10]
  python benchmarks/serve.py --hybrid --whys=2 --loads=100 --seconds=60

Makes a PANTHER with fresh parameters (no figure depends on what it has learned) and
generated users, starts `python -m lumos_jax.serving` on their store, and asks it
from another process (serve_load.py), whose load is open. With --minutes, a fifth of
the requests append an event, and the service's memory is read on the way. Also times
the start of the service, from the start of the process until it is ready, before and
after its compiled programs are kept on disk; and the look-up of a user in memory and
in the store. With --hybrid, it is a hybrid over a PANTHER that scores; with --whys,
alone and while explanations are asked for. Writes benchmarks/results/serve.json.
"""

import argparse
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
from benchmarks.serve_load import ITEMS, USERS  # noqa: E402

LENGTH = 512
HISTORY = 100  # Events that the hybrid reads, as configs/risk.py has it.
APPENDS = 0.2
PANTHER = (
  f"PANTHER, D 128, 4 layers, T {LENGTH}, V {ITEMS}, told of later events"
)
HYBRID = (
  f"hybrid of events over PANTHER, D 96, 2 layers, T {HISTORY}, V {ITEMS}, told "
  "of later events"
)


def prepare(root: pathlib.Path, hybrid: bool = False) -> pathlib.Path:
  """A run with fresh parameters and a store of generated users."""
  import fake_events

  fake_events.ITEMS = ITEMS
  from load_test import saved

  from lumos_jax.serving import history, store

  rng = np.random.default_rng(0)
  lengths = rng.integers(20, 2 * LENGTH, USERS).tolist()
  records = fake_events.Records(lengths=lengths, attributes=False)
  config = _hybrid() if hybrid else _panther(128, 4)
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


def _panther(width: int, layers: int):
  """A PANTHER of some size, for generated events."""
  import fake_events

  return fake_events.config(
    data__sequence_length=LENGTH,
    data__overlap=64,
    data__filter_seen=False,
    model__d_model=width,
    model__d_ff=4 * width,
    model__n_heads=4,
    model__n_encoder_layers=layers,
    model__activity_width=64,
    # As configs/panther.py has it where events have times.
    data__holdout="time",
    data__start_token=True,
    model__time_bias=True,
    model__tell_later=True,
  )


def _hybrid():
  """A hybrid of the base size over it, which scores events."""
  import tiny_hybrid

  from lumos_jax import config as config_lib

  c = tiny_hybrid.config(unit="event", data__history_events=HISTORY)
  with c.unlocked():
    config_lib.set_size(c, "base")
    c.model.backbone = _panther(96, 2).to_dict()
  return c


def start(workdir: pathlib.Path) -> tuple[subprocess.Popen, int, float]:
  """The service, once it is ready; its port, and the seconds that took."""
  begin = time.perf_counter()
  argv = [sys.executable, "-m", "lumos_jax.serving", f"--workdir={workdir}"]
  env = os.environ | {
    "PYTHONPATH": os.pathsep.join(
      [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    ),
    # Of this run alone: the first start compiles.
    "JAX_COMPILATION_CACHE_DIR": str(workdir / "compiled"),
  }
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
  other = str(ROOT / "benchmarks" / "serve_load.py")
  argv = [sys.executable, other, f"--port={port}", *flags]
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
  """Rows of each offered load, and of the start."""
  running, _, first = start(workdir)
  _end(running)
  running, port, ready = start(workdir)
  model = HYBRID if args.hybrid else PANTHER
  begun = {"first_start_seconds": first, "start_seconds": ready}
  rows = [row("start of the service", begun, model)]
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
      if not args.whys:
        name = f"/score, states in memory, {rate:g} requests/s"
        rows.append(row(name, found, model))
        continue
      name = f"/score, {rate:g} requests/s"
      rows.append(row(f"{name}, no /why", found, model))
      found = ended(asked(port, *flags, f"--whys={args.whys}"))
      print(json.dumps(found), file=sys.stderr)
      rows.append(row(f"{name}, /why {args.whys:g} a second", found, model))
  finally:
    _end(running)
  return rows


def _end(running: subprocess.Popen) -> None:
  """Ends the service."""
  running.terminate()
  running.wait()


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
    _end(running)
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
  return [row(name, found, HYBRID if args.hybrid else PANTHER)]


def row(config: str, found: dict, model: str = PANTHER) -> dict:
  """A row of the result file."""
  return dict(
    dataset="generated",
    split=f"{USERS} users",
    protocol="open loop, another process; latency from the intended start",
    model=model,
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
  add("--hybrid", action="store_true", help="a hybrid scores")
  add("--whys", type=float, default=0.0, help="explanations a second of it")
  add("--soak_rate", type=float, default=100.0, help="requests/s of the soak")
  add("--note", default="", help="said in each row, such as of a busy machine")
  add("--root", help="folder for run and store; it must be new")
  args = parser.parse_args()
  if args.whys and not args.hybrid:
    parser.error("--whys needs --hybrid: other runs explain no score")
  args.loads = [float(x) for x in args.loads.split(",")]
  with tempfile.TemporaryDirectory() as aside:
    root = pathlib.Path(args.root or aside) / "serve"
    workdir = prepare(root, hybrid=args.hybrid)
    if args.minutes:
      rows = soak(args, workdir)
    elif args.hybrid:
      rows = curve(args, workdir)
    else:
      rows = [row("look-up of a user", lookups(workdir)), *curve(args, workdir)]
  if args.note:
    rows = [r | {"config": f"{r['config']}; {args.note}"} for r in rows]
  argv = [a for a in sys.argv if not a.startswith("--root")]
  print(results.write("serve", rows, argv=argv, add=True))


if __name__ == "__main__":
  main()
