"""run_tpu.sh against a stub of gcloud whose "TPU" is a folder."""

import os
import pathlib
import shutil
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TPU = ("--tpu=slice", "--zone=us-east5-b", "--project=p")
WORKDIR = "--workdir=gs://bucket/run"

pytestmark = pytest.mark.skipif(
  not (shutil.which("bash") and shutil.which("git") and shutil.which("setsid")),
  reason="needs bash, git and setsid",
)

# Runs a worker's command here, with a folder as its home.
GCLOUD = r"""#!/usr/bin/env bash
printf '%s\n' "$*" >>"$STUB/gcloud.log"
case "$4" in
  describe) echo "${TPU_STATE:-READY}" ;;
  scp) cp "$5" "$STUB/home/lumos_jax.tgz" ;;
  ssh)
    for a in "$@"; do
      case "$a" in --command=*) HOME="$STUB/home" bash -c "${a#*=}" ;; esac
    done
    ;;
esac
"""
# Stands for Python: makes "environments" of itself, and as main prints its
# arguments, takes its time and ends as it is told.
PYTHON = r"""#!/usr/bin/env bash
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *lumos_jax.main*)
    shift 2
    trap 'echo saved; exit 0' TERM
    printf 'arg %s\n' "$@"
    for _ in $(seq "${STUB_TENTHS:-1}"); do sleep 0.1; done
    exit "${STUB_RC:-0}" ;;
esac
"""


@pytest.fixture
def launch(tmp_path):
  """Calls the script in a small checkout of its own."""
  tree, binaries = tmp_path / "tree", tmp_path / "bin"
  (tree / "configs").mkdir(parents=True)
  (tree / "lumos_jax").mkdir()
  (tmp_path / "home").mkdir()
  binaries.mkdir()
  shutil.copy(ROOT / "run_tpu.sh", tree)
  for name in ("configs/pretrain.py", "setup.py", "lumos_jax/__init__.py"):
    (tree / name).write_text("")
  (tree / ".gitignore").write_text("secret\n")
  (tree / "secret").write_text("not copied")
  subprocess.run(["git", "init", "-q", tree], check=True)
  for name, text in (("gcloud", GCLOUD), ("stub_python", PYTHON)):
    (binaries / name).write_text(text)
    (binaries / name).chmod(0o755)

  def call(*args, **env):
    return subprocess.run(
      ["bash", str(tree / "run_tpu.sh"), *args],
      capture_output=True,
      text=True,
      timeout=600,  # A hang, however busy the machine.
      env={
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHON": str(binaries / "stub_python"),
        "STUB": str(tmp_path),
        **env,
      },
    )

  return call


def test_dry_run_prints_every_command_and_runs_none(launch, tmp_path):
  done = launch(*TPU, WORKDIR, "--config.model.n_heads=2", "--dry-run")
  assert done.returncode == 0, done.stderr
  assert done.stdout.count("gcloud compute tpus tpu-vm") == 6
  assert "step=launch --multihost --config=configs/pretrain.py" in done.stdout
  assert "--config.model.n_heads=2" in done.stdout
  assert not (tmp_path / "gcloud.log").exists()


def test_dry_run_of_local(launch):
  done = launch("--local", "--workdir=/w", "--dry-run", "--", "--log_dir=a b")
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1].endswith(
    "-m lumos_jax.main --config=configs/pretrain.py --workdir=/w"
    " '--log_dir=a b'"
  )


def test_local_passes_arguments_and_exit_status(launch):
  done = launch("--local", "--config=configs/pretrain.py:smoke", STUB_RC="3")
  assert done.returncode == 3
  assert "arg --config=configs/pretrain.py:smoke" in done.stdout


def test_tpu_copies_installs_launches_and_follows(launch, tmp_path):
  done = launch(*TPU, WORKDIR, "--", "--flag=it's one")
  assert done.returncode == 0, done.stderr
  assert "arg --workdir=gs://bucket/run" in done.stdout
  assert "arg --flag=it's one" in done.stdout
  tree = tmp_path / "home/lumos/tree"
  assert (tree / "configs/pretrain.py").exists()
  assert not (tree / "secret").exists()
  (kept,) = (tmp_path / "tree/logs").glob("slice-*.log")
  assert "arg --workdir=gs://bucket/run" in kept.read_text()
  again = launch(*TPU, WORKDIR)
  assert "already installed" in again.stdout


def test_failure_on_a_worker_is_shown(launch):
  done = launch(*TPU, WORKDIR, STUB_RC="7")
  assert done.returncode == 7
  assert "ended with exit status 7" in done.stdout


def test_one_run_at_a_time_and_stop(launch):
  slow = {"STUB_TENTHS": "300"}
  assert launch(*TPU, WORKDIR, "--detach", **slow).returncode == 0
  second = launch(*TPU, WORKDIR, "--detach", **slow)
  assert second.returncode and "a run is active" in second.stderr
  time.sleep(0.3)
  assert "asked" in launch(*TPU, "--stop").stdout
  attached = launch(*TPU, "--attach")
  assert attached.returncode == 0, attached.stdout
  assert "saved" in attached.stdout


@pytest.mark.parametrize(
  "args, message",
  [
    ((WORKDIR,), "--tpu=NAME is missing"),
    (("--tpu=t", WORKDIR), "--zone=ZONE of t is missing"),
    ((*TPU, "--workdir=/tmp/w"), "give gs://BUCKET/PATH"),
    ((*TPU, WORKDIR, "--zon=x"), "unknown flag --zon=x"),
    (("--tpu", "t"), "with an equals sign"),
    ((*TPU, WORKDIR, "--config=configs/absent.py:a"), "configs/absent.py"),
    (("--local", *TPU), "--local goes with neither"),
  ],
)
def test_clear_errors(launch, args, message):
  done = launch(*args)
  assert done.returncode == 2
  assert message in done.stderr


def test_tpu_that_is_not_ready(launch):
  done = launch(*TPU, WORKDIR, TPU_STATE="CREATING")
  assert done.returncode == 2 and "is CREATING, not READY" in done.stderr


def test_without_gcloud(launch, tmp_path):
  only = tmp_path / "only"
  only.mkdir()
  for name in ("bash", "dirname"):
    (only / name).symlink_to(shutil.which(name))
  done = launch(*TPU, WORKDIR, PATH=str(only))
  assert done.returncode == 2 and "gcloud is not installed" in done.stderr
