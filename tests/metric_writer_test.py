"""Metrics on disk and progress on screen."""

import errno
import io
import json
import logging
import os
from unittest import mock

import fsspec
import numpy as np
import pytest
import rich.console
from absl import logging as absl_logging
from fsspec.implementations import memory
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from lumos_jax import metric_writer, progress


def _events(workdir):
  """{(tag, step): value} of all event files, checksums checked."""
  out = {}
  for path in (workdir / "tensorboard").iterdir():
    data = path.read_bytes()
    while data:
      (n,) = np.frombuffer(data[:8], np.uint64)
      body = data[12 : 12 + int(n)]
      (crc,) = np.frombuffer(data[12 + int(n) : 16 + int(n)], np.uint32)
      assert crc == masked_crc32c(body)
      event = event_pb2.Event.FromString(body)
      for v in event.summary.value:
        out[v.tag, event.step] = v.simple_value
      data = data[16 + int(n) :]
  return out


def test_lines_and_events(tmp_path):
  with metric_writer.MetricWriter(tmp_path) as w:
    w.write(1, {"loss": np.float32(0.5)})
    w.write(2, {"loss": float("nan"), "churn/auc": 0.75, "a+b@3": 1.0})
    # Visible at once: a kill loses nothing.
    lines = metric_writer.read(tmp_path)
  assert [x["step"] for x in lines] == [1, 2]
  assert lines[0]["loss"] == 0.5 and lines[1]["loss"] is None
  assert all(x["elapsed"] >= 0 and x["time"] > 1e9 for x in lines)
  assert lines[1]["a+b@3"] == 1.0
  assert _events(tmp_path) == {
    ("loss", 1): 0.5,
    ("churn/auc", 2): 0.75,
    ("a_b_3", 2): 1.0,
  }


def test_resume_drops_later_lines_and_a_torn_one(tmp_path):
  with metric_writer.MetricWriter(tmp_path) as w:
    for step in range(1, 6):
      w.write(step, {"loss": float(step)})
  with (tmp_path / "metrics.jsonl").open("a") as f:
    f.write('{"step": 6, "lo')
  with metric_writer.MetricWriter(tmp_path, 3) as w:
    w.write(4, {"loss": 40.0})
  lines = metric_writer.read(tmp_path)
  assert [x["loss"] for x in lines] == [1.0, 2.0, 3.0, 40.0]
  assert sorted(x["elapsed"] for x in lines) == [x["elapsed"] for x in lines]
  for text in (tmp_path / "metrics.jsonl").read_text().splitlines():
    json.loads(text)
  starts = (tmp_path / "starts.jsonl").read_text().splitlines()
  assert [json.loads(x)["step"] for x in starts] == [0, 3]
  # A start from nothing keeps nothing.
  with metric_writer.MetricWriter(tmp_path) as w:
    w.write(1, {"loss": 9.0})
  assert [x["loss"] for x in metric_writer.read(tmp_path)] == [9.0]
  assert len((tmp_path / "starts.jsonl").read_text().splitlines()) == 1


class _Bucket(memory.MemoryFileSystem):
  """Stands for an object store: no append."""

  protocol = "az"
  store, pseudo_dirs = {}, [""]

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.removeprefix("az://"))

  def open(self, path, mode="rb", **kw):
    if "a" in mode:
      raise NotImplementedError("append")
    return super().open(path, mode, **kw)


def test_object_store_gets_the_same_files():
  fsspec.register_implementation("az", _Bucket, clobber=True)
  workdir = "az://bucket/run"
  for start, value in ((0, 0.5), (1, 0.25)):
    with metric_writer.MetricWriter(workdir, start) as w:
      w.write(start + 1, {"loss": value})
  assert [x["loss"] for x in metric_writer.read(workdir)] == [0.5, 0.25]
  events = [x for x in _Bucket.store if "tfevents" in x]
  assert len(events) == 2
  assert all(len(_Bucket.store[x].getvalue()) > 80 for x in events)


def test_progress_without_a_terminal(capsys):
  console = rich.console.Console(file=io.StringIO())
  with progress.Progress(1000, line_seconds=0.0, console=console) as bar:
    assert bar.update(1, 0.7, 1000, 0.0) == {}
    speed = bar.update(2, 0.6, 1000, 0.0)
  assert speed["tokens_per_second"] == pytest.approx(
    1000 * speed["steps_per_second"]
  )
  assert speed["input_wait_share"] == 0.0
  lines = capsys.readouterr().err.splitlines()
  assert lines[:2] == [
    "compiling the train step ...",
    "step 1/1,000  loss 0.7000",
  ]
  assert "tokens/s  input wait 0%  " in lines[2] and "left" in lines[2]


def test_speed_is_of_training_time(monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])

  def work(seconds):
    clock[0] += seconds

  with progress.Progress(1000) as bar:
    bar.update(1, 0.5, 100, 0.0)
    for step in range(2, 6):
      work(2.0)
      with bar.aside():
        work(50.0)
      speed = bar.update(step, 0.5, 100, 0.5)
  assert speed["steps_per_second"] == pytest.approx(0.5)
  assert speed["tokens_per_second"] == pytest.approx(50.0)
  assert speed["input_wait_share"] == pytest.approx(0.25)


def test_progress_on_a_terminal():
  file = io.StringIO()
  console = rich.console.Console(file=file, force_terminal=True, width=100)
  with progress.Progress(10, 5, console=console) as bar:
    for step in range(6, 11):
      bar.update(step, 0.5, 2_500_000, 0.0)
  assert "10/10" in file.getvalue() and "loss 0.5000" in file.getvalue()


def test_libraries_are_quiet_but_for_warnings():
  progress.quiet_libraries()
  progress.quiet_libraries()
  logger = absl_logging.get_absl_logger()
  passes = lambda path, level, text="text": logger.filter(
    logging.LogRecord("absl", level, path, 1, text, (), None)
  )
  assert passes("/x/site-packages/orbax/a.py", logging.WARNING)
  assert not passes(
    "/x/site-packages/orbax/a.py",
    logging.WARNING,
    "CheckpointManagerOptions.read_only=True, setting save_interval_steps=0.",
  )
  assert not passes("/x/site-packages/orbax/a.py", logging.INFO)
  assert passes("/x/lumos_jax/train.py", logging.INFO)


def test_a_full_disk_is_an_error_and_no_wait(tmp_path, monkeypatch):
  """A thread that the error ended would leave the run waiting for ever."""
  full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  writer = metric_writer.MetricWriter(tmp_path)
  with monkeypatch.context() as m:
    m.setattr(writer._board._writer, "write_event", mock.Mock(side_effect=full))
    for step in range(30):  # More than a queue would hold.
      with pytest.raises(OSError, match="No space left .*tensorboard"):
        writer.write(step, {"loss": 1.0})
  writer.close()


def test_durations_do_not_follow_a_clock_that_is_set(tmp_path, monkeypatch):
  now = iter([1e9, 4e9, 1e6, 2e9, 5.0, *[3e9] * 20])
  monkeypatch.setattr(metric_writer.time, "time", lambda: next(now))
  with metric_writer.MetricWriter(tmp_path) as w:
    for step in range(3):
      w.write(step, {"loss": 1.0})
  elapsed = [x["elapsed"] for x in metric_writer.read(tmp_path)]
  assert elapsed == sorted(elapsed) and 0 <= elapsed[0] <= elapsed[-1] < 60
