"""Dates of drafted descriptions: formats that are guessed, or are in doubt."""

import datetime

import pytest
from lumos_jax.data_prep import __main__ as command
from lumos_jax.data_prep import engine, guesses, sources


def drafted(tmp_path, times, capsys):
  """Describes a file with these times; its status, draft and messages."""
  lines = ["customer_id;order_time;amount"]
  lines += [f"c{i % 9};{t};{i % 37 + 0.5}" for i, t in enumerate(times)]
  (tmp_path / "orders.csv").write_text("\n".join(lines))
  out = tmp_path / "draft.py"
  args = ["describe", str(tmp_path / "orders.csv"), f"--out={out}"]
  status = command.main(args)
  text = out.read_text() if out.exists() else ""
  return status, text, capsys.readouterr().err


def days(count, form):
  start = datetime.datetime(2024, 1, 1, 9, 30)
  hours = lambda i: datetime.timedelta(hours=12 * i)
  return [(start + hours(i)).strftime(form) for i in range(count)]


@pytest.mark.parametrize("form", ["%d.%m.%Y", "%m/%d/%Y %H:%M:%S"])
def test_a_guessed_format_stands_in_the_draft(tmp_path, form, capsys):
  status, text, said = drafted(tmp_path, days(400, form), capsys)
  assert status == 0 and not said
  assert f"'from': 'order_time', 'format': '{form}'" in text
  raw = sources.load("tables", {"schema": str(tmp_path / "draft.py")})
  prepared = engine.prepare(raw)
  assert prepared.schema.epoch == "2024-01-01"
  assert prepared.schema.last_day == 200
  assert not prepared.stats["rejected"]


def test_iso_dates_need_no_format(tmp_path, capsys):
  _, text, _ = drafted(tmp_path, days(40, "%Y-%m-%d %H:%M"), capsys)
  assert "'format'" not in text


def test_an_ambiguous_column_is_drafted_and_told(tmp_path, capsys):
  times = [f"0{1 + i % 9}/{1 + i % 12:02d}/2024 10:00" for i in range(200)]
  status, text, said = drafted(tmp_path, times, capsys)
  assert status == 0
  assert "'format': '%d/%m/%Y %H:%M'" in text
  for place in (text, said):
    assert "'order_time' can be read in two ways" in place
    assert "'%m/%d/%Y %H:%M'" in place
  raw = sources.load("tables", {"schema": str(tmp_path / "draft.py")})
  assert raw.schema.epoch.startswith("2024-")


def test_later_rows_tell_the_order(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(guesses, "_SAMPLE", 20)
  _, text, said = drafted(tmp_path, days(200, "%m/%d/%Y"), capsys)
  assert "'format': '%m/%d/%Y'" in text and not said


def test_a_column_that_is_no_time_is_named(tmp_path, capsys):
  times = [("01/02/2024", "soon")[i % 2] for i in range(40)]
  status, _, said = drafted(tmp_path, times, capsys)
  assert status == 1
  assert "orders.csv: column 'order_time'" in said
  assert "'%d/%m/%Y'" in said or '"%d/%m/%Y"' in said
