"""Tables of pages come from result files."""

import copy
import json

import pytest

from benchmarks import results, tables

RESULT = {
  "name": "forecast",
  "command": "python benchmarks/forecast.py",
  "commit": "0" * 40,
  "date": "2026-01-02T03:04:05Z",
  "machine": {"cpu": "A CPU", "cores": 2, "memory_gib": 8, "accelerator": ""},
  "versions": {},
  "rows": [
    dict(
      dataset="d", split="test", protocol="p", model=model, config="c",
      seed=seed, steps=10 + seed, wall_seconds=1.0,
      metrics={"mean_auc": auc, "spend/wape": 0.5, "spend/mape_nonzero": 1.0},
    )
    for model, seed, auc in [
      ("LUMOS", 0, 0.8), ("LUMOS", 1, 0.9), ("Light|GBM", 0, 0.85),
    ]
  ],
}  # fmt: skip


def test_means_and_spreads():
  lines = tables.render(RESULT, {"metrics": "mean_auc,spend/wape"}).splitlines()
  assert lines[0] == "| model | runs | mean AUC | spend WAPE |"
  assert lines[1] == "| --- | ---: | ---: | ---: |"
  assert lines[2] == "| LUMOS | 2 | 0.8500 ± 0.0707 | 0.5000 ± 0.0000 |"
  assert lines[3] == "| Light\\|GBM | 1 | 0.8500 | 0.5000 |"
  assert lines[-1] == (
    "From `python benchmarks/forecast.py`; A CPU, 2 cores; 2026-01-02."
  )


def test_layout_order_digits_and_missing_metric():
  result = copy.deepcopy(RESULT)
  del result["rows"][2]["metrics"]["spend/mape_nonzero"]
  text = tables.render(
    result,
    {"layout": "metrics", "models": "Light|GBM,LUMOS", "digits": "2"},
  )
  assert text.splitlines()[0] == "|  | Light\\|GBM | LUMOS |"
  assert "| spend MAPE on non-zero | – | 1.00 ± 0.00 |" in text


def test_a_field_that_differs_becomes_a_column():
  result = copy.deepcopy(RESULT)
  result["rows"][1]["dataset"] = "e"
  text = tables.render(result, {"metrics": "mean_auc", "seeds": "no"})
  assert text.splitlines()[0] == "| dataset | model | mean AUC |"
  assert "| e | LUMOS | 0.9000 |" in text
  options = {"metrics": "mean_auc", "seeds": "no", "heads": "data,name"}
  assert tables.render(result, options).startswith("| data | name | mean AUC |")
  with pytest.raises(tables.TableError, match="1 titles for the columns"):
    tables.render(result, options | {"heads": "data"})
  kept = tables.render(result, {"metrics": "mean_auc", "dataset": "e"})
  assert "GBM" not in kept


@pytest.fixture
def root(tmp_path):
  (tmp_path / "benchmarks/results").mkdir(parents=True)
  (tmp_path / "docs").mkdir()
  path = tmp_path / "benchmarks/results/forecast.json"
  path.write_text(json.dumps(RESULT))
  (tmp_path / "README.md").write_text(
    "Text\n<!-- table:forecast metrics=mean_auc -->\n<!-- /table -->\nmore\n"
  )
  return tmp_path


def test_check_finds_stale_tables(root):
  assert tables.main(["--check"], root) == 1
  assert "0.8500" not in (root / "README.md").read_text()
  assert tables.main([], root) == 0
  page = (root / "README.md").read_text()
  assert "0.8500 ± 0.0707" in page and page.endswith("-->\nmore\n")
  assert tables.main(["--check"], root) == 0
  path = root / "benchmarks/results/forecast.json"
  path.write_text(path.read_text().replace("0.85", "0.75"))
  assert tables.main(["--check"], root) == 1


@pytest.mark.parametrize(
  "marker, message",
  [
    ("<!-- table:absent -->\n<!-- /table -->", "no absent.json"),
    ("<!-- table:forecast metrics=x -->\n<!-- /table -->", "no ['x']"),
    ("<!-- table:forecast metric=x -->\n<!-- /table -->", "option 'metric=x'"),
    ("<!-- table:forecast split=no -->\n<!-- /table -->", "no row"),
    ("<!-- table:forecast -->\n", "never closed"),
    ("is <!-- value:forecast metric=mean_auc -->", "never closed"),
    (
      "<!-- value:forecast metric=mean_auc -->1<!-- /value -->",
      "differ in model",
    ),
    (
      "<!-- value:forecast model=LUMOS metric=x -->1<!-- /value -->",
      "metric 'x'",
    ),
  ],
)
def test_errors_name_the_page_and_the_table(root, capsys, marker, message):
  (root / "docs/page.md").write_text(marker)
  assert tables.main([], root) == 2
  error = capsys.readouterr().err
  assert "docs/page.md" in error and message in error
  assert (root / "docs/page.md").read_text() == marker


def test_a_value_does_not_begin_a_line(root, capsys):
  value = "<!-- value:forecast model=LUMOS metric=mean_auc -->x<!-- /value -->"
  (root / "docs/page.md").write_text(f"- is\n  {value}")
  assert tables.main([], root) == 2
  assert "beginning of a line" in capsys.readouterr().err
  (root / "docs/page.md").write_text(f"- is {value}")
  assert tables.main([], root) == 0


def test_a_mistake_does_not_keep_the_rest_from_being_filled(root, capsys):
  value = "<!-- value:forecast model=LUMOS metric={} -->x<!-- /value -->"
  (root / "docs/page.md").write_text(
    " ".join(value.format(m) for m in ("no", "mean_auc", "nor"))
  )
  assert tables.main([], root) == 2
  error = capsys.readouterr().err
  assert "metric 'no'" in error and "metric 'nor'" in error
  assert ".8500 ± .0707<" in (root / "docs/page.md").read_text()


@pytest.mark.parametrize(
  "options, shown",
  [
    ("model=LUMOS metric=mean_auc digits=3", ".850 ± .071"),
    ("model=LUMOS metric=mean_auc seeds=no digits=2", ".85"),
    ("model=LUMOS metric=mean_auc seed=1 digits=2", ".90"),
    ("model=Lig* metric=mean_auc digits=2", ".85"),
    ("model=LUMOS metric=mean_auc as=excess digits=1", "15.0"),
    ("model=Other metric=gain digits=2", "−.02 [−.10, +1.05]"),
  ],
)
def test_figures_of_running_text(root, options, shown):
  result = copy.deepcopy(RESULT)
  gain = {"gain/difference": -0.02, "gain/low": -0.1, "gain/high": 1.05}
  result["rows"].append(
    {**result["rows"][0], "model": "Other", "metrics": gain}
  )
  path = root / "benchmarks/results/forecast.json"
  path.write_text(json.dumps(result))
  marker = f"<!-- value:forecast {options} -->"
  (root / "README.md").write_text(f"AUC {marker}.1<!-- /value --> (test)\n")
  assert tables.main(["--check"], root) == 1
  assert tables.main([], root) == 0
  page = (root / "README.md").read_text()
  assert page == f"AUC {marker}{shown}<!-- /value --> (test)\n"


def test_rows_are_added_and_replaced(tmp_path, monkeypatch):
  row = lambda model, seed, x: dict(
    dataset="d", model=model, seed=seed, metrics=dict(x=x)
  )
  monkeypatch.setattr(results, "commit", lambda: "c")
  write = lambda command, rows, **kw: results.write(
    "n", rows, argv=command.split(), folder=tmp_path, **kw
  )
  assert results.rows("n", tmp_path) == []
  write("one.py", [row("a", 0, 1.0), row("b", 0, 2.0)])
  # Twice, as a script that writes after every run does.
  for _ in range(2):
    path = write("two.py", [row("b", 0, 3.0), row("b", 1, 4.0)], add=True)
  found = results.rows("n", tmp_path)
  assert [(r["model"], r["seed"], r["metrics"]["x"]) for r in found] == [
    ("a", 0, 1.0),
    ("b", 0, 3.0),
    ("b", 1, 4.0),
  ]
  doc = json.loads(path.read_text())
  assert [o["command"] for o in doc["earlier"]] == ["python one.py"]
  text = tables.render(doc)
  assert "From `python one.py`" in text and "; and `python two.py`" in text
  path = write("three.py", [row("a", 0, 5.0)])
  assert "earlier" not in json.loads(path.read_text())


def test_rows_are_replaced_by_the_fields_that_are_named(tmp_path):
  row = lambda model, config: dict(
    dataset="d", model=model, config=config, metrics=dict(x=1.0)
  )
  write = lambda command, rows, **kw: results.write(
    "n", rows, argv=[command], folder=tmp_path, same=("model", "dataset"), **kw
  )
  write("one.py", [row("a", "old"), row("b", "old")])
  path = write("two.py", [row("b", "new")], add=True)
  found = results.rows("n", tmp_path)
  assert [(r["model"], r["config"]) for r in found] == [
    ("a", "old"),
    ("b", "new"),
  ]
  assert len(json.loads(path.read_text())["earlier"]) == 1
  # Where no row is left of an earlier command, it is not told.
  write("three.py", [row("a", "new"), row("b", "newer")], add=True)
  assert json.loads(path.read_text())["earlier"] == []


def test_pages_of_this_repository_are_fresh():
  assert tables.main(["--check"]) == 0
