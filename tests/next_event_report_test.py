"""The report's section on next-event prediction shows eval.json's numbers."""

import json

from lumos_jax import report

EVIL = "<script>alert(1)</script>"
METRICS = {
  "hit_rate@1": 0.0123,
  "hit_rate@5": 0.05,
  "hit_rate@10": 0.1034,
  "hit_rate@50": 0.3,
  "ndcg@10": 0.0567,
  "mrr": 0.0432,
}


def write(workdir, evals):
  config = {
    "name": "run",
    "recipe": "panther",
    "tasks": {},
    "data": {"source": EVIL, "root": "nowhere"},
    "evals": {
      "validation": {"type": "next_event", "split": "validation"},
      "test": {"type": "next_event"},
      "floors": {"type": "baseline_next_event"},
      "gender": {"type": "probe", "label": "gender"},
    },
  }
  (workdir / "config.json").write_text(json.dumps(config))
  if evals is not None:
    (workdir / "eval.json").write_text(json.dumps(evals))
  return report.build(workdir).read_text()


def test_section_holds_model_floors_groups_and_probe(tmp_path):
  group = {f"history_1_to_5/{k}": v / 2 for k, v in METRICS.items()}
  text = write(
    tmp_path,
    {
      "validation": METRICS,
      "test": METRICS | {"users": 40.0} | group | {"history_1_to_5/users": 7.0},
      "floors": {f"markov/{k}": v / 4 for k, v in METRICS.items()},
      "gender": {
        "embedding/logistic/auc": 0.8765,
        "embedding/logistic/auc_deviation": 0.0111,
        "label_in_profile": 1.0,
      },
      "steps": {"test": 9},
    },
  )
  for shown in ("0.1034", "0.0517", "0.0259", "0.8765", "0.0111"):
    assert f">{shown}<" in text
  for name in ("HitRate@10", "NDCG@10", "history 1 to 5", "markov", "PANTHER"):
    assert name in text
  assert "was shown this label" in text
  assert "Calibration" not in text and EVIL not in text


def test_section_says_what_is_missing(tmp_path):
  assert "there is no eval.json" in write(tmp_path, None)


def test_padding_of_packed_rows_is_drawn(tmp_path):
  lines = [
    json.dumps({"step": s, "loss": 1.0, "padding_share": s / 1000})
    for s in (1, 2, 3)
  ]
  (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
  text = write(tmp_path, {"test": METRICS, "steps": {"test": 9}})
  assert "Share of padding in packed rows" in text and "0.003" in text
