"""Preflight as a program: exit statuses, and what its JSON says was asked."""

import json
import pathlib
import runpy
import sys

import fake_events
import pytest
from absl import app
from absl.testing import flagsaver

from lumos_jax import main as main_lib
from lumos_jax.preflight import __main__ as program
from lumos_jax.preflight import advice, table

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
import fake_events


def get_config(arg=None):
  c = fake_events.config(train__batch_size=8)
  with c.unlocked():
    c.name = f"tiny_{arg}"
  return c
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
  """Runs the program; returns its exit status and what it wrote to stderr."""
  (tmp_path / "tiny.py").write_text(CONFIG)
  monkeypatch.setattr(
    main_lib, "open_data", lambda config: fake_events.Records()
  )

  def run(*arguments):
    config = f"--config={tmp_path / 'tiny.py'}:small"
    argv = ["preflight", config, *arguments]
    # Flags of config keys are made of what stands there.
    monkeypatch.setattr(sys, "argv", argv)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as e:
      main_lib.parse_flags(argv)
      program.main(None)
    return e.value.code, capsys.readouterr().err

  return run


def answer(monkeypatch, fits):
  """Instead of a compilation."""
  found = {"config": "tiny_small", "fits": fits}
  monkeypatch.setattr(advice, "examine", lambda *a: dict(found))
  monkeypatch.setattr(table, "text", str)


@pytest.mark.parametrize(
  "arguments,words",
  [
    (["--topology=v5e"], "lacks a shape"),
    (["--topology=v9:2x2"], "unknown chip 'v9'"),
    (["--slices=0"], "at least 1"),
    (["--slices=x"], "slices"),
    (["--config.train.log_every=0"], "log_every = 0 must be at least 1"),
    (["--config.train.log_evry=1"], "mean 'train.log_every'"),
    (["--topology=v5e:2x2", "--config.mesh.fsdp=3"], "mesh"),
    (["--topology=v5e:2x2", "--config.train.batch_size=6"], "batch_size = 6"),
    (["--topology=v5e:2x2", "--vocabulary=-1"], "--vocabulary=-1"),
  ],
)
def test_mistakes_end_in_2(call, arguments, words):
  pytest.importorskip("libtpu")
  status, said = call(*arguments)
  assert status == 2 and words in said
  assert said.splitlines()[-1].startswith("error: ") and "Trace" not in said


def test_help_is_no_error_and_tells_of_overrides(call, capsys):
  app.define_help_flags()
  status, _ = call("--help")
  assert status == 0


def test_absent_libtpu_and_absent_data_end_in_2(call, monkeypatch):
  def absent(config):
    raise FileNotFoundError("no data")

  monkeypatch.setattr(main_lib, "open_data", absent)
  status, said = call("--topology=v5e:2x2")
  assert status == 2 and "error: " in said
  monkeypatch.setitem(sys.modules, "libtpu", None)
  status, said = call("--topology=v5e:2x2")
  assert status == 2 and "libtpu, which is absent" in said


def test_1_means_that_it_does_not_fit_and_nothing_else(
  call, monkeypatch, tmp_path
):
  pytest.importorskip("libtpu")
  answer(monkeypatch, fits=True)
  assert call("--topology=v5e:2x2")[0] == 0
  assert call("--topology=v5e:2x2", f"--json={tmp_path}/tiny.py/x")[0] == 2
  answer(monkeypatch, fits=False)
  assert call("--topology=v5e:2x2")[0] == 1

  def fails(*_):
    raise AssertionError("a mistake of ours")

  monkeypatch.setattr(advice, "examine", fails)
  status, said = call("--topology=v5e:2x2")
  assert status == 2 and "AssertionError: a mistake of ours" in said


def test_the_benchmark_runs_what_is_chosen_and_lacks(monkeypatch):
  monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
  script = runpy.run_path(str(ROOT / "benchmarks" / "preflight.py"))
  chosen = script["chosen"]
  large = list(chosen("large", ["v5e", "v4"]))
  assert [x[:2] for x in large] == [
    ("LUMOS large", "v5e:16x16"),
    ("LUMOS large", "v4:4x4x8"),
    ("PANTHER large", "v5e:16x16"),
    ("PANTHER large", "v4:4x4x8"),
  ]
  row = lambda config: dict(
    model="LUMOS large", dataset="v4:4x4x8", config=config
  )
  # A row of another config, or of none that is named, is made again.
  assert list(chosen("large", ["v5e", "v4"], [row("data 16")])) == large
  done = [row("configs/paper.py:size=large, batch 4,096, data 16 x fsdp 8")]
  left = list(chosen("large", ["v5e", "v4"], done))
  assert left == [large[0], *large[2:]]
  # Chips for which a preset has no slice are left out.
  small = list(chosen("llm4es", ["v5e", "v4"]))
  assert [x[1] for x in small] == ["v5e:4x4"]


def test_the_json_says_what_was_asked(call, monkeypatch, tmp_path):
  pytest.importorskip("libtpu")
  answer(monkeypatch, fits=True)
  file = tmp_path / "out.json"
  call("--topology=v5e:2x2", f"--json={file}", "--config.train.steps=7")
  found = json.loads(file.read_text())
  assert found["config"] == "tiny_small"
  assert found["config_file"] == f"{tmp_path / 'tiny.py'}:small"
  assert found["config_overrides"] == {"train.steps": 7}
