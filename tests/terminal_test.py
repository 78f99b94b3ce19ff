"""What a user sees while a run works: stages, lines, TensorBoard, notebooks."""

import io
import json
import logging
import re
import sys

import jax
import rich.console
from tensorboardX.proto import event_pb2
from train_test import run

from lumos_jax import progress


def text_of(buffer):
  return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", buffer.getvalue())


def test_the_bar_says_what_runs_and_how_far_it_is():
  buffer = io.StringIO()
  console = rich.console.Console(file=buffer, force_terminal=True, width=120)
  with progress.Progress(2, console=console) as bar:
    bar.update(1, 0.5, 10, 0.0)
    bar.update(2, 0.4, 10, 0.0)
    assert "left" not in bar._text and "loss 0.4000" in bar._text
    with progress.stage("evaluating forecast", 40):
      bar._bar.refresh()
      for _ in progress.track(range(4), lambda item: 10):
        pass
      bar._bar.refresh()
    bar._bar.refresh()
  found = text_of(buffer)
  assert "compiling the train step ..." in found
  assert "evaluating forecast ..." in found
  assert "evaluating forecast: 10 of 40 users" in found
  assert "0:00 left" not in found


def test_lines_are_said_where_there_is_no_terminal(capsys):
  with progress.Progress(2, console=rich.console.Console(file=io.StringIO())):
    with progress.stage("ranking"):
      items = progress.track(range(3), lambda item: 1000, line_seconds=0.0)
      assert list(items) == [0, 1, 2]
  said = capsys.readouterr().err
  assert "compiling the train step ..." in said
  assert "ranking: 1,000 users" in said
  assert list(progress.track([5])) == [5]


def test_a_notebook_needs_no_widgets(monkeypatch, recwarn):
  monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
  monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
  with progress.Progress(2) as bar:
    bar.update(1, 0.5, 10, 0.0)
  assert bar._bar is None and not recwarn.list


def points(workdir):
  """{tag: number of points} of a workdir's TensorBoard files."""
  out = {}
  for path in (workdir / "tensorboard").iterdir():
    data, at = path.read_bytes(), 0
    while at < len(data):
      size = int.from_bytes(data[at : at + 8], "little")
      event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
      at += 16 + size
      for value in event.summary.value:
        out[value.tag] = out.get(value.tag, 0) + 1
  return out


def test_tensorboard_has_series_and_no_single_points(tmp_path):
  def evaluate(step, params, last):
    values = {"validation/mean_auc": 0.5, "validation/x/auc/low": 0.4}
    if last:
      values |= {"forecast/mean_auc": 0.6, "naive/x/auc/high": 0.7}
    return values if step % 2 == 0 else {}

  evals = dict(
    validation=dict(type="forecast", every_steps=2),
    forecast=dict(type="forecast"),
  )
  run(tmp_path, evaluate, evals=evals)
  found = points(tmp_path)
  assert found["loss"] == 6 and found["validation/mean_auc"] == 4
  assert not [k for k in found if k.startswith(("forecast", "naive"))]
  assert "validation/x/auc/low" not in found
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert json.loads(lines[-1])["forecast/mean_auc"] == 0.6


def test_restoring_warns_of_nothing(tmp_path, caplog):
  from lumos_jax import checkpoint as checkpoint_lib

  state = run(tmp_path)
  caplog.clear()
  with caplog.at_level(logging.WARNING):
    store = checkpoint_lib.Checkpoints(tmp_path, read_only=True)
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape,
        x.dtype,
        sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
      ),
      state["params"],
    )
    store.restore_params(shapes)
    store.raw_params(store.latest)
  assert [r.getMessage() for r in caplog.records if r.levelno > 20] == []
