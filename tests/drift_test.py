"""Drift of new rows against the fitted ones: bins, verdicts, and no NaN."""

import json

import numpy as np
import polars as pl
import pytest
from lumos_jax.data_prep import __main__ as cli
from lumos_jax.data_prep import drift
from lumos_jax.data_prep.inputs import InputError

from lumos_jax import report
from tests import tiny_data

DESCRIPTION = """
from lumos_jax.data.schema import Categorical, Label, Numeric, Schema

SCHEMA = Schema(
  name="d",
  activity=(
    Categorical("channel"),
    Numeric("amount"),
    Numeric("constant"),
    Numeric("rating", nullable=True),
    Categorical("device"),
  ),
  profile=(Categorical("region"),),
  labels=(Label("left"),),
  rows="event",
  epoch="2020-01-01",
)
TABLES = {
  "activity": {"file": "activity.parquet"},
  "profile": {"file": "profile.csv"},
  "labels": {"file": "labels.csv"},
}
TRAIN_UNTIL = 100
"""


def frames(seed, rows=4000, first=0, days=100, **replaced):
  rng = np.random.default_rng(seed)
  day = rng.integers(first, first + days, rows)
  start = np.datetime64("2020-01-01", "us")
  activity = pl.DataFrame(
    {
      "key": [f"u{i}" for i in rng.integers(0, 200, rows)],
      "time": start + day.astype("timedelta64[D]"),
      "channel": rng.choice(["web", "app", "shop"], rows, p=[0.6, 0.3, 0.1]),
      "amount": rng.lognormal(2, 1, rows),
      "constant": np.ones(rows),
      "rating": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows)),
      "device": rng.choice(["d", "e"], rows),
    }
  )
  names = [f"u{i}" for i in range(200)]
  return {
    "activity": activity.with_columns(**replaced),
    "profile": pl.DataFrame(
      {"key": names, "region": rng.choice(["n", "s"], 200)}
    ),
    "labels": pl.DataFrame(
      {
        "key": names[:60],
        "name": "left",
        "time": [
          str(start.astype("M8[D]") + first + i // 3) for i in range(60)
        ],
        "value": "1",
      }
    ),
  }


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
  folder = tmp_path_factory.mktemp("reference")
  return tiny_data.tiny_data_dir(folder, frames(0), DESCRIPTION)


def new(folder, reference, **kw):
  return tiny_data.tiny_data_dir(
    folder, frames(1, **kw), DESCRIPTION, fitted=reference
  )


def test_rows_like_the_fitted_ones_are_stable(tmp_path, reference):
  path = new(tmp_path, reference, first=100)
  found = drift.drift(reference, path)
  assert {f["verdict"] for f in found["fields"].values()} == {"stable"}
  fields = found["fields"]
  assert fields["activity.constant"]["index"] == 0.0
  assert fields["activity.rating"]["missing"] == pytest.approx(0.2, abs=0.03)
  assert fields["activity.amount"]["index"] < 0.02
  assert found["labels"]["left"]["verdict"] == "stable"
  assert found["new"] == {"days": [100, 200], "rows": 4000}


def test_each_kind_of_change_is_told(tmp_path, reference):
  half = pl.int_range(4000) % 2 == 0
  path = new(
    tmp_path,
    reference,
    first=100,
    days=30,
    channel=pl.when(half).then(pl.lit("phone")).otherwise("channel"),
    amount=pl.col("amount") * 1.6,
    constant=pl.lit(7.0),
    rating=pl.lit(None, pl.Float64),
    device=pl.lit(None, pl.String),
  )
  out = tmp_path / "drift.json"
  assert (
    cli.main(
      ["drift", f"--reference={reference}", f"--new={path}", f"--out={out}"]
    )
    == 0
  )
  found = json.loads(out.read_text())
  fields = found["fields"]
  verdict = {n: f["verdict"] for n, f in fields.items()}
  assert verdict == {
    "activity.channel": "shifted",
    "activity.amount": "moved",
    "activity.constant": "shifted",
    "activity.rating": "vanished",
    "activity.device": "vanished",
    "profile.region": "stable",
  }
  assert fields["activity.channel"]["unseen"] == pytest.approx(0.5)
  assert fields["activity.constant"]["beyond"] == 1.0
  # As many outcomes in a third of the days.
  assert found["labels"]["left"]["verdict"] == "moved"


def test_too_few_rows_give_no_verdict_and_no_nan(tmp_path, reference):
  path = new(tmp_path, reference, first=100, rows=50)
  found = drift.drift(reference, path)
  assert {f["verdict"] for f in found["fields"].values()} == {"too few rows"}
  assert {f["index"] for f in found["fields"].values()} == {None}
  json.dumps(found, allow_nan=False)
  assert "too few rows" in drift.table(found)


def test_one_data_set_by_its_days_and_what_cannot_be_compared(
  tmp_path, reference
):
  both = pl.concat([frames(0)["activity"], frames(1, first=100)["activity"]])
  tables = frames(0) | {"activity": both}
  path = tiny_data.tiny_data_dir(tmp_path / "a", tables, DESCRIPTION)
  found = drift.drift(path)
  assert found["reference"]["rows"] == found["new"]["rows"] == 4000
  assert drift.drift(path, since=150)["new"]["rows"] < 2500
  with pytest.raises(InputError, match="earlier --since"):
    drift.drift(path, since=200)
  with pytest.raises(InputError, match="--fitted="):
    other = frames(2, channel=pl.lit("x"))
    drift.drift(
      reference, tiny_data.tiny_data_dir(tmp_path / "b", other, DESCRIPTION)
    )


def test_stability_is_the_formula_and_zero_for_equal_shares():
  p, q = np.array([0, 30, 70]), np.array([0, 60, 140])
  assert drift.stability(p, p)[0] == 0.0
  assert drift.stability(p, q)[0] < 1e-4
  a, b = np.array([500, 500]), np.array([800, 200])
  x, y = (a + 0.5) / 1001, (b + 0.5) / 1001
  wanted = float(((y - x) * np.log(y / x)).sum())
  assert drift.stability(a, b)[0] == pytest.approx(wanted)


def test_the_report_of_a_run_shows_it(tmp_path, reference):
  run = tmp_path / "run"
  run.mkdir()
  (run / "config.json").write_text('{"name": "r", "recipe": "lumos"}')
  assert 'id="drift"' not in report.build(run).read_text()
  path = new(tmp_path, reference, first=100, amount=pl.col("amount") * 3)
  flags = [f"--reference={reference}", f"--new={path}"]
  assert drift.main([*flags, f"--out={run / 'drift.json'}"]) == 0
  found = json.loads((run / "drift.json").read_text())["fields"]
  text = report.build(run, path).read_text()
  section = text.partition('id="drift"')[2].partition("</section>")[0]
  assert "4,000 rows from 2020-04-10 up to 2020-07-19" in section
  first = section.partition("<tbody>")[2].partition("</tr>")[0]
  amount = found["activity.amount"]
  assert amount["verdict"] == "shifted"
  for cell in ("activity.amount", "shifted", f"{amount['index']:.3f}"):
    assert cell in first
  assert "label" in section and ">left<" in section
  (run / "drift.json").write_text("{")
  assert "drift.json cannot be read" in report.build(run).read_text()
