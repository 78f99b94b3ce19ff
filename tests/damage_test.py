"""Damage names the file: shards, a full disk, a folder that cannot be written."""

import errno
import os
import pathlib
import subprocess
import sys
import time

import fake
import jax
import numpy as np
import pytest
import tiny_data

from lumos_jax import checkpoint, files, metric_writer
from lumos_jax.data import hosts, pipeline
from lumos_jax.data import records as records_lib
from lumos_jax.data import tasks as tasks_lib
from lumos_jax.evaluators import predict

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
  """A data set of one split whose first shard has a flipped byte."""
  path = tiny_data.tiny_data_dir(tmp_path_factory.mktemp("damaged"))
  data = records_lib.Records.open(path)
  shard = path / data.stats["splits"]["train"]["shards"][0]
  content = bytearray(shard.read_bytes())
  content[told(content)[len(told(content)) // 2]] ^= 0xFF
  shard.write_bytes(bytes(content))
  return data, shard


def told(content):
  """Places of bytes that say something: files are padded with zeros."""
  return np.flatnonzero(np.frombuffer(content, np.uint8)).tolist()


def read_all(source):
  for i in range(len(source)):
    source[i]


@pytest.mark.parametrize("read", ["one", "many", "cached"])
def test_a_flipped_byte_names_the_shard(damaged, read):
  data, shard = damaged
  source = data.source("train")
  with pytest.raises(records_lib.DataError, match=f"{shard.name}.*damaged"):
    if read == "one":
      read_all(source)
    elif read == "many":
      source.__getitems__(range(len(source)))
    else:
      records_lib.Cached(source)
  with pytest.raises(records_lib.DataError, match=shard.name):
    data.verify()


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_and_workers_do_not_hide_it(damaged, workers):
  data, shard = damaged
  c = fake.config(data__workers=workers)
  tasks = tasks_lib.from_config(c.tasks)
  iterator = pipeline.train_iterator(data, c.data, tasks, 8, 0)
  with pytest.raises(records_lib.DataError, match=f"{shard.name}.*damaged"):
    for _ in range(10):
      next(iterator)
  hosts.close(iterator)


def test_every_flipped_byte_is_an_error_that_names_the_shard(tmp_path):
  path = tiny_data.tiny_data_dir(tmp_path)
  data = records_lib.Records.open(path)
  shard = path / data.stats["splits"]["train"]["shards"][0]
  whole = shard.read_bytes()
  rng = np.random.default_rng(0)
  found = 0
  for at in rng.choice(told(whole), 12).tolist():
    content = bytearray(whole)
    content[at] ^= 0xFF
    shard.write_bytes(bytes(content))
    try:
      read_all(data.source("train"))
    except records_lib.DataError as e:
      found += 1
      assert shard.name in str(e)
  assert found > 6  # Some bytes are told twice.


def test_a_full_disk_names_the_file(tmp_path):
  full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  with pytest.raises(OSError, match="No space left on device: 'there'"):
    with files.naming("there"):
      raise full
  if not pathlib.Path("/dev/full").exists():
    return
  with metric_writer.MetricWriter(tmp_path) as writer:
    writer._file = open("/dev/full", "w")
    with pytest.raises(OSError, match="No space .*metrics.jsonl"):
      writer.write(1, {"loss": 1.0})
    writer._file = None
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match="file"):
    predict.write_atomic(tmp_path / "file" / "eval.json", b"")


@pytest.mark.parametrize(
  "text", ["Read error [::1]:5: Connection reset by peer", "another task died"]
)
def test_a_write_that_fails_for_a_lost_process_says_so(
  tmp_path, monkeypatch, text
):
  """Also where only the text of the thread's error is left."""
  with checkpoint.Checkpoints(tmp_path) as store:
    with monkeypatch.context() as m:
      m.setattr(jax, "process_count", lambda: 2)
      lost = store._write_error(ValueError(text))
      full = store._write_error(OSError("No space left on device"))
  assert "process 0 of 2 lost the others" in str(lost)
  assert "could not be written" in str(full)


def test_a_write_error_of_many_lines_is_told_in_one(tmp_path):
  """Orbax writes out whole trees, in which the way out would be lost."""
  tree = "Cannot open x/state:\n  State({\n" + "    'a': 1,\n" * 100 + "})."
  with checkpoint.Checkpoints(tmp_path) as store:
    told = str(store._write_error(ValueError(tree)))
  assert "could not be written: Cannot open x/state. Make" in told
  assert "\n" not in told and "Make room" in told and len(told) < 1000
  assert "ValueError" in str(store._write_error(ValueError()))


def test_a_folder_that_becomes_unwritable_ends_the_process_soon(tmp_path):
  """As in lumos_jax.main: the error, exit 1, and no wait for Orbax's threads."""
  script = tmp_path / "run.py"
  script.write_text(
    "import sys\n"
    f"sys.path.insert(0, {str(HERE)!r})\n"
    "import conftest, pathlib, train_test\n"
    "from lumos_jax import main\n"
    f"work = pathlib.Path({str(tmp_path / 'run')!r})\n"
    "def evaluate(step, params, last):\n"
    "  if step == 4:\n"
    # Renamed, since a write in the background changes what rmtree walks over.
    "    (work / 'checkpoints').rename(work / 'gone')\n"
    "    (work / 'checkpoints').write_text('')\n"
    "  return {}\n"
    "def run(config, workdir):\n"
    "  train_test.run(work, evaluate, train__steps=400)\n"
    "main.run = run\n"
    "main._CONFIG = type('C', (), {'value': train_test.build()[0]})\n"
    "main._WORKDIR = type('C', (), {'value': str(work)})\n"
    "for name in ('_MULTIHOST', '_COORDINATOR', '_INIT_FROM'):\n"
    "  setattr(main, name, type('C', (), {'value': None}))\n"
    "main.main(None)\n"
  )
  begin = time.monotonic()
  done = subprocess.run(
    [sys.executable, str(script)], capture_output=True, text=True, timeout=200
  )
  assert done.returncode == 1, done.stderr[-2000:]
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith("error: ") and "could not be written" in last
  assert "checkpoints" in last
  assert time.monotonic() - begin < 60.0 + 60.0  # Most of it is compilation.
