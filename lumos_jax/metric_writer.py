"""Metrics of a run: metrics.jsonl for programs, TensorBoard for eyes."""

import json
import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping

import jax
from etils import epath
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from lumos_jax import files

METRICS, STARTS = "metrics.jsonl", "starts.jsonl"
_FLUSH_SECONDS = 10.0
# What TensorBoard's names cannot have: "@", "+".
_NOT_SHOWN = re.compile(r"[^-/\w.]")


def read(workdir: epath.PathLike) -> list[dict[str, float]]:
  """Lines of a workdir's metrics.jsonl; [] where there is none.

  A line that a killed run left unfinished is skipped.
  """
  path = epath.Path(workdir) / METRICS
  if not path.exists():
    return []
  lines = []
  for text in path.read_text().splitlines():
    try:
      lines.append(json.loads(text))
    except ValueError:
      continue
  return lines


def _machine() -> dict[str, object]:
  """What runs: devices, processes and versions."""
  return {
    "devices": jax.device_count(),
    "device_kind": jax.devices()[0].device_kind,
    "processes": jax.process_count(),
    "cpu_cores": os.cpu_count(),
    "python": platform.python_version(),
    "jax": jax.__version__,
  }


class _Board:
  """TensorBoard's file, written by whoever calls.

  tensorboardX' own writer has a thread, which a full disk or a clock that is set
  back ends: whoever gives it points then waits for ever.
  """

  def __init__(self, folder: str, suffix: str, purge_step: int | None):
    """Opens a file; events from `purge_step` on in older ones are hidden."""
    os.makedirs(folder, exist_ok=True)
    self._path = os.path.join(folder, "events")
    with files.naming(folder):
      self._writer = event_file_writer.EventsWriter(self._path, suffix)
    if purge_step is not None:
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._put(step=purge_step, file_version="brain.Event:2")
      self._put(step=purge_step, session_log=start)

  def _put(self, **kw) -> None:
    with files.naming(self._path):
      self._writer.write_event(event_pb2.Event(**kw))

  def add(self, series: str, value: float, step: int, seconds: float) -> None:
    """A point of a series at a time (Unix seconds)."""
    point = summary.scalar(series, value)
    self._put(step=step, wall_time=seconds, summary=point)

  def flush(self) -> None:
    """Brings all points to the file."""
    with files.naming(self._path):
      self._writer.flush()

  def close(self) -> None:
    """Flushes and closes."""
    with files.naming(self._path):
      self._writer.close()


class MetricWriter:
  """Writes metrics of process 0; on the others it does nothing.

  A line of metrics.jsonl is {"step", "time" (Unix seconds), "elapsed" (seconds
  of this run, summed over its restarts), name: value, ...}. Values that are
  not finite become null. starts.jsonl holds a line for each (re)start: the
  step, the time and the devices.

  A run that resumes from step n keeps the lines up to n and drops later ones,
  which it will write again; TensorBoard is told to hide its events after n.
  Lines of step n itself may stand twice: the later one counts. A start at 0
  drops all.

  Object stores cannot append: there the files are written whole at each flush,
  which is every 10 seconds and at the end.
  """

  def __init__(self, workdir: epath.PathLike, start: int = 0):
    """Opens the workdir's files; `start` is the step resumed from, 0 if none.

    Raises:
      OSError: The workdir cannot be written.
    """
    self._active = jax.process_index() == 0
    if not self._active:
      return
    self._workdir = epath.Path(workdir)
    self._workdir.mkdir(parents=True, exist_ok=True)
    self._remote = "://" in os.fspath(self._workdir)
    kept = [x for x in read(workdir) if start and x.get("step", 0) <= start]
    self._lines = [json.dumps(x) for x in kept]
    self._write_all()
    # Durations are of a clock that nobody sets.
    self._begin = time.monotonic()
    self._before = max((x.get("elapsed", 0.0) for x in kept), default=0.0)
    self._note_start(start)
    # TensorBoard's writer knows local files only; remote ones are copies.
    self._events = self._workdir / "tensorboard"
    self._local = tempfile.mkdtemp() if self._remote else ""
    self._board = _Board(
      self._local or os.fspath(self._events),
      # Two starts within a second must not share a file.
      f".{os.getpid()}.{start}",
      purge_step=start + 1 if start else None,
    )
    self._file = None
    if not self._remote:
      self._file = (self._workdir / METRICS).open("a")
    self._flushed = time.monotonic()

  def write(
    self,
    step: int,
    metrics: Mapping[str, float],
    shown: Callable[[str], bool] = lambda name: True,
  ) -> None:
    """Writes one line, and TensorBoard points.

    Args:
      step: Steps done.
      metrics: {name: value}.
      shown: Whether a metric is a TensorBoard series: one of a single point is
        none to look at.

    Raises:
      OSError: A file cannot be written; names it.
    """
    if not self._active or not metrics:
      return
    now, clock = time.time(), time.monotonic()
    elapsed = round(self._before + clock - self._begin, 3)
    line = {"step": int(step), "time": round(now, 3), "elapsed": elapsed}
    for name, value in metrics.items():
      value = float(value)
      finite = math.isfinite(value)
      line[name] = value if finite else None
      if finite and shown(name):
        series = _NOT_SHOWN.sub("_", name)
        self._board.add(series, value, int(step), now)
    text = json.dumps(line)
    if self._file:
      # Line by line: what was logged before a kill is there after it.
      with files.naming(self._workdir / METRICS):
        self._file.write(text + "\n")
        self._file.flush()
    else:
      self._lines.append(text)
    if clock - self._flushed > _FLUSH_SECONDS:
      self.flush()

  def flush(self) -> None:
    """Brings everything written so far to the workdir."""
    if not self._active:
      return
    with files.naming(self._events):
      self._board.flush()
    self._copy()
    self._flushed = time.monotonic()

  def close(self) -> None:
    """Flushes and closes; later writes do nothing."""
    if not self._active:
      return
    self._board.close()
    self._copy()
    if self._file:
      self._file.close()
    if self._local:
      shutil.rmtree(self._local, ignore_errors=True)
    self._active = False

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *exc) -> None:
    self.close()

  def _copy(self) -> None:
    """Copies what stands in local files to a remote workdir."""
    if not self._remote:
      return
    self._write_all()
    self._events.mkdir(parents=True, exist_ok=True)
    for path in epath.Path(self._local).iterdir():
      (self._events / path.name).write_bytes(path.read_bytes())

  def _write_all(self) -> None:
    """Replaces metrics.jsonl by the lines in memory."""
    self._replace(METRICS, "".join(x + "\n" for x in self._lines))

  def _replace(self, name: str, text: str) -> None:
    """Writes a file that is whole, the old one or the new one, at any moment."""
    path = self._workdir / name
    if self._remote:  # A write replaces an object as a whole.
      path.write_text(text)
      return
    aside = self._workdir / f".{name}.new"
    with files.naming(path):
      aside.write_text(text)
      aside.replace(path)

  def _note_start(self, start: int) -> None:
    path = self._workdir / STARTS
    before = path.read_text() if start and path.exists() else ""
    line = {"step": start, "time": round(time.time(), 3), **_machine()}
    self._replace(STARTS, before + json.dumps(line) + "\n")
