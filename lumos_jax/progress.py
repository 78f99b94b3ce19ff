"""Progress: a bar on a terminal, a line now and then elsewhere."""

import collections
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import rich.console
import rich.progress
from absl import logging as absl_logging

_WINDOW = 50  # Steps that speeds are averaged over.


def _count(x: float) -> str:
  """1234567.0 -> "1.2M"."""
  for unit in ("", "k", "M", "G"):
    if abs(x) < 999.5 or unit == "G":
      return f"{x:.3g}{unit}" if unit else f"{x:.0f}"
    x /= 1000.0
  raise AssertionError


def _clock(seconds: float) -> str:
  """3661.0 -> "1:01:01"."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02d}:{seconds:02d}"
  return f"{minutes}:{seconds:02d}"


class Progress:
  """Shows step, loss, tokens a second, input wait share and time left.

  Only process 0 shows anything. Use as a context: on a terminal a bar stays in
  the last line and log messages scroll above it; elsewhere (a notebook, a log
  file) a line is printed to stderr every `line_seconds`.
  """

  def __init__(
    self,
    total: int,
    start: int = 0,
    *,
    line_seconds: float = 10.0,
    console: rich.console.Console | None = None,
  ):
    """`total` steps, of which `start` are done; `console` is for tests."""
    self._total, self._step = total, start
    self._shown = jax.process_index() == 0
    self._line_seconds, self._line_at = line_seconds, time.monotonic()
    # (time, tokens, wait): the first entry only marks where the window begins.
    # The first step compiles, so that its end is the first mark. The time is of
    # a clock that stands still while something else than training is done.
    self._stood = 0.0
    self._window = collections.deque(maxlen=_WINDOW + 1)
    # Rich's form for notebooks needs ipywidgets, and warns where they are not.
    self._console = console or rich.console.Console(
      stderr=True, force_jupyter=False
    )
    self._text, self._bar = "", None
    if self._shown and self._console.is_terminal:
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.completed:,}/{task.total:,}"),
        rich.progress.BarColumn(bar_width=None),
        rich.progress.TextColumn("{task.fields[text]}"),
        console=self._console,
        refresh_per_second=4,
      )

  def __enter__(self) -> "Progress":
    begins = self._step < self._total
    self._text = "compiling the train step ..." if begins else ""
    if self._bar:
      self._task = self._bar.add_task(
        "", total=self._total, completed=self._step, text=self._text
      )
      self._bar.start()
    elif self._text:
      say(self._text)
    self._outer, _Stage.bar = _Stage.bar, self
    return self

  def __exit__(self, *exc) -> None:
    _Stage.bar = self._outer
    if self._bar:
      self._bar.stop()
    elif self._shown and self._window:
      self._line()

  @contextlib.contextmanager
  def aside(self) -> Iterator[None]:
    """Time in this context (evaluation, a checkpoint) is not training's."""
    begin = time.monotonic()
    try:
      yield
    finally:
      self._stood += time.monotonic() - begin

  def show(self, text: str = "") -> bool:
    """Shows what runs aside of training; "" shows training's state again.

    Returns:
      Whether there is a bar to show it in.
    """
    if self._bar:
      self._bar.update(self._task, text=text or self._text)
    return self._bar is not None

  def update(
    self, step: int, loss: float, tokens: int, wait: float
  ) -> dict[str, float]:
    """Notes a finished step.

    Args:
      step: Its number, from 1.
      loss: Its loss.
      tokens: Rows of history it read, over all hosts.
      wait: Seconds that the host waited for its batch.

    Returns:
      {"steps_per_second", "tokens_per_second", "input_wait_share"} over the
      last 50 steps, of training time; nothing until a second step was seen.
    """
    now = time.monotonic()
    self._window.append((now - self._stood, tokens, wait))
    self._step = step
    speed = self._speed()
    self._text = self._describe(loss, speed)
    if self._bar:
      self._bar.update(self._task, completed=step, text=self._text)
    elif self._shown and now - self._line_at >= self._line_seconds:
      self._line()
    return speed

  def _speed(self) -> dict[str, float]:
    first, *rest = self._window
    seconds = self._window[-1][0] - first[0]
    if not rest or seconds <= 0:
      return {}
    return {
      "steps_per_second": len(rest) / seconds,
      "tokens_per_second": sum(x[1] for x in rest) / seconds,
      "input_wait_share": min(1.0, sum(x[2] for x in rest) / seconds),
    }

  def _describe(self, loss: float, speed: dict[str, float]) -> str:
    parts = [f"loss {loss:.4f}"]
    if speed:
      parts += [
        f"{_count(speed['tokens_per_second'])} tokens/s",
        f"input wait {speed['input_wait_share']:.0%}",
      ]
      steps = self._total - self._step
      if steps:  # Of training: what follows the last step has its own text.
        parts.append(f"{_clock(steps / speed['steps_per_second'])} left")
    return "  ".join(parts)

  def _line(self) -> None:
    self._line_at = time.monotonic()
    text = f"step {self._step:,}/{self._total:,}  {self._text}"
    print(text, file=sys.stderr, flush=True)


class _Stage:
  """What runs aside of training: its name, users in all, the bar to show it."""

  text: str = ""
  total: int | None = None
  bar: Progress | None = None


def say(text: str) -> None:
  """Prints a line to stderr, from process 0."""
  if jax.process_index() == 0:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def stage(text: str, total: int | None = None) -> Iterator[None]:
  """Says what runs in this context.

  Args:
    text: "evaluating forecast", say.
    total: Users that `track` goes through in it; None where it is not known.
  """
  before = _Stage.text, _Stage.total
  _Stage.text, _Stage.total = text, total
  if _Stage.bar:
    _Stage.bar.show(f"{text} ...")
  try:
    yield
  finally:
    _Stage.text, _Stage.total = before
    if _Stage.bar:
      _Stage.bar.show()


def track(
  items: Iterable[Any],
  count: Callable[[Any], int] = lambda item: 1,
  *,
  line_seconds: float = 10.0,
) -> Iterator[Any]:
  """The items; shows how far they are: in the bar, or by a line now and then.

  Args:
    items: Batches of a stage.
    count: Users of one.
    line_seconds: Between lines.
  """
  done, line_at, shown_at = 0, time.monotonic(), 0.0
  many = jax.process_count()  # All go through equally many.
  for item in items:
    yield item
    done += many * count(item)
    now = time.monotonic()
    if now - shown_at < 0.25:
      continue
    shown_at = now
    if _Stage.total is None or done <= _Stage.total:
      of = f" of {_Stage.total:,}" if _Stage.total else ""
      said = f"{done:,}{of} users"
    else:  # Several rows a user, or a split read twice.
      said = f"{done:,} rows"
    text = f"{_Stage.text or 'predicting'}: {said}"
    if _Stage.bar and _Stage.bar.show(text):
      continue
    if now - line_at >= line_seconds:
      line_at = now
      say(text)


class _FromLibraries(logging.Filter):
  """Passes what is ours, and warnings of anyone but those that we ask for."""

  _CHATTY = ("orbax", "tensorflow_datasets", "grain")
  # Orbax warns of checkpoints opened to be read only, and thrice of a stop.
  _ASKED_FOR = (
    "read_only=True",
    "directory is read only",
    "Reached preemption sync point",
  )

  def filter(self, record: logging.LogRecord) -> bool:
    parts = record.pathname.replace("\\", "/").split("/")
    if not any(name in parts for name in self._CHATTY):
      return True
    text = str(record.msg)
    asked = "orbax" in parts and any(s in text for s in self._ASKED_FOR)
    return record.levelno >= logging.WARNING and not asked


def quiet_libraries() -> None:
  """Drops informational log lines of libraries: a save makes about forty."""
  logger = absl_logging.get_absl_logger()
  if not any(isinstance(f, _FromLibraries) for f in logger.filters):
    logger.addFilter(_FromLibraries())
  # Told each time that the cache is turned on or off.
  name = "jax._src.compilation_cache"
  logging.getLogger(name).setLevel(logging.WARNING)
