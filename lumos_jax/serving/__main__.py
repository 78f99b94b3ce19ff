r"""Serves a trained run over HTTP.

  lumos serve --workdir=runs/pretrain [--host=0.0.0.0 --token_file=FILE]
  lumos serve forget --workdir=runs/pretrain --users=FILE
  lumos serve compact --workdir=runs/pretrain

The first command serves until SIGTERM or Ctrl-C; the others work on a store that no
service has open. See docs/serving.md.
"""

import argparse
import ipaddress
import os
import pathlib
import signal
import stat
import sys
import threading
from collections.abc import Sequence

from lumos_jax import ids

TOKEN = "LUMOS_TOKEN"  # Environment variable with the bearer token.
_LEAST_TOKEN = 16
_COMMANDS = ("run", "forget", "compact")


class ServeError(ValueError):
  """The service cannot start as asked for; says what to do."""


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="lumos serve",
    description="Serves a trained run over HTTP.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("command", nargs="?", default="run", choices=_COMMANDS)
  add("--workdir", required=True, help="of the run")
  add("--step", help="checkpoint, or best; default the newest, and newer ones")
  add("--data_dir", help="a prepared data set; default the run's own")
  add("--store_dir", help="folder of the users; default WORKDIR/serving")
  add(
    "--redis",
    default="",
    help="redis://HOST:PORT/DB for several services; default LMDB. A password "
    "is read from $LUMOS_REDIS, which holds the whole address",
  )
  add("--store_gib", type=float, default=64.0, help="most that LMDB may hold")
  add("--keep", type=int, default=4096, help="rows kept of a user")
  add(
    "--empty",
    action="store_true",
    help="do not take the data set's users into a new store",
  )
  add(
    "--cold",
    action="store_true",
    help="be ready before programs are compiled: first answers take long",
  )
  add("--users", help="forget: text file with a user id a line")
  add("--host", default="127.0.0.1", help="address to listen at")
  add("--port", type=int, default=8000, help="0 for any free one")
  add(
    "--token_file",
    help=f"file with the bearer token; or ${TOKEN}. Needed beyond loopback",
  )
  add(
    "--no_token",
    action="store_true",
    help="serve beyond loopback without a token: something else keeps others out",
  )
  add("--max_bytes", type=int, default=1 << 20, help="of a request's body")
  add("--max_requests", type=int, default=512, help="at a time; more get 503")
  add(
    "--rate",
    type=float,
    default=0.0,
    help="requests a second of one client; more get 429; 0 for no limit",
  )
  add("--cache_mib", type=int, default=256, help="of users in memory")
  add("--state_mib", type=int, default=1024, help="of their states in memory")
  add("--threads", type=int, default=1, help="of a call of the model, on CPUs")
  add(
    "--poll_seconds", type=float, default=10.0, help="between looks for steps"
  )
  add(
    "--compact_seconds",
    type=float,
    default=600.0,
    help="from a deletion to when no file holds its bytes",
  )
  return parser


def token_of(path: str | None) -> str:
  """The bearer token, of a file or the environment; "" for none.

  Raises:
    ServeError: Others can read the file, or it is short.
  """
  if path:
    file = pathlib.Path(path)
    try:
      mode, text = file.stat().st_mode, file.read_text().strip()
    except OSError as e:
      raise ServeError(f"--token_file: {e}") from e
    if stat.S_ISREG(mode) and mode & 0o077:
      raise ServeError(
        f"--token_file: others than its owner can read {path}: chmod 600 {path}"
      )
    where = f"--token_file {path}"
    if not text:
      raise ServeError(f"{where} is empty")
  else:
    text, where = os.environ.get(TOKEN, ""), f"${TOKEN}"
  if text and (len(text) < _LEAST_TOKEN or not text.isascii()):
    raise ServeError(
      f"{where}: a token has {_LEAST_TOKEN} ASCII characters or more, for "
      "example of `openssl rand -hex 32`"
    )
  return text


def check_open(host: str, token: str, no_token: bool) -> None:
  """Raises ServeError where strangers could ask without a token."""
  if token or no_token or host == "localhost":
    return
  try:
    if ipaddress.ip_address(host).is_loopback:
      return
  except ValueError:
    pass
  raise ServeError(
    f"--host={host} is reached from other machines, and there is no token: put "
    f"one into a file (--token_file=FILE) or into ${TOKEN}, or say --no_token "
    "where something else keeps strangers out"
  )


def _store(args, folder: pathlib.Path):
  from lumos_jax.serving import store

  url = args.redis or os.environ.get("LUMOS_REDIS", "")
  kept, keys = store.open_store(folder, url, args.store_gib), store.Keys(folder)
  keys.follow(kept)
  return kept, keys


def forget(args, folder: pathlib.Path) -> None:
  """Deletes the listed users and their bytes."""
  if not args.users:
    raise ServeError("forget needs --users=FILE, a user id a line")
  if not folder.exists():
    raise ServeError(f"{folder}: there is no store")
  users = ids.read(args.users)
  kept, keys = _store(args, folder)
  try:
    gone = sum(kept.delete([keys.user(u) for u in users]))
    kept.compact()
  finally:
    kept.close()
  print(f"{gone:,} of {len(users):,} users were there and are forgotten")


def compact(args, folder: pathlib.Path) -> None:
  """Rewrites the store without what was removed."""
  if not folder.exists():
    raise ServeError(f"{folder}: there is no store")
  kept, _ = _store(args, folder)
  try:
    before = kept.size()
    kept.compact()
    print(f"{before:,} bytes before, {kept.size():,} bytes now")
  finally:
    kept.close()


def _threads(count: int) -> None:
  """How many threads a call of the model takes, before jax starts."""
  for name in ("PJRT_NPROC", "NPROC", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, str(count))


def run(args, folder: pathlib.Path) -> None:
  """Serves until it is told to end."""
  token = token_of(args.token_file)
  check_open(args.host, token, args.no_token)
  _threads(args.threads)
  try:
    import uvicorn

    from lumos_jax.serving import app, metrics
  except ImportError as e:
    raise ServeError(
      f'{e}: the service needs pip install "lumos-jax[serve]"'
    ) from e
  sys.setswitchinterval(0.0005)  # Two threads work for the loop's one.
  service, counters = app.Service(), metrics.Metrics()
  application = app.make(
    service,
    counters,
    token=token,
    most_bytes=args.max_bytes,
    most_requests=args.max_requests,
    per_second=args.rate,
  )
  config = uvicorn.Config(
    application,
    host=args.host,
    port=args.port,
    # Its lines hold paths, and so ids; see guard.py for ours.
    access_log=False,
    log_level="warning",
    server_header=False,
    timeout_graceful_shutdown=20,
    backlog=4096,
    lifespan="off",
    ws="none",
  )
  server = uvicorn.Server(config)
  failed: list[BaseException] = []
  opener = threading.Thread(
    target=_open, args=(args, folder, service, server, failed), daemon=True
  )
  opener.start()
  # uvicorn ends on a signal, and then raises it again: the store is closed first.
  signal.signal(signal.SIGTERM, lambda *_: None)
  try:
    server.run()
  except KeyboardInterrupt:
    pass
  # While the model is still being opened nothing has been written.
  opener.join(None if service.scorer is not None else 1.0)
  if failed:
    raise failed[0]


def _open(args, folder, service, server, failed) -> None:
  """Opens store and model while the service says that it is not ready."""
  try:
    _serve(args, folder, service, server)
  except BaseException as e:
    failed.append(e)
    server.should_exit = True


def _serve(args, folder, service, server) -> None:
  import jax
  from absl import logging

  from lumos_jax import startup
  from lumos_jax.serving import jobs, model, scorer, watch

  # A call returns when its answer is there; no other thread is woken for it.
  jax.config.update("jax_cpu_enable_async_dispatch", False)
  startup.keep_compilations()
  kept, keys = _store(args, folder)
  step = args.step
  if step not in (None, "best"):
    if not step.isdecimal():
      raise ServeError(f"--step={step}: give a checkpoint's number, or best")
    step = int(step)
  make = lambda n: model.Model(args.workdir, n, args.data_dir)
  made = make(step)
  settings = jobs.Settings(
    window=args.keep,
    cache_bytes=args.cache_mib << 20,
    state_bytes=args.state_mib << 20,
  )
  core = scorer.Scorer(made, kept, keys, settings)
  if kept.get_meta(b"filled") is None and not args.empty:
    _fill(core, args)
  seconds = 0.0 if args.cold else made.warm()
  service.scorer = core
  where = _where(server)
  print(
    f"step {made.step} of {args.workdir} answers at {where} (compiled in "
    f"{seconds:.1f} s)",
    file=sys.stderr,
    flush=True,
  )
  looks = watch.Watch(
    args.workdir,
    made.step if args.step is None else None,
    core.swap,
    make,
    args.poll_seconds,
    lambda: core.live.model,
  )
  try:
    core.tidy(args.compact_seconds, lambda: server.should_exit)
  finally:
    looks.close()
    # Requests that run end first: uvicorn waits for them.
    while server.started and not _ended(server):
      threading.Event().wait(0.05)
    core.close()
    logging.flush()


def _ended(server) -> bool:
  return not server.server_state.tasks and not server.server_state.connections


def _where(server) -> str:
  while not server.started and not server.should_exit:
    threading.Event().wait(0.01)
  for listener in getattr(server, "servers", ()):
    for socket in listener.sockets:
      host, port = socket.getsockname()[:2]
      return f"http://{f'[{host}]' if ':' in host else host}:{port}"
  return "an address"


def _fill(core, args) -> None:
  """Takes the data set's users into a new store."""
  from lumos_jax.data import records as records_lib

  try:
    records = core.live.model.predictor.open_data(args.data_dir)
  except records_lib.DataError as e:
    print(f"the store begins empty: {e}", file=sys.stderr, flush=True)
    return
  if not core.keys.note(core.store, records.stats):
    print(
      "users' ids are keyed hashes, and the environment has no key: requests must "
      f"name users by their hashes; or set ${ids.SALT} for a new store",
      file=sys.stderr,
      flush=True,
    )
  taken, there = core.fill(records)
  core.store.set_meta(b"filled", b"1")
  print(
    f"{taken:,} users of the data set were taken into the store"
    + (f", {there:,} were there" if there else ""),
    file=sys.stderr,
    flush=True,
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Entry point; returns the exit status."""
  args = _parser().parse_args(argv)
  folder = pathlib.Path(
    args.store_dir or pathlib.Path(args.workdir) / "serving"
  )
  signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Until uvicorn takes it.
  try:
    {"run": run, "forget": forget, "compact": compact}[args.command](
      args, folder
    )
  except KeyboardInterrupt:
    return 130
  except Exception as e:
    if not _told(e):
      raise
    print(f"error: {e}", file=sys.stderr)
    return 1
  return 0


def _told(error: Exception) -> bool:
  """Whether a user can mend it: printed as one line."""
  names = ("StoreError", "CheckpointError", "WorkdirBusy", "SchemaError")
  return isinstance(error, ValueError | OSError) or (
    type(error).__name__ in names
  )


if __name__ == "__main__":
  sys.exit(main())
