"""The fault suite in short: benchmarks/faults.py with few tries."""

import json
import os
import pathlib
import random
import shutil
import signal
import time

import pytest
from conftest import CACHE
from lumos_jax.data_prep import __main__ as cli

from benchmarks import faults, faults_data, faults_programs
from benchmarks.faults_programs import Broken, Fault
from lumos_jax import main, parts, stop
from lumos_jax.data import hosts, pipeline

# What tries cost here; the others need a training.
TRIES = {
  "corrupt_byte": 10,
  "truncated": 5,
  "missing": 2,
  "foreign": 10,
  "corrupt_side_file": 20,
  "killed_preparation": 3,
  "killed_replacement": 2,
  "killed_append": 2,
  "full_disk_in_preparation": 1,
  "read_only_preparation": 1,
  "failing_disk_in_preparation": 2,
}
LONG = [
  p for p in faults.PROMISES if p.name not in TRIES and p.name != "served"
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
  with pytest.MonkeyPatch.context() as m:
    m.setattr(faults_programs, "PRELOAD", ("lumos_jax.data_prep.__main__",))
    m.setenv("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    for name in ("PYTHONPATH", "XLA_FLAGS", "OMP_NUM_THREADS"):
      m.setenv(name, os.environ.get(name, ""))  # Restored: the suite sets them.
    yield faults.Suite(tmp_path_factory.mktemp("faults"))


def kept(suite, promise, tries):
  try:
    return suite.tried(promise, tries, seed=1)["kept"]
  except faults_data.Skipped as e:
    pytest.skip(str(e))


@pytest.mark.parametrize("name", TRIES)
def test_a_promise_about_data_is_kept(suite, name):
  promise = next(p for p in faults.PROMISES if p.name == name)
  assert kept(suite, promise, TRIES[name]) == TRIES[name]


@pytest.mark.slow
@pytest.mark.parametrize("promise", LONG, ids=lambda p: p.name)
def test_a_promise_about_runs_is_kept(suite, promise):
  assert kept(suite, promise, 1) == 1


def test_the_suite_sees_a_promise_that_is_not_kept(suite, tmp_path, capsys):
  world = suite.of("world")

  def harmless(world, rng, folder):
    """A missing shard that nobody notices."""
    path, shard = faults_data._copy(world, folder, rng)
    assert shard.exists()
    faults_data.refused(path, shard.name)

  with pytest.raises(Broken, match="nothing was said"):
    harmless(world, random.Random(0), tmp_path)
  broken = faults.Promise("nothing", "an error names it", harmless)
  assert suite.tried(broken, 2, seed=0)["kept"] == 0
  assert "NOT KEPT: harmless, try 1" in capsys.readouterr().out


def test_a_fault_happens_where_it_is_asked_for(suite, tmp_path):
  """A kill at the first change leaves nothing, one error names its file."""
  world = suite.of("world")
  for fault, status in (
    (Fault(changes="kill", at=1, under=str(tmp_path)), -9),
    (Fault(changes="fail", at=1, under=str(tmp_path)), 1),
    (Fault(changes="slow", under=str(tmp_path)), 0),
  ):
    out = tmp_path / fault.changes
    argv = world.argv(out)
    found, said, _ = faults_programs.run(
      "data_prep", argv, tmp_path / "log", fault
    )
    assert found == status, said
    assert (out / "tiny").exists() == (status == 0)
    assert (str(out) in said) or status == -9


def test_every_promise_has_a_name_of_its_own():
  names = [p.name for p in faults.PROMISES]
  assert len(set(names)) == len(names) >= 25
  row = faults.row(faults.PROMISES[0], dict(tries=2, kept=1, seconds=3.0), 0)
  assert row["metrics"] == {"tries": 2, "kept": 1}


def test_a_replacement_that_was_cut_between_its_renames_is_mended(
  suite, tmp_path, capsys
):
  world = suite.of("world")
  argv = world.argv(tmp_path)
  path = pathlib.Path(shutil.copytree(world.data, tmp_path / "tiny"))
  path.rename(tmp_path / "tiny.old")
  assert cli.main(argv) == 0
  assert "nothing to do" in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
  # Also where the new version stands, and the old one was left.
  shutil.copytree(world.other, tmp_path / "tiny.old")
  shutil.copytree(world.other, tmp_path / "tiny.new")
  assert cli.main([*argv, "--overwrite"]) == 0
  assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
  assert faults_data.content(path) == world.read


def test_an_export_whose_claim_was_killed_goes_on(tmp_path):
  export = parts.Export.__new__(parts.Export)
  export.out, export.header = tmp_path, {"format": 1}
  (tmp_path / ".manifest.json.new").write_text("{")
  export.claim()
  assert not json.loads((tmp_path / "manifest.json").read_text())["complete"]
  (tmp_path / "manifest.json").rename(tmp_path / "something")
  with pytest.raises(parts.ExportError, match="is not empty"):
    export.claim()


def test_a_signal_ends_what_changes_no_state():
  seen = []

  def long():
    seen.append("begun")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    seen.append("waited")

  with stop.StopSignal() as signals:
    assert signals.at_once(lambda: 3) == 3
    assert signals.at_once(long) is None
    assert signals.name == "SIGTERM"
    assert signals.at_once(long) is None  # Not begun any more.
  assert seen == ["begun"]


def test_a_lost_worker_is_named():
  class Lost:
    def get_state(self):
      return b""

    def __next__(self):
      raise RuntimeError(
        "Worker process was terminated unexpectedly with exit code -9. Search "
        "the logs"
      )

  batches = pipeline.DevicePrefetch(Lost(), lambda batch: batch)
  with pytest.raises(hosts.WorkerLost, match="exit code -9; .*data.workers"):
    next(batches)
  assert hosts.WorkerLost in main.ERRORS
