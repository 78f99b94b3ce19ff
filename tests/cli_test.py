"""The console command hands over to the programs and costs nothing itself."""

import importlib.util
import pathlib
import subprocess
import sys
import time

import pytest

from lumos_jax import cli

ROOT = pathlib.Path(__file__).parents[1]


def call(*argv):
  return subprocess.run(
    [sys.executable, "-m", "lumos_jax.cli", *argv],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def test_help_lists_every_command():
  done = call("--help")
  assert (done.returncode, done.stderr) == (0, "")
  assert all(f"\n  {c} " in done.stdout for c in cli.COMMANDS)


def test_help_takes_less_than_a_second():
  seconds = []
  for _ in range(3):  # The quickest: other programs may share the cores.
    start = time.perf_counter()
    call("--help")
    seconds.append(time.perf_counter() - start)
  assert min(seconds) < 1


def test_help_imports_no_library():
  script = (
    "import sys; from lumos_jax import cli; cli.main(['--help']); "
    "print({'jax', 'numpy', 'polars', 'absl', 'flax'} & set(sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
  )
  assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_command_has_a_module(command):
  if command == "export" and not (ROOT / "lumos_jax/export.py").exists():
    pytest.skip("export is not in this checkout yet")
  assert importlib.util.find_spec(cli.module(command))


@pytest.mark.parametrize(
  ("argv", "status", "text"),
  [
    ((), 2, "usage: lumos COMMAND"),
    (("trian",), 2, "unknown command 'trian'; did you mean 'train'?"),
    # A program's own flags, errors and exit statuses.
    (("data_prep", "--list"), 0, "complete_journey"),
    (("data_prep",), 2, "--source is needed"),
    (("train", "--config=absent.py"), 2, "absent.py"),
    (("train", "--help"), 0, "--workdir"),
    (("evaluate", "--workdir=absent"), 1, "absent holds no run"),
    (("preflight",), 2, "--config=FILE is needed"),
  ],
)
def test_exit_status_and_message_are_the_programs(argv, status, text):
  done = call(*argv)
  assert done.returncode == status
  assert text in done.stdout + done.stderr
  assert "Traceback" not in done.stderr


def test_command_is_python_m():
  program = [sys.executable, "-m", "data_prep", "--list"]
  alone = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
  assert call("data_prep", "--list").stdout == alone.stdout != ""
