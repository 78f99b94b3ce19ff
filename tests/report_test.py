"""The report of a run: whole, harmless, and with eval.json's numbers."""

import html.parser
import json
import re
import sys

import numpy as np
import pytest

from lumos_jax import metric_writer, report
from lumos_jax.report import __main__ as cli
from lumos_jax.report import bins, load, page

EVIL = '<img src=x onerror="alert(1)"></script><script>alert(2)</script>'
TASKS = {
  "churn": {"kind": "binary"},
  EVIL: {"kind": "binary"},
  "spend": {"kind": "regression"},
}


def fake_run(workdir, data_dir):
  """Writes all that a run leaves, with made-up numbers."""
  rng = np.random.default_rng(0)
  config = {
    "name": f"run {EVIL}",
    "recipe": "lumos",
    "tasks": TASKS,
    "data": {"source": "fake", "root": "nowhere", "test_origin": 9},
    "evals": {
      "validation": {"type": "forecast", "split": "validation"},
      "test": {"type": "forecast", "split": "test"},
      "lightgbm": {"type": "baseline_lightgbm"},
      "ablation": {"type": "ablation"},
      "what_if": {"type": "what_if"},
    },
  }
  with metric_writer.MetricWriter(workdir) as w:
    for step in range(1, 31):
      parts = {f"loss/{EVIL}": 0.6 / step, "loss/other": 0.4 / step}
      w.write(step, {"loss": 1 / step, **parts})
    for step in (20, 30):
      w.write(step, {"validation/churn/auc": 0.7, "validation/mean_auc": 0.7})
    w.write(30, {"test/churn/auc": 0.7, "lightgbm/churn/auc": 0.7})
  (workdir / "config.json").write_text(json.dumps(config))
  evals = {}
  for name in ("validation", "test", "lightgbm"):
    values = {"mean_auc": rng.random(), "mean_wape": rng.random()}
    for task, t in TASKS.items():
      last = ["auc", "base_rate"] if t["kind"] == "binary" else ["wape", "mae"]
      values |= {f"{task}/{k}": rng.random() for k in last}
    evals[name] = values
  evals["test_vs_lightgbm"] = {}
  evals["ablation"], evals["what_if"] = {}, {"unused_entry_max_abs": 0.0}
  for metric, value in evals["test"].items():
    d = value - evals["lightgbm"][metric]
    ends = {"difference": d, "low": d - 0.1, "high": d + 0.1}
    for end, v in ends.items():
      evals["test_vs_lightgbm"][f"{metric}/{end}"] = v
    evals["ablation"][f"no_future/{metric}"] = value + d / 10
  for question in ("edited", "moved_+7_days", "moved_+14_days"):
    evals["what_if"][f"{question}/users_changed"] = 12.0
    for i, task in enumerate(TASKS):
      effect = {"": 0.01 * i, "/low": 0.01 * i - 0.1, "/high": 0.01 * i + 0.1}
      for end, v in effect.items():
        evals["what_if"][f"{question}/{task}{end}"] = v
  evals["validation"]["churn/auc"] = None
  (workdir / "eval.json").write_text(json.dumps(evals))
  folder = workdir / "predictions"
  folder.mkdir()
  p = rng.random((200, 3)).astype(np.float32)
  y = (rng.random((200, 3)) < p).astype(np.float32)
  for name in ("test", "lightgbm"):
    np.savez(
      folder / f"{name}.npz",
      tasks=np.array(list(TASKS)),
      key=np.zeros(200, "S16"),
      y=y,
      mask=rng.random((200, 3)) < 0.9,
      p=p,
    )
  doc = {
    "edits": [{"op": "move", "match": {"type": EVIL}, "days": 7}],
    "questions": {f"moved_+{d}_days": {"days": d} for d in (7, 14)},
  }
  (folder / "what_if.json").write_text(json.dumps(doc))
  data_dir.mkdir()
  stats = {
    "users": 1234,
    "rows": 5678,
    "first_day": 0,
    "last_day": 31,
    "rejected": {"activity": {f"sales is NaN {EVIL}": 17}},
    "notes": {},
  }
  (data_dir / "stats.json").write_text(json.dumps(stats))
  field = {"type": "Categorical", "name": EVIL, "values": ["a", "b"]}
  schema = {"name": "fake", "epoch": "2020-01-01", "activity": [field]}
  (data_dir / "schema.json").write_text(json.dumps(schema))
  return evals


class Reader(html.parser.HTMLParser):
  """Collects tables, tags and attributes; checks that tags are balanced."""

  VOID = {"meta", "br", "img"}

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.open = [], [], []
    self.tables, self.sections, self.figures = [], [], []
    self.texts = []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    attrs = dict(attrs)
    if tag not in self.VOID:
      self.open.append(tag)
    if tag == "section":
      self.sections.append(attrs["id"])
    if tag == "table":
      self.tables.append([])
    if tag == "tr":
      self.tables[-1].append([])
    if tag in ("td", "th"):
      self.tables[-1][-1].append(["", attrs.get("title")])

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-2:] == ["div", "script"]:
      self.figures.append(json.loads(data))
    elif "script" not in self.open and "style" not in self.open:
      self.texts.append(data)
      if "td" in self.open or "th" in self.open:
        self.tables[-1][-1][-1][0] += data


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """(evals, text of the report, Reader) of a fake run."""
  root = tmp_path_factory.mktemp("report")
  evals = fake_run(root / "w", root / "data")
  path = report.build(root / "w", root / "data")
  assert str(path) == str(root / "w/report.html")
  text = path.read_text()
  return evals, text, Reader(text)


def test_tables_hold_the_numbers_of_eval_json(built):
  evals, _, reader = built
  head, *rows = reader.tables[1]
  assert [h[0] for h in head] == [
    "metric", "base rate", "LUMOS", "LightGBM", "difference to LightGBM",
  ]  # fmt: skip
  metrics = ["mean_auc", "mean_wape", "churn/auc", f"{EVIL}/auc", "spend/wape"]
  assert len(rows) == len(metrics)
  for row, metric in zip(rows, metrics, strict=True):
    for cell, name in ((row[2], "test"), (row[3], "lightgbm")):
      assert float(cell[1]) == evals[name][metric]
      assert cell[0] == f"{evals[name][metric]:.4f}"
    d = evals["test_vs_lightgbm"]
    assert float(row[4][1]) == d[f"{metric}/difference"]
    ends = f"[{d[f'{metric}/low']:+.4f}, {d[f'{metric}/high']:+.4f}]"
    assert ends in row[4][0].replace("\N{MINUS SIGN}", "-")
  ablation = reader.tables[3]
  assert [h[0] for h in ablation[0]] == ["metric", "full", "no future"]
  assert float(ablation[3][2][1]) == evals["ablation"]["no_future/churn/auc"]
  what_if = reader.tables[5]
  assert float(what_if[1][1][1]) == evals["what_if"]["edited/churn"]
  shown = " ".join(reader.texts)
  for part in ("1,234", "17", "2020-01-31", "30 steps", "changes no forecast"):
    assert part in shown


def test_all_sections_and_figures_are_there(built):
  _, _, reader = built
  assert reader.sections == [
    "tasks", "comparison", "ablation", "curves", "calibration", "lift",
    "what-if", "training", "data", "config",
  ]  # fmt: skip
  # Differences of AUC and WAPE; two curves of two tasks; calibration, lift and
  # sweep of three; loss, parts of the loss, validation AUC.
  assert len(reader.figures) == 2 + 2 * 2 + 3 + 3 + 3 + 3
  assert "not available" not in " ".join(reader.texts)


def test_nothing_is_loaded_from_elsewhere(built):
  _, text, reader = built
  loading = {"src", "href", "data", "action", "poster", "srcset", "xlink:href"}
  for name, value in reader.attributes:
    if name in loading:
      assert value.startswith("#")
  assert not {"link", "iframe", "img", "object", "base"} & set(reader.tags)
  style = re.search("<style>(.*?)</style>", text, re.DOTALL)[1]
  assert "url(" not in style and "@import" not in style
  assert ("http-equiv", "Content-Security-Policy") in reader.attributes
  assert len(text) < 6e6


def test_names_cannot_become_markup(built):
  _, text, reader = built
  # One script a figure, plotly.js and report.js.
  assert reader.tags.count("script") == len(reader.figures) + 2
  assert not any(name.startswith("on") for name, _ in reader.attributes)
  assert "alert(2)" in text and "<script>alert(2)" not in text
  assert EVIL in "".join(reader.texts)
  for figure in reader.figures:
    for trace in figure["data"]:
      assert "<" not in trace.get("name", "")


def test_without_plotly_tables_stay(built, tmp_path, monkeypatch):
  fake_run(tmp_path / "w", tmp_path / "data")
  monkeypatch.setitem(sys.modules, "plotly", None)
  reader = Reader(report.build(tmp_path / "w", tmp_path / "data").read_text())
  assert 'pip install "lumos-jax[report]"' in " ".join(reader.texts)
  assert reader.tables == built[2].tables


def test_a_run_that_only_began(tmp_path):
  (tmp_path / "config.json").write_text('{"name": "a", "tasks": {}}')
  (tmp_path / "eval.json").write_text("{ torn")
  text = " ".join(Reader(report.build(tmp_path).read_text()).texts)
  assert "eval.json cannot be read" in text
  assert "metrics.jsonl is absent or empty" in text
  assert "no evaluator of type what_if ran" in text


def test_no_run(tmp_path):
  with pytest.raises(FileNotFoundError, match="holds no run"):
    report.build(tmp_path)
  (tmp_path / "config.json").write_text("{ torn")
  with pytest.raises(ValueError, match="config.json cannot be read"):
    report.build(tmp_path)


def test_program_says_what_is_missing(tmp_path, capsys):
  fake_run(tmp_path / "w", tmp_path / "data")
  workdir = f"--workdir={tmp_path / 'w'}"
  assert cli.main([workdir, f"--data_dir={tmp_path / 'data'}"]) == 0
  assert capsys.readouterr().out.strip().endswith("report.html")
  assert cli.main([workdir, f"--data_dir={tmp_path / 'absent'}"]) == 1
  said = capsys.readouterr().err
  assert said.startswith("error: ") and "absent holds no data set" in said
  (tmp_path / "config.json").write_text(
    (tmp_path / "w/config.json").read_text()
  )
  assert cli.main([f"--workdir={tmp_path}"]) == 1
  said = capsys.readouterr().err
  for word in ("nothing to show", "metrics.jsonl", "eval.json", "predictions/"):
    assert word in said
  assert not (tmp_path / "report.html").exists()


def test_the_model_is_the_test_split_and_differences_turn(tmp_path):
  fake_run(tmp_path / "w", tmp_path / "data")
  run = load.load(tmp_path / "w", tmp_path / "data")
  assert run.model == "test" and run.of_kind("baseline") == ["lightgbm"]
  d = run.difference("test", "lightgbm", "churn/auc")
  back = run.difference("lightgbm", "test", "churn/auc")
  assert back == load.Difference(-d.value, -d.high, -d.low)
  assert load.Difference(0.2, 0.1, 0.3).better("t/auc") is True
  assert load.Difference(0.2, 0.1, 0.3).better("t/wape") is False
  assert load.Difference(0.2, -0.1, 0.3).better("t/auc") is None


def test_equal_mass_bins():
  p = np.repeat([0.1, 0.5, 0.9], [50, 20, 30])
  y = np.concatenate([np.zeros(50), np.ones(50)])
  b = bins.equal_mass(y, p)
  # Ties share a bin, and no user is lost.
  assert b["users"].tolist() == [50, 20, 30]
  assert b["forecast"] == pytest.approx([0.1, 0.5, 0.9])
  assert b["outcome"].tolist() == [0.0, 1.0, 1.0]
  assert np.all((b["low"] <= b["outcome"] + 1e-9) & (b["high"] <= 1 + 1e-9))


@pytest.mark.parametrize(
  "value, shown",
  [
    (0.12345, "0.1235"),
    (1234.5, "1,234"),
    (12345, "12,345"),
    (0.00001, "0.000010"),
    (0.0, "0.0000"),
    (None, "–"),
    (float("nan"), "–"),
  ],
)
def test_numbers(value, shown):
  assert page.number(value) == shown
