"""Two real processes, as on two hosts, are one run."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import conftest
import pytest
import tiny_data

HERE = pathlib.Path(__file__).parent
CONFIG = """
import pathlib
import fake


def get_config(arg=None):
  here = pathlib.Path(__file__).parent
  c = fake.config()
  with c.unlocked():
    c.data.source = "tables"
    c.data.root = str(here / "data")
    c.data.options = dict(schema=str(here / "raw" / "tiny.py"))
    c.train.steps, c.train.checkpoint_every = {steps}, 2
    # One program, however many steps.
    c.optimizer.schedule = "constant"
    c.evals = dict(forecast=dict(type="forecast"))
    c.report = False
  return c
"""


def launch(folder, name, processes, devices=1, module="main"):
  """Starts a program in `processes` processes of `devices` virtual devices."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  flags = f"--xla_force_host_platform_device_count={devices}"
  env = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"{flags} {conftest.COMPILER_FLAGS}",
    "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
    "PYTHONUNBUFFERED": "1",
    # The three runs of two processes compile the same.
    "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
  }
  started = []
  for i in range(processes):
    command = [sys.executable, "-m", f"lumos_jax.{module}"]
    command += [f"--workdir={folder / name}"]
    if module == "main":
      command += [f"--config={folder / 'tiny.py'}"]
    if processes > 1:
      command += [f"--coordinator=localhost:{port}"]
      command += [f"--processes={processes}", f"--process={i}"]
    log = (folder / f"{name}_{i}.log").open("w")
    started.append(
      subprocess.Popen(
        command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=folder
      )
    )
  return started


def finish(folder, name, started):
  codes = [p.wait() for p in started]
  logs = [(folder / f"{name}_{i}.log").read_text() for i in range(len(codes))]
  return codes, logs


def losses(folder, name):
  """{step: loss}; the last line may not be whole yet."""
  path = folder / name / "metrics.jsonl"
  text = path.read_text() if path.exists() else ""
  rows = [json.loads(x) for x in text.splitlines(True) if x.endswith("\n")]
  return {r["step"]: r["loss"] for r in rows if "loss" in r}


def wait_for_steps(folder, name, started, count):
  """Until `count` are logged: both processes are then in the loop."""
  while len(losses(folder, name)) < count:
    for i, p in enumerate(started):
      assert p.poll() is None, (folder / f"{name}_{i}.log").read_text()
    time.sleep(0.05)


def results(folder, name):
  found = json.loads((folder / name / "eval.json").read_text())["forecast"]
  return found, losses(folder, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with prepared data, and a finished run of one process."""
  folder = tmp_path_factory.mktemp("hosts")
  tiny_data.write_tables(folder / "raw")
  (folder / "tiny.py").write_text(CONFIG.format(steps=6))
  codes, logs = finish(folder, "one", launch(folder, "one", 1, devices=2))
  assert codes == [0], logs
  return folder


def test_two_processes_train_as_one(folder):
  codes, logs = finish(folder, "two", launch(folder, "two", 2))
  assert codes == [0, 0], logs
  (one, losses), (two, others) = (results(folder, n) for n in ("one", "two"))
  assert losses.keys() == others.keys() and len(losses) == 6
  assert others == pytest.approx(losses, rel=1e-4)
  assert two == pytest.approx(one, rel=1e-3, abs=1e-3)
  # The stored checkpoint, evaluated by a program of two processes.
  (folder / "two" / "eval.json").unlink()
  codes, logs = finish(
    folder, "two", launch(folder, "two", 2, module="evaluate")
  )
  assert codes == [0, 0], logs
  again, _ = results(folder, "two")
  assert again == pytest.approx(two, rel=1e-6)


def test_a_lost_process_ends_the_other_which_resumes(folder):
  """Killed: the survivor says so and ends; the same command goes on."""
  # More steps than can be taken before the kill, on however busy a machine.
  (folder / "tiny.py").write_text(CONFIG.format(steps=1_000_000))
  started = launch(folder, "lost", 2)
  wait_for_steps(folder, "lost", started, 6)
  started[1].send_signal(signal.SIGKILL)
  codes, (log, _) = finish(folder, "lost", started)
  assert codes[0] not in (0, None) and codes[1] == -signal.SIGKILL
  assert "lost the others" in log or "another task died" in log
  kept = [
    int(p.name)
    for p in (folder / "lost/checkpoints").iterdir()
    if p.name.isdigit()
  ]
  (folder / "lost" / "metrics.jsonl").unlink()  # Each line is a new one then.
  again = launch(folder, "lost", 2)
  wait_for_steps(folder, "lost", again, 1)
  # One alone is told, and by the signal that is handed on: all stop.
  again[1].send_signal(signal.SIGINT)
  codes, logs = finish(folder, "lost", again)
  assert f"resumed from step {max(kept)}" in logs[0]
  assert codes == [143, 143], logs
  stops = {x.splitlines()[-1] for x in logs}
  assert len(stops) == 1 and "a signal to one process: saved step" in min(stops)
